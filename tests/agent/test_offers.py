from __future__ import annotations

from typing import cast

import pytest

from swupd.agent import offers
from swupd.agent.origin import Origin
from swupd.agent.plan import Pack
from swupd.agent.routes import Hop

PLAIN, SMALL, SMALLEST = (f"20/pack-a-from-10{variant}.tar" for variant in ("", ".small", ".smallest"))
VARIANTS = ("smallest", "small")


class Server:
    """Has some objects, and notes which it is asked about."""

    def __init__(self, *has: str) -> None:
        self.has, self.asked = has, list[str]()

    def size(self, name: str) -> int | None:
        self.asked.append(name)
        return len(name) if name in self.has else None


def chosen(server: Server, pack: Pack, *listed: str) -> Hop:
    return offers.chosen(cast(Origin, server), pack, VARIANTS, lambda name: name in listed)


def test_the_smallest_that_there_is() -> None:
    server = Server(SMALL, PLAIN)
    assert chosen(server, Pack("a", 20, 10)).name == SMALL
    assert server.asked == [SMALLEST, SMALL]


def test_where_the_release_says_what_it_has_nothing_else_is_asked_for() -> None:
    server = Server(SMALL, PLAIN)
    assert chosen(server, Pack("a", 20, 10), SMALL, PLAIN) == Hop(Pack("a", 20, 10), SMALL, len(SMALL))
    assert server.asked == [SMALL]


def test_what_a_mirror_lacks_although_the_release_has_it() -> None:
    server = Server(PLAIN)
    assert chosen(server, Pack("a", 20, 10), SMALL, PLAIN).name == PLAIN
    assert server.asked == [SMALL, PLAIN]


def test_a_list_that_has_none_of_them_says_nothing() -> None:
    assert chosen(Server(SMALLEST), Pack("a", 20, 10)).name == SMALLEST


def test_there_may_be_no_plain_one() -> None:
    server = Server(SMALLEST, SMALL)
    assert chosen(server, Pack("a", 20, 10), SMALL).name == SMALL
    assert server.asked == [SMALL]


@pytest.mark.parametrize(
    ("listed", "expected"), [((SMALL,), SMALL), ((SMALL, PLAIN), PLAIN), ((), PLAIN)], ids=["none", "a plain one", "?"]
)
def test_what_can_be_used_in_part_is_better_than_nothing(listed: tuple[str, ...], expected: str) -> None:
    server = cast(Origin, Server(*listed))
    assert offers.chosen(server, Pack("a", 20, 10), (), lambda name: name in listed, VARIANTS).name == expected


def test_there_is_one_pack_of_all() -> None:
    server = Server()
    assert chosen(server, Pack("a", 20, 0)) == Hop(Pack("a", 20, 0), "20/pack-a-from-0.tar", None)
    assert server.asked == ["20/pack-a-from-0.tar"]
