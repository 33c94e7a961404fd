# nooelint: oelint.var.suggestedvar.BUGTRACKER,oelint.var.suggestedvar.CVE_PRODUCT
# BUGTRACKER: the project has no page on the web that could be named.
# CVE_PRODUCT: the class image sets it.

# It is in the core layer, which need not be there for a check of this one.
# nooelint: oelint.file.requirenotfound
require recipes-core/images/core-image-minimal.bb

SUMMARY = "Demonstration for QEMU: updates itself from the build machine"
DESCRIPTION = "A small image with two bundles, whose update server is the machine that QEMU runs on."
SECTION = "images"
LICENSE = "MIT"

inherit core-image swupd-image

IMAGE_INSTALL += "swupd ca-certificates"

# The build machine, as QEMU's user network shows it.
SWUPD_VERSION_URL ?= "http://10.0.2.2:8000"
SWUPD_CONTENT_URL ?= "http://10.0.2.2:8000"
# Nothing is served there before the first build.
SWUPD_FETCH_PREVIOUS ?= "0"

# Names and values of its own: what local.conf says of another image's bundles must not reach this one.
SWUPD_BUNDLES = "demo-network demo-debug"
BUNDLE_CONTENTS[demo-network] = "ethtool"
BUNDLE_CONTENTS[demo-debug] = "strace"
BUNDLE_INCLUDES[demo-debug] = "demo-network"
SWUPD_EMPTY_BUNDLES = ""
SWUPD_IMAGES = "demo"
SWUPD_IMAGES[demo] = "demo-network demo-debug"

# Whoever tries it logs in over the serial line; nobody installs this image.
# nooelint: oelint.var.badimagefeature
IMAGE_FEATURES += "empty-root-password allow-empty-password"
IMAGE_FSTYPES = "ext4"
IMAGE_ROOTFS_EXTRA_SPACE = "262144"
QB_MEM = "-m 1024"

# Signatures are checked all the same.
swupd_demo_http() {
    printf '[GLOBAL]\nallow_insecure_http=true\n' >${IMAGE_ROOTFS}${datadir}/defaults/swupd/config
}
swupd_demo_http[doc] = "Lets the agent use plain HTTP without an option"
ROOTFS_POSTPROCESS_COMMAND += "swupd_demo_http"
