# nooelint: oelint.var.suggestedvar.BUGTRACKER,oelint.var.suggestedvar.CVE_PRODUCT
# BUGTRACKER: the project has no page on the web that could be named.
# CVE_PRODUCT: the class image sets it.

# It is in the core layer, which need not be there for a check of this one.
# nooelint: oelint.file.requirenotfound
require recipes-core/images/core-image-minimal.bb

SUMMARY = "A small image that updates itself: core-image-minimal with the swupd agent"
DESCRIPTION = "Publishes itself as the bundle os-core of an update stream, and on the device follows that stream."
SECTION = "images"
LICENSE = "MIT"

inherit swupd-image

IMAGE_INSTALL += "swupd ca-certificates"
