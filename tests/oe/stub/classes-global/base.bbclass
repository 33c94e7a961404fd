bbfatal() {
	echo "ERROR: $*"
	exit 1
}
addtask build
do_build[noexec] = "1"
