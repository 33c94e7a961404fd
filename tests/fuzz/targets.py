"""What is fuzzed. A further target is one more line in TARGETS: name, seeds, parse."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import lzma
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hypothesis import strategies as st

from swupd import (
    archive,
    crypto,
    envelope,
    folding,
    hashing,
    heads,
    lengths,
    manifest,
    patches,
    roots,
    signatures,
    stream,
    tree,
)
from swupd.agent import anchor, catalog, cli, journal, report, session, settings, state, trust
from swupd.agent.fetch import Fetcher
from swupd.agent.journal import Journal, Op
from swupd.agent.limits import Limits
from swupd.agent.objects import XattrRule
from swupd.agent.source import Source, Transport
from swupd.agent.state import Layout, State
from swupd.agent.unpacker import Here
from swupd.delta import Form
from swupd.errors import DocumentError
from swupd.folding import Fold, Span
from swupd.publickey import PublicKey
from swupd.server import comparison, folds
from tests.fuzz import corpus
from tests.fuzz.corpus import Corpus

Parse = Callable[[bytes], object]
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
_LIMIT = 8 * stream.MIB


@dataclass(frozen=True)
class Place:
    """Where a target may write: files in `own`, nowhere else."""

    corpus: Corpus
    own: Path

    def file(self, path: str, data: bytes) -> Path:
        """Writes the input where the library looks for it."""
        to = self.own / path.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(data)
        return to


@dataclass(frozen=True)
class Target:
    """Something that reads bytes.

    seeds: inputs that are right. open: gives the function that takes an input and raises SwupdError for a bad one.
    text: the input has words. built: further inputs.
    """

    name: str
    seeds: Callable[[Corpus], Iterable[bytes]]
    open: Callable[[Place], Parse]
    text: bool = False
    built: st.SearchStrategy[bytes] | None = None


def _pure(parse: Parse) -> Callable[[Place], Parse]:
    return lambda place: parse


_UNSIGNED = trust.Verifier(None, NOW)


def _signatures(place: Place) -> Parse:
    www = place.corpus.www
    trusted = signatures.load_trust((www.parent / "keys/release.pem").read_bytes(), NOW)
    data = (www / "20/Manifest.MoM").read_bytes()

    def parse(given: bytes) -> None:
        signatures.verify(data, given, trusted, NOW)

    return parse


def _envelopes(data: bytes) -> None:
    """Whatever an envelope holds: who signed it is asked, too."""
    for role in (roots.ROOT, heads.ROLE):
        with contextlib.suppress(DocumentError):
            signed = envelope.parse(data, role)
            signed.signers({name: PublicKey(b"no key", crypto.verifies) for name, _ in signed.signatures})
            assert envelope.parse(envelope.serialize(signed), role) == signed


def _heads(data: bytes) -> None:
    heads.read(envelope.Envelope(heads.ROLE, data))


def _roots(data: bytes) -> None:
    roots.parse(envelope.serialize(envelope.Envelope(roots.ROOT, data)))


def _lengths(data: bytes) -> None:
    for parse in (lengths.parse, lengths.parse_files):
        with contextlib.suppress(DocumentError):
            parse(data)


def _embedded(given: bytes) -> None:
    for certificate in signatures.embedded(given):
        signatures.expires(certificate)


def _tars(place: Place) -> Parse:
    """Every member is staged under its hash, as if a manifest had listed it."""
    kept = State(Layout(place.own, place.own, "tars"))

    def parse(data: bytes) -> None:
        try:
            for member in archive.members(io.BytesIO(data), _LIMIT):
                content = list(member.content)
                kept.staged.put(hashing.digest(member.node, content), member.node, content, XattrRule.HASHED)
        finally:
            kept.clean()

    return parse


def _mute() -> report.Report:
    return report.Text(io.StringIO(), io.StringIO(), report.QUIET, False)


def _packs(place: Place) -> Parse:
    """A device takes what it lacks; whatever is in a pack, taking it fails in no other way than by a SwupdError."""
    kept = State(Layout(place.own, place.own, "packs"))
    root = tree.Root(place.corpus.root)
    nowhere = Source("file:///nonexistent", Transport())
    limits = Limits(_LIMIT, {})
    fetcher = Fetcher(nowhere, kept, root, XattrRule.UNKNOWN, place.corpus.owned, limits, 1, _mute())
    new = manifest.parse((place.corpus.www / "20/Manifest.full").read_bytes(), "full").entries
    wanted = frozenset(e.digest for e in new if e.present)

    def parse(data: bytes) -> None:
        part = kept.part("pack")
        part.write_bytes(data)
        try:
            with part.open("rb") as file:
                fetcher._take(file, _LIMIT, set(wanted), whole=len(data) % 2 == 0)
        finally:
            kept.clean()

    return parse


def _manifest_tars(data: bytes) -> None:
    catalog._members(Here(), data, ("Manifest.MoM", "Manifest.MoM.sig"), stream.MAX_MANIFEST)


def _deltas(place: Place) -> Parse:
    names = {data: name for name, data in place.corpus.deltas()}
    olds = {len(old): old for old in (place.corpus.old(name) for name in names.values())}

    def parse(data: bytes) -> None:
        # The old file is the one of the size that the header wants, if there is one: damage gets further.
        size = int.from_bytes(data[29:37] if data[:8] == b"BSDIFF4U" else data[14:16], "little")
        patches.apply(data, olds.get(size, b"x" * 1000), _LIMIT)

    return parse


def _small_deltas(found: Corpus) -> list[bytes]:
    olds = [bytes(range(256)) * 4, b"\0" * 300, (b"line %d\n" * 40) % tuple(range(40))]
    made = [comparison.make(old, old[:150] + b"changed" + old[160:], 0o100644, 0, 0) for old in olds]
    return [data for data in made if data]


def _small(data: bytes) -> None:
    size = int.from_bytes(data[14:16], "little")
    patches.apply(data, (bytes(range(256)) * 257)[:size], _LIMIT)


def _deltas_in_runs(found: Corpus) -> list[bytes]:
    old = bytes(range(256)) * 8
    news = (old[:150] + b"changed" + old[160:], bytes(b ^ (n % 7 == 0) for n, b in enumerate(old)), old)
    made = [comparison.make(old, new, 0o100644, 0, 0, loose, form=Form.RUNS) for new in news for loose in (0, 1 << 20)]
    return [data for data in made if data]


def _in_runs(data: bytes) -> None:
    patches.apply(data, bytes(range(256)) * 8, _LIMIT)


_BEFORE, _AFTER = b"MZ\x02\x21\x4c\x18", bytes(20)


def _payload(version: int) -> bytes:
    return b"".join(b"address %d " % (n * 7 + version) for n in range(100))


def _kernel(version: int) -> bytes:
    """A kernel with its payload in one block, as LZ4 stores what it cannot compress."""
    inside = _payload(version)
    more, rest = divmod(len(inside) - 15, 255)
    packed = b"\xf0" + b"\xff" * more + bytes([rest]) + inside
    return _BEFORE + len(packed).to_bytes(4, "little") + packed + _AFTER


def _module(version: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 4096}]
    return lzma.compress(_payload(version), lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def _folded_deltas(found: Corpus) -> list[bytes]:
    old, new = (_BEFORE + _payload(version) + _AFTER for version in (1, 2))
    inner = comparison.make(old, new, 0o100600, 0, 0, form=Form.RUNS) or b""
    end = len(_kernel(1)) - len(_AFTER)
    found_modules = folds.find(_module(1), _module(2))
    assert found_modules is not None
    return [
        Fold((Span(6, end),), (Span(6, 6 + len(_payload(2))),), 5000).pack() + inner,
        found_modules.delta(0o100600, 0, 0, 0) or b"",
    ]


def _folded(data: bytes) -> None:
    fold = folding.parse(data)
    if fold is not None and fold.codec.needs:
        old = _module(1) if data.startswith(b"SWUPDXZ") else _kernel(1)
        plain = b"".join(folding.unfolded(io.BytesIO(old), fold))
        made = patches.opened(io.BytesIO(data), len(data), io.BytesIO(plain), len(plain), _LIMIT, fold.length)
        for _ in folding.folded(made.chunks, fold):
            continue


def _manifest_deltas(place: Place) -> Parse:
    olds = [f.read_bytes() for f in place.corpus.base.glob("*/www/10/Manifest.*") if f.suffix != ".tar"]
    by_size = {len(old): old for old in olds}

    def parse(data: bytes) -> None:
        size = int.from_bytes(data[29:37] if data[:8] == b"BSDIFF4U" else data[14:16], "little")
        manifest.parse(patches.apply(data, by_size.get(size, olds[0]), _LIMIT).content, "os-core", 20)

    return parse


def _os_releases(place: Place) -> Parse:
    def parse(data: bytes) -> None:
        place.file("/usr/lib/os-release", data)
        settings.os_release(place.own, "NAME")
        settings.current_version(place.own)

    return parse


def _configurations(place: Place) -> Parse:
    parser = cli.parser()

    def parse(data: bytes) -> None:
        file = place.file("config", data)
        with mock.patch.object(settings, "CONFIG_FILES", (str(file),)):
            made = cli._settings(parser.parse_args(["update", "--path", str(place.own)]))
        made.urls()
        made.stream_format()

    return parse


_CONFIGURATION = b"""[GLOBAL]
# what every command has
url=https://example.com/update
contenturl=http://example.com:80/x
allow_insecure_http=true
port=8080
format=30
max_retries=5
statedir=/var/lib/swupd
certpath=/usr/share/x.pem
[update]
keepcache=true
trial=3
"""


def _defaults(place: Place) -> Parse:
    """The small files that an image ships: URLs, format, time stamp, the noted version."""
    parser = cli.parser()

    def parse(data: bytes) -> None:
        for path in ("format", "versionurl", "contenturl"):
            place.file(f"/usr/share/defaults/swupd/{path}", data)
        place.file("/usr/share/clear/versionstamp", data)
        layout = Layout(place.own, place.own, "x")
        place.file("version", data)
        state.applied(layout)
        made = cli._settings(parser.parse_args(["update", "--path", str(place.own)]))
        session.now(made)
        _ = made.stream_format() if data[:1].isdigit() else made.urls()

    return parse


def _aliases(place: Place) -> Parse:
    def parse(data: bytes) -> None:
        place.file("/etc/swupd/alias.d/some", data)
        settings.aliases(place.own)

    return parse


def _journals(found: Corpus) -> list[bytes]:
    ops = (
        Op("add", "", 1, "/usr/bin/new"),
        Op("put", "/boot", 2, "/boot/with space\udcff"),
        Op("swap", "", 3, "/usr/lib", ("D", "4711")),
        Op("meta", "", 4, "/usr/share", ("755", "0:0", "700", "1:1")),
        Op("xattr", "", 5, "/usr/share", ("user.a", "0x00ff", "-")),
    )
    made = Journal("0123456789abcdef", ("", "/boot"), journal.order((*ops, Op("drop", "", 6, "/usr/bin/old"))))
    return [journal.serialize(made), journal.serialize(Journal("ab" * 8, ("",), (), True, ("ldconfig", "units")))]


def _journal_bodies(found: Corpus) -> list[bytes]:
    return [data[: data.rindex(b"end ")] for data in _journals(found)]


def _sealed(body: bytes) -> None:
    """A journal whose sum is right, so that its lines are read."""
    body = body.removesuffix(b"\n") + b"\n"
    count = len(body.splitlines())
    journal.parse(body + f"end {count} {hashlib.sha256(body).hexdigest()}\n".encode())


def _answers(place: Place) -> Parse:
    """Whatever a web server says, head and body, on a loopback socket."""
    from tests.fuzz.answering import answering  # noqa: PLC0415  its thread must begin in the worker

    told = answering()
    source = Source(told.url, Transport(retries=0, retry_delay=0))

    def parse(data: bytes) -> None:
        told.answer = data
        to = place.own / "part"
        to.unlink(missing_ok=True)
        source.size("x")
        if source.download("x", to, 100_000, lambda _: None) and not to.exists():
            raise AssertionError("a download that is none")
        source.read("x", 100_000)

    return parse


_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n20\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\n20\n\r\n0\r\n\r\n",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\n20\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 416 No\r\nContent-Range: bytes */3\r\nContent-Length: 0\r\n\r\n",
)


TARGETS: tuple[Target, ...] = (
    Target(
        "latest",
        lambda c: c.files("version/*/latest", "version/latest_version"),
        _pure(lambda data: _UNSIGNED.latest(data, None, check=False)),
        True,
        corpus.NUMBERS,
    ),
    Target(
        "mom",
        lambda c: c.files("*/Manifest.MoM"),
        _pure(lambda data: _UNSIGNED.mom(data, None, 20)),
        True,
        corpus.MANIFESTS,
    ),
    Target(
        "manifest",
        lambda c: [d for d in c.files("*/Manifest.*") if d.startswith(b"MANIFEST") and len(d) < 8000],
        _pure(lambda data: manifest.parse(data, "os-core")),
        True,
        corpus.MANIFESTS,
    ),
    Target("envelope", corpus.documents, _pure(_envelopes), True),
    Target("head", lambda c: corpus.payloads(c, "head"), _pure(_heads), True),
    Target("root", lambda c: corpus.payloads(c, "root"), _pure(_roots), True),
    Target("lengths", lambda c: c.files("*/lengths", "*/lengths-files"), _pure(_lengths), True),
    Target("floors", corpus.floors, _pure(anchor.load_floors), True),
    Target("signature", lambda c: c.files("*/Manifest.MoM.sig", "version/*/latest.sig"), _signatures),
    Target("embedded", lambda c: c.files("*/Manifest.MoM.sig"), _pure(_embedded)),
    Target(
        "trust",
        lambda c: [f.read_bytes() for f in (c.www.parent / "keys/release.pem", corpus.DATA / "Swupd_Root.pem")],
        _pure(lambda data: signatures.load_trust(data, NOW)),
        True,
    ),
    Target("trust-der", corpus.certificates, _pure(lambda data: signatures.load_trust(corpus.pem(data), NOW))),
    Target("tar", corpus.tars, _tars, built=corpus.TARS),
    Target("manifest-tar", lambda c: corpus.both(c.files("*/Manifest.MoM.tar")), _pure(_manifest_tars)),
    Target("pack", Corpus.packs, _packs, built=corpus.TARS),
    Target(
        "delta-large", lambda c: [d for _, d in c.deltas() if d.startswith(b"BSDIFF4U")], _deltas, False, corpus.DELTAS
    ),
    Target("delta-small", _small_deltas, _pure(_small), False, corpus.DELTAS),
    Target("delta-runs", _deltas_in_runs, _pure(_in_runs)),
    Target("delta-folded", _folded_deltas, _pure(_folded)),
    Target("manifest-delta", lambda c: c.files("20/Manifest-*-delta-from-*"), _manifest_deltas),
    Target(
        "os-release",
        lambda c: [(c.root / "usr/lib/os-release").read_bytes(), b"NAME=\"A B\"\nVERSION_ID='10'\n"],
        _os_releases,
        True,
        corpus.KEY_VALUES,
    ),
    Target("configuration", lambda c: [_CONFIGURATION], _configurations, True, corpus.KEY_VALUES),
    Target("defaults", lambda c: [b"30\n", b"https://example.com/x\n", b"1700000000"], _defaults, True, corpus.NUMBERS),
    Target("alias", lambda c: [b"editor\tvim\temacs\n# no\nother\ta\n"], _aliases, True),
    Target("journal", _journals, _pure(journal.parse), True),
    Target("journal-body", _journal_bodies, _pure(_sealed), True),
    Target("answer", lambda c: _ANSWERS, _answers, True),
)


def named(name: str) -> Target:
    """The target of a name."""
    return next(t for t in TARGETS if t.name == name)
