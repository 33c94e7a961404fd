"""Would devices with a root of trust take a release? Judges keys before they sign, and releases after that.

Says what is wrong in words; "" where nothing is.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Iterator

from swupd import envelope, heads, manifest, roots, signatures, stream
from swupd.errors import InvalidOption, RootError, SignatureError, SwupdError
from swupd.lengths import Named
from swupd.manifest import MOM, Manifest
from swupd.publickey import PublicKey
from swupd.roots import Root
from swupd.server import history
from swupd.server.history import Store

_LATER = "Publish with --hold, let all of them sign, then: swupd-server release"


def check_root(root: Root, now: datetime.datetime) -> None:
    """Raises RootError where devices do not believe a root any more."""
    if now >= root.expires:
        raise RootError(
            f"root {root.number} has expired on {root.expires:%Y-%m-%d}: devices refuse whatever it vouches for",
            "Make the next one: swupd-server root rotate, root sign, root publish.",
        )


def check_key(root: Root, role: str, key: PublicKey) -> None:
    """Raises SignatureError where a key may not do what it is for."""
    wanted = root.roles.get(role)
    if wanted is not None and key.id not in wanted.keys:
        raise SignatureError(
            f"the {role} key {key.id[:16]} is none of those of root {root.number}: devices would refuse it",
            "Sign with the right key, or add it: swupd-server root rotate, root add-key.",
        )


def check_head_key(root: Root, key: PublicKey) -> None:
    """Raises SignatureError where a head with that one signature is not enough."""
    check_key(root, roots.HEAD, key)
    threshold = root.roles[roots.HEAD].threshold
    if threshold > 1:
        raise SignatureError(
            f"root {root.number} asks for {threshold} signatures of a head, and swupd-server makes one",
            "Make it one: swupd-server root rotate, root threshold FILE head=1.",
        )


def check_release_key(root: Root, key: PublicKey | None) -> None:
    """Raises SignatureError where a release that is announced at once would not be signed enough."""
    role = root.roles[roots.RELEASE]
    if key is None:
        raise SignatureError(
            f"root {root.number} asks for releases to be signed, and no key was given",
            "Give --signing-key and --certificate, or --hold.",
        )
    check_key(root, roots.RELEASE, key)
    if role.threshold > 1:
        raise SignatureError(f"root {root.number} asks for {role.threshold} signatures of a release", _LATER)


def check_build_key(root: Root, key: PublicKey | None, bundles: Iterable[str]) -> None:
    """Raises SignatureError where a bundle whose manifest is signed with that key would be refused."""
    rules = {name: root.bundle_rule(name) for name in bundles}
    asked = [role for role, _ in rules.values() if role is not None]
    if asked and key is None:
        raise SignatureError(
            f"root {root.number} asks for each manifest to be signed, and no manifest key was given",
            "Give --manifest-key and --manifest-certificate.",
        )
    for name, (role, delegation) in sorted(rules.items()):
        if role is None or key is None:
            continue
        if delegation is None:
            check_key(root, roots.BUILD, key)
        elif key.id not in role.keys:
            raise SignatureError(
                f"the bundle {name} is delegated, and the build key {key.id[:16]} is none of those that may sign it",
                "Publish with --hold, let them sign its manifest, then: swupd-server release",
            )
        if role.threshold > 1:
            raise SignatureError(
                f"root {root.number} asks for {role.threshold} signatures of the bundle {name}",
                "Publish with --hold, let all of them sign its manifest (swupd-server sign --add), then release it.",
            )


def of_release(root: Root, mom: bytes, signature: bytes | None, more: bytes | None) -> str:
    """What devices find wrong with the signatures of a MoM. more: the file with further ones."""
    role = root.roles[roots.RELEASE]
    try:
        by = signatures.signers(mom, signature, root.role_keys(role))
        if more is not None:
            signed = envelope.parse(more, roots.RELEASE)
            if heads.read_release(signed) == Named(hashlib.sha256(mom).hexdigest(), len(mom)):
                by |= signed.signers(root.role_keys(role))
    except SwupdError as e:
        return e.problem
    if len(by) >= role.threshold:
        return ""
    return f"is signed by {len(by)} release keys, root {root.number} asks for {role.threshold}"


def of_bundle(root: Root, found: Manifest, data: bytes, signature: bytes | None) -> str:
    """What devices find wrong with a bundle's manifest: signatures, and paths that its signers may not ship."""
    role, delegation = root.bundle_rule(found.name)
    if role is not None:
        try:
            by = signatures.signers(data, signature, root.role_keys(role))
        except SignatureError as e:
            return e.problem
        if len(by) < role.threshold:
            return f"is signed by {len(by)} of those who may, root {root.number} asks for {role.threshold}"
    outside = delegation.outside(found) if delegation is not None else ""
    return f"ships {outside}, which the bundle's delegation does not allow" if outside else ""


def of_stream(root: Root, store: Store, mom: Manifest, data: bytes) -> Iterator[tuple[str, str]]:
    """(name of an object, what devices find wrong with it) for all of a release that needs a signature."""
    place = stream.manifest(mom.version, MOM)
    signature = store.read(stream.signature(place), stream.MAX_SIGNATURE)
    wrong = of_release(root, data, signature, store.read(stream.signatures(mom.version), stream.MAX_SIGNATURE))
    if wrong:
        yield place, wrong
    yield from of_bundles(root, store, ((e.name, e.version) for e in mom.entries if e.present and e.kind == "M"))


def of_bundles(root: Root, store: Store, bundles: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """The same for bundles' manifests, by name and version."""
    for name, version in bundles:
        if root.bundle_rule(name)[0] is None:
            continue
        place = stream.manifest(version, name)
        data = history.manifest_bytes(store, version, name)
        if data is None:
            yield place, "is missing"
            continue
        found = manifest.parse(data, name, version)
        wrong = of_bundle(root, found, data, store.read(stream.signature(place), stream.MAX_SIGNATURE))
        if wrong:
            yield place, wrong


def check_release(root: Root, store: Store, mom: Manifest, data: bytes) -> None:
    """Raises SignatureError where devices would refuse a release that is in a stream."""
    for place, wrong in of_stream(root, store, mom, data):
        bundle = place.rpartition("/Manifest.")[2]
        hint = f"Let those sign it who may: swupd-server sign {place}"
        raise SignatureError(f"{place} {wrong}", _MOM_HINT if bundle == MOM else hint)


_MOM_HINT = "Let them sign it: swupd-server sign, countersign, release."


def check_unchanged(root: Root, store: Store, bundles: Iterable[tuple[str, int]]) -> None:
    """Raises SignatureError where a manifest of an older release is not signed as the root wants it now."""
    for place, wrong in of_bundles(root, store, bundles):
        raise SignatureError(
            f"the unchanged {place} {wrong}",
            f"Sign it again (swupd-server sign {place}), or publish all bundles anew (--minversion).",
        )


def check_paths(root: Root, manifests: Iterable[Manifest]) -> None:
    """Raises InvalidOption where a delegated bundle ships what it may not."""
    for found in manifests:
        delegation = root.bundle_rule(found.name)[1]
        outside = delegation.outside(found) if delegation is not None else ""
        if outside and delegation is not None:
            raise InvalidOption(
                f"the bundle {found.name} ships {outside}, and root {root.number} allows it only"
                f" {', '.join(delegation.paths) or 'nothing'}",
                "Take it out of the bundle, or change the delegation.",
            )
