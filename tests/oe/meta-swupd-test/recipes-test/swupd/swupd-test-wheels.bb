SUMMARY = "Python packages of the agent, from wheels"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
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
FILES:${PN} = "${exec_prefix}/local"
RDEPENDS:${PN} = "debian-python"
