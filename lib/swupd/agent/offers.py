"""What a server has of what a device lacks, and how many bytes it would take: asked, not fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from swupd import stream
from swupd.agent.origin import Origin
from swupd.agent.plan import Pack, Plan
from swupd.agent.routes import Hop, Route


def chosen(
    source: Origin, pack: Pack, variants: Iterable[str], listed: Callable[[str], bool], in_part: Iterable[str] = ()
) -> Hop:
    """The smallest form of a pack that the server has and this device can use, for which there are variants.

    listed: whether a release names an object among those that it has. in_part: variants of which some deltas cannot be
    used, for where there is no other form.
    """
    plain, *names = _names(pack, ("", *variants))
    others = _names(pack, in_part)
    if any(map(listed, (*names, plain, *others))):
        names, others = list(filter(listed, names)), list(filter(listed, others))
    for name in (*names, plain, *others):
        size = source.size(name)
        if size is not None:
            return Hop(pack, name, size)
    return Hop(pack, plain, None)


def _names(pack: Pack, variants: Iterable[str]) -> list[str]:
    """There are no variants of the pack of all."""
    wanted = [v for v in variants if pack.from_version or not v]
    return [stream.pack(pack.bundle, pack.to_version, pack.from_version, v) for v in wanted]


def download_size(source: Origin, plan: Plan, packs: Iterable[Route]) -> tuple[int, int]:
    """(bytes to fetch, number of objects whose size the server did not tell); nothing is fetched.

    Packs count where the server has them; without any, each object counts by itself.
    """
    sizes = [hop.size for route in packs for hop in route]
    if any(s is not None for s in sizes):
        return sum(s or 0 for s in sizes), 0
    objects = {e.digest: e for e in plan.write}.values()
    with ThreadPoolExecutor(15) as pool:
        single = list(pool.map(lambda e: source.size(stream.fullfile(e.version, e.digest)), objects))
    return sum(s or 0 for s in single), sum(s is None for s in single)
