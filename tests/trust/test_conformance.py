"""What TUF's conformance suite asks of a client and test_attacks does not show already; docs/trust.md has the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from swupd import crypto, envelope, heads, manifest, roots, stream
from swupd.manifest import MOM
from swupd.publickey import KeyHolder
from swupd.roots import Delegation, Role
from swupd.server import signing
from tests import builders
from tests.trust.conftest import Clock
from tests.trust.simulator import DAY, Attacker, Simulator, Trusting, holder, of_signer, publisher, serving
from tests.trust.trials import recovers, refused

ROOT, HEAD, STALE, BUNDLE = 60, 61, 62, 65


def test_refresh_asks_for_what_is_needed_and_nothing_else(device: Trusting, attacker: Attacker) -> None:
    device.ok("check-update")
    assert attacker.asked == ["root/2.root", "version/format30/head"]


def test_trusted_data_is_kept_byte_for_byte(device: Trusting, simulator: Simulator) -> None:
    simulator.publish_root()
    device.ok("update")
    assert (device.state / "trust/root").read_bytes() == simulator.read("root/2.root")
    assert (device.cache / "manifest/20/Manifest.MoM").read_bytes() == simulator.mom(20)
    assert json.loads((device.state / "trust/floors").read_text())["digest"] == simulator.named(20).digest


def test_an_initial_root_that_its_own_keys_have_not_signed_is_refused(
    device: Trusting, simulator: Simulator, tmp_path: Path
) -> None:
    for by in ((), simulator.keys.root[:1], (holder(), holder())):
        place = tmp_path / "unsigned"
        place.write_bytes(simulator.signed_root(simulator.roots[0], by))
        assert "not signed by 2 of its own keys" in refused(replace(device, root_file=place), ROOT)


def test_unsigned_release_and_bundle_are_refused(device: Trusting, attacker: Attacker) -> None:
    attacker.answers("20/Manifest.MoM.sig", None)
    refused(device, 21)
    attacker.relent()
    attacker.answers("20/Manifest.os-core.sig", None)
    refused(device, BUNDLE)
    recovers(device, attacker)


def test_a_number_that_is_not_that_of_the_url_is_refused(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    simulator.publish_root(simulator.root(number=3))
    refused(device, ROOT)
    (simulator.www / "root/2.root").unlink()
    wrong = manifest.serialize(manifest.parse(simulator.mom(20), MOM)._replace(version=21))
    named = heads.Named(__import__("hashlib").sha256(wrong).hexdigest(), len(wrong))
    attacker.answers(stream.manifest(20, MOM), wrong)
    attacker.answers("20/Manifest.MoM.sig", signing.sign(wrong, simulator.keys.release))
    attacker.answers(
        stream.head(30), simulator.signed_head(simulator.head(20, digest=named.digest, length=named.length))
    )
    refused(device, 4)
    recovers(device, attacker)


def test_fields_of_later_times_are_passed_over(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    simulator.publish_root()

    def more(payload: dict[str, Any]) -> None:
        payload["later"] = {"a": [1, {"b": None}]}

    root = simulator.edited("root/2.root", more, roots.ROOT, *simulator.keys.root[:2])
    simulator.put("root/2.root", root)
    simulator.put(stream.head(30), simulator.edited(stream.head(30), more, heads.ROLE, simulator.keys.head))
    recovers(device, attacker)
    assert (device.state / "trust/root").read_bytes() == root


def test_what_a_reader_must_understand_is_not_passed_over(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    simulator.put_head(simulator.head(20, requires=("phases",)))
    assert "newer agent" in refused(device, HEAD)
    simulator.put_head(simulator.head(20))
    recovers(device, attacker)


@pytest.mark.parametrize(
    ("place", "other", "code"),
    [
        ("version/format30/head", "root/1.root", HEAD), ("root/2.root", "version/format30/head", ROOT),
        ("20/Manifest.MoM", "version/format30/head", 30), ("20/lengths", "20/Manifest.MoM", 30),
        ("20/Manifest.MoM.sig", "20/Manifest.MoM", 21), ("20/Manifest.os-core.sig", "20/Manifest.MoM.sig", BUNDLE),
    ],
)  # fmt: skip
def test_a_document_of_another_kind_is_refused(
    device: Trusting, attacker: Attacker, simulator: Simulator, place: str, other: str, code: int
) -> None:
    data = simulator.read(other)
    attacker.answers(place, data)
    done = device.run("update")
    assert done.code in {code, 17}, done
    refused(device, done.code)
    recovers(device, attacker)


def test_a_root_that_has_expired_is_refused_until_a_newer_one_comes(
    device: Trusting, attacker: Attacker, simulator: Simulator, clock: Clock
) -> None:
    simulator.publish_root(simulator.root(expires=simulator.now + 30 * DAY))
    device.ok("check-update")
    clock.now += 31 * DAY
    assert "root 2 has expired" in refused(device, ROOT)
    simulator.now = clock.now
    simulator.publish_root()
    simulator.put_head(simulator.head(20))
    recovers(device, attacker)


def test_roots_between_may_have_expired(
    device: Trusting, attacker: Attacker, simulator: Simulator, clock: Clock
) -> None:
    for days in (1, 2, 3650):
        simulator.publish_root(simulator.root(expires=simulator.now + days * DAY))
    clock.now += 5 * DAY
    recovers(device, attacker)


def test_a_role_with_fewer_keys_than_it_needs_is_refused(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    simulator.publish_root(simulator.root(thresholds={roots.HEAD: 2}))
    assert "needs more signatures than it has keys" in refused(device, ROOT)
    (simulator.www / "root/2.root").unlink()
    recovers(device, attacker)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_every_kind_of_key_signs_heads(device: Trusting, attacker: Attacker, simulator: Simulator, kind: str) -> None:
    if kind == "rsa":
        key = rsa.generate_private_key(65537, 2048)
        made = KeyHolder(crypto.of(key.public_key()), crypto.raw_signer(key))
    else:
        made = holder(kind)
    simulator.keys = replace(simulator.keys, head=made)
    simulator.publish_root()
    simulator.put_head(simulator.head(20))
    recovers(device, attacker)


def test_a_wrong_signature_beside_enough_right_ones_does_no_harm(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    second = holder()
    simulator.publish_root(simulator.root(groups={roots.HEAD: (simulator.keys.head, second)}))
    made = envelope.parse(simulator.read(stream.head(30)), heads.ROLE)
    wrong = (second.public.id, b"\0" * 64)
    simulator.put(stream.head(30), envelope.serialize(made._replace(signatures=(wrong, *made.signatures))))
    recovers(device, attacker)


@pytest.mark.parametrize("name", ["../os-core", "a/b", "", "os-core%2e", "?", "#", "%00", "MoM", "ünï", "a" * 300])
def test_an_odd_bundle_name_asks_the_server_for_nothing_odd(device: Trusting, attacker: Attacker, name: str) -> None:
    before = device.tree()
    assert device.run("bundle-add", name).code != 0
    assert device.tree() == before
    assert not [asked for asked in attacker.asked if ".." in asked or "%" in asked or "?" in asked]


# Delegated bundles: others than the build sign them, and they ship only below their own paths.


def delegating(simulator: Simulator, *delegations: Delegation, more: tuple[KeyHolder, ...] = ()) -> None:
    simulator.delegations = delegations
    simulator.publish_root(simulator.root(more=more))


def sign_bundle(simulator: Simulator, name: str, by: signing.Signer, version: int = 20) -> None:
    place = stream.manifest(version, name)
    simulator.put(stream.signature(place), signing.sign(simulator.read(place), by))


@pytest.fixture
def acme(tmp_path: Path) -> signing.Signer:
    """The key of those who make acme-tool."""
    return builders.keys(tmp_path / "acme", "acme")


def delegation(acme: signing.Signer, *paths: str, bundles: tuple[str, ...] = ("acme-*",)) -> Delegation:
    return Delegation(bundles, Role((of_signer(acme).public.id,)), paths or ("/opt/acme/",))


def test_a_delegated_bundle_is_signed_by_its_own_key_and_no_other(
    device: Trusting, attacker: Attacker, simulator: Simulator, acme: signing.Signer
) -> None:
    device.ok("update")
    delegating(simulator, delegation(acme), more=(of_signer(acme),))
    assert "acme-tool is signed by 0" in refused(device, BUNDLE, "bundle-add", "acme-tool")
    sign_bundle(simulator, "acme-tool", acme)
    device.ok("bundle-add", "acme-tool")
    # And with that key nobody signs anything else.
    assert device.ok("diagnose").code == 0


def test_the_key_of_a_delegation_signs_no_other_bundle(
    device: Trusting, attacker: Attacker, simulator: Simulator, acme: signing.Signer
) -> None:
    delegating(simulator, delegation(acme), more=(of_signer(acme),))
    attacker.answers("20/Manifest.os-core.sig", signing.sign(simulator.read(stream.manifest(20, "os-core")), acme))
    assert "os-core is signed by 0" in refused(device, BUNDLE)
    recovers(device, attacker)


@pytest.mark.parametrize("prefix", ["/opt/acm/", "/opt/acme2/", "/opt/acme/lib/", "/usr/lib/acme/"])
def test_a_delegated_bundle_that_ships_a_path_of_others_is_refused(
    device: Trusting, simulator: Simulator, acme: signing.Signer, prefix: str
) -> None:
    device.ok("update")
    delegating(simulator, delegation(acme, prefix), more=(of_signer(acme),))
    sign_bundle(simulator, "acme-tool", acme)
    assert "which its signer may not" in refused(device, BUNDLE, "bundle-add", "acme-tool")


def test_the_first_delegation_that_covers_a_bundle_counts(
    device: Trusting, simulator: Simulator, acme: signing.Signer, tmp_path: Path
) -> None:
    device.ok("update")
    other = builders.keys(tmp_path / "other", "other")
    both = (delegation(acme, bundles=("acme-tool",)), delegation(other, "/opt/", bundles=("*",)))
    delegating(simulator, *both, more=(of_signer(acme), of_signer(other)))
    for name in ("os-core", "editors"):
        sign_bundle(simulator, name, other, 20 if name == "os-core" else 10)
    sign_bundle(simulator, "acme-tool", other)
    refused(device, BUNDLE, "bundle-add", "acme-tool")


def test_what_is_cached_is_held_against_the_newest_root(
    device: Trusting, attacker: Attacker, simulator: Simulator, acme: signing.Signer
) -> None:
    device.ok("update", "--download")
    delegating(simulator, delegation(acme, "/usr/", bundles=("os-core",)), more=(of_signer(acme),))
    assert "os-core is signed by 0" in refused(device, BUNDLE)


def test_a_bundle_that_the_release_does_not_name_is_not_to_be_had(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    device.ok("update")
    for end in ("", ".tar", ".sig"):
        attacker.answers(f"20/Manifest.extra{end}", simulator.read(f"20/Manifest.os-core{end}"))
    refused(device, 3, "bundle-add", "extra")


def test_a_release_whose_signer_has_no_certificate_that_is_valid_is_still_believed_by_its_key(
    tmp_path: Path, clock: Clock
) -> None:
    made = publisher(tmp_path)
    expired = builders.keys(tmp_path / "old", "release", builders.NOW - 4000 * DAY, 4001)
    made.keys = replace(made.keys, release=expired)
    made.roots.clear()
    made.publish_root()
    made.release(10)
    clock.now = builders.NOW + 5 * DAY
    with serving(made.www) as attacker:
        device = Trusting(tmp_path, attacker.url, None, root_file=made.root_file)
        device.ok("os-install", "--version", "10")
