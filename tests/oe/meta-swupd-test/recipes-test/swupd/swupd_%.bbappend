SWUPD_PYTHON = "debian-python swupd-test-wheels"
# Masked here; the test machine has an initramfs of its own.
RDEPENDS:initramfs-module-swupd:remove = "initramfs-framework-base"
