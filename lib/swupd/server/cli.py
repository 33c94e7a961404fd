"""The command swupd-server: options in, one clear sentence or a result out."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from swupd import __version__, program, signatures, stream
from swupd.errors import InvalidOption, SwupdError, WriteError
from swupd.server import (
    bundles,
    console,
    deltas,
    executors,
    history,
    imagecli,
    inputs,
    keys,
    mirror,
    rootfs,
    signers,
    trustcli,
    withdraw,
)
from swupd.server.bundles import BundleSpec
from swupd.server.history import Trusted
from swupd.server.publish import Job, publish
from swupd.server.xz import Effort

_INTERRUPTED = 130
_DELTA_PACKS = {"all": deltas.ALL_CLIENTS, "own": deltas.OWN_AGENT}
_EPOCH = re.compile(r"[0-9]{1,12}", re.ASCII)
_PUBLISH: tuple[tuple[str, dict[str, object]], ...] = (
    ("--www", {"metavar": "DIR", "required": True, "help": "folder of the stream, made if need be"}),
    ("--version", {"metavar": "N", "required": True, "help": "version of the release"}),
    ("--rootfs", {"metavar": "DIR", "required": True, "help": "root file system with everything"}),
    ("--content", {"metavar": "BUNDLE=FILE", "action": "append", "help": "list of a bundle's paths, one a line"}),
    ("--include", {"metavar": "BUNDLE=OTHER", "action": "append", "help": "a bundle that is installed with it"}),
    ("--also-add", {"metavar": "BUNDLE=OTHER", "action": "append", "help": "the same, but devices may leave it out"}),
    ("--format", {"metavar": "F", "default": str(stream.DEFAULT_FORMAT), "help": "compatibility number (%(default)s)"}),
    ("--minversion", {"metavar": "V", "help": "publish anew what is older than this"}),
    ("--interim-version", {"metavar": "V", "help": "of the extra release at a change of format (N-1)"}),
    ("--previous-url", {"metavar": "URL", "help": "where the releases before are, if not in --www"}),
    ("--previous-certificate", {"metavar": "PEM", "help": "who must have signed the release before"}),
    ("--manifest-key", {"metavar": "PEM", "help": "signs each bundle's manifest"}),
    ("--manifest-signer", {"metavar": "COMMAND", "help": "or what signs it"}),
    ("--manifest-certificate", {"metavar": "PEM", "help": "of the manifest key"}),
    ("--product", {"metavar": "NAME", "default": "", "help": "what devices it is for; others refuse it"}),
    ("--root", {"metavar": "FILE", "help": "root of trust to publish with it, if it is not there yet"}),
    ("--hold", {"action": "store_true", "help": "announce nothing yet: that is for `release`"}),
    ("--without-head", {"action": "store_true", "help": "though devices with a root of trust will not see it"}),
    ("--exclude", {"metavar": "FILE", "help": "paths and patterns that are never shipped, one a line"}),
    ("--jobs", {"metavar": "N", "help": "how much is done at a time (number of processors)"}),
    (
        "--scheduler",
        {
            "metavar": "ADDRESS",
            "default": "",
            "help": "have the workers of this dask scheduler do it; they see the same folders under the same names",
        },
    ),
    ("--no-xattrs", {"action": "store_true", "help": "for clients that were built without xattrs"}),
    ("--allow-folder-replacement", {"action": "store_true", "help": "allow what old C clients fail at"}),
    ("--quiet", {"action": "store_true", "help": "say nothing but warnings and errors"}),
    ("--percent", {"action": "store_true", "help": "report progress as lines of the form 'PHASE: N%%', for programs"}),
    ("--json", {"action": "store_true", "help": "print the result as one JSON object"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives its exit code: 0, 2 for usage, 130 when interrupted, else that of the error."""
    arguments = _parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except SwupdError as e:
        _complain(f"error: {e}")
        return e.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; what was published before is untouched")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        # What nobody foresaw, as a full disk that the output goes to, is no reason for a traceback in a build's log.
        _complain(f"error: the system refused an operation: {e}. Check disk and permissions, then run it again.")
        return WriteError.exit_code


def _run(arguments: argparse.Namespace) -> int:
    if "lines" in arguments:
        _print(arguments.lines(arguments, _now()))
        return 0
    code: int = arguments.run(arguments)
    return code


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        print(console.printable(f"swupd-server: {text}"), file=sys.stderr)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(console.printable(line))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swupd-server", description="Makes and checks swupd update streams.")
    parser.add_argument("--version", action="version", version=f"swupd-server {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_publish(commands.add_parser("publish", help="publish a root file system as the next release"))
    _add_keygen(commands.add_parser("keygen", help="make keys and certificates"))
    _add_lint(commands.add_parser("lint", help="check a stream"))
    _add_why(commands.add_parser("why", help="explain what an update costs"))
    _add_fetch(commands.add_parser("fetch", help="copy what publish needs of a stream that is elsewhere"))
    _add_withdraw(commands.add_parser("withdraw", help="take the newest release back before anybody has it"))
    trustcli.add(commands)
    listing = commands.add_parser("list", help="write the hashes of a root file system (for image builds)")
    imagecli.add_list(listing)
    listing.set_defaults(run=lambda arguments: imagecli.write_list(arguments, _Console(progress=False)))
    split = commands.add_parser("split", help="write content lists from packages (for image builds)")
    imagecli.add_split(split)
    split.set_defaults(run=lambda arguments: imagecli.write_split(arguments, _Console(progress=False)))
    return parser


def _add_publish(parser: argparse.ArgumentParser) -> None:
    for name, options in _PUBLISH:
        parser.add_argument(name, **options)  # type: ignore[arg-type]
    trustcli.add_signer_options(parser)
    trustcli.add_head_options(parser)
    far = parser.add_mutually_exclusive_group()
    far.add_argument("--delta-from", metavar="V,...", help="make deltas from these versions")
    far.add_argument("--previous-versions", metavar="K", default="0", help="make deltas from the last K versions (0)")
    parser.add_argument(
        "--effort",
        choices=[Effort.BEST.value, Effort.FAST.value],
        default=Effort.BEST.value,
        help="small downloads, or a release in about half the time (%(default)s)",
    )
    parser.add_argument(
        "--delta-packs",
        choices=list(_DELTA_PACKS),
        default="all",
        help="for all clients, or for this project's agent alone: swupd-client then fetches single files (%(default)s)",
    )
    parser.set_defaults(run=_publish)


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to put them")
    parser.add_argument("--days", metavar="N", default="3650", help="how long they are valid (%(default)s)")
    parser.add_argument("--name", metavar="NAME", default="swupd", help="whose they are (%(default)s)")
    parser.set_defaults(run=_keygen)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", required=True, help="where the stream is")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="where to put it")
    parser.add_argument(
        "--format", metavar="F", default=str(stream.DEFAULT_FORMAT), help="as for publish (%(default)s)"
    )
    parser.add_argument("--delta-from", metavar="V,...", help="as for publish")
    parser.add_argument("--previous-versions", metavar="K", default="0", help="as for publish (%(default)s)")
    parser.add_argument("--previous-certificate", metavar="PEM", help="as for publish")
    parser.add_argument("--jobs", metavar="N", default="8", help="how much is fetched at a time (%(default)s)")
    parser.add_argument("--percent", action="store_true", help="as for publish")
    parser.set_defaults(run=_fetch)


def _add_withdraw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--www", metavar="DIR", type=Path, required=True, help="folder of the stream")
    parser.add_argument("--version", metavar="N", required=True, help="the newest release; no device may have it yet")
    trustcli.add_signer_options(parser)
    trustcli.add_head_options(parser)
    parser.set_defaults(run=_withdraw)


def _add_lint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--www", metavar="DIR", type=Path, required=True, help="folder of the stream")
    parser.add_argument("--certificate", metavar="PEM", help="who must have signed it")
    parser.add_argument("--deep", action="store_true", help="unpack and hash every file and pack")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    parser.set_defaults(run=_lint)


def _add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--www", metavar="DIR", type=Path, required=True, help="folder of the stream")
    parser.add_argument("old", metavar="V1", help="version that devices have")
    parser.add_argument("new", metavar="V2", help="version that they get")
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="only this one")
    parser.add_argument("--json", action="store_true", help="print the causes as one JSON object")
    parser.set_defaults(run=_why)


def _publish(arguments: argparse.Namespace) -> int:
    report = _Console(progress=not (arguments.quiet or arguments.json), percent=arguments.percent)
    began = time.monotonic()
    jobs = _number(arguments.jobs, "--jobs", 1) or len(os.sched_getaffinity(0))
    job = _job(arguments)
    with executors.crew(jobs, arguments.scheduler) as crew:
        try:
            result = publish(job, crew, _now(), report)
        finally:
            report.close()
    seconds = time.monotonic() - began
    if arguments.json:
        print(console.published_json(result, report.warnings, seconds))
    elif not arguments.quiet:
        _print(console.published(result, seconds))
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    report = _Console(progress=True, percent=arguments.percent)
    jobs = _number(arguments.jobs, "--jobs", 1) or 1
    trust = _trust(arguments.previous_certificate)
    store = mirror.CopyingStore(history.open_store(arguments.url), arguments.output)
    with executors.crew(jobs, "") as crew:
        try:
            found = mirror.fetch(
                Trusted(store, None if trust is None else (trust, _now())),
                _number(arguments.format, "--format", 1) or 0,
                _number(arguments.previous_versions, "--previous-versions", 0) or 0,
                _versions(arguments.delta_from),
                crew,
                report,
            )
        finally:
            report.close()
    said = f"Fetched {', '.join(map(str, found))}" if found else "There is no release"
    _print([f"{said} ({arguments.url})."])
    return 0


def _keygen(arguments: argparse.Namespace) -> int:
    days = _number(arguments.days, "--days", 1) or 0
    _print(f"Wrote {place}" for place in keys.generate(arguments.folder, arguments.name, days, _now()))
    return 0


def _withdraw(arguments: argparse.Namespace) -> int:
    version = stream.version(arguments.version)
    done = withdraw.withdraw(arguments.www, version, trustcli.signer(arguments), trustcli.announcer(arguments), _now())
    _print([f"Release {version} is withdrawn." if done else f"There is no release {version}."])
    return 0


def _lint(arguments: argparse.Namespace) -> int:
    from swupd.server import lint, rules  # noqa: PLC0415  the other commands do without

    found = lint.lint(arguments.www, _now(), _trust(arguments.certificate), arguments.deep)
    _print([console.findings_json(found)] if arguments.json else console.findings(found))
    return 1 if any(finding.severity == rules.ERROR for finding in found) else 0


def _why(arguments: argparse.Namespace) -> int:
    from swupd.server import why  # noqa: PLC0415  loads the ELF library

    answer = why.why(arguments.www, stream.version(arguments.old), stream.version(arguments.new), arguments.bundle)
    _print([console.causes_json(answer)] if arguments.json else console.causes(answer))
    return 0


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _job(arguments: argparse.Namespace) -> Job:
    return Job(
        www=Path(arguments.www).absolute(),
        version=stream.version(arguments.version),
        rootfs=Path(arguments.rootfs).absolute(),
        specs=_specs(arguments),
        format=_number(arguments.format, "--format", 1) or 0,
        previous=history.open_store(arguments.previous_url) if arguments.previous_url else None,
        trust=_trust(arguments.previous_certificate),
        delta_from=_versions(arguments.delta_from),
        previous_versions=_number(arguments.previous_versions, "--previous-versions", 0) or 0,
        minversion=_number(arguments.minversion, "--minversion", 1) or 0,
        signer=trustcli.signer(arguments),
        manifest_signer=signers.signer(
            arguments.manifest_key, arguments.manifest_signer, arguments.manifest_certificate, "manifest-key"
        ),
        announcer=trustcli.announcer(arguments),
        without_head=arguments.without_head,
        hold=arguments.hold,
        product=arguments.product,
        effort=Effort(arguments.effort),
        forms=_DELTA_PACKS[arguments.delta_packs],
        root_file=Path(arguments.root) if arguments.root else None,
        exclude=rootfs.parse_excludes(inputs.read(arguments.exclude), arguments.exclude) if arguments.exclude else (),
        xattrs=not arguments.no_xattrs,
        timestamp=_epoch(os.environ.get("SOURCE_DATE_EPOCH")),
        interim_version=_number(arguments.interim_version, "--interim-version", 1),
        allow_folder_replacement=arguments.allow_folder_replacement,
    )


def _specs(arguments: argparse.Namespace) -> tuple[BundleSpec, ...]:
    content = [_pair(text, "--content", "FILE") for text in arguments.content or ()]
    includes = [_pair(text, "--include", "OTHER") for text in arguments.include or ()]
    also_add = [_pair(text, "--also-add", "OTHER") for text in arguments.also_add or ()]
    names = {name for name, _ in content}
    for name, _ in (*includes, *also_add):
        if name not in names:
            raise InvalidOption(f"there is no bundle {name[:80]!r}", f"Give --content {name[:80]}=FILE.")
    specs = []
    for name, file in content:
        listed = bundles.parse(name, inputs.read(file), file)
        chosen = [tuple(other for owner, other in pairs if owner == name) for pairs in (includes, also_add)]
        specs.append(BundleSpec(name, listed.paths, chosen[0], chosen[1], listed.source, listed.lines))
    return tuple(specs)


def _pair(text: str, option: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidOption(f"{option} {text[:80]!r} is not of the form BUNDLE={what}", f"Give {option} BUNDLE={what}.")
    return name, value


def _number(text: str | None, option: str, least: int) -> int | None:
    return None if text is None else inputs.number(text, option, least)


def _versions(text: str | None) -> tuple[int, ...]:
    return tuple(stream.version(v) for v in (text or "").split(",") if v)


def _epoch(text: str | None) -> int | None:
    if text is None or text == "":
        return None
    if not _EPOCH.fullmatch(text):
        raise InvalidOption(f"SOURCE_DATE_EPOCH={text[:80]!r} is not a number", "Set it to seconds since 1970.")
    return int(text)


def _trust(certificate: str | None) -> signatures.Trust | None:
    return signatures.load_trust(inputs.read(certificate), _now()) if certificate else None


class _Console:
    """Progress on standard error: a bar on a terminal, else a line for each phase. Keeps the warnings."""

    def __init__(self, progress: bool, percent: bool = False) -> None:
        self._progress = progress or percent
        self._percent = percent
        self._bar = progress and not percent and sys.stderr.isatty()
        self._said = ""
        self._drawn = 0.0
        self._phase = ""
        self.warnings: list[str] = []

    def phase(self, name: str, done: int, total: int) -> None:
        """Draws the bar, a few times a second; or says that a phase has begun."""
        if not self._progress:
            return
        now = time.monotonic()
        if self._percent:
            line = f"{name}: {100 * done // total if total else 0}%"
            if line != self._said:
                print(line, file=sys.stderr, flush=True)
            self._said = line
        elif self._bar and (now - self._drawn > 0.1 or done == total or name != self._phase):
            share = done / total if total else 0.0
            amount = f"{done} of {total}" if total else str(done)
            sys.stderr.write(f"\r\x1b[K{name:20} [{'#' * int(share * 30):<30}] {amount}")
            sys.stderr.flush()
            self._drawn = now
        elif not self._bar and name != self._phase:
            print(f"{name} ...", file=sys.stderr)
        self._phase = name

    def warn(self, text: str) -> None:
        """Says it at once and remembers it."""
        self.close()
        self.warnings.append(text)
        _complain(f"warning: {text}")

    def close(self) -> None:
        """Removes the bar."""
        if self._bar and self._phase:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def run() -> NoReturn:
    """The program."""
    # Lists of many paths are no garbage, however often one looks.
    gc.set_threshold(100_000, 50, 100)
    program.leave(main())
