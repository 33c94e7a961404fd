SUMMARY = "Image made of Debian binaries that updates itself, with bundles"
LICENSE = "MIT"
inherit core-image swupd-image

IMAGE_FEATURES += "empty-root-password allow-empty-password serial-autologin-root"
IMAGE_INSTALL = "debian-base debian-python os-release kernel-image kernel-modules swupd"
IMAGE_FSTYPES = "ext4"
IMAGE_ROOTFS_EXTRA_SPACE = "262144"

SWUPD_BUNDLES ?= "tools apps"
BUNDLE_CONTENTS[tools] = "debian-tools hello-app"
BUNDLE_CONTENTS[apps] = "hello-app debian-edit"
SWUPD_EMPTY_BUNDLES ?= "later"
SWUPD_IMAGES ?= "full plain"
SWUPD_IMAGES[full] = "tools apps"
SWUPD_IMAGES[plain] = ""
