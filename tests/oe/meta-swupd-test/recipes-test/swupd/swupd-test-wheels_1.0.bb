# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER,oelint.var.bbclassextend
# HOMEPAGE and BUGTRACKER: the project has no page on the web that could be named.
# BBCLASSEXTEND: only the test image has these packages.
SUMMARY = "Python packages of the agent, from wheels"
DESCRIPTION = "Unpacks wheels where the Python of the test image finds them, so that nothing has to be compiled."
SECTION = "devel/python"
LICENSE = "MIT"
# Nothing is fetched, so the licence text is that of the core layer too.
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
# Wheels that a test laid ready are no product of their own.
CVE_PRODUCT = ""

SRC_URI = ""

SWUPD_TEST_WHEELS ?= "${TOPDIR}/../wheels"
SWUPD_TEST_WHEELS[doc] = "Folder with the wheels that the agent needs on the device"

INHIBIT_DEFAULT_DEPS = "1"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
INHIBIT_SYSROOT_STRIP = "1"
EXCLUDE_FROM_SHLIBS = "1"
SKIP_FILEDEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_populate_sysroot[noexec] = "1"
do_package_qa[noexec] = "1"
do_install[file-checksums] += "${SWUPD_TEST_WHEELS}/*.whl:True"

do_install() {
    install -d ${D}${exec_prefix}/local/lib/python3.11/dist-packages
    for wheel in ${SWUPD_TEST_WHEELS}/*.whl; do
        python3 -m zipfile -e $wheel ${D}${exec_prefix}/local/lib/python3.11/dist-packages/
    done
    chown -R root:root ${D}
}

FILES:${PN} += "${exec_prefix}/local"
RDEPENDS:${PN} = "debian-python"
