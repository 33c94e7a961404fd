SUMMARY = "os-core and bundles out of plain folders"
inherit image swupd-image

IMAGE_INSTALL = "base"
SWUPD_BUNDLES ?= "tools edit"
BUNDLE_CONTENTS[tools] ?= "tool library"
BUNDLE_CONTENTS[edit] ?= "editor library"
SWUPD_EMPTY_BUNDLES ?= "later"
SWUPD_IMAGES ?= "full"
SWUPD_IMAGES[full] ?= "tools edit"
