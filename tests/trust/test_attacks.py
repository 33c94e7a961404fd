"""The attacks of TUF and Uptane at each role, over plain HTTP: each test tells one.

The attacker holds the server and, where the name says so, one of the keys.
"""

from __future__ import annotations

import datetime
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from swupd import envelope, hashing, heads, manifest, roots, stream, tree
from swupd.agent import session
from swupd.manifest import MOM, Manifest
from swupd.server import archiver, comparison, signing, xz
from tests import builders
from tests.agent.devices import rewrite
from tests.trust.conftest import Clock
from tests.trust.simulator import (
    DAY,
    ENDLESS,
    PRODUCT,
    Attacker,
    Simulator,
    Trusting,
    holder,
    of_signer,
)
from tests.trust.trials import floor, recovers, refused

ROOT, HEAD, STALE, OLDER, PRODUCT_CODE, BUNDLE, REVOKED = 60, 61, 62, 63, 64, 65, 66
SIGNATURE, HASH, MOM_CODE, MANIFEST, DOWNLOAD = 21, 30, 4, 14, 17
EVIL = b"#!/bin/sh\necho evil\n"


def stranger() -> signing.Signer:
    """Somebody with a key of the right kind that nobody believes."""
    return signing.load_signer(*signing.generate("stranger", builders.BEGINS, 5000))


def whole_manifests(attacker: Attacker) -> None:
    """Lets the device fetch manifests whole, not as a change of those that it has."""
    attacker.tampering.append(lambda name, data: None if "-delta-from-" in name else data)


# Arbitrary software: an attacker without any key offers what he likes.


@pytest.mark.parametrize("signers", [(), ("stranger",), ("stranger", "other")])
def test_arbitrary_software_a_head_that_nobody_who_may_has_signed(
    device: Trusting, attacker: Attacker, simulator: Simulator, signers: tuple[str, ...]
) -> None:
    made = envelope.Envelope(heads.ROLE, heads.payload(simulator.head(30)))
    for _ in signers:
        made = made.signed_by(holder())
    attacker.answers(stream.head(30), envelope.serialize(made))
    assert "not signed by 1 of the keys" in refused(device, HEAD)
    recovers(device, attacker)


def test_arbitrary_software_a_changed_head_under_its_old_signature(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    attacker.answers(stream.head(30), simulator.read(stream.head(30)).replace(b'"version": 20', b'"version": 30'))
    refused(device, HEAD)
    recovers(device, attacker)


def test_arbitrary_software_the_signature_of_a_root_does_not_make_a_head(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    signed = envelope.Envelope(roots.ROOT, heads.payload(simulator.head(30))).signed_by(simulator.keys.head)
    for document in (signed, envelope.Envelope(heads.ROLE, signed.payload, signed.signatures)):
        attacker.answers(stream.head(30), envelope.serialize(document))
        refused(device, HEAD)
    recovers(device, attacker)


def test_arbitrary_software_a_changed_mom(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    name = stream.manifest(20, MOM)
    attacker.answers(name, simulator.read(name).replace(b"editors", b"Editors"))
    refused(device, HASH)
    recovers(device, attacker)


def test_arbitrary_software_a_changed_manifest(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    data = simulator.read(stream.manifest(20, "os-core")).replace(b"/usr/bin/hello", b"/usr/bin/hullo")
    name = stream.manifest_tar(20, "os-core")
    length = len(simulator.read(name))
    packed = archiver.manifest_tar("Manifest.os-core", data)
    for answer in (packed, packed[:length].ljust(length, b"\0"), simulator.read(name)[:-1], b""):
        attacker.relent()
        whole_manifests(attacker)
        attacker.answers(name, answer)
        done = device.run("update")
        assert done.code in {MANIFEST, HASH, DOWNLOAD}, done
        refused(device, done.code)
    recovers(device, attacker)


def test_arbitrary_software_a_pack_of_the_right_length_changes_nothing_but_the_way(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    attacker.tampering.append(lambda name, data: b"x" * len(data) if data and "/pack-" in name else data)
    done = device.ok("update")
    assert "single files are fetched instead" in done.err
    assert b"echo 20" in (device.root / "usr/bin/hello").read_bytes()
    assert device.ok("diagnose").code == 0


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1], lambda data: bytes(len(data))])
def test_arbitrary_software_a_changed_fullfile(device: Trusting, attacker: Attacker, change: object) -> None:
    assert callable(change)
    attacker.tampering.append(lambda name, data: None if "/pack-" in name else data)
    attacker.tampering.append(lambda name, data: change(data) if data and "/files/" in name else data)
    done = device.run("update")
    assert done.code in {DOWNLOAD, 18, HASH}, done
    refused(device, done.code)
    recovers(device, attacker)


def test_arbitrary_software_a_delta_that_makes_something_else(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    found = manifest.parse(simulator.read(stream.manifest(20, "os-core")), "os-core")
    old = manifest.parse(simulator.read(stream.manifest(10, "os-core")), "os-core")
    names = [next(e.digest for e in m.entries if e.name == "/usr/bin/hello") for m in (old, found)]
    before = (device.root / "usr/bin/hello").read_bytes()
    evil = comparison.make(before, before.replace(b"echo 10", b"echo 66"), 0o100755, 0, 0)
    assert evil is not None
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as made:
        member = tarfile.TarInfo(f"delta/10-20-{names[0]}-{names[1]}")
        member.size = len(evil)
        made.addfile(member, io.BytesIO(evil))
    attacker.tampering.append(
        lambda name, data: to.getvalue().ljust(len(data), b"\0")[: len(data)] if data and "/pack-" in name else data
    )
    device.ok("update")
    assert b"66" not in (device.root / "usr/bin/hello").read_bytes()
    assert device.ok("diagnose").code == 0


def test_arbitrary_software_a_root_that_strangers_have_signed(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    thieves = (holder(), holder())
    evil = simulator.root(groups={roots.ROOT: thieves, roots.HEAD: thieves[:1]})
    attacker.answers(stream.root(2), simulator.signed_root(evil, thieves))
    assert "not signed by 2 keys of root 1" in refused(device, ROOT)
    recovers(device, attacker)


# Wrong software: rightly signed, and for other devices.


@pytest.mark.parametrize("product", ["", "other/image", "test/imag", "TEST/IMAGE"])
def test_wrong_software_a_head_of_another_product(
    device: Trusting, attacker: Attacker, simulator: Simulator, product: str
) -> None:
    attacker.answers(stream.head(30), simulator.signed_head(simulator.head(20, product=product)))
    assert PRODUCT in refused(device, PRODUCT_CODE)
    recovers(device, attacker)


def test_wrong_software_a_mom_of_another_product_under_a_head_of_this_one(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    data = simulator.mom(20).replace(PRODUCT.encode(), b"else/image")
    named = builders_named(data)
    attacker.answers(stream.manifest(20, MOM), data)
    attacker.answers(
        stream.head(30), simulator.signed_head(simulator.head(20, digest=named.digest, length=named.length))
    )
    refused(device, PRODUCT_CODE)
    recovers(device, attacker)


def test_wrong_software_a_head_of_another_format(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    attacker.answers(stream.head(30), simulator.signed_head(simulator.head(20, format=31)))
    refused(device, HEAD)
    recovers(device, attacker)


def builders_named(data: bytes) -> heads.Named:
    import hashlib  # noqa: PLC0415

    return heads.Named(hashlib.sha256(data).hexdigest(), len(data))


# Rollback: something older than what the device has seen.


def test_rollback_of_the_head(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    old = simulator.read(stream.head(30))
    simulator.put_head(simulator.head(30))
    device.ok("update")
    attacker.answers(stream.head(30), old)
    assert "has seen version 30" in refused(device, OLDER)
    recovers(device, attacker, 30)


def test_rollback_of_the_head_of_one_release_to_an_earlier_word_on_it(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    old = simulator.read(stream.head(30))
    simulator.put_head(simulator.head(20, issued=simulator.now + DAY, expires=simulator.now + 15 * DAY))
    device.ok("update")
    attacker.answers(stream.head(30), old)
    refused(device, OLDER)


def test_rollback_below_what_was_seen_though_the_tree_itself_went_back(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    simulator.put_head(simulator.head(30))
    device.ok("update")
    device.ok("rollback")
    attacker.answers(stream.head(30), simulator.signed_head(simulator.head(20)))
    refused(device, OLDER)


def test_rollback_of_the_mom(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    attacker.answers(stream.manifest(20, MOM), simulator.mom(10))
    refused(device, HASH)
    recovers(device, attacker)


def test_rollback_of_a_manifest(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    whole_manifests(attacker)
    attacker.answers(stream.manifest_tar(20, "os-core"), simulator.read(stream.manifest_tar(10, "os-core")))
    done = device.run("update")
    assert done.code in {MANIFEST, HASH, DOWNLOAD}
    refused(device, done.code)
    recovers(device, attacker)


def test_rollback_of_the_root(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    simulator.publish_root()
    device.ok("check-update")
    attacker.answers(stream.root(2), simulator.read(stream.root(1)))
    refused(device, ROOT)
    attacker.relent()
    device.ok("update")
    # Root 2 was believed and is kept: root 1 in its place is not root 3.
    attacker.answers(stream.root(3), simulator.read(stream.root(1)))
    refused(device, ROOT)


def test_rollback_below_what_the_publisher_allows(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    simulator.put_head(simulator.head(30, minimum=20))
    assert "allows 20" in refused(device, REVOKED, "bundle-add", "acme-tool")
    assert device.run("update", "-V", "15").code != 0
    recovers(device, attacker, 30)


# Indefinite freeze: the server goes on showing what it showed.


def test_indefinite_freeze_is_seen_once_the_word_has_run_out(
    device: Trusting, attacker: Attacker, simulator: Simulator, clock: Clock
) -> None:
    device.ok("update")
    clock.now += 15 * DAY
    simulator.put_head(simulator.head(30))
    attacker.answers(stream.head(30), simulator.signed_head(simulator.head(20)))
    assert "nobody has vouched" in refused(device, STALE)
    assert device.run("check-update").code == STALE
    simulator.now = clock.now
    simulator.put_head(simulator.head(30))
    recovers(device, attacker, 30)


def test_indefinite_freeze_is_seen_by_a_board_without_a_clock_that_runs(
    device: Trusting, simulator: Simulator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now = datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.UTC)
    running = [100]
    monkeypatch.setattr(session, "_uptime", lambda: ("boot", running[0]))
    device.ok("update")
    running[0] += 13 * 86400
    device.ok("update")
    running[0] += 2 * 86400
    refused(device, STALE)


def test_indefinite_freeze_does_not_keep_a_newer_release_away(
    device: Trusting, attacker: Attacker, clock: Clock
) -> None:
    clock.now += 365 * DAY
    done = device.ok("update")
    assert "nobody has vouched" in done.err
    recovers_code = device.run("update").code
    assert recovers_code == STALE


@pytest.mark.parametrize("year", [1970, 2025])
def test_a_clock_in_the_past_changes_nothing(device: Trusting, attacker: Attacker, clock: Clock, year: int) -> None:
    clock.now = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    recovers(device, attacker)


def test_a_clock_in_the_far_future_is_named_and_nothing_lasting_comes_of_it(
    device: Trusting, attacker: Attacker, clock: Clock, simulator: Simulator
) -> None:
    clock.now = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
    assert "Check the clock" in refused(device, ROOT)
    clock.now = simulator.now
    recovers(device, attacker)


# Fast-forward: a stolen key says a number so high that nothing honest can follow.


def test_fast_forward_with_the_key_of_the_head_alone_spoils_nothing(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    attacker.answers(stream.head(30), simulator.signed_head(simulator.head(20, version=2**31 - 1)))
    attacker.answers(stream.manifest(2**31 - 1, MOM), simulator.mom(20))
    attacker.answers(stream.signature(stream.manifest(2**31 - 1, MOM)), simulator.read("20/Manifest.MoM.sig"))
    refused(device, MOM_CODE)
    recovers(device, attacker)


def fast_forwarded(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    """The keys of head and MoM were stolen, and the device has seen version 2147483647."""
    top = 2**31 - 1
    found = manifest.parse(simulator.mom(20), MOM)
    data = manifest.serialize(found._replace(version=top))
    named = builders_named(data)
    attacker.answers(stream.manifest(top, MOM), data)
    attacker.answers(stream.signature(stream.manifest(top, MOM)), signing.sign(data, simulator.keys.release))
    said = {"version": top, "digest": named.digest, "length": named.length}
    future = {"issued": simulator.now + 9999 * DAY, "expires": simulator.now + 10000 * DAY}
    stolen = simulator.head(20, **said, **future)
    attacker.answers(stream.head(30), simulator.signed_head(stolen))
    attacker.tampering.append(lambda name, data: None if name.startswith("20/") and "Manifest" in name else data)
    device.run("update")
    assert floor(device) == top
    attacker.relent()


def test_fast_forward_recovery_by_a_rotation_of_the_key(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    fast_forwarded(device, attacker, simulator)
    # By the time that the thief has signed, the root has expired.
    refused(device, ROOT)
    simulator.keys = replace(simulator.keys, head=holder())
    simulator.publish_root()
    simulator.put_head(simulator.head(20))
    recovers(device, attacker)


# Mix and match: pieces of several releases together.


def test_mix_and_match_a_manifest_of_a_later_release(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    whole_manifests(attacker)
    attacker.answers(stream.manifest_tar(20, "os-core"), simulator.read(stream.manifest_tar(30, "os-core")))
    done = device.run("update")
    assert done.code in {MANIFEST, HASH, DOWNLOAD}
    refused(device, done.code)
    recovers(device, attacker)


def test_mix_and_match_the_lengths_of_another_release(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    attacker.answers(stream.lengths(20), simulator.read(stream.lengths(30)))
    done = device.run("update")
    assert done.code in {DOWNLOAD, HASH}
    refused(device, done.code)
    recovers(device, attacker)


def test_mix_and_match_a_second_release_of_the_same_number(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    device.ok("update")
    found = manifest.parse(simulator.mom(20), MOM)
    data = manifest.serialize(found._replace(timestamp=found.timestamp + 1))
    named = builders_named(data)
    attacker.answers(
        stream.head(30), simulator.signed_head(simulator.head(20, digest=named.digest, length=named.length))
    )
    assert "second version 20" in refused(device, HASH)


# Endless data: an answer that does not end, the very first one too.


@pytest.mark.parametrize(
    "pattern",
    [
        "root/2.root", "version/format30/head", "20/Manifest.MoM", "20/Manifest.MoM.sig", "20/lengths",
        "20/Manifest.os-core.tar", "20/Manifest.os-core.sig", "20/lengths-files", "20/files/", "/pack-",
    ],
)  # fmt: skip
def test_endless_data(device: Trusting, attacker: Attacker, pattern: str) -> None:
    if "files" in pattern:
        attacker.tampering.append(lambda name, data: None if "/pack-" in name else data)
    # A manifest delta would spare the device the manifest.
    attacker.tampering.append(lambda name, data: None if "-delta-from-" in name else data)
    attacker.tampering.append(lambda name, data: ENDLESS if pattern in name else data)
    done = device.run("update")
    if pattern == "/pack-":
        assert done.code == 0 and "larger than anything expected" in done.err
        return
    assert done.code != 0 and "larger than" in done.err, done
    refused(device, done.code)
    recovers(device, attacker)


# Partial installation: the server stops half way.


@pytest.mark.parametrize("missing", ["20/files/", "20/Manifest.os-core", "20/Manifest.MoM", "20/lengths"])
def test_partial_installation_a_release_that_is_not_all_there(
    device: Trusting, attacker: Attacker, missing: str
) -> None:
    attacker.tampering.append(lambda name, data: None if "/pack-" in name or missing in name else data)
    done = device.run("update")
    assert done.code in {DOWNLOAD, MANIFEST, MOM_CODE, SIGNATURE, BUNDLE}, done
    refused(device, done.code)
    recovers(device, attacker)


# One key compromised, each in turn.


def evil_release(simulator: Simulator, version: int, mom: signing.Signer | None, build: signing.Signer | None) -> None:
    """A release in which os-core ships something else, with whatever keys the attacker has."""
    www = simulator.www

    def change(found: Manifest) -> Manifest:
        node = tree.file_node("/usr/bin/hello", 0o755, len(EVIL))
        mac = hashing.hasher(node)
        mac.update(EVIL)
        digest = mac.hexdigest()
        (www / stream.fullfile(version, digest)).write_bytes(archiver.fullfile(digest, node, EVIL))
        entries = tuple(
            e._replace(digest=digest, version=version) if e.name == "/usr/bin/hello" else e for e in found.entries
        )
        return found._replace(entries=entries)

    rewrite(www, version, "os-core", change, mom or stranger())
    signature = signing.sign(simulator.read(stream.manifest(version, "os-core")), build or stranger())
    simulator.put(stream.signature(stream.manifest(version, "os-core")), signature)
    rewrite(www, version, MOM, lambda m: m._replace(extra=tuple(p for p in m.extra if p[0] != "lengths")), mom)
    if mom is None:
        simulator.put("20/Manifest.MoM.sig", signing.sign(simulator.mom(version), stranger()))


def test_one_key_compromised_the_head(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    evil_release(simulator, 20, None, None)
    simulator.put_head(simulator.head(20))
    assert "keys that may release" in refused(device, SIGNATURE)
    simulator.put_head(simulator.head(30))
    recovers(device, attacker, 30)


def test_one_key_compromised_the_release(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    honest = simulator.read(stream.head(30))
    evil_release(simulator, 20, simulator.keys.release, None)
    simulator.put(stream.head(30), honest)
    refused(device, HASH)
    simulator.put_head(simulator.head(30))
    recovers(device, attacker, 30)


def test_one_key_compromised_the_release_cannot_write_a_second_installed_version(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    fresh = replace(device, base=device.base / "fresh")
    (device.base / "fresh").mkdir()
    simulator.put_head(simulator.head(10))
    fresh.ok("os-install", "--version", "10")
    simulator.put_head(simulator.head(20))
    import shutil  # noqa: PLC0415

    # Flashed, not installed: it has seen nothing yet.
    shutil.rmtree(fresh.state)
    evil_release(simulator, 10, simulator.keys.release, simulator.keys.build)
    refused(fresh, HASH, "bundle-add", "acme-tool")


def test_one_key_compromised_the_build(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    evil_release(simulator, 20, None, simulator.keys.build)
    refused(device, HASH)
    simulator.put_head(simulator.head(30))
    recovers(device, attacker, 30)


def test_two_keys_compromised_head_and_release_still_need_the_build(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    evil_release(simulator, 20, simulator.keys.release, None)
    simulator.put_head(simulator.head(20))
    assert "os-core is signed by 0" in refused(device, BUNDLE)
    simulator.put_head(simulator.head(30))
    recovers(device, attacker, 30)


def test_one_key_compromised_one_of_the_root(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    thief = simulator.keys.root[0]
    evil = simulator.root(groups={roots.ROOT: (thief,), roots.HEAD: (holder(),)}, thresholds={roots.ROOT: 1})
    attacker.answers(stream.root(2), simulator.signed_root(evil, [thief]))
    refused(device, ROOT)
    recovers(device, attacker)


# Keys that were lost or stolen, and rotated.


def test_rotation_of_every_key(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    before = simulator.keys
    base = simulator.base
    simulator.keys = replace(
        before,
        root=(holder(), holder(), holder()),
        head=holder(),
        release=builders.keys(base / "keys2", "release"),
        build=builders.keys(base / "keys2", "build"),
    )
    simulator.publish_root(by=[*before.root[1:], *simulator.keys.root[:2]])
    # Who signs with the old keys is not heard any more ...
    simulator.put_head(simulator.head(20), before.head)
    refused(device, HEAD, rotated=True)
    simulator.put_head(simulator.head(20))
    refused(device, SIGNATURE)
    # ... and what was released is signed anew.
    for version in (10, 20):
        data = simulator.mom(version)
        simulator.put(stream.signature(stream.manifest(version, MOM)), signing.sign(data, simulator.keys.release))
        for name in ("os-core", "editors", "acme-tool"):
            place = stream.manifest(version, name)
            if (simulator.www / place).exists():
                signature = signing.sign(simulator.read(place), simulator.keys.build)
                simulator.put(stream.signature(place), signature)
    recovers(device, attacker)
    assert (device.state / "trust/root").read_bytes() == simulator.read(stream.root(2))


def test_rotation_needs_the_old_keys_as_well_as_the_new(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    new = (holder(), holder())
    following = simulator.root(groups={roots.ROOT: new})
    for by in (new, simulator.keys.root[:2], (*simulator.keys.root[:1], *new), (*simulator.keys.root, new[0])):
        attacker.relent()
        attacker.answers(stream.root(2), simulator.signed_root(following, by))
        refused(device, ROOT)
    attacker.relent()
    simulator.publish_root(following, [*simulator.keys.root[:2], *new])
    recovers(device, attacker)


def test_a_root_that_is_lost_by_one_of_three_is_rotated_by_the_two_others(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    _, *left = simulator.keys.root
    simulator.keys = replace(simulator.keys, root=(*left, holder()))
    simulator.publish_root(by=left)
    recovers(device, attacker)


def test_many_rotations_are_followed_one_by_one(device: Trusting, attacker: Attacker, simulator: Simulator) -> None:
    for _ in range(5):
        before = simulator.keys.root
        simulator.keys = replace(simulator.keys, root=(holder(), holder(), holder()))
        simulator.publish_root(by=[*before[:2], *simulator.keys.root[:2]])
    attacker.answers(stream.root(4), None)
    device.ok("check-update")
    recovers(device, attacker)
    assert "number 6" in device.ok("info").out


# Thresholds.


def test_below_threshold_a_head_with_one_of_two_signatures(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    second = holder()
    group = (simulator.keys.head, second)
    simulator.publish_root(simulator.root(groups={roots.HEAD: group}, thresholds={roots.HEAD: 2}))
    refused(device, HEAD)
    simulator.put_head(simulator.head(20), *group)
    recovers(device, attacker)


def test_below_threshold_a_mom_with_one_of_two_signatures(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    second = holder()
    group = (of_signer(simulator.keys.release), second)
    simulator.publish_root(simulator.root(groups={roots.RELEASE: group}, thresholds={roots.RELEASE: 2}))
    assert "signed by 1 of the keys that may release, and needs 2" in refused(device, SIGNATURE)
    named = simulator.named(20)
    for data, by in ((simulator.named(10), second), (named, holder()), (named, group[0])):
        signed = envelope.Envelope(roots.RELEASE, heads.release_payload(20, data)).signed_by(by)
        simulator.put(stream.signatures(20), envelope.serialize(signed))
        refused(device, SIGNATURE)
    signed = envelope.Envelope(roots.RELEASE, heads.release_payload(20, named)).signed_by(second)
    simulator.put(stream.signatures(20), envelope.serialize(signed))
    recovers(device, attacker)


def test_duplicate_signatures_of_one_key_are_not_two(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    group = (simulator.keys.head, holder())
    simulator.publish_root(simulator.root(groups={roots.HEAD: group}, thresholds={roots.HEAD: 2}))
    head = simulator.signed_head(simulator.head(20))
    line = next(line for line in head.splitlines(keepends=True) if line.startswith(b"signature: "))
    other = group[1].public.id.encode()
    for again in (line, line.replace(group[0].public.id.encode(), other), line.replace(b"signature", b"signature")):
        attacker.relent()
        attacker.answers(stream.head(30), head.replace(line, line + again, 1))
        refused(device, HEAD)
    recovers_with_both = simulator.signed_head(simulator.head(20), *group)
    simulator.put(stream.head(30), recovers_with_both)
    recovers(device, attacker)


def test_duplicate_key_ids_one_key_under_two_names_is_refused(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    simulator.publish_root()

    def twice(payload: dict[str, object]) -> None:
        keys = payload["keys"]
        assert isinstance(keys, dict)
        first = next(iter(keys))
        keys["0" * 64] = keys[first]

    attacker.answers(stream.root(2), simulator.edited(stream.root(2), twice, roots.ROOT, *simulator.keys.root[:2]))
    assert "another name than its own" in refused(device, ROOT)
    recovers(device, attacker)


# Local storage: what lies on the device is not believed because it lies there.


def test_poisoned_cache_a_mom_and_lengths_of_the_attacker(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    device.ok("update", "--download")
    for name in ("20/Manifest.MoM", "20/lengths", "20/Manifest.os-core"):
        place = device.cache / "manifest" / name
        place.write_bytes(place.read_bytes().replace(b"os-core", b"Os-core"))
    recovers(device, attacker)


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b'{"version": -1}', b"\xff" * 100])
def test_poisoned_floors_are_named_and_the_rest_still_holds(
    device: Trusting, attacker: Attacker, simulator: Simulator, content: bytes
) -> None:
    place = device.state / "trust/floors"
    place.write_bytes(content)
    done = recovers(device, attacker)
    assert "is damaged" in done.err
    assert json.loads(place.read_text())["version"] == 20


def test_replay_a_root_of_the_attacker_in_the_state_folder_is_passed_over(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    # Even so: whoever can write there can write everything. What a power cut left is what this is about.
    (device.state / "trust").mkdir(exist_ok=True)
    (device.state / "trust/root").write_bytes(simulator.read(stream.root(1))[:200])
    recovers(device, attacker)


# Attack before verification: what unpacks and parses gets bombs.


def test_attack_before_verification_a_bomb_for_a_manifest(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    name = stream.manifest_tar(20, "os-core")
    length = len(simulator.read(name))
    bomb = xz.compress(bytes(1 << 28))
    attacker.tampering.append(lambda asked, data: None if "-delta-from-" in asked else data)
    attacker.answers(name, bomb[:length].ljust(length, b"\0"))
    refused(device, MANIFEST)
    recovers(device, attacker)


@pytest.mark.parametrize(
    "payload",
    [b"[" * 100_000, b'{"a": ' * 500, b"1" * 5000, b'{"version": 1e999}', b"\xff\xfe", b"null", b'"x"', b"{}"],
)
def test_attack_before_verification_a_head_is_not_read_before_its_signature_is_right(
    device: Trusting, attacker: Attacker, simulator: Simulator, payload: bytes
) -> None:
    unsigned = envelope.Envelope(heads.ROLE, payload).signed_by(holder())
    signed = envelope.Envelope(heads.ROLE, payload[:7000]).signed_by(simulator.keys.head)
    attacker.answers(stream.head(30), envelope.serialize(unsigned)[: stream.MAX_HEAD])
    assert "not signed by" in refused(device, HEAD)
    attacker.relent()
    attacker.answers(stream.head(30), envelope.serialize(signed))
    assert "cannot be believed" in refused(device, HEAD)
    recovers(device, attacker)


def test_an_unsigned_pack_that_plants_a_manifest_plants_nothing(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    evil = simulator.read(stream.manifest(20, "os-core")).replace(b"/usr/bin/hello", b"/usr/bin/hullo")
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as made:
        for name in ("manifest/20/Manifest.os-core", "../manifest/20/Manifest.os-core", "staged/../../x"):
            member = tarfile.TarInfo(name)
            member.size = len(evil)
            made.addfile(member, io.BytesIO(evil))
    attacker.tampering.append(
        lambda name, data: to.getvalue()[: len(data)].ljust(len(data), b"\0") if data and "/pack-" in name else data
    )
    device.ok("update")
    assert device.ok("diagnose").code == 0
    assert not [p for p in device.state.rglob("*") if p.is_file() and b"hullo" in p.read_bytes()]


def test_a_stream_without_a_head_is_refused_by_a_device_with_a_root(device: Trusting, attacker: Attacker) -> None:
    attacker.answers(stream.head(30), None)
    assert "no signed head" in refused(device, HEAD)
    recovers(device, attacker)


@pytest.mark.parametrize("content", [b"", b"garbage", b"swupd-signed 1\nrole: root\n\n{}"])
def test_a_damaged_root_in_the_image_is_refused(device: Trusting, content: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(content)
    refused(replace(device, root_file=broken), ROOT)
    refused(replace(device, root_file=tmp_path / "missing"), ROOT)
