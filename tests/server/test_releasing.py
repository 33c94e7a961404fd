"""Releases that devices with a root of trust would refuse are not announced; held ones are signed elsewhere."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from pathlib import Path

import pytest

from swupd import envelope, roots, stream
from swupd.server import held, lint, rules
from tests import builders
from tests.server.test_trust import ed25519, head, publish, server, signing_words

FILES = {"/usr/bin/hello": "hello" * 500, "/opt/acme/tool": "tool", "/usr/share/clear/bundles/acme-tool": ""}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """All keys of a publisher; their root is published."""
    server("keygen", tmp_path / "keys")
    server("root", "publish", tmp_path / "keys/1.root", "--www", tmp_path / "www")
    return tmp_path / "keys"


def findings(base: Path, severity: str = rules.ERROR) -> list[str]:
    """What lint has to say."""
    found = lint.lint(base / "www", datetime.datetime.now(datetime.UTC))
    return [f"{f.place}: {f.message}" for f in found if f.severity == severity]


def next_root(base: Path, *changes: tuple[object, ...], by: str = "root.key") -> Path:
    """Publishes the next root with some changes."""
    newest = sorted((base / "www/root").iterdir())[-1]
    file = base / f"{int(newest.stem) + 1}.root"
    server("root", "rotate", newest, "--output", file)
    for command, *words in changes:
        server("root", command, file, *words)
    server("root", "sign", file, "--key", base / "keys" / by, "--previous", newest)
    server("root", "publish", file, "--www", base / "www")
    return file


def test_an_unsigned_release_is_refused_where_there_is_a_root(tmp_path: Path, keys: Path) -> None:
    assert "asks for releases to be signed" in publish(tmp_path, 10, *signing_words(keys, release=False), code=21)
    assert not (tmp_path / "www/10").exists()


def test_a_release_without_a_head_is_refused_where_there_is_a_root(tmp_path: Path, keys: Path) -> None:
    assert "has a root of trust" in publish(tmp_path, 10, *signing_words(keys, head=False), code=15)
    publish(tmp_path, 10, *signing_words(keys, head=False), "--without-head")
    server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key")
    assert head(tmp_path).version == 10


@pytest.mark.parametrize(
    ("role", "says"), [("release", "asks for 2 signatures of a release"), ("head", "signatures of a head")]
)
def test_one_key_where_two_must_sign_is_refused_before_anything_is_written(
    tmp_path: Path, keys: Path, role: str, says: str
) -> None:
    other = ed25519(tmp_path / "other")
    next_root(tmp_path, ("add-key", "--role", role, f"{other}.pub"), ("threshold", f"{role}=2"))
    assert says in publish(tmp_path, 10, code=21)
    assert not (tmp_path / "www/10").exists()


def test_an_expired_root_is_refused(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    server("keygen", keys)
    _, root = roots.parse((keys / "1.root").read_bytes())
    old = envelope.Envelope(roots.ROOT, roots.payload(root).replace(f"{root.expires:%Y}".encode(), b"2001"))
    (tmp_path / "old.root").write_bytes(envelope.serialize(old))
    server("root", "sign", tmp_path / "old.root", "--key", keys / "root.key")
    server("root", "publish", tmp_path / "old.root", "--www", tmp_path / "www")
    assert "is over" in server("root", "show", tmp_path / "old.root")
    assert "has expired" in publish(tmp_path, 10, code=60)


def test_a_minimum_above_the_release_is_refused_before_anything_is_written(tmp_path: Path, keys: Path) -> None:
    assert "this is 10" in publish(tmp_path, 10, *signing_words(keys), "--minimum", 20, code=15)
    assert not (tmp_path / "www/10").exists()


def test_a_head_is_not_good_for_ever(tmp_path: Path, keys: Path) -> None:
    said = publish(tmp_path, 10, *signing_words(keys), "--head-days", 2147483647, code=15)
    assert "a head cannot be good for 2147483647 days" in said


def test_a_threshold_needs_keys(tmp_path: Path, keys: Path) -> None:
    words = ("--root-key", keys / "root.key", "--head-key", keys / "head.key", "--release-key", keys / "release.pem")
    made = ("root", "init", "--output", tmp_path / "x", *words)
    assert "Give --build-key" in server(*made, "--threshold", "build=2", code=15)
    assert "more signatures than it has keys" in server(*made, "--threshold", "head=2", code=60)
    assert not (tmp_path / "x").exists()


def test_the_first_root_of_a_stream_is_number_1(tmp_path: Path, keys: Path) -> None:
    file = next_root(tmp_path)
    assert "from 1.root on" in server("root", "publish", file, "--www", tmp_path / "other", code=60)


def test_a_root_number_never_goes_back(tmp_path: Path, keys: Path) -> None:
    next_root(tmp_path)
    before = (tmp_path / "www/root/1.root").read_bytes()
    assert "has root 2 already" in server("root", "publish", keys / "1.root", "--www", tmp_path / "www", code=60)
    assert (tmp_path / "www/root/1.root").read_bytes() == before


def test_publish_brings_the_root_and_those_before_it(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    file = next_root(tmp_path)
    server("fetch", "--url", f"file://{tmp_path}/www", "--output", tmp_path / "copy", "--previous-versions", 1)
    (tmp_path / "www").rename(tmp_path / "elsewhere")
    past = ("--previous-url", f"file://{tmp_path}/copy")
    publish(tmp_path, 20, *signing_words(keys), "--root", file, *past)
    assert sorted(p.name for p in (tmp_path / "www/root").iterdir()) == ["1.root", "2.root"]


def test_another_root_of_the_same_number_is_refused(tmp_path: Path, keys: Path) -> None:
    server("keygen", tmp_path / "other")
    said = publish(tmp_path, 10, *signing_words(keys), "--root", tmp_path / "other/1.root", code=60)
    assert "another root 1" in said
    assert not (tmp_path / "www/10").exists()


def test_a_new_build_key_asks_for_new_signatures_of_what_is_unchanged(tmp_path: Path, keys: Path) -> None:
    publish_bundles(tmp_path, 10)
    server("keygen", tmp_path / "new")
    old = keys / "manifest.pem"
    next_root(
        tmp_path, ("add-key", "--role", "build", tmp_path / "new/manifest.pem"), ("remove-key", "--role", "build", old)
    )
    for end in ("key", "pem"):
        shutil.copy(tmp_path / f"new/manifest.{end}", keys)
    said = publish_bundles(tmp_path, 20, code=21)
    assert "the unchanged 10/Manifest.acme-tool is signed by 0" in said
    assert any("10/Manifest.acme-tool: is signed by 0" in found for found in findings(tmp_path))
    both = ("--signing-key", keys / "manifest.key", "--certificate", keys / "manifest.pem")
    server("sign", tmp_path / "www/10/Manifest.acme-tool", tmp_path / "www/10/Manifest.os-core", *both)
    assert not findings(tmp_path)
    publish_bundles(tmp_path, 20)
    assert not findings(tmp_path)


def publish_bundles(base: Path, version: int, *words: object, code: int = 0) -> str:
    """A release with a bundle of somebody else's that never changes."""
    rootfs = base / f"rootfs-{version}"
    tree = builders.os_tree(version, FILES)
    if not rootfs.exists():
        builders.make_tree(rootfs, tree)
    own = {"/opt/acme/tool", "/usr/share/clear/bundles/acme-tool"}
    (base / "core.txt").write_text("".join(f"{p}\n" for p in sorted(set(tree) - own)))
    (base / "acme.txt").write_text("".join(f"{p}\n" for p in sorted(own)))
    content = ("--content", f"os-core={base / 'core.txt'}", "--content", f"acme-tool={base / 'acme.txt'}")
    return server(
        "publish", "--www", base / "www", "--version", version, "--rootfs", rootfs, *content, "--quiet",
        *(words or signing_words(base / "keys")), code=code,
    )  # fmt: skip


def test_a_delegated_bundle_is_signed_by_its_own_people(tmp_path: Path, keys: Path) -> None:
    server("keygen", tmp_path / "acme")
    delegation = ("delegate", "--bundles", "acme-*", "--key", tmp_path / "acme/manifest.pem", "--paths", "/opt/acme/")
    next_root(tmp_path, delegation)
    assert "acme-tool is delegated" in publish_bundles(tmp_path, 10, code=21)
    publish_bundles(tmp_path, 10, *signing_words(keys, head=False), "--hold")
    words = ("release", "--www", tmp_path / "www", "--version", 10, "--head-key", keys / "head.key", "--signing-key")
    words = (*words, keys / "release.key", "--certificate", keys / "release.pem")
    assert "10/Manifest.acme-tool is signed by 0" in server(*words, code=21)
    own = ("--signing-key", tmp_path / "acme/manifest.key", "--certificate", tmp_path / "acme/manifest.pem")
    server("sign", tmp_path / "www/10/Manifest.acme-tool", *own)
    server(*words)
    assert not findings(tmp_path)


def test_two_of_a_bundle_s_people_sign_its_manifest(tmp_path: Path, keys: Path) -> None:
    names = ("anna", "ben")
    for name in names:
        server("keygen", tmp_path / name)
    certificates = [tmp_path / name / "manifest.pem" for name in names]
    words = ("--bundles", "acme-*", "--key", *certificates, "--paths", "/opt/acme/", "--threshold", 2)
    next_root(tmp_path, ("delegate", *words))
    publish_bundles(tmp_path, 10, *signing_words(keys, head=False), "--hold")
    place = tmp_path / "www/10/Manifest.acme-tool"
    for name in names:
        assert "10/Manifest.acme-tool is signed by" in release(tmp_path, 10, code=21)
        own = ("--signing-key", tmp_path / name / "manifest.key", "--certificate", tmp_path / name / "manifest.pem")
        server("sign", place, "--add", *own)
        server("sign", place, "--add", *own)
    release(tmp_path, 10)
    words = ("openssl", "smime", "-verify", "-noverify", "-inform", "DER", "-content", place, "-in", f"{place}.sig")
    assert subprocess.run([str(w) for w in words], check=True, capture_output=True).stdout == place.read_bytes()


def test_a_delegated_bundle_may_ship_nothing_else(tmp_path: Path, keys: Path) -> None:
    delegation = ("delegate", "--bundles", "acme-*", "--key", keys / "manifest.pem", "--paths", "/opt/acme2/")
    next_root(tmp_path, delegation)
    assert "ships /opt/acme" in publish_bundles(tmp_path, 10, code=15)


# Held releases.


def hold(base: Path, version: int) -> None:
    publish(base, version, *signing_words(base / "keys", head=False), "--hold")


def release(base: Path, version: int, *more: object, code: int = 0) -> str:
    keys = base / "keys"
    words = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem", "--head-key")
    return server("release", "--www", base / "www", "--version", version, *words, keys / "head.key", *more, code=code)


def test_a_held_release_is_made_again_or_taken_away(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    hold(tmp_path, 20)
    assert head(tmp_path).version == 10 and held.versions(tmp_path / "www") == {20}
    assert "20: is held" in " ".join(findings(tmp_path, "warning")) and not findings(tmp_path)
    hold(tmp_path, 20)
    server("withdraw", "--www", tmp_path / "www", "--version", 20)
    assert not (tmp_path / "www/20").exists() and not held.versions(tmp_path / "www")
    assert head(tmp_path).version == 10
    hold(tmp_path, 20)
    publish(tmp_path, 20)
    assert head(tmp_path).version == 20 and not held.versions(tmp_path / "www")


def test_a_publish_that_was_killed_before_its_head_is_brought_to_its_end(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    before = (tmp_path / "www" / stream.head(30)).read_bytes()
    publish(tmp_path, 20)
    (tmp_path / "www" / stream.head(30)).write_bytes(before)
    held.mark(tmp_path / "www", 20)
    assert "names 10, but version/format30/latest names 20" in " ".join(findings(tmp_path, rules.WARNING))
    assert "Release 20 is newer" in server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key")
    release(tmp_path, 20)
    assert head(tmp_path).version == 20
    held.mark(tmp_path / "www", 20)
    signed = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    words = ("withdraw", "--www", tmp_path / "www", "--version", 20, *signed, "--head-key", keys / "head.key")
    server(*words)
    assert head(tmp_path).version == 10
    assert (tmp_path / "www" / stream.latest(30)).read_text() == "10"


def test_a_first_release_that_is_held_does_not_stand_in_the_way(tmp_path: Path, keys: Path) -> None:
    hold(tmp_path, 10)
    publish(tmp_path, 20)
    assert "newest release is 20 already" in release(tmp_path, 10, code=15)
    server("withdraw", "--www", tmp_path / "www", "--version", 10)
    assert not (tmp_path / "www/10").exists()


def test_a_held_release_that_was_overtaken_is_not_announced(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    hold(tmp_path, 30)
    publish(tmp_path, 20)
    assert "follows 10, but 20 was released since" in release(tmp_path, 30, code=15)
    hold(tmp_path, 30)
    release(tmp_path, 30)
    assert head(tmp_path).version == 30


def test_a_change_of_format_is_released_in_two_steps(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    new = tmp_path / "root-30"
    builders.make_tree(new, builders.os_tree(30, {"/usr/bin/new": "30"}, 31))
    (tmp_path / "content").write_text("".join(f"{p}\n" for p in builders.os_tree(30, {"/usr/bin/new": "30"}, 31)))
    publish(tmp_path, 30, *signing_words(keys, head=False), "--hold", "--format", 31)
    assert "the interim one between them comes first" in release(tmp_path, 30, code=15)
    release(tmp_path, 29)
    release(tmp_path, 30)
    assert head(tmp_path).version == 29
    assert (tmp_path / "www" / stream.head(31)).exists()
    assert not findings(tmp_path)


def test_a_new_release_key_signs_the_newest_release_again(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    server("keygen", tmp_path / "new")
    changes = (("add-key", "--role", "release", tmp_path / "new/release.pem"),)
    next_root(tmp_path, *changes, ("remove-key", "--role", "release", keys / "release.pem"))
    renew = ("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key")
    assert "signed by 0 release keys" in server(*renew, code=21)
    assert any("10/Manifest.MoM: is signed by 0 release keys" in found for found in findings(tmp_path))
    for end in ("key", "pem"):
        shutil.copy(tmp_path / f"new/release.{end}", keys)
    release(tmp_path, 10)
    server(*renew)
    assert not findings(tmp_path)


def test_a_wrong_signature_leaves_the_release_as_it_was(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    server("keygen", tmp_path / "new")
    before = (tmp_path / "www/10/Manifest.MoM.sig").read_bytes()
    wrong = ("--signing-key", tmp_path / "new/release.key", "--certificate", tmp_path / "new/release.pem")
    words = ("release", "--www", tmp_path / "www", "--version", 10, "--head-key", keys / "head.key")
    assert "signed by 0 release keys" in server(*words, *wrong, code=21)
    other = tmp_path / "20"
    other.write_text("20")
    server("sign", other, "--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    said = server(*words, "--latest-signature", tmp_path / "20.sig", code=21)
    assert "signature of the file latest is not for these bytes" in said
    assert (tmp_path / "www/10/Manifest.MoM.sig").read_bytes() == before


def test_signatures_of_several_people_are_put_together(tmp_path: Path, keys: Path) -> None:
    people = [ed25519(tmp_path / name) for name in ("anna", "ben")]
    more = [("add-key", "--role", "release", f"{p}.pub") for p in people]
    next_root(tmp_path, *more, ("threshold", "release=3"))
    hold(tmp_path, 10)
    mom = tmp_path / "www/10/Manifest.MoM"
    files = [tmp_path / f"{person.name}.signed" for person in people]
    for person, file in zip(people, files, strict=True):
        assert "for release 10" in server("countersign", mom, "--output", file, "--key", person)
    assert "signed by 2 release keys, root 2 asks for 3" in release(tmp_path, 10, "--also", files[0], code=21)
    release(tmp_path, 10, "--also", *files)
    signed = envelope.parse((tmp_path / "www" / stream.signatures(10)).read_bytes(), roots.RELEASE)
    assert len(signed.signatures) == 2
    server("countersign", tmp_path / "www/10/Manifest.os-core", "--output", files[0], "--key", people[0], code=15)


def test_a_release_that_is_signed_with_another_role_is_refused(tmp_path: Path, keys: Path) -> None:
    wrong = ("--signing-key", keys / "manifest.key", "--certificate", keys / "manifest.pem")
    words = (*signing_words(keys, release=False), *wrong)
    assert "the release key" in publish(tmp_path, 10, *words, code=21)


def test_withdraw_lowers_what_is_allowed_with_it(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    publish(tmp_path, 20, *signing_words(keys), "--minimum", 20)
    signed = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    words = ("withdraw", "--www", tmp_path / "www", "--version", 20, *signed, "--head-key")
    assert "is none of those of root 1" in server(*words, keys / "root.key", code=21)
    server(*words, keys / "head.key")
    assert (head(tmp_path).version, head(tmp_path).minimum) == (10, 10)


def test_an_encrypted_head_key_is_named_with_the_way_out(tmp_path: Path, keys: Path) -> None:
    words = ["openssl", "pkey", "-in", str(keys / "head.key"), "-aes256", "-passout", "pass:x"]
    locked = subprocess.run(words, check=True, capture_output=True).stdout
    (keys / "head.key").write_bytes(locked)
    assert "--head-signer" in publish(tmp_path, 10, code=21)
