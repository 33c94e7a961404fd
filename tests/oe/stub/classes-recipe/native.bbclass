# A stand-in: only the name is needed to parse.
CLASSOVERRIDE = "class-native"
do_fetch[noexec] = "1"
do_unpack[noexec] = "1"
do_install[noexec] = "1"
do_populate_sysroot[noexec] = "1"
