"""What `swupd info` says of a device: what it has, from where, what protects it, and how far its last change is.

It needs no stream, and is asked for often: what is only needed with a root of trust is loaded there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from swupd.agent import pending
from swupd.agent import settings as device
from swupd.agent.backend import back_end
from swupd.agent.report import Report, size
from swupd.agent.settings import Settings
from swupd.errors import Refused, SwupdError
from swupd.tree import Root


def info(options: argparse.Namespace, settings: Settings, report: Report) -> int:
    """The installed version and where updates come from."""
    report.say(f"Distribution:      {device.os_release(settings.root, 'PRETTY_NAME') or 'unknown'}")
    report.say(f"Installed version: {_version(settings)}")
    report.say(f"Format:            {settings.format or 'unknown'}")
    report.say(f"Version URL:       {settings.version_url or 'unknown'}")
    report.say(f"Content URL:       {settings.content_url or 'unknown'}")
    for further in settings.mirrors:
        report.say(f"Mirror:            {further.url} ({further.place})")
    report.say(f"Signatures:        {_signatures(settings)}")
    for line in _protection(settings, report):
        report.say(line)
    with Root(settings.root) as root:
        report.say(f"Changes by:        {back_end(root)}")
    report.say(f"Last change:       {last_change(settings, options.verbose or options.debug)}")
    return 0


def _version(settings: Settings) -> str:
    """The installed version; a change that was cut short may have its file in neither place."""
    try:
        return str(device.current_version(settings.root))
    except SwupdError:
        if not pending.status(settings.root).unfinished:
            raise
        return "unknown until the last change is ended"


def last_change(settings: Settings, sized: bool) -> str:
    """Whether it is complete, and whether one can go back. sized: with the room that it takes; that takes a while."""
    try:
        found = pending.status(settings.root)
    except Refused:
        return "unknown (only root can see it)"
    if found.unfinished:
        return "transaction pending: it was interrupted, and the next command that changes the tree ends it first"
    if found.state == "undone":
        return "undone"
    if found.boots is not None:
        return f"on trial, {found.boots} boots left; keep it with: swupd confirm, go back with: swupd rollback"
    if found.state == "done":
        kept = f" ({_kept(settings.root)} are kept for that)" if sized else ""
        return f"complete; to go back{kept}: swupd rollback; to free what is kept for that: swupd confirm"
    return "complete"


def _kept(root: Path) -> str:
    from swupd.agent import transaction  # noqa: PLC0415 - what changes trees

    return size(transaction.kept_bytes(root))


def _signatures(settings: Settings) -> str:
    if not settings.check_signatures:
        return "NOT checked (--nosigcheck)"
    if settings.root_file is not None:
        return f"checked from the root of trust on ({settings.root_file})"
    return f"checked against {settings.certificate}" if settings.certificate else "no certificate: updates are refused"


_BY_CERTIFICATE = "forged files and versions"
_BY_ROOT = f"{_BY_CERTIFICATE}, old ones shown again, those of other products, endless files, silence, a stolen key"
_NOT_BY_CERTIFICATE = "old versions shown again, those of other products, endless files, silence, a stolen key"


def _protection(settings: Settings, report: Report) -> list[str]:
    """What a hostile server or network can do to this device, and what it cannot."""
    if not settings.check_signatures:
        return ["Protected from:    nothing; whoever controls the server or the network controls this device"]
    if settings.root_file is None:
        return [f"Protected from:    {_BY_CERTIFICATE}", f"NOT from:          {_NOT_BY_CERTIFICATE} (no root of trust)"]
    from swupd.agent.session import anchor, layout  # noqa: PLC0415 - cryptography, and all that reads streams

    found = anchor(settings, layout(settings), report)
    root, floors = found.root, found.floors
    roles = ", ".join(f"{name} {role.threshold} of {len(role.keys)}" for name, role in sorted(root.roles.items()))
    seen = f"version {floors.version}, vouched for on {_day(floors.signed)}" if floors.version else "no release so far"
    return [
        f"Protected from:    {_BY_ROOT}",
        f"Root of trust:     number {root.number}, good until {root.expires:%Y-%m-%d}; keys: {roles}",
        f"Product:           {settings.product or 'not known: a stream for other devices would not be noticed'}",
        f"Newest seen:       {seen}",
    ]


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
