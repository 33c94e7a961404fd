"""Package data: key: value lines."""


def read_pkgdatafile(place):
    with open(place) as file:
        return dict(line.rstrip("\n").split(": ", 1) for line in file)
