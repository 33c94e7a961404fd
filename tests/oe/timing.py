"""Builds an image with 1, 5 and 20 bundles and compares the times: no root file system is built for a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.oe.device import Rig


def settings(bundles: int) -> str:
    """local.conf of an image with so many bundles, each a package of its own and one that all share."""
    names = [f"many{number}" for number in range(1, bundles + 1)]
    lines = [f'BUNDLE_CONTENTS[{name}] = "swupd-test-{name} debian-edit"\n' for name in names]
    return f'SWUPD_BUNDLES = "{" ".join(names)}"\nSWUPD_IMAGES = ""\nSWUPD_EMPTY_BUNDLES = ""\n' + "".join(lines)


def main(oecore: str, folder: str, rounds: str = "3") -> None:
    """The whole way; each number is the median of so many builds."""
    rig = Rig(Path(oecore), Path(folder))
    rig.prepare()
    rig.bitbake(10, 1, settings(20))
    version = 10
    seconds: dict[int, list[float]] = {1: [], 5: [], 20: []}
    for _ in range(int(rounds)):
        for bundles, found in seconds.items():
            version += 10
            found.append(rig.bitbake(version, version, settings(bundles)))
    medians = {bundles: sorted(found)[len(found) // 2] for bundles, found in seconds.items()}
    for bundles, median in medians.items():
        print(f"{bundles:3} bundles: {median:.0f} s, {median / medians[1]:.2f} of one bundle")


if __name__ == "__main__":
    main(*sys.argv[1:])
