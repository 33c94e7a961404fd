"""The two sub-commands of swupd-server that an image build calls before `publish`: list and split."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from swupd import paths
from swupd.errors import InvalidFile, InvalidOption
from swupd.server import closure, ownership, rootfs
from swupd.server.bundles import BundleSpec, closures
from swupd.server.work import Report


def add_list(parser: argparse.ArgumentParser) -> None:
    """Options of `list`."""
    parser.add_argument("--rootfs", metavar="DIR", type=Path, required=True, help="root file system")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to write the listing")
    parser.add_argument("--no-xattrs", action="store_true", help="as for publish")


def add_split(parser: argparse.ArgumentParser) -> None:
    """Options of `split`."""
    parser.add_argument("--rootfs", metavar="DIR", type=Path, required=True, help="root file system with everything")
    parser.add_argument("--core", metavar="FILE", type=Path, required=True, help="listing of os-core's own")
    parser.add_argument("--packages", metavar="FILE", type=Path, required=True, help="installed packages, as JSON")
    parser.add_argument("--bundle", metavar="NAME=PKG,...", action="append", default=[], help="packages of a bundle")
    parser.add_argument("--include", metavar="BUNDLE=OTHER", action="append", default=[], help="as for publish")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="where to write the content lists")
    parser.add_argument("--no-xattrs", action="store_true", help="as for publish")


def write_list(arguments: argparse.Namespace, report: Report) -> int:
    """Writes what a root file system has: digests, links, users, groups."""
    from swupd.server import inspection  # noqa: PLC0415  loads the ELF library

    source = rootfs.scan(arguments.rootfs, (), not arguments.no_xattrs, report)
    inspection.write_json(arguments.output, asdict(inspection.image(source)))
    return 0


def write_split(arguments: argparse.Namespace, report: Report) -> int:
    """Writes DIR/<bundle>.content for each bundle, and DIR/findings.json."""
    from swupd.server import inspection  # noqa: PLC0415  loads the ELF library

    source = rootfs.scan(arguments.rootfs, (), not arguments.no_xattrs, report)
    core = inspection.listing(_read(arguments.core), str(arguments.core))
    packages = inspection.packages(_read(arguments.packages), str(arguments.packages))
    bundles = {name: tuple(filter(None, text.split(","))) for name, text in map(_pair, arguments.bundle)}
    shipped = ownership.split(source.nodes, core.digests, packages, bundles)
    for name, own in shipped.items():
        place = arguments.output / f"{name}.content"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"".join(paths.encode(p) + b"\n" for p in sorted(own, key=paths.encode)))
    lacking = closure.check(
        source.nodes,
        shipped,
        _includes(shipped, arguments.include),
        inspection.needs(source),
        core.ids,
        _names_by_path(packages),
    )
    different = ownership.differences(
        core, inspection.image(source), source.nodes, ownership.bringers(packages, bundles)
    )
    inspection.write_json(
        arguments.output / "findings.json",
        {
            "closure": [{**asdict(f), "text": str(f)} for f in lacking],
            "difference": [{"path": d.path, "text": str(d)} for d in different],
        },
    )
    return 0


def _includes(shipped: dict[str, frozenset[str]], options: list[str]) -> dict[str, frozenset[str]]:
    direct: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for bundle, other in map(_pair, options):
        direct[bundle] += (other,)
    return dict(closures([BundleSpec(name, includes=direct[name]) for name in shipped]))


def _names_by_path(packages: dict[str, ownership.Package]) -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for package in packages.values():
        for path in package.files:
            found[path].add(package.name)
    return {path: frozenset(names) for path, names in found.items()}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidOption(f"{text[:80]!r} is not NAME=VALUE", "See: swupd-server split --help")
    return name, value


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise InvalidFile(f"{file} cannot be read: {e.strerror}", "Give the file that the step before wrote.") from e
