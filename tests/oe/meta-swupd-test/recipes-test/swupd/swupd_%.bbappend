SWUPD_PYTHON = "debian-python swupd-test-wheels"
