"""The sub-commands of swupd-server about keys: root, sign, countersign, release, renew. Each gives lines to print."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from swupd import crypto, manifest, roots, stream
from swupd.errors import InvalidOption, SignatureError
from swupd.manifest import MOM
from swupd.publickey import KeyHolder, PublicKey
from swupd.roots import Delegation, Role
from swupd.server import announcing, inputs, releasing, rootfile, signers, signing, writer
from swupd.server.announcing import Announcer
from swupd.server.releasing import Signatures

Run = Callable[[argparse.Namespace, datetime.datetime], Iterable[str]]
_DAYS = "3650"
_LATEST = re.compile(rb"[0-9]{1,10}\n?")


def add_head_options(parser: argparse.ArgumentParser) -> None:
    """Options that say who signs the head."""
    parser.add_argument("--head-key", metavar="PEM", help="signs the head, which devices with a root ask for")
    parser.add_argument("--head-signer", metavar="COMMAND", help="or what signs it")
    parser.add_argument("--head-public-key", metavar="PEM", help="of that command")
    parser.add_argument("--head-days", metavar="N", default=str(announcing.DAYS), help="how long it is good (14)")
    parser.add_argument("--minimum", metavar="V", help="the oldest release that may still be installed")


def announcer(arguments: argparse.Namespace) -> Announcer | None:
    """Who signs the head, None where nobody is named."""
    holder = signers.holder(arguments.head_key, arguments.head_signer, arguments.head_public_key)
    if holder is None:
        return None
    minimum = None if arguments.minimum is None else stream.version(arguments.minimum)
    days = inputs.number(arguments.head_days, "--head-days", 1)
    if days > announcing.MAX_DAYS:
        raise InvalidOption(f"a head cannot be good for {days} days", f"Give {announcing.MAX_DAYS} at most.")
    return Announcer(holder, days, minimum)


def add_signer_options(parser: argparse.ArgumentParser) -> None:
    """Options that say who signs as C clients want it."""
    parser.add_argument("--signing-key", metavar="PEM", help="private key")
    parser.add_argument("--signer", metavar="COMMAND", help="or a command: signs standard input, writes the signature")
    parser.add_argument("--certificate", metavar="PEM", help="of the key, intermediates after it")


def signer(arguments: argparse.Namespace) -> signing.Signer | None:
    """That signer."""
    return signers.signer(arguments.signing_key, arguments.signer, arguments.certificate, "signing-key")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-commands; each sets `lines`, a function as Run says."""
    _add_root(commands.add_parser("root", help="make and change the root of trust"))
    renew = commands.add_parser("renew", help="sign a new head for the newest release (for cron)")
    renew.add_argument("--www", metavar="DIR", type=Path, required=True, help="folder of the stream")
    renew.add_argument("--format", metavar="F", default=str(stream.DEFAULT_FORMAT), help="as for publish (%(default)s)")
    add_head_options(renew)
    renew.set_defaults(lines=_renew)
    sign = commands.add_parser("sign", help="sign files on a machine that holds the key")
    sign.add_argument("files", metavar="FILE", type=Path, nargs="+", help="Manifest.MoM, Manifest.<bundle>, latest")
    sign.add_argument("--any", action="store_true", help="sign whatever it is")
    sign.add_argument("--add", action="store_true", help="keep the signatures that are there: k of n must sign")
    add_signer_options(sign)
    sign.set_defaults(lines=_sign)
    counter = commands.add_parser("countersign", help="add the signature of another release key to a MoM")
    counter.add_argument("file", metavar="MANIFEST.MOM", type=Path, help="the release's Manifest.MoM")
    counter.add_argument("--version", metavar="N", help="the release's version, if it is to be checked")
    counter.add_argument("--output", metavar="FILE", type=Path, required=True, help="Manifest.MoM.signed, new or begun")
    _add_holder(counter)
    counter.set_defaults(lines=_countersign)
    release = commands.add_parser("release", help="announce a release that was published with --hold")
    release.add_argument("--www", metavar="DIR", type=Path, required=True, help="folder of the stream")
    release.add_argument("--version", metavar="N", required=True, help="the release")
    release.add_argument("--signature", metavar="FILE", type=Path, help="Manifest.MoM.sig that was made elsewhere")
    release.add_argument("--latest-signature", metavar="FILE", type=Path, help="signature of the version's digits")
    release.add_argument(
        "--also", metavar="FILE", type=Path, nargs="+", default=[], help="Manifest.MoM.signed, of further release keys"
    )
    release.add_argument("--without-head", action="store_true", help="as for publish")
    release.add_argument("--unsigned", action="store_true", help="announce it though it is not signed")
    add_signer_options(release)
    add_head_options(release)
    release.set_defaults(lines=_release)


def _add_holder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", metavar="PEM", help="private key")
    parser.add_argument("--signer", metavar="COMMAND", help="or a command that signs standard input")
    parser.add_argument("--public-key", metavar="PEM", help="of that command")


def _add_root(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def part(name: str, run: Run, what: str, file: bool = True) -> argparse.ArgumentParser:
        made = parts.add_parser(name, help=what)
        if file:
            made.add_argument("file", metavar="FILE", type=Path, help="the root")
        made.set_defaults(lines=run)
        return made

    init = part("init", _init, "make the first root", file=False)
    init.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to put it")
    for role in roots.ROLES:
        init.add_argument(f"--{role}-key", metavar="PEM", action="append", default=[], help=f"key of the role {role}")
    init.add_argument("--threshold", metavar="ROLE=K", action="append", default=[], help="how many of a role must sign")
    init.add_argument("--days", metavar="N", default=_DAYS, help="how long it is good (%(default)s)")
    rotate = part("rotate", _rotate, "begin the next root with the keys of another")
    rotate.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to put it")
    rotate.add_argument("--days", metavar="N", default=_DAYS, help="how long it is good (%(default)s)")
    for name, run, what in (
        ("add-key", _add_key, "give keys a role"),
        ("remove-key", _remove_key, "take a role away"),
    ):
        changed = part(name, run, what)
        changed.add_argument("--role", choices=roots.ROLES, required=True, help="which role")
        changed.add_argument("keys", metavar="KEY", nargs="+", help="PEM files; to remove, or the beginnings of ids")
    part("threshold", _threshold, "change how many must sign").add_argument(
        "value", metavar="ROLE=K", help="for a role"
    )
    delegate = part("delegate", _delegate, "let others sign some bundles")
    delegate.add_argument("--bundles", metavar="NAME", nargs="+", required=True, help="names or patterns")
    delegate.add_argument("--key", metavar="PEM", nargs="+", required=True, help="who signs them")
    delegate.add_argument("--paths", metavar="PREFIX/", nargs="+", required=True, help="where their files may be")
    delegate.add_argument("--threshold", metavar="K", default="1", help="how many must sign (%(default)s)")
    part("undelegate", _undelegate, "take that back").add_argument("pattern", metavar="NAME", help="as it was given")
    sign = part("sign", _sign_root, "add a signature")
    _add_holder(sign)
    sign.add_argument("--previous", metavar="FILE", type=Path, help="the root before, whose keys must sign, too")
    part("show", _show, "say what a root says")
    part("publish", _publish_root, "put it into a stream").add_argument(
        "--www", metavar="DIR", type=Path, required=True, help="folder of the stream"
    )


def _keys(files: Iterable[str]) -> list[PublicKey]:
    return [crypto.from_pem(inputs.read(file), file) for file in files]


def _until(days: str, now: datetime.datetime) -> datetime.datetime:
    number = inputs.number(days, "--days", 1)
    if number > rootfile.MAX_DAYS:
        raise InvalidOption(f"a root cannot be good for {number} days", f"Give {rootfile.MAX_DAYS} at most.")
    return (now + datetime.timedelta(days=number)).replace(microsecond=0)


def _share(text: str) -> tuple[str, int]:
    role, equals, number = text.partition("=")
    if not equals or role not in roots.ROLES:
        raise InvalidOption(f"{text[:80]!r} is not of the form ROLE=K", f"Roles are {', '.join(roots.ROLES)}.")
    return role, inputs.number(number, role, 1)


def _init(arguments: argparse.Namespace, now: datetime.datetime) -> Iterable[str]:
    groups = {role: getattr(arguments, f"{role}_key") for role in roots.ROLES}
    for role in (roots.ROOT, roots.HEAD, roots.RELEASE):
        if not groups[role]:
            raise InvalidOption(f"there is no key for the role {role}", f"Give --{role}-key.")
    _refuse_present(arguments.output)
    keys = {role: _keys(files) for role, files in groups.items()}
    thresholds = dict(map(_share, arguments.threshold))
    for role in thresholds:
        if not groups[role]:
            raise InvalidOption(f"there is a threshold for the role {role}, and no key", f"Give --{role}-key.")
    made = rootfile.make(1, keys, thresholds, _until(arguments.days, now))
    rootfile.write(arguments.output, made)
    for file in groups[roots.ROOT]:
        pem = inputs.read(file)
        if b"PRIVATE KEY-----" in pem:
            rootfile.sign(arguments.output, crypto.holder(pem, file))
    return [f"Wrote {arguments.output}.", *_still_missing(arguments.output, None)]


def _refuse_present(place: Path) -> None:
    if os.path.lexists(place):
        raise InvalidOption(f"{place} exists already", "Name another file.")


def _still_missing(file: Path, previous: Path | None) -> list[str]:
    signed, root = rootfile.read(file)
    before = rootfile.read(previous)[1] if previous is not None else None
    found = rootfile.missing(signed, root, before)
    return found or [f"Root {root.number} has all signatures{' of its own' if root.number > 1 and not before else ''}."]


def _rotate(arguments: argparse.Namespace, now: datetime.datetime) -> Iterable[str]:
    _refuse_present(arguments.output)
    made = rootfile.rotated(rootfile.read(arguments.file)[1], _until(arguments.days, now))
    rootfile.write(arguments.output, made)
    return [f"Wrote {arguments.output}, root {made.number}, without signatures. Change it, then let it be signed."]


def _changed(file: Path, change: Callable[[roots.Root], roots.Root]) -> Iterable[str]:
    signed, root = rootfile.read(file)
    rootfile.write(file, change(root))
    return [f"Wrote {file}.", *(["Its signatures are gone: it says something else now."] if signed.signatures else [])]


def _add_key(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    keys = _keys(arguments.keys)
    return _changed(arguments.file, lambda root: rootfile.with_keys(root, arguments.role, keys))


def _remove_key(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    names = [_keys([k])[0].id if Path(k).is_file() else k for k in arguments.keys]

    def change(root: roots.Root) -> roots.Root:
        for name in names:
            root = rootfile.without_key(root, arguments.role, name)
        return root

    return _changed(arguments.file, change)


def _threshold(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    role, number = _share(arguments.value)
    return _changed(arguments.file, lambda root: rootfile.with_threshold(root, role, number))


def _delegate(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    keys = _keys(arguments.key)
    role = Role(tuple(k.id for k in keys), inputs.number(arguments.threshold, "--threshold", 1))
    made = Delegation(tuple(arguments.bundles), role, tuple(arguments.paths))
    return _changed(arguments.file, lambda root: rootfile.delegated(root, made, keys))


def _undelegate(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    return _changed(arguments.file, lambda root: rootfile.undelegated(root, arguments.pattern))


def _sign_root(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    holder = _holder(arguments)
    signed, root = rootfile.read(arguments.file)
    known = set(root.roles[roots.ROOT].keys)
    if arguments.previous is not None:
        known |= set(rootfile.read(arguments.previous)[1].roles[roots.ROOT].keys)
    elif root.number > 1:
        known.add(holder.public.id)
    if holder.public.id not in known:
        raise SignatureError(
            f"the key {holder.public.id[:16]} is no root key: its signature would count for nothing",
            "Sign with a root key; see swupd-server root show.",
        )
    rootfile.write_signed(arguments.file, signed.signed_by(holder))
    return _still_missing(arguments.file, arguments.previous)


def _holder(arguments: argparse.Namespace) -> KeyHolder:
    found = signers.holder(arguments.key, arguments.signer, arguments.public_key)
    if found is None:
        raise InvalidOption("nobody is named who signs", "Give --key, or --signer and --public-key.")
    return found


def _show(arguments: argparse.Namespace, now: datetime.datetime) -> Iterable[str]:
    return rootfile.describe(*rootfile.read(arguments.file), now)


def _publish_root(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    with writer.locked(arguments.www):
        root = rootfile.publish(arguments.www, arguments.file)
    return [f"Root {root.number} is published."]


def _renew(arguments: argparse.Namespace, now: datetime.datetime) -> Iterable[str]:
    who = announcer(arguments)
    if who is None:
        raise InvalidOption("nobody is named who signs the head", "Give --head-key, or --head-signer.")
    with writer.locked(arguments.www):
        head = announcing.renew(arguments.www, inputs.number(arguments.format, "--format", 1), who, now)
        newer = announcing.left_behind(arguments.www, head)
    lines = [f"The head names version {head.version} until {head.expires:%Y-%m-%d %H:%M} UTC."]
    if newer:
        lines.append(f"Release {newer} is newer: swupd-server release --version {newer} lets the head name it.")
    return lines


def _sign(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    who = signer(arguments)
    if who is None:
        raise InvalidOption("nobody is named who signs", "Give --signing-key or --signer, and --certificate.")
    lines = []
    for file in arguments.files:
        data = inputs.read(file)
        if not arguments.any and not data.startswith(b"MANIFEST\t") and not _LATEST.fullmatch(data):
            raise InvalidOption(
                f"{file} is neither a manifest nor a latest file", "Sign nothing that you do not know; or give --any."
            )
        place = file.with_name(f"{file.name}.sig")
        made = signing.sign(data, who)
        if arguments.add and place.exists():
            made = signing.joined(inputs.read(place), made)
        writer.put(place, [made])
        lines.append(
            f"Wrote {place}, the signature of {len(data)} bytes of SHA-256 {hashlib.sha256(data).hexdigest()}."
        )
    return lines


def _countersign(arguments: argparse.Namespace, _: datetime.datetime) -> Iterable[str]:
    mom = inputs.read(arguments.file)
    expected = stream.version(arguments.version) if arguments.version else None
    version = manifest.parse(mom, MOM, expected).version
    before = inputs.read(arguments.output) if arguments.output.exists() else None
    writer.put(arguments.output, [announcing.countersigned(mom, version, before, _holder(arguments))])
    return [
        f"Wrote {arguments.output}, for release {version}, MoM of SHA-256 {hashlib.sha256(mom).hexdigest()}.",
        f"Give it to: swupd-server release --version {version} --also {arguments.output}",
    ]


def _release(arguments: argparse.Namespace, now: datetime.datetime) -> Iterable[str]:
    version = stream.version(arguments.version)
    given = Signatures(
        _given(arguments.signature), _given(arguments.latest_signature), tuple(map(inputs.read, arguments.also))
    )
    releasing.release(
        arguments.www, version, signer(arguments), announcer(arguments), given, now, arguments.unsigned,
        arguments.without_head,
    )  # fmt: skip
    return [f"Release {version} is announced."]


def _given(file: Path | None) -> bytes | None:
    return inputs.read(file) if file is not None else None
