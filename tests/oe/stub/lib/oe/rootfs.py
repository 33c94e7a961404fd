"""Which packages an image has."""


def image_list_installed_packages(d):
    return {name: {} for name in (d.getVar("IMAGE_INSTALL") or "").split()}
