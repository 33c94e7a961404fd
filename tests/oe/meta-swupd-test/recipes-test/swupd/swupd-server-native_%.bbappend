# Where the tool runs: a Python that has its libraries, so that none of them is built.
SWUPD_TEST_PYTHON ?= "${TOPDIR}/../venv/bin/python"
SWUPD_TEST_PYTHON[doc] = "Python with the libraries of swupd-server, for the build host"
SWUPD_PYTHON_PROGRAM:class-native = "${SWUPD_TEST_PYTHON}"
# Overwritten on purpose: what the recipe needs would have to be compiled.
# nooelint: oelint.vars.dependsappend
DEPENDS = ""
