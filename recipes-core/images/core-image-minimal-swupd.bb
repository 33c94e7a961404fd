SUMMARY = "A small image that updates itself: core-image-minimal with the swupd agent"
require recipes-core/images/core-image-minimal.bb
inherit swupd-image

IMAGE_INSTALL += "swupd ca-certificates"
