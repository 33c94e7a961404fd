"""Which packs lead from one version of a bundle to another, also where no single pack does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from swupd.agent.plan import Pack

MOST_HOPS = 10


class Hop(NamedTuple):
    """A pack, by which name the server has it, and its bytes; None where the server has none or does not say."""

    pack: Pack
    name: str
    size: int | None


Route = tuple[Hop, ...]
"""Packs that have to be taken one after another."""
Between = Callable[[str, int, int], Sequence[int]]
"""Versions of a bundle after the first and before the second, as far as they are known."""
Look = Callable[[Pack], Hop]


def found(packs: Iterable[Pack], between: Between, look: Look, affordable: int) -> tuple[Route, ...]:
    """A route for each pack: the pack itself, or those that lead there and together take no more bytes than that."""
    return tuple(_route(pack, between, look, affordable) for pack in packs)


def _route(pack: Pack, between: Between, look: Look, affordable: int) -> Route:
    direct = look(pack)
    if not pack.from_version or direct.size is not None:
        return (direct,)
    stops = sorted({*between(pack.bundle, pack.from_version, pack.to_version), pack.to_version})
    route: list[Hop] = []
    at, total = pack.from_version, 0
    while at != pack.to_version:
        hop = _longest(pack.bundle, at, [stop for stop in stops if stop > at], look)
        if hop is None or len(route) == MOST_HOPS:
            return (direct,)
        route.append(hop)
        total += hop.size or 0
        at = hop.pack.to_version
    return tuple(route) if total <= affordable else (direct,)


def _longest(bundle: str, at: int, stops: Sequence[int], look: Look) -> Hop | None:
    """The pack that leads furthest."""
    hops = (look(Pack(bundle, stop, at)) for stop in reversed(stops))
    return next((hop for hop in hops if hop.size is not None), None)
