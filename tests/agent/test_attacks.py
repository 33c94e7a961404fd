"""Attacks: each test tells one. The attacker has the server, a mirror or the cache, never the key."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import pytest

from swupd import archive, hashing, manifest, tree
from swupd.manifest import Manifest
from swupd.server import archiver, signing
from tests import builders, trees
from tests.agent.conftest import Published
from tests.agent.devices import Device, Done, clone, rewrite, sign_mom, write_manifest

EVIL = b"#!/bin/sh\necho evil\n"


def info(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.mode = kind, len(content), target, 0o755
    return made, content


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    to = BytesIO()
    with tarfile.open(fileobj=to, mode="w") as made:
        for member, content in members:
            made.addfile(member, BytesIO(content))
    return to.getvalue()


def digest_of(www: Path, version: int, bundle: str, path: str) -> str:
    found = manifest.parse((www / str(version) / f"Manifest.{bundle}").read_bytes(), bundle)
    return next(e.digest for e in found.entries if e.name == path)


def replace_packs(www: Path, data: bytes) -> None:
    packs = list(www.glob("20/pack-*-from-10.*tar"))
    assert packs
    for pack in packs:
        pack.write_bytes(data)


def updated_tree(published: Published, installed: Device, base: Path) -> list[str]:
    """The tree after an update that nobody disturbed."""
    clean = installed.copy(base / "clean")
    clean.ok("update")
    return clean.tree()


def refused(done: Done, code: int, device: Device, before: list[str]) -> str:
    """The attack was seen: an error in one line, its exit code, the tree as it was, nothing running on."""
    assert done.code == code, done
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in done.err
    assert device.tree() == before
    return errors[0]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no attack may reach."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "precious").write_text("precious")
    return place


ESCAPES: dict[str, Callable[[str, Path], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "plants a manifest and a marker that it was verified": lambda digest, out: [
        info("manifest/20/Manifest.os-core", content=b"MANIFEST\t30\n"),
        info("manifest/20/Manifest.os-core." + digest, tarfile.LNKTYPE, target="manifest/20/Manifest.os-core"),
    ],
    "climbs out by its names": lambda digest, out: [
        info("../../../escaped", content=EVIL),
        info("staged/../../../escaped", content=EVIL),
        info("staged/../escaped", content=EVIL),
        info(str(out / "escaped"), content=EVIL),
        info("/escaped", content=EVIL),
    ],
    "puts a symlink and then a file through it": lambda digest, out: [
        info("staged/" + digest, tarfile.SYMTYPE, target=str(out)),
        info(f"staged/{digest}/escaped", content=EVIL),
        info("staged", tarfile.SYMTYPE, target=str(out)),
        info("staged/" + "0" * 64, content=EVIL),
    ],
    "holds a device": lambda digest, out: [info("staged/" + digest, tarfile.CHRTYPE)],
    "holds a pipe": lambda digest, out: [info("staged/" + digest, tarfile.FIFOTYPE)],
    "links hard to a file of the device": lambda digest, out: [
        info("staged/" + digest, tarfile.LNKTYPE, target=str(out / "precious"))
    ],
    "holds an object under another's hash": lambda digest, out: [info("staged/" + digest, content=EVIL)],
    "holds a folder under a file's hash": lambda digest, out: [info("staged/" + digest, tarfile.DIRTYPE)],
    "holds an object that no manifest lists": lambda digest, out: [
        info("staged/" + hashing.digest(tree.file_node("/", 0o755, len(EVIL)), [EVIL]), content=EVIL)
    ],
    "has odd hashes": lambda digest, out: [
        info("staged/", content=EVIL),
        info("staged/" + digest.upper(), content=EVIL),
        info("staged/." + digest, content=EVIL),
        info(f"staged/{digest}/", content=EVIL),
        info(f"delta/{digest}", content=EVIL),
        info(f"delta/../{digest}-{digest}", content=EVIL),
    ],
    "has a delta that lies about its result": lambda digest, out: [
        info(f"delta/10-20-{digest}-{digest}", content=b"BSDIFF4V" + bytes(100))
    ],
    "has an owner beyond all numbers": lambda digest, out: [_numbered(digest, "uid"), _numbered(digest, "gid")],
}


def _numbered(digest: str, field: str) -> tuple[tarfile.TarInfo, bytes]:
    member, content = info("staged/" + digest, content=EVIL)
    member.pax_headers = {field: str(2**80)}
    return member, content


@pytest.mark.parametrize("attack", ESCAPES)
def test_an_unsigned_pack_changes_nothing_but_the_speed(
    attack: str, published: Published, installed: Device, device: Device, www: Path, outside: Path, tmp_path: Path
) -> None:
    expected = updated_tree(published, installed, tmp_path)
    replace_packs(www, tar(ESCAPES[attack](digest_of(www, 20, "os-core", "/usr/bin/tool"), outside)))
    there = device.follow(www)
    there.ok("update", "--keepcache")
    assert there.tree() == expected
    assert [f.name for f in outside.iterdir()] == ["precious"]
    assert not list(tmp_path.rglob("escaped")) and not Path("/escaped").exists()
    assert EVIL not in [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.parent.name != "20"]


def test_a_fullfile_of_other_content_is_refused(device: Device, www: Path) -> None:
    shutil.rmtree(www / "20/files")
    (www / "20/files").mkdir()
    replace_packs(www, b"")
    for line in (www / "20/Manifest.full").read_text().splitlines():
        if line.startswith(("F", "D", "L")):
            digest = line.split("\t")[1]
            (www / f"20/files/{digest}.tar").write_bytes(tar([info(digest, content=EVIL)]))
    before = device.tree()
    error = refused(device.follow(www).run("update"), 30, device, before)
    assert "does not have the hash" in error


@pytest.mark.parametrize(
    "members",
    [
        [],
        [("other", tarfile.REGTYPE, "")],
        [("{d}", tarfile.SYMTYPE, "/etc/shadow")],
        [("{d}", tarfile.CHRTYPE, "")],
        [("../{d}", tarfile.REGTYPE, "")],
        [("{d}", tarfile.LNKTYPE, "/etc/passwd")],
    ],
)
def test_a_fullfile_of_another_shape_is_refused(
    device: Device, www: Path, members: list[tuple[str, bytes, str]]
) -> None:
    replace_packs(www, b"")
    for file in (www / "20/files").iterdir():
        file.write_bytes(tar(info(n.format(d=file.stem), kind, target=to) for n, kind, to in members))
    before = device.tree()
    done = device.follow(www).run("update")
    assert done.code in {18, 30}
    refused(done, done.code, device, before)


@pytest.mark.parametrize("shape", ["second member", "other name"])
def test_a_right_object_in_a_fullfile_of_another_shape_is_refused(device: Device, www: Path, shape: str) -> None:
    replace_packs(www, b"")
    for file in (www / "20/files").iterdir():
        ((name, node, content),) = (
            (m.name, m.node, b"".join(m.content)) for m in archive.members(BytesIO(file.read_bytes()), 2**30)
        )
        body = content + bytes(-len(content) % 512)
        if shape == "second member":
            file.write_bytes(archiver.header(name, node) + body + tar([info("second", content=EVIL)]))
        else:
            file.write_bytes(archiver.header("x" * 64, node) + body + bytes(1024))
    before = device.tree()
    assert "something else" in refused(device.follow(www).run("update"), 18, device, before)


def test_manifests_of_another_version_do_not_pass(device: Device, www: Path) -> None:
    # Rollback: version 10's signed files under version 20's names.
    for file in (www / "20").glob("Manifest.MoM*"):
        shutil.copy(www / "10" / file.name, file)
    before = device.tree()
    error = refused(device.follow(www).run("update"), 4, device, before)
    assert "says version 10 where 20 was asked for" in error


def test_a_bundle_manifest_older_than_the_mom_says_does_not_pass(device: Device, www: Path) -> None:
    for file in (www / "20").glob("Manifest.os-core*"):
        if (www / "10" / file.name).exists():
            shutil.copy(www / "10" / file.name, file)
        else:
            file.unlink()
    (www / "20/Manifest-os-core-delta-from-10").unlink()
    before = device.tree()
    error = refused(device.follow(www).run("update"), 30, device, before)
    assert "os-core" in error


def test_a_signed_mom_whose_line_disagrees_with_the_manifest_does_not_pass(
    device: Device, www: Path, published: Published
) -> None:
    # Here the publisher itself errs: right hash, but the manifest says that it is of another version.
    old = (www / "10/Manifest.os-core").read_bytes()

    def older(mom: Manifest) -> Manifest:
        digest = hashing.digest_manifest(old)
        return mom._replace(entries=tuple(e._replace(digest=digest) if e.name == "os-core" else e for e in mom.entries))

    write_manifest(www, 20, manifest.parse(old, "os-core"))
    for delta in (www / "20").glob("Manifest-os-core-delta-from-*"):
        delta.unlink()
    rewrite(www, 20, "MoM", older, published.signer)
    before = device.tree()
    refused(device.follow(www).run("update"), 14, device, before)


def test_an_unsigned_mom_is_refused(device: Device, www: Path) -> None:
    sign_mom(www, 20, None)
    before = device.tree()
    assert "is not signed" in refused(device.follow(www).run("update"), 21, device, before)
    device.follow(www).ok("update", "--nosigcheck")


@pytest.mark.parametrize("signature", [b"", b"x", b"0" * 63, b"0" * 65, b"\x30\x82"])
def test_a_signature_that_is_none_is_refused(device: Device, www: Path, signature: bytes) -> None:
    sign_mom(www, 20, None)
    (www / "20/Manifest.MoM.sig").write_bytes(signature)
    before = device.tree()
    refused(device.follow(www).run("update"), 21, device, before)


def test_a_mom_signed_by_another_key_is_refused(device: Device, www: Path, tmp_path: Path) -> None:
    stranger = builders.keys(tmp_path / "stranger")
    sign_mom(www, 20, stranger)
    before = device.tree()
    assert "vouches" in refused(device.follow(www).run("update"), 21, device, before)


def test_a_changed_mom_with_its_old_signature_is_refused(device: Device, www: Path) -> None:
    signature = (www / "20/Manifest.MoM.sig").read_bytes()
    rewrite(www, 20, "MoM", lambda mom: mom._replace(timestamp=1), None)
    (www / "20/Manifest.MoM.sig").write_bytes(signature)
    before = device.tree()
    refused(device.follow(www).run("update"), 21, device, before)


def test_a_renewed_signature_beside_the_mom_counts_where_the_one_inside_does_not(
    device: Device, www: Path, published: Published, tmp_path: Path
) -> None:
    data = (www / "20/Manifest.MoM").read_bytes()
    stale = signing.sign(data, builders.keys(tmp_path / "stranger"))
    packed = archiver.manifest_tar("Manifest.MoM", data, [("Manifest.MoM.sig", stale)])
    (www / "20/Manifest.MoM.tar").write_bytes(packed)
    device.follow(www).ok("update")
    assert device.run("diagnose").code == 0


@pytest.mark.parametrize("what", ["unsigned", "by another key", "of another file", "empty"])
def test_a_latest_that_is_not_signed_is_refused(device: Device, www: Path, tmp_path: Path, what: str) -> None:
    file = www / "version/format30/latest.sig"
    if what == "unsigned":
        file.unlink()
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "of another file":
        (www / "version/format30/latest").write_bytes(b"999\n")
    else:
        latest = (www / "version/format30/latest").read_bytes()
        file.write_bytes(signing.sign(latest, builders.keys(tmp_path / "stranger")))
    before = device.tree()
    refused(device.follow(www).run("update"), 21, device, before)
    device.follow(www).run("update", "--nosigcheck-latest", "--version", "20")


def test_a_tampered_manifest_in_the_cache_is_dropped_and_fetched_anew(device: Device) -> None:
    cached = device.cache / "manifest/10/Manifest.os-core"
    data = cached.read_bytes()
    evil = manifest.parse(data, "os-core")._replace(entries=())
    cached.write_bytes(manifest.serialize(evil))
    done = device.ok("diagnose", "--picky")
    assert "does not verify" not in done.err or "os-core" in done.err
    device.ok("repair")
    assert cached.read_bytes() == data


@pytest.mark.parametrize("tampered", ["Manifest.MoM", "Manifest.MoM.sig"])
def test_a_tampered_mom_in_the_cache_is_dropped_and_fetched_anew(device: Device, tampered: str) -> None:
    cached = device.cache / "manifest/10" / tampered
    data = cached.read_bytes()
    cached.write_bytes(data.replace(b"os-core", b"os-evil") if tampered.endswith("MoM") else data[:-1] + b"x")
    done = device.ok("repair")
    assert "does not verify; it is fetched again" in done.err
    assert cached.read_bytes() == data


def test_a_staged_object_that_was_swapped_is_fetched_anew(
    published: Published, installed: Device, device: Device, tmp_path: Path
) -> None:
    expected = updated_tree(published, installed, tmp_path)
    device.ok("update", "--download")
    staged = [f for f in (device.cache / "staged").iterdir() if f.is_file() and not f.is_symlink()]
    assert len(staged) > 5
    staged[0].write_bytes(EVIL)
    staged[1].unlink()
    staged[1].symlink_to("/etc/passwd")
    staged[2].unlink()
    staged[2].mkdir()
    (staged[2] / "child").write_bytes(EVIL)
    staged[3].chmod(0o777)
    staged[4].unlink()
    os.mkfifo(staged[4])
    device.ok("update")
    assert device.tree() == expected


def test_a_part_of_a_download_that_was_poisoned_is_fetched_anew(
    published: Published, installed: Device, device: Device, tmp_path: Path
) -> None:
    expected = updated_tree(published, installed, tmp_path)
    for pack in published.www.glob("20/pack-*-from-10.*tar"):
        (device.cache / "download" / f"20_{pack.name}").write_bytes(EVIL)
    for file in (published.www / "20/files").iterdir():
        (device.cache / "download" / file.name).write_bytes(EVIL * 1000)
    device.ok("update")
    assert device.tree() == expected


def test_an_endless_mom_is_given_up(device: Device, www: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swupd.stream.MAX_MANIFEST", 2**20)
    monkeypatch.setattr("swupd.stream.MAX_MANIFEST_TAR", 2**20)
    before = device.tree()
    data = (www / "20/Manifest.MoM.tar").read_bytes()
    (www / "20/Manifest.MoM.tar").write_bytes(tar([info("Manifest.MoM", content=bytes(2**22))]))
    refused(device.follow(www).run("update"), 17, device, before)
    bomb = archiver.manifest_tar("Manifest.MoM", bytes(2**22))
    assert len(bomb) < 2**16
    (www / "20/Manifest.MoM.tar").write_bytes(bomb)
    refused(device.follow(www).run("update"), 4, device, before)
    (www / "20/Manifest.MoM.tar").write_bytes(data)
    device.follow(www).ok("update")


def test_a_latest_of_many_megabytes_is_given_up(device: Device, www: Path) -> None:
    before = device.tree()
    (www / "version/format30/latest").write_bytes(b"20\n" * 2**20)
    assert "larger" in refused(device.follow(www).run("update"), 17, device, before)


@pytest.mark.parametrize("place", ["/usr/lib", "/usr/share/demo", "/usr"])
def test_a_folder_that_became_a_symlink_out_of_the_tree_is_not_written_through(
    device: Device, outside: Path, place: str
) -> None:
    folder = device.root / place[1:]
    clone(folder, outside / "moved")
    moved = trees.listing(outside)
    shutil.rmtree(folder)
    folder.symlink_to(outside / "moved")
    before = device.tree()
    done = device.run("update")
    if done.code:
        assert done.code in {10, 20}
        assert device.tree() == before
    assert trees.listing(outside) == moved
    if place != "/usr":
        device.ok("repair", "--picky")
        assert trees.listing(outside) == moved
        assert device.run("diagnose").code == 0


@pytest.mark.parametrize(
    "name", ["../x", "/etc", ".", "..", "a/b", "", "os-core\n", "a" * 500, "MoM", "full", "%2e%2e"]
)
@pytest.mark.parametrize("command", ["bundle-add", "bundle-remove", "bundle-info"])
def test_an_odd_bundle_name_is_just_an_unknown_one(device: Device, command: str, name: str) -> None:
    before = device.all()
    done = device.run(command, name)
    assert done.code == 3, done
    assert len(done.err.splitlines()) == 1 and "Error: " in done.err
    assert set(before) - {line for line in before if "swupd_lock" in line} <= set(device.all())


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "MoM", "full", "a b"])
def test_a_signed_mom_with_an_odd_bundle_name_is_refused(
    device: Device, www: Path, published: Published, name: str
) -> None:
    file = www / "20/Manifest.MoM"
    file.write_bytes(file.read_bytes().replace(b"\tdocs\n", f"\t{name}\n".encode()))
    sign_mom(www, 20, published.signer)
    before = device.tree()
    refused(device.follow(www).run("update"), 4, device, before)


@pytest.mark.parametrize("path", ["/../escaped", "/usr/../../escaped", "//escaped", "escaped", "/usr/\0x"])
def test_a_signed_manifest_with_a_path_that_leads_out_is_refused(
    device: Device, www: Path, published: Published, path: str
) -> None:
    file = www / "20/Manifest.os-core"
    data = file.read_bytes().replace(b"\t/usr/share/demo/empty\n", f"\t{path}\n".encode())
    assert data != file.read_bytes()
    file.write_bytes(data)
    (www / "20/Manifest.os-core.tar").write_bytes(archiver.manifest_tar("Manifest.os-core", data))
    for delta in (www / "20").glob("Manifest-os-core-delta-from-*"):
        delta.unlink()

    def renewed(mom: Manifest) -> Manifest:
        digest = hashing.digest_manifest(data)
        return mom._replace(entries=tuple(e._replace(digest=digest) if e.name == "os-core" else e for e in mom.entries))

    rewrite(www, 20, "MoM", renewed, published.signer)
    before = device.tree()
    refused(device.follow(www).run("update"), 14, device, before)


def test_a_release_with_a_file_below_a_symlink_is_refused_before_anything_changes(
    device: Device, www: Path, published: Published
) -> None:
    def through(found: Manifest) -> Manifest:
        link = next(e for e in found.entries if e.name == "/usr/share/demo/file-to-link")
        extra = link._replace(name="/usr/share/demo/file-to-link/below", version=20)
        return found._replace(entries=(*found.entries, extra))

    rewrite(www, 20, "os-core", through, published.signer)
    before = device.tree()
    refused(device.follow(www).run("update"), 10, device, before)


def test_bundles_that_disagree_about_a_path_are_refused(device: Device, www: Path, published: Published) -> None:
    def other(found: Manifest) -> Manifest:
        core = manifest.parse((www / "20/Manifest.os-core").read_bytes(), "os-core")
        tool = next(e for e in core.entries if e.name == "/usr/bin/tool")
        suid = next(e for e in core.entries if e.name == "/usr/bin/suid")
        return found._replace(entries=(*found.entries, tool._replace(digest=suid.digest)))

    rewrite(www, 20, "editors", other, published.signer)
    before = device.tree()
    error = refused(device.follow(www).run("update"), 14, device, before)
    assert "editors and os-core disagree about /usr/bin/tool" in error


def test_a_picky_tree_cannot_lead_out_of_the_root(device: Device, outside: Path) -> None:
    for path in ("/..", "/../outside", "/usr/../..", "..", "usr", "//"):
        done = device.run("repair", "--picky", "--picky-tree", path)
        assert done.code == 15, (path, done)
        done = device.run("diagnose", "--file", path)
        assert done.code == 15, (path, done)
    assert (outside / "precious").exists()


def test_hashdump_does_not_look_out_of_the_tree(device: Device, outside: Path) -> None:
    assert device.run("hashdump", "/../../outside/precious").code == 38
    (device.root / "way").symlink_to(outside)
    assert device.run("hashdump", "/way/precious").code == 38
    assert device.ok("hashdump", "/way").out
