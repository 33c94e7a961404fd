# nooelint: oelint.var.suggestedvar.CVE_PRODUCT
# CVE_PRODUCT: the class pypi sets it.
SUMMARY = "Binary diff and patch"
DESCRIPTION = "The BSDIFF4 algorithm for Python, in C. The agent applies deltas with it, the server makes them."
HOMEPAGE = "https://github.com/ilanschnell/bsdiff4"
BUGTRACKER = "https://github.com/ilanschnell/bsdiff4/issues"
SECTION = "devel/python"
# core.c is under the BSD Protection License, the rest under BSD-2-Clause: named is the stricter one.
LICENSE = "BSD-Protection"
LIC_FILES_CHKSUM = "file://LICENSE;md5=a2321ebf3d51a8e3b0010d032d40cd22"

SRC_URI[sha256sum] = "ed262caa697247e9af00af1076b5fce0b578a17b19d9bdbad30c110dd7660a8d"

inherit pypi setuptools3

RDEPENDS:${PN} += "python3-core"

BBCLASSEXTEND = "native nativesdk"
