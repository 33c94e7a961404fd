# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER
# HOMEPAGE and BUGTRACKER: the project has no page on the web that could be named.
SUMMARY = "Software update server tool, for the build host"
DESCRIPTION = "swupd-server publishes root file systems as update streams; swupd installs images from them."

require swupd.inc
inherit_defer native

DEPENDS += "python3-asn1crypto-native \
            python3-bsdiff4-native \
            python3-cryptography-native \
            python3-hdiffpatch-native \
            python3-native \
            python3-pyelftools-native \
            python3-requests-native"

# The interpreter: the one beside the program in the sysroot, wherever that lies.
SWUPD_PYTHON_PROGRAM:class-native ?= "$here/python3-native/python3"
SWUPD_PYTHON_OPTIONS:class-native ?= "-I -B"

do_install() {
    install_package agent server
    install_program swupd swupd.agent.start
    install_program swupd-server swupd.server.cli
}
