"""Keys, roots, heads and signatures on the publisher's side: the commands as people run them."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from swupd import envelope, heads, manifest, roots, signatures, stream
from swupd.server import cli, signing
from tests import builders

TREE = {"/usr/bin/hello": "hello" * 500, "/usr/share/clear/bundles/os-core": ""}


def server(*words: object, code: int = 0) -> str:
    """Runs swupd-server; gives all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = cli.main([str(w) for w in words])
    assert found == code, (found, said.getvalue())
    assert "Traceback" not in said.getvalue() and "PRIVATE" not in said.getvalue()
    return said.getvalue()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """All keys of a publisher, and the first root."""
    server("keygen", tmp_path / "keys")
    return tmp_path / "keys"


def publish(base: Path, version: int, *words: object, code: int = 0) -> str:
    """Publishes a small release with every key."""
    rootfs = base / f"root-{version}"
    files = {**TREE, "/usr/bin/new": f"{version}" * 300}
    if not rootfs.exists():
        builders.make_tree(rootfs, builders.os_tree(version, files))
        (base / "content").write_text("".join(f"{p}\n" for p in sorted(builders.os_tree(version, files))))
    keys = base / "keys"
    return server(
        "publish", "--www", base / "www", "--version", version, "--rootfs", rootfs, "--content",
        f"os-core={base / 'content'}", "--quiet", *(words or signing_words(keys)), code=code,
    )  # fmt: skip


def signing_words(keys: Path, head: bool = True, release: bool = True) -> list[object]:
    words: list[object] = ["--manifest-key", keys / "manifest.key", "--manifest-certificate", keys / "manifest.pem"]
    words += ["--signing-key", keys / "release.key", "--certificate", keys / "release.pem"] if release else []
    return [*words, *(["--head-key", keys / "head.key"] if head else [])]


def head(base: Path) -> heads.Head:
    return heads.read(heads.parse((base / "www" / stream.head(30)).read_bytes()))


def ed25519(place: Path) -> Path:
    """A new key by OpenSSL, and its public half beside it."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", place], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", place, "-pubout", "-out", f"{place}.pub"], check=True)
    return place


def test_keygen_makes_a_key_for_each_role_and_a_signed_root(keys: Path) -> None:
    root = roots.first((keys / "1.root").read_bytes())
    assert root.number == 1 and set(root.roles) == set(roots.ROLES)
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in keys.glob("*.key"))
    assert len(list(keys.glob("*.key"))) == 4
    assert "exists already" in server("keygen", keys, code=15)


def test_a_published_head_names_the_release_and_is_good_for_its_days(tmp_path: Path, keys: Path) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    publish(tmp_path, 10, *signing_words(keys), "--head-days", 3, "--product", "board/image", "--minimum", 10)
    found = head(tmp_path)
    assert (found.version, found.product, found.minimum) == (10, "board/image", 10)
    assert found.expires - found.issued == datetime.timedelta(days=3)
    mom = (tmp_path / "www/10/Manifest.MoM").read_bytes()
    assert found.length == len(mom)
    assert manifest.parse(mom, "MoM").header("product") == "board/image"
    publish(tmp_path, 20)
    assert head(tmp_path).minimum == 10


def test_a_release_without_a_new_head_is_refused_once_there_is_one(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    assert "Give --head-key, or --without-head" in publish(tmp_path, 20, *signing_words(keys, head=False), code=15)
    assert not (tmp_path / "www/20").exists()
    publish(tmp_path, 20, *signing_words(keys, head=False), "--without-head")
    assert head(tmp_path).version == 10


@pytest.mark.parametrize("wrong", ["head", "release", "manifest"])
def test_a_key_that_the_root_does_not_know_is_refused_before_anything_is_written(
    tmp_path: Path, keys: Path, wrong: str
) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    server("keygen", tmp_path / "other")
    for end in ("key", "pem"):
        if (keys / f"{wrong}.{end}").exists():
            shutil.copy(tmp_path / f"other/{wrong}.{end}", keys / f"{wrong}.{end}")
    assert "is none of those of root 1" in publish(tmp_path, 10, code=21)
    assert sorted(p.name for p in (tmp_path / "www").iterdir()) == ["root"]


def test_manifests_must_be_signed_where_the_root_says_so(tmp_path: Path, keys: Path) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    said = publish(
        tmp_path, 10, "--signing-key", keys / "release.key", "--certificate", keys / "release.pem", "--head-key",
        keys / "head.key", code=21,
    )  # fmt: skip
    assert "--manifest-key" in said


def test_renew_signs_a_new_head_for_the_same_release(tmp_path: Path, keys: Path) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    publish(tmp_path, 10, *signing_words(keys), "--head-days", 1)
    before = head(tmp_path)
    server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key", "--head-days", 30)
    after = head(tmp_path)
    assert (after.version, after.digest) == (before.version, before.digest)
    assert after.expires > before.expires + datetime.timedelta(days=28)


def test_renew_does_not_vouch_for_what_was_tampered_with(tmp_path: Path, keys: Path) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    assert "has no head" in server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key", code=61)
    publish(tmp_path, 10)
    place = tmp_path / "www/10/Manifest.MoM"
    mom = place.read_bytes()
    place.write_bytes(mom.replace(b"os-core", b"os-gore"))
    said = server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key", code=61)
    assert "is not what the head was signed for" in said
    place.write_bytes(mom)
    (tmp_path / "www/10/Manifest.MoM.sig").write_bytes(b"")
    server("renew", "--www", tmp_path / "www", "--head-key", keys / "head.key", code=21)
    server("renew", "--www", tmp_path / "www", code=15)


def test_withdraw_takes_the_head_back(tmp_path: Path, keys: Path) -> None:
    publish(tmp_path, 10)
    publish(tmp_path, 20)
    words = ("withdraw", "--www", tmp_path / "www", "--version", 20)
    release = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    assert "--head-key" in server(*words, *release, code=15)
    server(*words, *release, "--head-key", keys / "head.key")
    assert head(tmp_path).version == 10
    assert (tmp_path / "www" / stream.latest(30)).read_text() == "10"


# Roots as a ceremony.


def ceremony(base: Path, keys: Path, people: int = 3, threshold: int = 2) -> tuple[Path, list[Path]]:
    """A root that some of several people sign; none has yet."""
    base.mkdir(exist_ok=True)
    own = [ed25519(base / f"person{n}") for n in range(people)]
    public = [word for key in own for word in ("--root-key", f"{key}.pub")]
    server(
        "root", "init", "--output", base / "1.root", *public, "--head-key", keys / "head.key", "--release-key",
        keys / "release.pem", "--build-key", keys / "manifest.pem", "--threshold", f"root={threshold}",
    )  # fmt: skip
    return base / "1.root", own


def test_two_of_three_people_sign_the_first_root(tmp_path: Path, keys: Path) -> None:
    file, people = ceremony(tmp_path / "c", keys)
    www = tmp_path / "www"
    assert "not signed by 2" in server("root", "publish", file, "--www", www, code=60)
    assert "1 more of the keys of root 1 must sign" in server("root", "sign", file, "--key", people[0])
    assert "has all signatures" in server("root", "sign", file, "--key", people[1])
    assert "has signed this root" in server("root", "show", file)
    server("root", "publish", file, "--www", www)
    assert roots.first((www / "root/1.root").read_bytes()).roles["root"].threshold == 2
    assert "has root 1 already" in server("root", "publish", file, "--www", www, code=60)


def test_the_next_root_needs_both_generations(tmp_path: Path, keys: Path) -> None:
    file, people = ceremony(tmp_path / "c", keys)
    www, following = tmp_path / "www", tmp_path / "2.root"
    for person in people[:2]:
        server("root", "sign", file, "--key", person)
    server("root", "publish", file, "--www", www)
    new = ed25519(tmp_path / "new")
    server("root", "rotate", file, "--output", following)
    server("root", "add-key", following, "--role", "root", f"{new}.pub")
    server("root", "remove-key", following, "--role", "root", f"{people[0]}.pub")
    server("root", "sign", following, "--key", new, "--previous", file)
    assert "not signed by 2 keys of root 1" in server("root", "publish", following, "--www", www, code=60)
    assert "root 1 must sign" in server("root", "sign", following, "--key", people[1], "--previous", file)
    server("root", "sign", following, "--key", people[2], "--previous", file)
    server("root", "publish", following, "--www", www)
    root = roots.first((www / "root/2.root").read_bytes())
    assert root.number == 2 and len(root.keys) == 6


def test_a_change_drops_the_signatures(tmp_path: Path, keys: Path) -> None:
    file = keys / "1.root"
    other = ed25519(tmp_path / "other")
    assert "signatures are gone" in server("root", "add-key", file, "--role", "head", f"{other}.pub")
    assert not roots.parse(file.read_bytes())[0].signatures
    server("root", "threshold", file, "head=2")
    assert "more signatures than it has keys" in server("root", "threshold", file, "head=3", code=60)
    server("root", "remove-key", file, "--role", "build", keys / "manifest.pem")
    server("root", "delegate", file, "--bundles", "acme-*", "--key", f"{other}.pub", "--paths", "/opt/acme/")
    assert "below /opt/acme/" in server("root", "show", file)
    server("root", "undelegate", file, "acme-*")
    root = roots.parse(file.read_bytes())[1]
    assert not root.delegations and roots.BUILD not in root.roles and root.roles["head"].threshold == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("add-key", "{}/1.root", "--role", "head", "{}/head.key.none"), 38, "cannot read"),
        (("add-key", "{}/1.root", "--role", "head", "{}/1.root"), 21, "holds no key"),
        (("remove-key", "{}/1.root", "--role", "head", "deadbeef"), 15, "has 0 keys"),
        (("threshold", "{}/1.root", "nobody=1"), 15, "ROLE=K"),
        (("threshold", "{}/1.root", "root=0"), 15, "not a number"),
        (("delegate", "{}/1.root", "--bundles", "a", "--key", "{}/head.key", "--paths", "/opt/.."), 60, "no folder"),
        (("sign", "{}/1.root", "--key", "{}/head.key"), 21, "no root key"),
        (("sign", "{}/1.root"), 15, "nobody is named"),
        (("sign", "{}/release.pem", "--key", "{}/root.key"), 60, "cannot be read"),
        (("show", "{}/none"), 38, "cannot read"),
        (("init", "--output", "{}/x", "--root-key", "{}/root.key"), 15, "no key for the role head"),
        (("rotate", "{}/1.root", "--output", "{}/1.root"), 15, "exists already"),
        (("rotate", "{}/1.root", "--output", "{}/2.root", "--days", "99999"), 15, "cannot be good"),
    ],
)
def test_what_is_wrong_with_a_root_command_is_said(keys: Path, words: Iterable[str], code: int, says: str) -> None:
    before = (keys / "1.root").read_bytes()
    assert says in server("root", *(w.format(keys) for w in words), code=code)
    assert (keys / "1.root").read_bytes() == before


def test_a_root_number_cannot_be_skipped(tmp_path: Path, keys: Path) -> None:
    www = tmp_path / "www"
    server("root", "publish", keys / "1.root", "--www", www)
    server("root", "rotate", keys / "1.root", "--output", tmp_path / "2.root")
    server("root", "rotate", tmp_path / "2.root", "--output", tmp_path / "3.root")
    server("root", "sign", tmp_path / "3.root", "--key", keys / "root.key")
    assert "root 3 came where root 2" in server("root", "publish", tmp_path / "3.root", "--www", www, code=60)


# Signing elsewhere.


def test_a_held_release_is_signed_on_another_machine_and_announced(tmp_path: Path, keys: Path) -> None:
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    publish(tmp_path, 10, *signing_words(keys, head=False, release=False), "--hold")
    assert not (tmp_path / "www" / stream.latest(30)).exists()
    offline = tmp_path / "offline"
    offline.mkdir()
    shutil.copy(tmp_path / "www/10/Manifest.MoM", offline)
    (offline / "latest").write_text("10")
    certificate = ("--certificate", keys / "release.pem")
    server("sign", offline / "Manifest.MoM", offline / "latest", "--signing-key", keys / "release.key", *certificate)
    words = ("release", "--www", tmp_path / "www", "--version", 10, "--head-key", keys / "head.key")
    assert "nobody has signed" in server(*words, code=15)
    wrong = offline / "wrong"
    wrong.write_bytes(signing.sign(b"else", builders.keys(tmp_path / "x")))
    server(*words, "--signature", wrong, code=21)
    assert not (tmp_path / "www" / stream.latest(30)).exists()
    server(*words, "--signature", offline / "Manifest.MoM.sig", "--latest-signature", offline / "latest.sig")
    assert head(tmp_path).version == 10
    trust = signatures.load_trust((keys / "Swupd_Root.pem").read_bytes(), datetime.datetime.now(datetime.UTC))
    for name in (stream.latest(30), stream.manifest(10, "MoM")):
        place = tmp_path / "www" / name
        signature = place.with_name(f"{place.name}.sig").read_bytes()
        signatures.verify(place.read_bytes(), signature, trust, datetime.datetime.now(datetime.UTC))
    server(*words)
    found = json.loads(server("lint", "--www", tmp_path / "www", "--certificate", keys / "Swupd_Root.pem", "--json"))
    assert not [f for f in found["findings"] if f["severity"] == "error"]


def test_two_release_keys_sign_one_after_the_other(tmp_path: Path, keys: Path) -> None:
    second = ed25519(tmp_path / "second")
    file = keys / "1.root"
    server("root", "add-key", file, "--role", "release", f"{second}.pub")
    server("root", "threshold", file, "release=2")
    server("root", "sign", file, "--key", keys / "root.key")
    server("root", "publish", file, "--www", tmp_path / "www")
    publish(tmp_path, 10, *signing_words(keys, head=False, release=False), "--hold")
    words = ["release", "--www", tmp_path / "www", "--version", 10, "--head-key", keys / "head.key", "--signing-key"]
    words += [keys / "release.key", "--certificate", keys / "release.pem"]
    assert "asks for 2" in server(*words, code=21)
    more = tmp_path / "Manifest.MoM.signed"
    server("countersign", tmp_path / "www/10/Manifest.MoM", "--version", 10, "--output", more, "--key", second)
    server(*words, "--also", more)
    assert head(tmp_path).version == 10
    assert envelope.parse((tmp_path / "www" / stream.signatures(10)).read_bytes(), roots.RELEASE)


def test_a_command_signs_in_place_of_a_key(tmp_path: Path, keys: Path) -> None:
    command = f"openssl dgst -sha256 -sign {keys / 'release.key'}"
    server("root", "publish", keys / "1.root", "--www", tmp_path / "www")
    certificate = ("--certificate", keys / "release.pem")
    manifests = ("--manifest-key", keys / "manifest.key", "--manifest-certificate", keys / "manifest.pem")
    publish(tmp_path, 10, "--signer", command, *certificate, *manifests, "--head-key", keys / "head.key")
    by_file = signing.load_signer((keys / "release.key").read_bytes(), (keys / "release.pem").read_bytes())
    mom = (tmp_path / "www/10/Manifest.MoM").read_bytes()
    assert (tmp_path / "www/10/Manifest.MoM.sig").read_bytes() == signing.sign(mom, by_file)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-program-here", "cannot be started"), ("false", "ended with 1"), ("cat", "is not a signature"),
        ("true", "is not a signature"), ("sh -c 'echo broken token >&2; exit 3'", "broken token"), ("'", "split"),
        (" ", "empty"),
    ],
)  # fmt: skip
def test_a_signing_command_that_fails_is_named_and_nothing_is_published(
    tmp_path: Path, keys: Path, command: str, says: str
) -> None:
    said = publish(
        tmp_path, 10, "--signer", command, "--certificate", keys / "release.pem",
        code=15 if says in {"split", "empty"} else 21,
    )  # fmt: skip
    assert says in said
    assert not (tmp_path / "www" / stream.latest(30)).exists()


def test_a_token_signs_through_pkcs11(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = next(Path("/usr/lib").glob("**/softhsm/libsofthsm2.so"), None)
    if module is None or not shutil.which("pkcs11-tool") or not shutil.which("softhsm2-util"):
        pytest.skip("softhsm2 and opensc are not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))

    def run(*words: object) -> None:
        subprocess.run([str(w) for w in words], check=True, capture_output=True)

    pin = ("--pin", "1234")
    run("softhsm2-util", "--init-token", "--free", "--label", "release", *pin, "--so-pin", "5678")
    run(
        "softhsm2-util",
        "--import",
        keys / "release.key",
        "--token",
        "release",
        "--label",
        "release",
        "--id",
        "01",
        *pin,
    )
    command = f"pkcs11-tool --module {module} --token-label release --login {' '.join(pin)} --id 01 --sign"
    command += " --mechanism SHA256-RSA-PKCS --input-file /dev/stdin --output-file /dev/stdout"
    mom = tmp_path / "Manifest.MoM"
    mom.write_bytes(b"MANIFEST\t30\n")
    server("sign", mom, "--signer", f"sh -c '{command} 2>/dev/null'", "--certificate", keys / "release.pem")
    trust = signatures.load_trust((keys / "Swupd_Root.pem").read_bytes(), datetime.datetime.now(datetime.UTC))
    signature = (tmp_path / "Manifest.MoM.sig").read_bytes()
    signatures.verify(mom.read_bytes(), signature, trust, datetime.datetime.now(datetime.UTC))


def test_sign_refuses_what_is_no_part_of_a_stream(tmp_path: Path, keys: Path) -> None:
    other = tmp_path / "letter"
    other.write_text("I owe you everything.\n")
    words = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    assert "neither a manifest nor" in server("sign", other, *words, code=15)
    assert not (tmp_path / "letter.sig").exists()


def test_an_encrypted_key_is_named_with_the_way_out(tmp_path: Path, keys: Path) -> None:
    place = keys / "release.key"
    done = subprocess.run(
        ["openssl", "pkey", "-in", place, "-aes256", "-passout", "pass:x"], check=True, capture_output=True
    )
    place.write_bytes(done.stdout)
    assert "--signer" in publish(tmp_path, 10, code=21)
