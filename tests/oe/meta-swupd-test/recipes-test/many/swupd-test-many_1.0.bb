SUMMARY = "Twenty small packages, for builds with many bundles"
DESCRIPTION = "Each package has one program of its own."
HOMEPAGE = "https://example.com/"
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"

inherit allarch

INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

MANY = "${@' '.join(str(n) for n in range(1, 21))}"

do_install() {
    install -d ${D}${bindir}
    for n in ${MANY}; do
        printf '#!/bin/sh\necho %s\n' $n >${D}${bindir}/many$n
        chmod 0755 ${D}${bindir}/many$n
    done
}

PACKAGES = "${@' '.join('swupd-test-many%s' % n for n in d.getVar('MANY').split())}"

python __anonymous() {
    for n in d.getVar('MANY').split():
        d.setVar('FILES:swupd-test-many' + n, d.getVar('bindir') + '/many' + n)
}
