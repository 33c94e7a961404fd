# nooelint: oelint.var.suggestedvar.BUGTRACKER,oelint.var.suggestedvar.CVE_PRODUCT
# BUGTRACKER: the project has no page on the web that could be named.
# CVE_PRODUCT: the class image sets it.
SUMMARY = "Image made of Debian binaries that updates itself, with bundles"
DESCRIPTION = "Boots in QEMU, follows its update stream, and is compared with the next build of itself."
SECTION = "images"
LICENSE = "MIT"

inherit core-image swupd-image

# The test logs in over the serial line; nobody installs this image.
# nooelint: oelint.var.badimagefeature
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
