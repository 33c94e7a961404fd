"""Roots of trust as files: made, changed, signed, shown, published. Changes are functions from root to root."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path

from swupd import envelope, roots, stream
from swupd.envelope import Envelope
from swupd.errors import InvalidOption, RootError
from swupd.publickey import KeyHolder, PublicKey
from swupd.roots import Delegation, Role, Root
from swupd.server import inputs, writer
from swupd.server.history import Store

MAX_DAYS = 36500


def make(
    number: int, groups: Mapping[str, Iterable[PublicKey]], thresholds: Mapping[str, int], expires: datetime.datetime
) -> Root:
    """A root with the keys of each role; roles without keys are left out."""
    keys = {key.id: key for group in groups.values() for key in group}
    roles = {
        name: Role(tuple(dict.fromkeys(k.id for k in group)), thresholds.get(name, 1))
        for name, group in groups.items()
        if group
    }
    return checked(Root(number, expires, keys, roles))


def checked(root: Root) -> Root:
    """The root, if a device would read it. Raises RootError."""
    try:
        return roots.parse(envelope.serialize(Envelope(roots.ROOT, roots.payload(root))))[1]
    except RootError as e:
        problem = e.problem.replace("the root of trust cannot be read", "no device would read such a root")
        raise RootError(problem, "Nothing was changed. See what it says: swupd-server root show") from e


def rotated(root: Root, expires: datetime.datetime) -> Root:
    """The next one, with the same keys."""
    return root._replace(number=root.number + 1, expires=expires)


def with_keys(root: Root, role: str, keys: Iterable[PublicKey]) -> Root:
    """The root with keys added to a role."""
    before = root.roles.get(role, Role((), 1))
    added = {k.id: k for k in keys}
    names = tuple(dict.fromkeys((*before.keys, *added)))
    return checked(root._replace(keys={**root.keys, **added}, roles={**root.roles, role: before._replace(keys=names)}))


def without_key(root: Root, role: str, name: str) -> Root:
    """The root with a key taken from a role. name: the key's id or the beginning of it. Raises InvalidOption."""
    before = _role(root, role)
    found = [k for k in before.keys if k.startswith(name)]
    if len(found) != 1 or len(name) < 8:
        raise InvalidOption(
            f"the role {role} has {len(found)} keys whose ids begin with {name[:64]!r}",
            "Give the key's PEM file, or 8 digits of its id or more (swupd-server root show).",
        )
    left = tuple(k for k in before.keys if k != found[0])
    roles = {**root.roles, role: before._replace(keys=left)}
    if not left and role == roots.BUILD:
        del roles[role]
    return checked(_tidied(root._replace(roles=roles)))


def with_threshold(root: Root, role: str, threshold: int) -> Root:
    """The root with another number of signatures that a role needs."""
    return checked(root._replace(roles={**root.roles, role: _role(root, role)._replace(threshold=threshold)}))


def delegated(root: Root, delegation: Delegation, keys: Iterable[PublicKey]) -> Root:
    """The root with bundles that others sign, asked before those that are there."""
    return checked(
        root._replace(keys={**root.keys, **{k.id: k for k in keys}}, delegations=(delegation, *root.delegations))
    )


def undelegated(root: Root, pattern: str) -> Root:
    """The root without the delegations that name a pattern. Raises InvalidOption."""
    left = tuple(d for d in root.delegations if pattern not in d.bundles)
    if left == root.delegations:
        raise InvalidOption(f"no delegation names {pattern!r}", "See them with: swupd-server root show")
    return checked(_tidied(root._replace(delegations=left)))


def _role(root: Root, role: str) -> Role:
    if role not in root.roles:
        raise InvalidOption(f"the root has no role {role[:40]!r}", f"Roles are {', '.join(sorted(root.roles))}.")
    return root.roles[role]


def _tidied(root: Root) -> Root:
    used = {k for role in (*root.roles.values(), *(d.role for d in root.delegations)) for k in role.keys}
    return root._replace(keys={name: key for name, key in root.keys.items() if name in used})


def read(file: Path) -> tuple[Envelope, Root]:
    """A root that somebody is working on. Raises RootError, InvalidFile."""
    return roots.parse(inputs.read(file))


def write(file: Path, root: Root) -> None:
    """Writes a root without signatures."""
    write_signed(file, Envelope(roots.ROOT, roots.payload(root)))


def write_signed(file: Path, signed: Envelope) -> None:
    """Writes a root with its signatures."""
    data = envelope.serialize(signed)
    if len(data) > stream.MAX_ROOT:
        raise RootError("the root is larger than devices take", "Use fewer keys.")
    writer.put(file, [data])


def sign(file: Path, holder: KeyHolder) -> None:
    """Adds a signature to a file."""
    write_signed(file, read(file)[0].signed_by(holder))


def missing(signed: Envelope, root: Root, before: Root | None) -> list[str]:
    """A sentence for each group of keys of which not enough have signed."""
    found = []
    for one in (root, before) if before is not None else (root,):
        role = one.roles[roots.ROOT]
        by = signed.signers(one.role_keys(role))
        if len(by) < role.threshold:
            waiting = ", ".join(k[:16] for k in role.keys if k not in by)
            found.append(f"{role.threshold - len(by)} more of the keys of root {one.number} must sign: {waiting}")
    return found


def numbers(www: Path) -> tuple[int, ...]:
    """The numbers of a stream's roots."""
    names = (p.stem for p in (www / "root").glob("*.root"))
    return tuple(sorted(int(n) for n in names if n.isascii() and n.isdigit() and len(n) < 10))


def newest(www: Path) -> Root | None:
    """The newest root of a stream, None if there is none. Raises RootError."""
    found = numbers(www)
    return roots.first(inputs.read(www / stream.root(found[-1]))) if found else None


def publish(www: Path, file: Path) -> Root:
    """Puts a root into a stream. Raises RootError unless it is the first, or follows the newest there."""
    data = inputs.read(file)
    before = newest(www)
    number = read(file)[1].number
    if before is not None and number <= before.number:
        raise RootError(f"the stream has root {before.number} already", "Make the next one: swupd-server root rotate")
    if before is None and number != 1:
        raise RootError(
            f"the stream has no root, and this is root {number}: devices that have an older one would not find the way",
            "Publish all of them, from 1.root on.",
        )
    root = roots.first(data) if before is None else roots.next_after(before, data)
    writer.announce(www, stream.root(root.number), data)
    return root


def coming(www: Path, file: Path | None) -> Root | None:
    """The newest root of a stream once a file was brought there; None if there is none. Raises RootError."""
    before = newest(www)
    if file is None:
        return before
    data = inputs.read(file)
    root = roots.first(data)
    place = www / stream.root(root.number)
    if place.exists() and place.read_bytes() != data:
        raise RootError(f"the stream has another root {root.number} than {file}", "Give the one that was published.")
    if before is not None and root.number > before.number:
        return roots.next_after(before, data)
    return before or root


def bring(www: Path, file: Path, past: Store | None) -> None:
    """Puts a root into a stream that does not have it, and those before it that only past has. Raises RootError."""
    root = coming(www, file)
    data = inputs.read(file)
    number = roots.first(data).number
    if root is None or root.number > number or (www / stream.root(number)).exists():
        return
    for older in range(1, number):
        name = stream.root(older)
        found = past.read(name, stream.MAX_ROOT) if past is not None and not (www / name).exists() else None
        if found is not None:
            writer.announce(www, name, found)
    writer.announce(www, stream.root(number), data)


def describe(signed: Envelope, root: Root, now: datetime.datetime) -> list[str]:
    """What a root says, for people."""
    over = ", which is over: devices refuse it" if now >= root.expires else ""
    lines = [f"Root {root.number}, good until {root.expires:%Y-%m-%d %H:%M} UTC{over}"]
    by = signed.signers(root.keys)
    for name, role in sorted(root.roles.items()):
        lines.append(f"{name}: {role.threshold} of {len(role.keys)}")
        lines += [f"  {k[:16]}{'  has signed this root' if k in by and name == roots.ROOT else ''}" for k in role.keys]
    for one in root.delegations:
        lines.append(f"bundles {', '.join(one.bundles)}: {one.role.threshold} of {len(one.role.keys)}")
        lines += [f"  {k[:16]}" for k in one.role.keys]
        lines += [f"  below {path}" for path in one.paths]
    return lines
