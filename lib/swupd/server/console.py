"""How the commands' results read: text and JSON. Gives strings; `cli` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from swupd.server.assembly import Published
from swupd.server.rules import ERROR, Finding

if TYPE_CHECKING:
    from swupd.server.why import Answer

_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


def size(count: int) -> str:
    """Bytes as people read them."""
    for factor, unit in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def printable(text: str) -> str:
    """A text without control characters and half characters, which paths may hold."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in shown)


def as_json(value: Any) -> str:
    """One JSON object on one line; bytes of paths that are not UTF-8 appear as lone surrogates."""
    return json.dumps(value, sort_keys=True)


def published(result: Published, seconds: float) -> Iterator[str]:
    """What was published, in a few lines."""
    for release in (result.interim, result):
        if release is None:
            continue
        yield (
            f"Published version {release.version} in format {release.format}:"
            f" {release.files} files, {size(release.bytes)}, {release.fullfiles} new contents"
        )
        for name, bundle in release.bundles.items():
            if bundle.version != release.version:
                yield f"  {name}: unchanged since version {bundle.version}"
            else:
                packs = ", ".join(_pack_sizes(release, name)) or "no packs"
                yield f"  {name}: {bundle.changed} of {bundle.entries} entries new ({packs})"
    yield f"It took {seconds:.1f} seconds."


def _pack_sizes(release: Published, bundle: str) -> Iterator[str]:
    start = f"{release.version}/pack-{bundle}-from-"
    for name, count in release.packs.items():
        if name.startswith(start):
            origin = name.removeprefix(start).removesuffix(".tar")
            yield f"{'zero pack' if origin == '0' else f'pack from {origin}'} {size(count)}"


def published_json(result: Published, warnings: Iterable[str], seconds: float) -> str:
    """What was published, for programs."""
    return as_json({**asdict(result), "warnings": list(warnings), "seconds": round(seconds, 3)})


def findings(found: Iterable[Finding]) -> Iterator[str]:
    """What lint found, one a line, and how many of each."""
    errors = warnings = 0
    for finding in found:
        yield f"{finding.severity}: {finding.place}: {finding.message}"
        errors, warnings = errors + (finding.severity == ERROR), warnings + (finding.severity != ERROR)
    yield f"{errors} errors, {warnings} warnings" if errors or warnings else "The stream is clean."


def findings_json(found: Iterable[Finding]) -> str:
    """What lint found, for programs."""
    listed = [asdict(finding) for finding in found]
    return as_json({"findings": listed, "clean": not any(f["severity"] == ERROR for f in listed)})


def causes(answer: Answer) -> Iterator[str]:
    """What changed, the most expensive first."""
    for cause in answer.causes:
        what = "; ".join(cause.differs) or cause.change
        yield f"{size(cause.cost):>10}  {cause.by:8}  {cause.bundle:16} {cause.path}  ({what})"
    changed = len(answer.causes)
    yield f"{size(answer.total):>10}  in all, for {changed} changed path{'' if changed == 1 else 's'}"


def causes_json(answer: Answer) -> str:
    """What changed, for programs."""
    return as_json({"total": answer.total, "causes": [asdict(cause) for cause in answer.causes]})
