from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swupd import manifest, paths
from swupd.errors import ManifestError
from swupd.manifest import Entry, Manifest
from tests.conftest import Golden

DIGEST = "0123456789abcdef" * 4
LINE = f"F...\t{DIGEST}\t10\t/usr/bin/x\n"
HEAD = "MANIFEST\t30\nversion:\t10\nprevious:\t0\nfilecount:\t1\ntimestamp:\t5\ncontentsize:\t7\n"


def parsed(head: str = HEAD, body: str = LINE, name: str = "os-core", version: int | None = 10) -> Manifest:
    return manifest.parse(f"{head}\n{body}".encode("utf-8", "surrogateescape"), name, version)


names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: "/" + paths.decode(raw).strip("/"))
    .filter(lambda p: paths.problem(p) is None)
)
versions = st.integers(1, 2**31 - 1)
entries = st.builds(
    Entry,
    kind=st.sampled_from("FDL."),
    digest=st.text("0123456789abcdef", min_size=64, max_size=64),
    version=versions,
    name=names,
    status=st.sampled_from(".dg"),
    modifier=st.sampled_from(".Csbae!#"),
    misc=st.sampled_from(".rxm"),
)
words = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
manifests = st.builds(
    Manifest,
    name=st.just("editors"),
    format=st.integers(29, 100),
    version=versions,
    previous=versions | st.just(0),
    minversion=st.just(0),
    timestamp=st.integers(0, 2**40),
    contentsize=st.integers(0, 2**62),
    includes=st.lists(words).map(tuple),
    also_add=st.lists(words).map(tuple),
    entries=st.lists(entries, max_size=8).map(tuple),
    extra=st.lists(
        st.tuples(words.map("x-".__add__), st.text("ab \t:", max_size=8)), max_size=3, unique_by=lambda e: e[0]
    ).map(tuple),
)


@given(manifests)
def test_parse_gives_back_what_serialize_wrote(made: Manifest) -> None:
    assert manifest.parse(manifest.serialize(made), "editors", made.version) == made


@given(st.binary(max_size=300))
def test_no_bytes_make_parse_fail_in_another_way_than_by_its_own_error(data: bytes) -> None:
    try:
        manifest.parse(HEAD.encode() + b"\n" + data, "x")
        manifest.parse(data, "x")
    except ManifestError:
        pass


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_manifest(at: int, value: int) -> None:
    data = bytearray((HEAD + "includes:\tos-core\n\n" + LINE * 3).encode())
    at %= len(data)
    before = manifest.parse(bytes(data), "x")
    changed = data[at] != value
    data[at] = value
    try:
        after = manifest.parse(bytes(data), "x")
    except ManifestError:
        return
    lies_in_filecount = re.search(rb"filecount:\t1\n", bytes(data)) is None
    assert (after != before) is changed or lies_in_filecount


@pytest.mark.parametrize(
    ("stream_format", "keys"),
    [
        (4, "version previous filecount timestamp contentsize includes x"),
        (25, "version previous filecount timestamp contentsize includes x"),
        (26, "version previous minversion filecount timestamp contentsize includes x"),
        (28, "version previous minversion filecount timestamp contentsize includes x"),
        (29, "version previous minversion filecount timestamp contentsize includes also-add x"),
        (30, "version previous minversion filecount timestamp contentsize includes also-add x"),
    ],
)
def test_each_format_has_its_header(stream_format: int, keys: str) -> None:
    made = Manifest("MoM", stream_format, 20, 10, 10, 5, 0, ("a",), ("b",), (), (("x", "y"),))
    lines = manifest.serialize(made).decode().splitlines()
    assert lines[0] == f"MANIFEST\t{stream_format}"
    assert [line.split(":\t")[0] for line in lines[1:-1]] == keys.split()
    assert lines[-1] == ""


def test_only_the_mom_has_a_minversion_and_only_where_one_is_set() -> None:
    assert b"minversion" not in manifest.serialize(Manifest("os-core", 30, 20, minversion=10))
    assert b"minversion" not in manifest.serialize(Manifest("MoM", 30, 20))


def test_entries_are_ordered_by_version_and_then_by_the_bytes_of_the_name() -> None:
    named = [Entry("F", DIGEST, v, n) for v, n in [(20, "/a"), (10, "/ü"), (10, "/z"), (10, "/\udcff"), (10, "/B")]]
    assert [e.name for e in manifest.ordered(named)] == ["/B", "/z", "/ü", "/\udcff", "/a"]


def test_golden_manifests_are_read_and_written_back_byte_for_byte(golden: Golden) -> None:
    count = 0
    for version in (10, 20):
        for file in sorted((golden.www / str(version)).glob("Manifest.*")):
            name = file.name.removeprefix("Manifest.")
            if name.endswith((".tar", ".sig")):
                continue
            data = file.read_bytes()
            found = manifest.parse(data, name, version)
            count += 1
            if golden.name.startswith("mixer"):
                assert manifest.serialize(found) == data
            else:
                # swupd-server puts keys of its own between ours, and orders entries of one version as it likes.
                assert sorted(manifest.serialize(found).splitlines()) == sorted(data.splitlines())
    assert count >= 8


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\n",
        "MANIFEST\n",
        "MANIFEST 30\nversion:\t10\n",
        "MANIFEST\t30\n",
        "MANIFEST:\t30\nversion:\t10\n",
        "version:\t10\nMANIFEST\t30\n",
        "MANIFEST\t30\nversion: 10\n",
        "MANIFEST\t30\nversion\t10\n",
        "MANIFEST\t30\nversion:\t10\nversion:\t10\n",
        "MANIFEST\t30\nMANIFEST\t30\nversion:\t10\n",
        "MANIFEST\t30\nversion:\t10\nnonsense\n",
        "MANIFEST\t30\nversion:\t10\nfilecount:\t1\nno tab here:\n",
        *(
            f"MANIFEST\t30\nversion:\t{v}\n"
            for v in ("", "+10", " 10", "10 ", "-10", "1e1", "0x0a", "１０", "10\r", "1\v0")
        ),
        *(f"MANIFEST\t30\nversion:\t{v}\n" for v in ("0", "2147483648", "4294967306", "9" * 400)),
        *(f"MANIFEST\t{f}\nversion:\t10\n" for f in ("", "0", "-1", "2147483648", "30x")),
        "MANIFEST\t30\nversion:\t10\ncontentsize:\t9223372036854775808\n",
        "MANIFEST\t30\nversion:\t10\nprevious:\tx\n",
    ],
)
def test_malformed_headers_are_refused(head: str) -> None:
    with pytest.raises(ManifestError):
        parsed(head)


@pytest.mark.parametrize(
    "line",
    [
        "\n",
        "F...\n",
        f"F...\t{DIGEST}\t10\n",
        f"F... {DIGEST} 10 /usr\n",
        f"F..\t{DIGEST}\t10\t/usr\n",
        f"F....\t{DIGEST}\t10\t/usr\n",
        f"F. .\t{DIGEST}\t10\t/usr\n",
        f"Fü..\t{DIGEST}\t10\t/usr\n",
        *(f"F...\t{d}\t10\t/usr\n" for d in ("", DIGEST.upper(), DIGEST[1:], DIGEST + "0", "0x" + DIGEST[2:])),
        *(f"F...\t{d}\t10\t/usr\n" for d in (" " + DIGEST[1:], DIGEST[:-1] + "g", "٣" * 64)),
        *(
            f"F...\t{DIGEST}\t{v}\t/usr\n"
            for v in ("", "0", "+1", " 1", "1e3", "-1", "１０", "2147483648", "4294967297")
        ),
        *(f"F...\t{DIGEST}\t{v}\t/usr\n" for v in ("9223372036854775808", "1" * 400)),
        *(
            f"F...\t{DIGEST}\t10\t{p}\n"
            for p in ("", "usr", "/", "/usr/", "//usr", "/a//b", "/../x", "/a/..", "/a/./b")
        ),
        *(f"F...\t{DIGEST}\t10\t{p}\n" for p in ("/a\0b", "/a\tb", "/" + "a" * 5000, "/" + "a" * 20_000)),
        *(f"M...\t{DIGEST}\t10\t{b}\n" for b in ("", "..", ".x", "a/b", "../x", "/x", "a\0b")),
        LINE + "\n" + LINE,
    ],
)
def test_malformed_entries_are_refused(line: str) -> None:
    with pytest.raises(ManifestError):
        parsed(body=line)


@pytest.mark.parametrize("length", range(len(HEAD + "\n" + LINE)))
def test_a_manifest_cut_off_anywhere_is_refused_or_ends_with_a_whole_line(length: int) -> None:
    data = (HEAD + "\n" + LINE).encode()[:length]
    try:
        manifest.parse(data, "x")
    except ManifestError:
        return
    assert data.endswith(b"\n")


@pytest.mark.parametrize(
    "flags", ["F...", "Z...", "Fz..", "F.9.", "F..?", "I...", "....", ".d.r", ".gb.", "F.b.", "F.jx"]
)
def test_flags_are_kept_even_unknown_ones(flags: str) -> None:
    name = "tb" if flags[0] == "I" else "/usr/x"
    (entry,) = parsed(body=f"{flags}\t{DIGEST}\t10\t{name}\n").entries
    assert entry.flags == flags


def test_unknown_header_keys_are_kept_and_can_be_asked_for() -> None:
    found = parsed(HEAD + "status:\tACTIVE\nxattrs:\thashed\n")
    assert found.extra == (("status", "ACTIVE"), ("xattrs", "hashed"))
    assert found.header("xattrs") == "hashed"
    assert found.header("actions") is None


def test_a_manifest_must_be_of_the_version_it_was_asked_for_as() -> None:
    with pytest.raises(ManifestError, match="says version 10 where 20 was asked for"):
        parsed(version=20)


def test_a_manifest_without_entries_may_end_after_its_header() -> None:
    assert parsed(body="").entries == ()


@pytest.mark.parametrize(
    ("flags", "present", "deleted", "ghosted"),
    [
        ("F...", True, False, False),
        ("D...", True, False, False),
        ("L..x", True, False, False),
        (".d..", False, True, False),
        ("Fd..", False, True, False),
        (".g..", False, False, True),
        ("....", False, False, False),
        ("Z...", False, False, False),
    ],
)
def test_what_flags_mean(flags: str, present: bool, deleted: bool, ghosted: bool) -> None:
    entry = Entry(flags[0], DIGEST, 1, "/x", flags[1], flags[2], flags[3])
    assert (entry.present, entry.deleted, entry.ghosted) == (present, deleted, ghosted)


def test_experimental_bundles_are_present() -> None:
    mom = Manifest("MoM", 30, 10, entries=(Entry("M", DIGEST, 10, "tb", "e"),))
    assert mom.entry("tb") is not None
    assert mom.entry("none") is None


@pytest.mark.parametrize(
    "field",
    [
        {"version": True},
        {"version": 1.0},
        {"version": "1"},
        {"digest": "x"},
        {"name": "x"},
        {"kind": "FF"},
        {"misc": ""},
    ],
)
def test_an_entry_cannot_be_made_wrong(field: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Entry("F", DIGEST, 1, "/x")._replace(**field)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field", [{"format": 0}, {"version": 0}, {"version": True}, {"previous": -1}, {"timestamp": 1.5}]
)
def test_a_manifest_cannot_be_made_wrong(field: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Manifest("os-core", 30, 10)._replace(**field)  # type: ignore[arg-type]


def test_entries_that_are_the_same_are_taken_over() -> None:
    old = Manifest("os-core", 30, 10, entries=(Entry("F", "a" * 64, 10, "/a"), Entry("F", "b" * 64, 10, "/b")))
    new = Manifest("os-core", 30, 20, entries=(old.entries[0], Entry("F", "b" * 64, 10, "/b", misc="r")))
    read = manifest.parse(manifest.serialize(new), "os-core", like=old.entries)
    assert read == new
    assert read.entries[0] is old.entries[0] and read.entries[1] is not old.entries[1]
    moved = new._replace(entries=(Entry("F", "c" * 64, 20, "/a"), Entry("F", "b" * 64, 20, "/b")))
    assert manifest.parse(manifest.serialize(moved), "os-core", like=old.entries) == moved


def test_a_manifest_is_not_held_as_text_while_it_is_read() -> None:
    count = 20_000
    entries = [Entry("F", f"{n:064x}", 10, f"/usr/lib/a-name-of-some-length-{n}") for n in range(count)]
    data = manifest.serialize(Manifest("os-core", 30, 10, entries=tuple(entries)))
    tracemalloc.start()
    try:
        taken = manifest.parse(data, "os-core", like=entries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken.entries == tuple(entries)
    # A table of the entries by name and two lists of pointers: 16 + 8 bytes and what they are grown by.
    assert peak < 120 * count < len(data) + 120 * count
