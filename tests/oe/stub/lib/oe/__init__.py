"""The few functions of oe-core's library that the image class calls."""

BBIMPORTS = ["packagedata", "path", "qa", "rootfs"]
