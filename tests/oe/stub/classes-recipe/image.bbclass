# The tasks of oe-core's image class in their order, with the hooks that layers use.
IMAGE_INSTALL ?= ""
IMAGE_FEATURES ?= ""
IMAGE_FSTYPES ?= "tar"
ROOTFS_POSTPROCESS_COMMAND ?= ""
ROOTFS_POSTUNINSTALL_COMMAND ?= ""
WARN_QA ?= ""
ERROR_QA ?= ""
STUB_PKGS ?= "${TOPDIR}/packages"

fakeroot python do_rootfs() {
    import shutil
    root = d.getVar('IMAGE_ROOTFS')
    for package in (d.getVar('IMAGE_INSTALL') or '').split():
        shutil.copytree(os.path.join(d.getVar('STUB_PKGS'), package), root, symlinks=True, dirs_exist_ok=True)
    for name in ('ROOTFS_POSTPROCESS_COMMAND', 'ROOTFS_POSTUNINSTALL_COMMAND'):
        for function in (d.getVar(name) or '').split():
            bb.build.exec_func(function.rstrip(';'), d)
}
do_rootfs[vardeps] += "IMAGE_FEATURES"
do_rootfs[cleandirs] += "${IMAGE_ROOTFS}"
addtask rootfs
fakeroot python do_image() {
    bb.utils.mkdirhier(d.getVar('IMAGE_ROOTFS'))
}
addtask image after do_rootfs
do_image_complete[noexec] = "1"
addtask image_complete after do_image before do_build

do_fetch[noexec] = "1"
do_unpack[noexec] = "1"
do_install[noexec] = "1"
deltask do_populate_sysroot
