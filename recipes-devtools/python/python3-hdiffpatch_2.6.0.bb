# nooelint: oelint.var.suggestedvar.CVE_PRODUCT
# CVE_PRODUCT: the class pypi sets it.
SUMMARY = "Binary diff and patch, in a third of bsdiff's time"
DESCRIPTION = "HDiffPatch for Python, in C++. The server finds with it what of a file stands in an older one."
HOMEPAGE = "https://github.com/BrianPugh/hdiffpatch-python"
BUGTRACKER = "https://github.com/BrianPugh/hdiffpatch-python/issues"
SECTION = "devel/python"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=4db124a215079420358276ea07be5a3e"

SRC_URI[sha256sum] = "9f0d05ee1784a8223df4ca806c47c4fc0dc2048aabd24e8694730e55a39aa5a6"

inherit pypi python_setuptools_build_meta

DEPENDS += "python3-cython-native python3-setuptools-scm-native"

RDEPENDS:${PN} += "python3-attrs python3-core"

BBCLASSEXTEND = "native nativesdk"
