# nooelint: oelint.var.mandatoryvar.HOMEPAGE,oelint.var.suggestedvar.BUGTRACKER,oelint.var.bbclassextend
# HOMEPAGE and BUGTRACKER: the project has no page on the web that could be named.
# BBCLASSEXTEND: swupd-server-native is what the build host gets, and it brings the agent too.
SUMMARY = "Software update agent"
SUMMARY:initramfs-module-swupd = "Ends an interrupted update before the system starts"
DESCRIPTION = "The swupd command: looks for updates, installs them, adds and removes bundles, heals what was damaged."

require swupd.inc
inherit allarch systemd

do_install() {
    install_package agent
    install_program swupd swupd.agent.start
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/lib/swupd/agent/systemd/* ${D}${systemd_system_unitdir}/
    install -d ${D}${systemd_system_unitdir}/update-triggers.target.wants
    ln -s ../swupd-provision.service ${D}${systemd_system_unitdir}/update-triggers.target.wants/
    # Enabled here and not below /etc: devices get it with an update, too.
    install -d ${D}${systemd_system_unitdir}/sysinit.target.wants
    ln -s ../swupd-recover.service ${D}${systemd_system_unitdir}/sysinit.target.wants/
    install -D -m 0755 ${S}/lib/swupd/agent/recovery/swupd-recover-initramfs ${D}${bindir}/swupd-recover-initramfs
    install -D -m 0755 ${S}/lib/swupd/agent/recovery/initramfs-framework ${D}/init.d/95-swupd
}

SYSTEMD_SERVICE:${PN} = "swupd-update.timer"
SYSTEMD_AUTO_ENABLE:${PN} ?= "disable"

PACKAGES =+ "initramfs-module-swupd"
FILES:${PN} += "${SWUPD_LIBDIR} ${systemd_system_unitdir}"
FILES:initramfs-module-swupd += "/init.d ${bindir}/swupd-recover-initramfs"

SWUPD_PYTHON ?= "python3-asn1crypto \
                 python3-asyncio \
                 python3-bsdiff4 \
                 python3-compression \
                 python3-core \
                 python3-crypt \
                 python3-cryptography \
                 python3-ctypes \
                 python3-datetime \
                 python3-fcntl \
                 python3-io \
                 python3-json \
                 python3-logging \
                 python3-math \
                 python3-netclient \
                 python3-resource"
SWUPD_PYTHON[doc] = "Packages that the agent needs to run; compression.zstd is in Python from 3.14 on"
RDEPENDS:${PN} = "${SWUPD_PYTHON}"
RDEPENDS:initramfs-module-swupd = "initramfs-framework-base"
# What HTTPS servers are checked with; who uses HTTP or --tls-ca can do without.
RRECOMMENDS:${PN} += "ca-certificates"
