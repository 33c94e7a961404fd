bbfatal() {
	echo "ERROR: $*"
	exit 1
}
addtask build
do_build[noexec] = "1"

python do_fetch() {
    pass
}
do_fetch[file-checksums] = "${@bb.fetch2.get_checksum_file_list(d)}"
do_fetch[network] = "1"
addtask fetch
do_unpack() {
	:
}
addtask unpack after do_fetch
do_install() {
	:
}
addtask install after do_unpack
do_populate_sysroot() {
	:
}
addtask populate_sysroot after do_install

# What BitBake's bars would show.
addhandler stub_progress
python stub_progress() {
    with open(d.getVar('TOPDIR') + '/progress', 'a') as f:
        f.write('%s %d %s\n' % (d.getVar('PN'), e.progress, e.rate))
}
stub_progress[eventmask] = "bb.build.TaskProgress"
