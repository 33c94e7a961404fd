"""How large what a device fetches may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from swupd.errors import DownloadError
from swupd.lengths import Length
from swupd.manifest import Manifest
from swupd.stream import KIB, MIB

_APART = 16 * MIB
_ENTRY = 4 * KIB
"""Room for the headers of one object."""


class Limits(NamedTuple):
    """The largest sizes that a release allows.

    file: of one object, pack: of a bundle's pack unpacked, where nobody has signed a size. measure: what was signed.
    """

    file: int
    pack: Mapping[str, int]
    measure: Callable[[str], Length | None] = lambda _: None

    def of(self, name: str, otherwise: int) -> Length:
        """How long an object is at most. Raises DownloadError where the list of lengths cannot be had."""
        return self.measure(name) or Length(otherwise, otherwise)

    def check(self, name: str, place: Path) -> None:
        """Raises DownloadError where an object that arrived is not as long as was signed."""
        signed = self.measure(name)
        if signed is not None and place.stat().st_size != signed.stored:
            raise DownloadError(
                f"{name} has {place.stat().st_size} bytes where the release says {signed.stored}",
                "The mirror is inconsistent: try another one.",
            )


def allowed(manifests: Mapping[str, Manifest], measure: Callable[[str], Length | None]) -> Limits:
    """What bundles can need: twice the bytes that their manifests say, and what headers take. measure: see Limits."""
    return Limits(
        file=2 * max((m.contentsize for m in manifests.values()), default=0) + _APART,
        pack={name: 2 * m.contentsize + _ENTRY * len(m.entries) + _APART for name, m in manifests.items()},
        measure=measure,
    )
