"""The root of trust: which keys may sign what, and how many of them must (docs/trust.md). Values, no I/O.

Each root has a number; root N+1 is good where enough keys of root N and enough of its own have signed it (after TUF's
specification, 5.3). The first is in the image.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import fnmatch
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from swupd import envelope, jsontext
from swupd.envelope import Envelope
from swupd.errors import DocumentError, RootError, SignatureError
from swupd.manifest import Manifest
from swupd.stream import is_digest

if TYPE_CHECKING:
    from swupd.publickey import PublicKey

    MakeKey = Callable[[bytes], PublicKey]
    """A key from its SubjectPublicKeyInfo. Raises SignatureError for what is no acceptable key."""

ROOT, HEAD, RELEASE, BUILD = "root", "head", "release", "build"
ROLES = (ROOT, HEAD, RELEASE, BUILD)
"""root: the next root; head: the newest release's name; release: the MoM; build: the bundles' manifests."""
_MAX_KEYS = 64
_MAX_DELEGATIONS = 256


class Role(NamedTuple):
    """Who may sign something: ids of keys, and how many of them must."""

    keys: tuple[str, ...]
    threshold: int = 1


class Delegation(NamedTuple):
    """Bundles that others than the build sign.

    bundles: names or patterns (fnmatch). paths: prefixes below which such a bundle's files lie; each ends with "/".
    The folders above a prefix may be shipped as folders.
    """

    bundles: tuple[str, ...]
    role: Role
    paths: tuple[str, ...]

    def covers(self, bundle: str) -> bool:
        """Whether it is about a bundle."""
        return any(fnmatch.fnmatchcase(bundle, pattern) for pattern in self.bundles)

    def outside(self, manifest: Manifest) -> str:
        """The first path that the bundle may not ship, "" if there is none."""
        mark = f"/usr/share/clear/bundles/{manifest.name}"
        for entry in manifest.entries:
            inside = any(entry.name.startswith(prefix) for prefix in self.paths)
            above = entry.kind in "D." and any(prefix.startswith(f"{entry.name}/") for prefix in self.paths)
            mark_above = entry.kind == "D" and mark.startswith(f"{entry.name}/")
            if not (inside or above or mark_above or entry.name == mark):
                return entry.name
        return ""


class Root(NamedTuple):
    """Root number so-and-so. expires: the moment from which it is not believed any more.

    keys: by id. roles: by name; those of ROLES but BUILD are always there. Without BUILD no manifest needs a signature
    of its own. delegations: the first that covers a bundle counts.
    """

    number: int
    expires: datetime.datetime
    keys: Mapping[str, PublicKey]
    roles: Mapping[str, Role]
    delegations: tuple[Delegation, ...] = ()

    def role_keys(self, role: Role) -> dict[str, PublicKey]:
        """The keys of a role."""
        return {name: self.keys[name] for name in role.keys}

    def bundle_rule(self, bundle: str) -> tuple[Role | None, Delegation | None]:
        """Who must sign a bundle's manifest, None for nobody; and under which delegation."""
        found = next((d for d in self.delegations if d.covers(bundle)), None)
        return (found.role, found) if found is not None else (self.roles.get(BUILD), None)

    def accepts(self, signed: Envelope, name: str) -> bool:
        """Whether enough keys of a role have signed a document."""
        role = self.roles[name]
        return len(signed.signers(self.role_keys(role))) >= role.threshold


def payload(root: Root) -> bytes:
    """The bytes that are signed."""
    roles = {name: _role_json(role) for name, role in root.roles.items()}
    delegations = [{"bundles": list(d.bundles), "paths": list(d.paths), **_role_json(d.role)} for d in root.delegations]
    return jsontext.dump(
        {
            "number": root.number,
            "expires": jsontext.moment(root.expires),
            "keys": {name: base64.b64encode(key.der).decode() for name, key in root.keys.items()},
            "roles": roles,
            "delegations": delegations,
        }
    )


def _role_json(role: Role) -> dict[str, object]:
    return {"keys": list(role.keys), "threshold": role.threshold}


def from_der(der: bytes) -> PublicKey:
    """As crypto.from_der, which is loaded then."""
    from swupd import crypto  # noqa: PLC0415  0.1 s of start-up

    return crypto.from_der(der)


def parse(data: bytes, key: MakeKey = from_der) -> tuple[Envelope, Root]:
    """A root as it claims to be: whether to believe it is for `first` and `next_after`. Raises RootError."""
    try:
        signed = envelope.parse(data, ROOT)
        return signed, _root(jsontext.load(signed.payload), key)
    except DocumentError as e:
        raise RootError(
            f"the root of trust cannot be read: {e.problem}", "Take the file that the publisher gave."
        ) from e


def first(data: bytes, key: MakeKey = from_der) -> Root:
    """The root that a device is born with: it must at least be signed by its own keys. Raises RootError."""
    signed, root = parse(data, key)
    if not root.accepts(signed, ROOT):
        raise RootError(
            f"root {root.number} is not signed by {root.roles[ROOT].threshold} of its own keys",
            "Sign it with: swupd-server root sign",
        )
    return root


def next_after(root: Root, data: bytes, key: MakeKey = from_der) -> Root:
    """The root that follows another. Raises RootError unless enough keys of both have signed it."""
    try:
        signed = envelope.parse(data, ROOT)
    except DocumentError as e:
        raise RootError(f"root {root.number + 1} cannot be read: {e.problem}", "Tell the publisher.") from e
    # First by whom one believes already, and only then is it read.
    if not root.accepts(signed, ROOT):
        raise RootError(
            f"root {root.number + 1} is not signed by {root.roles[ROOT].threshold} keys of root {root.number}",
            "The server may have been tampered with; nothing was changed.",
        )
    found = first(data, key)
    if found.number != root.number + 1:
        raise RootError(f"root {found.number} came where root {root.number + 1} was asked for", "Tell the publisher.")
    return found


def _root(value: Any, key: MakeKey) -> Root:
    top = jsontext.Fields(value)
    keys = _keys(top.table("keys"), key)
    roles = {name: _role(jsontext.Fields(role), keys) for name, role in top.table("roles").items()}
    missing = [name for name in ROLES if name not in roles and name != BUILD]
    if missing:
        raise DocumentError(f"it has no role {missing[0]}")
    delegations = top.items("delegations")
    if len(delegations) > _MAX_DELEGATIONS:
        raise DocumentError("it has too many delegations")
    return Root(
        top.number("number", 1),
        top.moment("expires"),
        keys,
        roles,
        tuple(_delegation(jsontext.Fields(d), keys) for d in delegations),
    )


def _keys(table: Mapping[str, Any], key: MakeKey) -> dict[str, PublicKey]:

    if len(table) > _MAX_KEYS:
        raise DocumentError("it has too many keys")
    keys = {}
    for name, text in table.items():
        try:
            found = key(base64.b64decode(text, validate=True)) if isinstance(text, str) else None
        except (binascii.Error, ValueError) as e:
            raise DocumentError("a key is no base64") from e
        except SignatureError as e:
            raise DocumentError(e.problem) from e
        if found is None or found.id != name:
            raise DocumentError("a key has another name than its own")
        keys[name] = found
    return keys


def _role(value: jsontext.Fields, keys: Mapping[str, PublicKey]) -> Role:
    names = value.texts("keys")
    threshold = value.number("threshold", 1)
    if len(set(names)) != len(names) or not all(is_digest(n) and n in keys for n in names):
        raise DocumentError("a role names a key twice or one that is not there")
    if threshold > len(names):
        raise DocumentError("a role needs more signatures than it has keys")
    return Role(names, threshold)


def _delegation(value: jsontext.Fields, keys: Mapping[str, PublicKey]) -> Delegation:
    bundles, prefixes = value.texts("bundles"), value.texts("paths")
    if not bundles or not all(bundles):
        raise DocumentError("a delegation names no bundle")
    bad = [p for p in prefixes if not p.startswith("/") or not p.endswith("/") or not _plain(p)]
    if bad:
        raise DocumentError(f"a delegation has the path {bad[0][:80]!r}, which is no folder ending with /")
    return Delegation(bundles, _role(value, keys), prefixes)


def _plain(prefix: str) -> bool:
    parts = prefix.strip("/").split("/")
    return bool(prefix.strip("/")) and not any(part in {"", ".", ".."} for part in parts)
