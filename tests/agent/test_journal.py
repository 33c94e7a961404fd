from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swupd import paths
from swupd.agent import journal
from swupd.agent.journal import Journal, Op
from swupd.errors import ApplyError

names = st.text(st.characters(exclude_characters="/\0\n\t", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda n: n not in {".", "..", ".swupd"}
)
tree_paths = st.one_of(
    st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.just("/usr/\udcff\udcfe odd\\0101'\"$x"),
).filter(lambda path: paths.problem(path) is None)
numbers = st.integers(0, 10**6)


@st.composite
def operations(draw: st.DrawFn) -> Op:
    kind = draw(st.sampled_from(["add", "put", "drop", "swap", "meta", "xattr", "sync"]))
    if kind == "sync":
        return Op("sync")
    values = st.one_of(st.just("-"), st.binary(max_size=9).map(lambda b: "0x" + b.hex()))
    words = {
        "swap": st.tuples(st.sampled_from("FLD"), numbers.map(str)),
        "meta": st.tuples(*[st.sampled_from(["00755", "0:0", "70000:3000000"])] * 4),
        "xattr": st.tuples(st.just("user.a b"), values, values),
    }.get(kind, st.just(()))
    path = draw(tree_paths)
    area = draw(st.sampled_from(["", *paths.parents(path)]))
    return Op(kind, area, draw(numbers), path, draw(words))


@st.composite
def journals(draw: st.DrawFn) -> Journal:
    ops = tuple(draw(st.lists(operations(), max_size=6)))
    areas = tuple(sorted({"", *(op.area for op in ops)}))
    words = st.lists(st.sampled_from(["boot", "services", "reexec"]), unique=True)
    return Journal("0123456789abcdef", areas, ops, draw(st.booleans()), tuple(draw(words)))


@given(journals())
def test_what_is_written_is_read(made: Journal) -> None:
    assert journal.parse(journal.serialize(made)) == made


@given(journals(), st.data())
def test_a_torn_or_changed_journal_is_recognised(made: Journal, data: st.DataObject) -> None:
    whole = journal.serialize(made)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    for bad in (whole[:at], bytes(damaged), whole + whole, whole + b"x", whole[at + 1 :]):
        with pytest.raises(ApplyError, match="swupd repair"):
            journal.parse(bad)


@pytest.mark.parametrize("data", [b"", b"\n", b"end 0 \n", b"\0" * 4096, b"what is this\n"])
def test_what_is_no_journal_is_recognised(data: bytes) -> None:
    with pytest.raises(ApplyError):
        journal.parse(data)


@pytest.mark.parametrize(
    "lines",
    [
        "swupd-transaction 2 0123456789abcdef\narea ./\n",
        "swupd-transaction 1 0123456789abcdef\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nfly ./ 1 usr/a\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nput ./ x usr/a\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nput ./ 1 usr/../a\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nput boot/ 1 boot/a\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nput ./\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nswap ./ 1 usr D many\n",
        "swupd-transaction 1 0123456789abcdef\narea ./\nadd ./ 1 .swupd/done\n",
    ],
)
def test_a_journal_that_makes_no_sense_is_refused_although_it_is_whole(lines: str) -> None:
    made = journal.serialize(Journal("0123456789abcdef", ("",), ()))
    body = lines.encode()
    end = made.rsplit(b"end", 1)[1].split()
    assert end[0] == b"2"
    count = body.count(b"\n")
    sealed = body + f"end {count} {journal.hashlib.sha256(body).hexdigest()}\n".encode()
    with pytest.raises(ApplyError):
        journal.parse(sealed)


@given(tree_paths)
def test_a_shell_reads_the_paths_that_were_written(path: str) -> None:
    word = journal.escape(path)
    assert word.isascii() and not set(word) & set(" '\"$`*?[")
    read = subprocess.run(["sh", "-c", 'printf %b "$1"', "sh", word], capture_output=True, check=True).stdout
    assert read == paths.encode(path)


def test_the_order_keeps_a_tree_working_that_is_caught_in_between() -> None:
    wanted = [
        ("add", "/usr/bin/new"),
        ("swap", "/usr/share/now-a-folder"),
        ("put", "/usr/lib/libz.so.1"),
        ("put", "/usr/lib/ld-linux-x86-64.so.2"),
        ("put", "/usr/lib/libc.so.6"),
        ("put", "/usr/bin/bash"),
        ("swap", "/usr/share/now-a-file"),
        ("put", "/etc/x.conf"),
        ("add", "/boot/kernel-2"),
        ("put", "/boot/loader/entries/x.conf"),
        ("put", "/usr/lib/os-release"),
        ("sync", ""),
        ("drop", "/usr/share/gone/file"),
        ("drop", "/usr/share/gone"),
    ]
    made = [
        Op(kind, "", n, path, ("D" if "folder" in path else "F", "7") if kind == "swap" else ())
        for n, (kind, path) in enumerate(wanted)
        if kind != "sync"
    ]
    assert [(op.kind, op.path) for op in journal.order(reversed(made))] == wanted


def test_the_folder_with_the_version_in_it_comes_last_before_deletions() -> None:
    top = Op("swap", "", 0, "/usr", ("D", "1"))
    others = [Op("put", "", 1, "/zzz"), Op("add", "", 2, "/boot/loader/x"), Op("drop", "", 3, "/opt/a")]
    assert [op.path for op in journal.order([top, *others])] == ["/zzz", "/boot/loader/x", "/usr", "", "/opt/a"]


def test_operations_cannot_be_wrong() -> None:
    good = Op("swap", "/boot", 3, "/boot/x", ("L", "12"))
    assert (good.new, good.old) == ("/boot/.swupd/new/3", "/boot/.swupd/old/3")
    for bad in (
        {"kind": "copy"},
        {"area": "/opt"},
        {"path": ""},
        {"path": "boot/x"},
        {"path": "/boot/.swupd/x"},
        {"words": ("L",)},
        {"words": ("X", "12")},
        {"number": -1},
    ):
        with pytest.raises(ValueError):
            good._replace(**bad)
    for wrong in ({"id": "../x"}, {"areas": ()}, {"areas": ("/boot",)}, {"actions": ("rm -rf",)}):
        with pytest.raises(ValueError):
            Journal("0123456789abcdef", ("",), ())._replace(**wrong)
