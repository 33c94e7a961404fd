"""Devices for tests: a folder with a tree, its state, the stream it follows, and the agent run on it."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from swupd import hashing, manifest
from swupd.agent import start
from swupd.manifest import Manifest
from swupd.server import archiver, signing
from tests import trees


@dataclass(frozen=True)
class Done:
    """What a run of the agent left behind."""

    code: int
    out: str
    err: str


def agent(*words: str) -> Done:
    """Runs the agent in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = start.main(words)
    return Done(code, out.getvalue(), err.getvalue())


@dataclass
class Device:
    """A device. base: where its tree and state lie; certificate: None where signatures are not checked."""

    base: Path
    url: str
    certificate: Path | None
    format: str = "30"

    @property
    def root(self) -> Path:
        return self.base / "device"

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def cache(self) -> Path:
        """The cache of the device's URL."""
        return self.state / "cache" / self.url.replace(":", "_").replace("/", "_")

    def options(self) -> list[str]:
        """What is the same for every command."""
        trust = ["--certpath", str(self.certificate)] if self.certificate else ["--nosigcheck"]
        place = ["--url", self.url, "--format", self.format, "--statedir", str(self.state)]
        return [*place, *trust, "--no-scripts", "--no-progress", "--retry-delay", "0"]

    def run(self, command: str, *words: str) -> Done:
        """Runs a command on the device; last words win over the usual ones."""
        place = [str(self.root)] if command == "os-install" else ["--path", str(self.root)]
        return agent(command, *place, *self.options(), *words)

    def ok(self, command: str, *words: str) -> Done:
        """Runs a command that must succeed."""
        done = self.run(command, *words)
        assert done.code == 0, (command, done)
        return done

    def tree(self) -> list[str]:
        """The tree, one line a path."""
        return trees.listing(self.root)

    def all(self) -> list[str]:
        """Tree and state."""
        return [*self.tree(), *(trees.listing(self.state) if self.state.exists() else [])]

    def follow(self, www: Path) -> Device:
        """The same device with another stream's URL."""
        return replace(self, url=f"file://{www}")

    def copy(self, base: Path) -> Device:
        """A second device that is the same."""
        base.mkdir(exist_ok=True)
        for place in ("device", "state"):
            if (self.base / place).exists():
                clone(self.base / place, base / place)
        return replace(self, base=base)


def clone(source: Path, to: Path) -> Path:
    """A folder with everything in it: owners, xattrs and symlinks too."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, to], check=True)
    return to


def rewrite(
    www: Path,
    version: int,
    bundle: str,
    change: Callable[[Manifest], Manifest],
    signer: signing.Signer | None,
) -> None:
    """Changes a published manifest and all that vouches for it, as a publisher with the key could."""
    file = www / str(version) / f"Manifest.{bundle}"
    changed = change(manifest.parse(file.read_bytes(), bundle))
    write_manifest(www, version, changed)
    for delta in (www / str(version)).glob(f"Manifest-{bundle}-delta-from-*"):
        delta.unlink()
    if bundle == manifest.MOM:
        sign_mom(www, version, signer)
        return
    digest = hashing.digest_manifest(file.read_bytes())
    for mom in www.glob("*/Manifest.MoM"):
        known = manifest.parse(mom.read_bytes(), manifest.MOM)
        if any(e.name == bundle and e.version == version for e in known.entries):
            entries = tuple(
                e._replace(digest=digest) if e.name == bundle and e.version == version else e for e in known.entries
            )
            write_manifest(www, known.version, known._replace(entries=entries))
            sign_mom(www, known.version, signer)


def write_manifest(www: Path, version: int, changed: Manifest) -> None:
    """Writes a manifest, plain and packed."""
    file = www / str(version) / f"Manifest.{changed.name}"
    file.write_bytes(manifest.serialize(changed))
    file.with_name(f"{file.name}.tar").write_bytes(archiver.manifest_tar(file.name, file.read_bytes()))


def sign_mom(www: Path, version: int, signer: signing.Signer | None) -> None:
    """Signs the MoM as it is; with nobody, takes its signature away."""
    file = www / str(version) / "Manifest.MoM"
    packed = file.with_name("Manifest.MoM.tar")
    packed.write_bytes(archiver.manifest_tar("Manifest.MoM", file.read_bytes()))
    if signer is None:
        file.with_name("Manifest.MoM.sig").unlink(missing_ok=True)
    else:
        file.with_name("Manifest.MoM.sig").write_bytes(signing.sign(file.read_bytes(), signer))


def forget(folder: Path, *names: str) -> None:
    """Removes files of a stream by pattern."""
    found = [f for name in names for f in folder.glob(name)]
    assert found, names
    for file in found:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
