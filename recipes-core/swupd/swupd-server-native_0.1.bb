SUMMARY = "Software update server tool, for the build host"
DESCRIPTION = "swupd-server publishes root file systems as update streams; swupd installs images from them."

require swupd.inc
inherit native

DEPENDS = "python3-native python3-asn1crypto-native python3-bsdiff4-native python3-cryptography-native \
    python3-pyelftools-native python3-requests-native"

do_install() {
	install_package agent server
	install_program swupd swupd.agent.cli
	install_program swupd-server swupd.server.cli
}
