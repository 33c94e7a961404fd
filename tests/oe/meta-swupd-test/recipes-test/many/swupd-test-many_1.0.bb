# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER,oelint.var.bbclassextend
# HOMEPAGE and BUGTRACKER: the project has no page on the web that could be named.
# BBCLASSEXTEND: only the test image has these packages.
SUMMARY = "Twenty small packages"
DESCRIPTION = "Each has one program of its own: for builds with many bundles."
SECTION = "base"
LICENSE = "MIT"
# Nothing is fetched, so the licence text is that of the core layer too.
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
# What only tests install is no product.
CVE_PRODUCT = ""

SRC_URI = ""

inherit allarch

INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

MANY = "${@' '.join(str(n) for n in range(1, 21))}"
MANY[doc] = "Numbers of the packages"

do_install() {
    install -d ${D}${bindir}
    for n in ${MANY}; do
        printf '#!/bin/sh\necho %s\n' $n >${D}${bindir}/many$n
        chmod 0755 ${D}${bindir}/many$n
    done
}

PACKAGES = "${@' '.join('swupd-test-many%s' % n for n in d.getVar('MANY').split())}"

# Names that are counted cannot be written out.
# nooelint: oelint.task.noanonpython
python __anonymous() {
    for n in d.getVar('MANY').split():
        d.setVar('FILES:swupd-test-many' + n, d.getVar('bindir') + '/many' + n)
}
