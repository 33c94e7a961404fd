"""What was not verified is unpacked where it can do no harm."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swupd import archive, folding, patches, tree
from swupd.agent import unpacker, unpacking
from swupd.agent.unpacker import Answer, Here, Unpacker, _Worker, parsed
from swupd.errors import ArchiveError
from swupd.payloads import Lz4
from swupd.server import archiver, comparison, xz
from tests.agent.devices import Device
from tests.agent.test_attacks import info, replace_packs, tar
from tests.test_folding import kernel, made_of, payload

NOISE = random.Random(8).randbytes(400_000)
LIMIT = 2**24
FRAME = struct.Struct("<cI")
NODE = ["x", "F", 0o100644, 0, 0, 5, "", []]


@pytest.fixture
def made() -> Iterator[Unpacker]:
    """A running one; afterwards nothing is left of it."""
    here = Unpacker()
    yield here
    here.close()


def children(of: int) -> list[int]:
    """The living children of a process."""
    found = [int(pid) for pid in Path(f"/proc/{of}/task/{of}/children").read_text().split()]
    return [pid for pid in found if status_of(pid)["State"][0] != "Z"]


def worker_of(made: Unpacker) -> int:
    (found,) = children(made._parent)
    return found


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(1000):
        try:
            if status_of(pid)["State"][0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def members(made: unpacker.Unpacks, data: bytes, limit: int = LIMIT) -> list[tuple[str, tree.Node, bytes]]:
    with made.members(data, limit) as found:
        return [(m.name, m.node, b"".join(m.content)) for m in found]


ODD = tar(
    [
        info("file", content=NOISE),
        info("folder/", b"5"),
        info("link", b"2", target="to/\udcff\n"),
        info("\udcfe/é" * 60, content=b"x"),
        info("empty"),
    ]
)


def test_the_same_comes_out_as_in_this_process(made: Unpacker, tmp_path: Path) -> None:
    node = tree.file_node("/", 0o4755, 3, 2**31, 7)
    node = tree.Node(node.path, "F", node.mode, node.uid, node.gid, 3, "", (("user.a", b"\0\xff"), ("user.b", b"")))
    for data in (ODD, xz.compress(ODD), archiver.fullfile("0" * 64, node, b"abc")):
        (tmp_path / "file").write_bytes(data)
        expected = members(Here(), data)
        assert members(made, data) == expected
        with open(tmp_path / "file", "rb") as file, made.members(file, LIMIT) as found:
            assert [(m.name, m.node) for m in found] == [(n, node) for n, node, _ in expected], "contents unread"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ODD[:1000],
        ODD[:-5000],
        xz.compress(ODD)[:-100],
        b"\xfd7zXZ\0 nonsense",
        b"\x28\xb5\x2f\xfd nonsense",
        tar([info("x", b"3")]),
        tar([info("x" * 50, content=bytes(2 * LIMIT))]),
    ],
)
def test_the_same_errors_come_out_as_in_this_process(made: Unpacker, data: bytes) -> None:
    with pytest.raises(ArchiveError) as expected:
        members(Here(), data)
    with pytest.raises(ArchiveError) as found:
        members(made, data)
    assert str(found.value) == str(expected.value)
    assert members(made, ODD), "and it goes on"


def test_deltas_are_applied(made: Unpacker, tmp_path: Path) -> None:
    new = NOISE[:1000] + b"changed" + NOISE[2000:]
    patch = comparison.make(NOISE, new, 0o104755, 5, 2**31)
    assert patch is not None
    (tmp_path / "old").write_bytes(NOISE)
    with open(tmp_path / "old", "rb") as old:
        assert made.apply(patch, old) == patches.apply(patch, NOISE)
    assert made.apply(patch, NOISE) == patches.apply(patch, NOISE)
    for bad, old_bytes in ((patch[:-1], NOISE), (patch, NOISE[1:]), (b"", b"")):
        with pytest.raises(ArchiveError) as expected:
            patches.apply(bad, old_bytes)
        with pytest.raises(ArchiveError) as found:
            made.apply(bad, old_bytes)
        assert str(found.value) == str(expected.value)


def take(answers: Iterator[Answer]) -> list[bytes | str]:
    """What each delta makes, or why it makes nothing."""
    found: list[bytes | str] = []
    for answer in answers:
        try:
            found.append(b"".join(answer().content))
        except ArchiveError as e:
            found.append(e.problem)
    return found


@pytest.mark.parametrize("bad", [b"", b"BSDIFF4U", "cut"])
def test_a_bad_delta_of_a_group_does_not_keep_the_others_from_being_applied(
    made: Unpacker, tmp_path: Path, bad: bytes | str
) -> None:
    wanted = [NOISE + bytes([number]) * 700 for number in range(12)]
    patches = [comparison.make(NOISE, new, 0o100644, 0, 0) or b"" for new in wanted]
    patches[5] = patches[5][:-1] if isinstance(bad, str) else bad
    (tmp_path / "old").write_bytes(NOISE)
    (tmp_path / "patch").write_bytes(patches[3])
    taken = []
    for way in (Here(), made):
        with contextlib.ExitStack() as stack:
            olds = [stack.enter_context(open(tmp_path / "old", "rb")) for _ in patches]
            held = [stack.enter_context(open(tmp_path / "patch", "rb")) if n == 3 else p for n, p in enumerate(patches)]
            with way.patching(list(zip(held, olds, strict=True)), LIMIT) as answers:
                taken.append(take(answers))
    assert taken[0] == taken[1]
    assert [n for n, (found, new) in enumerate(zip(taken[0], wanted, strict=True)) if found != new] == [5]


def test_a_worker_that_is_killed_takes_the_rest_of_its_group_along(made: Unpacker) -> None:
    # More than it can have told before it is killed.
    new = NOISE * 20
    patch = comparison.make(NOISE, new, 0o100644, 0, 0)
    assert patch is not None
    with made.patching([(patch, NOISE)] * 5, LIMIT) as answers:
        assert take(iter([next(answers)])) == [new]
        os.kill(children(made._parent)[-1], signal.SIGKILL)
        assert take(answers) == [ENDED] * 4
    assert made.apply(patch, NOISE).content == new


@pytest.mark.skipif(not Lz4().needs, reason="there is no LZ4 library")
def test_kernels_are_unfolded(made: Unpacker, tmp_path: Path) -> None:
    pytest.importorskip("hdiffpatch", reason="folded deltas are made by hdiffpatch")
    inside = payload(5, 300_000)
    (tmp_path / "old").write_bytes(kernel(inside))
    packed = made_of(kernel(inside), kernel(inside + b"more"))
    assert packed is not None
    head = packed[: folding.HEAD_SIZE]
    for way in (Here(), made):
        with (tmp_path / "old").open("rb") as old, way.unfolding(head, old) as chunks:
            assert inside in b"".join(chunks)
        (tmp_path / "half").write_bytes(kernel(inside)[: len(kernel(inside)) // 2])
        for wrong, problem in ((b"no header" * 9, "does not say"), (head, "not folded")):
            with (
                (tmp_path / "half").open("rb") as old,
                pytest.raises(ArchiveError, match=problem),
                way.unfolding(wrong, old) as chunks,
            ):
                list(chunks)


def test_an_owner_beyond_all_numbers_in_a_delta_is_an_error(made: Unpacker) -> None:
    patch = comparison.make(NOISE, NOISE + b"x", 0o100644, 2**32 - 1, 0)
    assert patch is not None
    with pytest.raises(ArchiveError, match="impossible"):
        made.apply(patch, NOISE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to lose")
def test_a_worker_has_no_privileges(made: Unpacker) -> None:
    assert members(made, ODD)
    pid = worker_of(made)
    found = status_of(pid)
    assert found["Uid"] == ["65534"] * 4 and found["Gid"] == ["65534"] * 4 and found["Groups"] == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name][0], 16) == 0, name
    assert found["NoNewPrivs"] == ["1"]
    assert os.listdir(f"/proc/{pid}/root/") == []
    assert len(os.listdir(f"/proc/{pid}/fd")) == 1
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    limit = {line[:25].strip(): line[25:].split()[:2] for line in limits}
    assert limit["Max processes"] == limit["Max file size"] == limit["Max core file size"] == ["0", "0"]
    assert limit["Max open files"] == ["32", "32"] and limit["Max address space"][0] != "unlimited"
    for space in ("mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}")


@pytest.mark.parametrize("name", ["PSEUDO_PREFIX", "FAKEROOTKEY"])
def test_where_root_is_only_played_nothing_is_forked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/usr")
    with unpacker.started() as made:
        assert isinstance(made, unpacker.Here)
    monkeypatch.delenv(name)
    with unpacker.started() as made:
        assert isinstance(made, unpacker.Unpacker)


def test_without_root_it_gives_up_what_it_can(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from tests.agent import test_unpacker as t
os.setgroups([]); os.setgid(12345); os.setuid(12345)
made = t.Unpacker()
assert t.members(made, t.ODD) == t.members(t.Here(), t.ODD)
found = t.status_of(t.worker_of(made))
assert found["NoNewPrivs"] == ["1"] and int(found["CapEff"][0], 16) == 0, found
made.close()
"""
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    subprocess.run([sys.executable, "-c", program], check=True, cwd="/")


def test_a_decompression_bomb_is_ended_by_the_memory_limit() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**27}]
    bomb = lzma.compress(ODD, lzma.FORMAT_XZ, filters=filters)
    made = Unpacker(reader_memory=2**26)
    try:
        assert members(made, xz.compress(ODD)) == members(Here(), ODD)
        with pytest.raises(ArchiveError):
            members(made, bomb)
    finally:
        made.close()


def test_a_decompression_bomb_changes_nothing(device: Device, www: Path) -> None:
    bomb = xz.compress(tar([info("staged/" + "0" * 64, content=bytes(2**26))]))
    assert len(bomb) < 2**17
    replace_packs(www, bomb)
    before, there = device.tree(), children(os.getpid())
    for file in (www / "20/files").iterdir():
        file.write_bytes(bomb)
    done = device.follow(www).run("update")
    assert done.code == 18 and "unpacks to more than is allowed" in done.err
    assert device.tree() == before
    assert not {*children(os.getpid())} - {*there}


def test_a_worker_that_is_killed_is_an_error_and_the_next_one_works(made: Unpacker) -> None:
    assert members(made, ODD)
    os.kill(worker_of(made), signal.SIGKILL)
    with pytest.raises(ArchiveError, match="was ended by it"):
        members(made, ODD)
    assert members(made, ODD)
    # More than it can have told before it is killed.
    long = tar([info(f"staged/{n}", content=NOISE) for n in range(9)])
    with pytest.raises(ArchiveError, match="was ended by it"), made.members(long, LIMIT) as found:
        for _ in found:
            os.kill(worker_of(made), signal.SIGKILL)
    assert members(made, ODD)


def test_a_worker_that_is_killed_by_each_pack_leaves_the_update_to_single_files(
    device: Device, installed: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = installed.copy(tmp_path / "clean")
    clean.ok("update")
    plain = unpacking._tell

    def tell(channel: socket.socket, member: archive.Member) -> None:
        if member.name.startswith(("staged", "delta")):
            os.kill(os.getpid(), signal.SIGKILL)
        plain(channel, member)

    monkeypatch.setattr("swupd.agent.unpacking._tell", tell)
    done = device.ok("update")
    assert "was ended by it); single files are fetched instead" in done.err
    assert device.tree() == clean.tree()


def test_a_worker_that_is_left_in_the_middle_is_sent_home(made: Unpacker) -> None:
    with made.members(ODD, LIMIT) as found:
        next(found)
        pid = worker_of(made)
    assert gone(pid)
    assert members(made, ODD)


@pytest.mark.parametrize(
    ("processors", "mib", "patchers"),
    [(1, 4096, 1), (2, 4096, 2), (4, 4096, 4), (64, 4096, 4), (4, 512, 4), (4, 300, 2), (4, 64, 1)],
)
def test_large_deltas_are_applied_on_all_processors_that_there_is_memory_for(
    processors: int, mib: int, patchers: int
) -> None:
    assert unpacker._patchers(processors, mib << 20) == patchers


def test_many_threads_share_few_workers(made: Unpacker) -> None:
    expected = members(Here(), ODD)
    with ThreadPoolExecutor(12) as pool:
        assert all(found == expected for found in pool.map(lambda _: members(made, ODD), range(24)))
    assert len(children(made._parent)) <= min(4, len(os.sched_getaffinity(0)))
    made.rest()
    for pid in children(made._parent):
        assert gone(pid)


def test_a_delta_is_applied_while_a_pack_is_read(made: Unpacker) -> None:
    patch = comparison.make(NOISE, NOISE + b"x", 0o100644, 0, 0)
    assert patch is not None
    with made.members(ODD, LIMIT) as found:
        assert [made.apply(patch, NOISE).content == NOISE + b"x" for _ in found] == [True] * 5


def test_nobody_is_left_when_the_agent_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from tests.agent import test_unpacker as t
made = t.Unpacker()
with made.members(t.ODD, t.LIMIT) as found:
    next(found)
    print(made._parent, t.worker_of(made), flush=True)
    time.sleep(100)
"""
    agent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd="/")
    assert agent.stdout is not None
    pids = [int(pid) for pid in agent.stdout.readline().split()]
    assert len(pids) == 2
    agent.kill()
    agent.communicate()
    assert all(gone(pid) for pid in pids)


def test_a_worker_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(channel: socket.socket, member: archive.Member) -> None:
        while True:
            signal.pause()

    monkeypatch.setattr("swupd.agent.unpacking._tell", tell)
    monkeypatch.setattr("swupd.agent.unpacker._PATIENCE", 0.5)
    made = Unpacker()
    with pytest.raises(ArchiveError, match="was ended by it"):
        members(made, ODD)
    pid = worker_of(made)
    made.close()
    assert gone(pid)


def answer(*frames: bytes, limit: int = LIMIT) -> list[tuple[str, bytes]]:
    """What the agent makes of a worker's answer."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(frames))
    theirs.close()
    worker = _Worker(ours)
    try:
        return [(m.name, b"".join(m.content)) for m in worker.members(limit)]
    finally:
        worker.close()


def frame(tag: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return FRAME.pack(tag, len(data) if size is None else size) + data


MEMBER = frame(b"M", json.dumps(NODE).encode())
ENDED, SENSELESS = (
    "the process that unpacks it was ended by it",
    "the process that unpacks it gave an answer that makes no sense",
)


def test_a_right_answer_is_taken() -> None:
    assert answer(MEMBER, frame(b"C", b"he"), frame(b"C", b"llo"), frame(b"E")) == [("x", b"hello")]
    assert answer(frame(b"E")) == []


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"\0"],
        [frame(b"?")],
        [frame(b"\0", size=2**32 - 1)],
        [frame(b"E", b"more")],
        [frame(b"C", b"content of nothing")],
        [frame(b"M", size=2**32 - 1)],
        [frame(b"M", size=2**20), b"short"],
        [MEMBER],
        [MEMBER, frame(b"C", b"hello")],
        [MEMBER, frame(b"C", b"", 2**32 - 1), b"x"],
        [MEMBER, frame(b"C"), frame(b"E")],
        [MEMBER, frame(b"C", b"hello"), frame(b"?")],
        [MEMBER, frame(b"C", bytes(600)), frame(b"C", bytes(600)), frame(b"E")],
        [MEMBER * 100, frame(b"E")],
        [frame(b"X", b"x" * 5000)],
        [frame(b"X", size=2**32 - 1)],
        [frame(b"M", b"[" * 100_000), frame(b"E")],
    ],
)
def test_a_hostile_answer_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ArchiveError, match=r"makes no sense|was ended"):
        answer(*frames, limit=1024)


@pytest.mark.parametrize(
    "words",
    [
        b"", b"null", b"{}", b"[]", b"\xff", b"1" * 5000,
        *(
            json.dumps([*NODE[:at], value, *NODE[at + 1 :]]).encode()
            for at, value in [
                (0, 1), (0, None), (1, "B"), (1, "D"), (1, ["F"]), (2, -1), (2, 0o644), (2, 0o20644), (2, 2**40),
                (2, True), (3, -1), (3, 2**32), (3, 1.0), (4, "0"), (5, -1), (5, 2**63), (6, "link"), (6, None),
                (7, 0), (7, [1]), (7, [["a", 1]]), (7, [["a", "zz"]]), (7, [["b", ""], ["a", ""]]), (7, {"a": "00"}),
                (7, [["a"]]),
            ]
        ),
        json.dumps([*NODE, 0]).encode(),
    ],
)  # fmt: skip
def test_a_hostile_member_is_refused(words: bytes) -> None:
    with pytest.raises(ArchiveError, match="makes no sense"):
        parsed(words)


def test_an_error_of_a_worker_is_told() -> None:
    with pytest.raises(ArchiveError, match=r"^bad thing$"):
        answer(MEMBER, frame(b"C", b"he"), frame(b"X", b"bad thing"))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([MEMBER, frame(b"C", b"one"), frame(b"E"), MEMBER, frame(b"C", b"two"), frame(b"E")], [b"one", b"two"]),
        ([frame(b"X", b"bad"), MEMBER, frame(b"C", b"two"), frame(b"E")], ["bad", b"two"]),
        ([MEMBER, frame(b"C", b"o"), frame(b"X", b"bad"), MEMBER, frame(b"C", b"two"), frame(b"E")], ["bad", b"two"]),
        ([frame(b"?"), MEMBER, frame(b"C", b"two"), frame(b"E")], [SENSELESS, ENDED]),
        ([MEMBER, frame(b"C", b"one"), frame(b"?"), MEMBER, frame(b"C", b"two"), frame(b"E")], [SENSELESS, ENDED]),
        ([frame(b"M", b"[]"), MEMBER, frame(b"C", b"two"), frame(b"E")], [SENSELESS, ENDED]),
        ([MEMBER, frame(b"C", b"one"), frame(b"E")], [b"one", ENDED]),
        ([], [ENDED, ENDED]),
    ],
)
def test_a_worker_that_makes_no_sense_once_is_not_listened_to_any_more(
    frames: list[bytes], expected: list[bytes | str]
) -> None:
    ours, theirs = socket.socketpair()
    worker = _Worker(ours)
    try:
        worker.ask(b"P", LIMIT, [(b"", b"")] * 2)
        theirs.recv(10_000)
        theirs.sendall(b"".join(frames))
        theirs.close()
        assert take(worker.files(LIMIT)) == expected
        assert worker.done == (expected == [b"one", b"two"])
    finally:
        worker.close()


def test_where_there_can_be_no_process_the_agent_unpacks_itself(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no() -> int:
        raise OSError(11, "no more processes")

    there = children(os.getpid())
    monkeypatch.setattr(os, "fork", no)
    device.ok("update")
    assert not {*children(os.getpid())} - {*there}
