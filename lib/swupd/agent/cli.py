"""The `swupd` command: its options as a table, and the one place where errors become text and exit codes."""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from swupd import __version__, paths, stream
from swupd.agent import settings as device
from swupd.agent.report import CONTINUED, DEBUG, NORMAL, QUIET, VERBOSE, Json, Report, Text
from swupd.agent.settings import DEFAULT_PICKY_WHITELIST, Settings
from swupd.errors import InvalidOption, SettingsError, SwupdError, WriteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from swupd.agent.trust import Checks

_INTERRUPTED = 130
_FLAG: dict[str, Any] = {"action": "store_true"}


_COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("status:info", "show the installed version and where updates come from"),
    "autoupdate": ("commands:autoupdate", "show, enable or disable automatic updates"),
    "check-update": ("looking:check_update", "say whether there is an update"),
    "update": ("commands:update", "update to the latest version"),
    "bundle-add": ("commands:bundle_add", "add bundles"),
    "bundle-remove": ("commands:bundle_remove", "remove bundles"),
    "bundle-list": ("looking:bundle_list", "list bundles"),
    "bundle-info": ("looking:bundle_info", "show what a bundle holds"),
    "search-file": ("looking:search_file", "find the bundle that ships a file"),
    "diagnose": ("looking:diagnose", "compare the installation with what was published"),
    "repair": ("commands:repair", "restore what differs from what was published"),
    "os-install": ("commands:os_install", "install into a folder"),
    "mirror": ("looking:mirror", "show, set or unset the mirror"),
    "rollback": ("commands:rollback", "go back to the tree before the last change"),
    "confirm": ("commands:confirm", "keep the last change for good, and free what is kept to go back"),
    "clean": ("looking:clean", "empty the cache"),
    "hashdump": ("looking:hashdump", "print the hash of a file"),
    "verify": ("commands:verify", "old name of diagnose, repair and os-install"),
}
"""By name: which function of which module of the agent, loaded when it is called; and what it is for."""


def _version(text: str) -> int:
    if text == "latest":
        return 0
    return stream.version(text)


_GLOBAL: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("-p", "--path"), {"metavar": "DIR", "help": "work on the tree in DIR instead of /"}),
    (("-u", "--url"), {"help": "URL of the update stream"}),
    (("-c", "--contenturl"), {"metavar": "URL", "help": "URL of content, where it differs"}),
    (("-v", "--versionurl"), {"metavar": "URL", "help": "URL of version files, where it differs"}),
    (
        ("--mirror-url",),
        {
            "action": "append",
            "dest": "mirrors",
            "metavar": "URL",
            "help": "a further URL of the same stream; may be given several times",
        },
    ),
    (("-P", "--port"), {"metavar": "N", "help": "port to connect to"}),
    (("-F", "--format"), {"metavar": "N", "help": "format of the stream: a number, or staging"}),
    (("-S", "--statedir"), {"metavar": "DIR", "help": "folder for state and cache"}),
    (("-K", "--cachedir"), {"metavar": "DIR", "help": "folder for the cache"}),
    (("-Z", "--datadir"), {"metavar": "DIR", "help": "folder for state"}),
    (("-C", "--certpath"), {"metavar": "FILE", "help": "certificate that signatures are checked with"}),
    (("--root-file",), {"metavar": "FILE", "help": "first root of trust (that of the image)"}),
    (("--product",), {"metavar": "NAME", "help": "what this device is (as the image says)"}),
    (("-W", "--max-parallel-downloads"), {"metavar": "N", "help": "downloads at a time (15)"}),
    (("-r", "--max-retries"), {"metavar": "N", "help": "retries of a download (3)"}),
    (("-d", "--retry-delay"), {"metavar": "SECONDS", "help": "wait before the first retry (10)"}),
    (("-n", "--nosigcheck"), {**_FLAG, "help": "do not check signatures"}),
    (("--nosigcheck-latest",), {**_FLAG, "help": "do not check the signature of the latest version's name"}),
    (("-I", "--ignore-time"), {**_FLAG, "help": "do not hold the clock against the image's time stamp"}),
    (("-t", "--time"), {**_FLAG, "help": "say how long the command took"}),
    (("-N", "--no-scripts"), {**_FLAG, "help": "run nothing after the update"}),
    (("-b", "--no-boot-update"), {**_FLAG, "help": "do not run the boot manager"}),
    (("-j", "--json-output"), {**_FLAG, "help": "print JSON"}),
    (("-y", "--yes"), {**_FLAG, "help": "answer every question with yes"}),
    (("--assume",), {"choices": ("yes", "no"), "help": "answer every question so"}),
    (("--allow-insecure-http",), {**_FLAG, "help": "allow http:// URLs"}),
    (("--tls-ca",), {"metavar": "FILE", "help": "CA or server certificate to believe instead of the system's"}),
    (("--tls-pin",), {"metavar": "SHA256", "help": "fingerprint that the server's certificate must have"}),
    (("--wait-for-scripts",), {**_FLAG, "help": "wait until services have been restarted"}),
    (("--skip-diskspace-check",), {**_FLAG, "help": "do not check for room on the disk"}),
    (
        ("--keep-undo",),
        {
            "choices": ("yes", "no"),
            "help": "whether the tree before a change stays at hand until it is confirmed (yes)",
        },
    ),
    (
        ("--repack",),
        {
            "choices": ("yes", "no"),
            "help": "whether less is fetched where kernels and modules must be compressed here for it (yes)",
        },
    ),
    (("--dry-run",), {**_FLAG, "help": "say what would be done, change nothing"}),
    (("--quiet",), {**_FLAG, "help": "print only warnings and errors"}),
    (("--verbose",), {**_FLAG, "help": "print more"}),
    (("--debug",), {**_FLAG, "help": "print all"}),
    (("--no-progress",), {**_FLAG, "help": "no progress bar"}),
)
_VERSION: tuple[tuple[str, ...], dict[str, Any]] = (
    ("-V", "--version", "-m", "--manifest"),
    {"dest": "to_version", "metavar": "N", "type": _version, "default": 0, "help": "version to work with"},
)
_TEXT_VERSION: tuple[tuple[str, ...], dict[str, Any]] = (
    ("-V", "--version"),
    {"dest": "to_version", "metavar": "N", "default": "", "help": "version to look at: a number, latest or current"},
)
_SCOPE: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    _VERSION,
    (("-x", "--force"), {**_FLAG, "help": "go on where it would otherwise stop"}),
    (("-q", "--quick"), {**_FLAG, "help": "look for missing files only"}),
    (("-B", "--bundles"), {"metavar": "A,B", "help": "these bundles only"}),
    (("--file",), {"metavar": "PATH", "help": "this path and what is below it only"}),
    (("-Y", "--picky"), {**_FLAG, "help": "look for files that no bundle ships, too"}),
    (("-X", "--picky-tree"), {"metavar": "PATH", "default": "/usr", "help": "where to look for those (/usr)"}),
    (
        ("-w", "--picky-whitelist"),
        {"metavar": "RE", "default": DEFAULT_PICKY_WHITELIST, "help": "folders to leave out of that"},
    ),
    (("--extra-files-only",), {**_FLAG, "help": "look for those only"}),
)
_OPTIONS: dict[str, tuple[tuple[tuple[str, ...], dict[str, Any]], ...]] = {
    "update": (
        _VERSION,
        (("-s", "--status"), {**_FLAG, "help": "only say whether there is an update"}),
        (("-k", "--keepcache"), {**_FLAG, "help": "keep what was downloaded"}),
        (("--download",), {**_FLAG, "help": "download only"}),
        (
            ("--trial",),
            {"metavar": "N", "help": "go back by itself unless one of the next N boots confirms the update"},
        ),
        (("--incremental",), {**_FLAG, "help": "go through every listed version"}),
    ),
    "bundle-add": (
        (("bundles",), {"nargs": "+", "metavar": "BUNDLE", "help": "bundle or alias"}),
        (("--skip-optional",), {**_FLAG, "help": "leave out what a bundle only recommends"}),
    ),
    "bundle-remove": (
        (("bundles",), {"nargs": "*", "metavar": "BUNDLE", "help": "bundle"}),
        (("-x", "--force"), {**_FLAG, "help": "remove bundles that need it too"}),
        (("-R", "--recursive"), {**_FLAG, "help": "remove what only it needed too"}),
        (("--orphans",), {**_FLAG, "help": "remove all bundles that nobody asked for and nothing needs"}),
    ),
    "bundle-list": (
        (("-a", "--all"), {**_FLAG, "help": "all bundles of the installed version"}),
        (("--deps",), {"metavar": "BUNDLE", "help": "what a bundle includes"}),
        (("-D", "--has-dep"), {"metavar": "BUNDLE", "help": "what includes a bundle"}),
        (("--status",), {**_FLAG, "help": "say which are installed"}),
        (("--orphans",), {**_FLAG, "help": "installed ones that nobody asked for and nothing needs"}),
    ),
    "bundle-info": (
        (("bundle",), {"metavar": "BUNDLE", "help": "bundle"}),
        _TEXT_VERSION,
        (("--dependencies",), {**_FLAG, "help": "show indirect includes too"}),
        (("--files",), {**_FLAG, "help": "show its files"}),
    ),
    "search-file": (
        (("term",), {"metavar": "TEXT", "help": "part of a path"}),
        _TEXT_VERSION,
        (("--regexp",), {**_FLAG, "help": "TEXT is a regular expression"}),
        (("-B", "--binary"), {**_FLAG, "help": "programs only"}),
        (("-l", "--library"), {**_FLAG, "help": "libraries only"}),
        (("-T", "--top"), {"metavar": "N", "type": int, "default": 0, "help": "at most N results for each bundle"}),
        (("-m", "--csv"), {**_FLAG, "help": "print path,bundle"}),
    ),
    "diagnose": _SCOPE,
    "repair": _SCOPE,
    "verify": (
        *_SCOPE,
        (("-f", "--fix"), {**_FLAG, "help": "as swupd repair"}),
        (("-i", "--install"), {**_FLAG, "help": "as swupd os-install"}),
        (("--skip-optional",), {**_FLAG, "help": "leave out what a bundle only recommends"}),
    ),
    "os-install": (
        (("path_to_install",), {"nargs": "?", "metavar": "FOLDER", "help": "where to install"}),
        _VERSION,
        (("-B", "--bundles"), {"metavar": "A,B", "help": "bundles to install besides os-core"}),
        (("-x", "--force"), {**_FLAG, "help": "install another format too"}),
        (("--skip-optional",), {**_FLAG, "help": "leave out what a bundle only recommends"}),
    ),
    "mirror": (
        (("mirror_url",), {"nargs": "?", "metavar": "URL", "help": "the mirror, with --set"}),
        (("-s", "--set"), {**_FLAG, "help": "use the mirror URL"}),
        (("-U", "--unset"), {**_FLAG, "help": "use no mirror"}),
    ),
    "clean": ((("--all",), {**_FLAG, "help": "manifests too"}),),
    "hashdump": (
        (("file",), {"metavar": "FILE", "help": "file, folder or symlink"}),
        (("-n", "--no-xattrs"), {**_FLAG, "help": "without extended attributes"}),
    ),
    "autoupdate": (
        (("--enable",), {**_FLAG, "help": "switch them on"}),
        (("--disable",), {**_FLAG, "help": "switch them off"}),
    ),
}


class _Help(argparse.HelpFormatter):
    """As wide as the terminal. argparse makes one for each option, and would load shutil to find the width."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns or 80
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=columns - 2)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the exit code of an invalid option."""

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(message, f"See: {self.prog} --help")


def parser(wanted: str = "") -> argparse.ArgumentParser:
    """The command line. wanted: the only command that is needed; all where it is none."""
    top = _Parser(prog="swupd", description="Keeps a device up to date.", formatter_class=_Help)
    top.add_argument("--version", action="version", version=f"swupd-py {__version__}")
    # Without prog it would lay out a help page, to take the name from that.
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser, prog="swupd")
    for name in (wanted,) if wanted in _COMMANDS else _COMMANDS:
        text = _COMMANDS[name][1]
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, formatter_class=_Help)
        group = command.add_argument_group("options of every command")
        own = _OPTIONS.get(name, ())
        taken = {flag for flags, _ in own for flag in flags}
        for flags, settings in own:
            command.add_argument(*flags, **settings)
        for flags, settings in _GLOBAL:
            free = [flag for flag in flags if flag not in taken]
            group.add_argument(*free, **settings)
    return top


def main(argv: Sequence[str], checks: Checks | None = None) -> int:
    """Runs the command; gives its exit code. checks: who checks signatures, None for this process."""
    words = list(argv)
    # Lists of many paths are no garbage, however often one looks.
    gc.set_threshold(100_000, 50, 100)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            # A terminal that cannot show a file's name gets it escaped.
            output.reconfigure(errors="backslashreplace")
    early: Report = Text(sys.stdout, sys.stderr, NORMAL, False)
    if {"-j", "--json-output"} & set(words):
        early = Json(sys.stdout, NORMAL)
    try:
        top = parser(words[0] if words else "")
        options = top.parse_args(words)
        if options.command is None:
            top.print_help()
            return InvalidOption.exit_code
        settings = _settings(options)
        report = _report(options)
    except SwupdError as e:
        early.error(str(e))
        early.end(words[0] if words else "", e.exit_code)
        return e.exit_code
    report.start(options.command)
    begin = time.monotonic()
    status = _run(options, settings._replace(checks=checks), report)
    if options.time:
        report.say(f"The command took {time.monotonic() - begin:.1f} seconds.")
    report.end("search" if options.command == "search-file" else options.command, status)
    return status


def _run(options: argparse.Namespace, settings: Settings, report: Report) -> int:
    try:
        return _call(options, settings, report)
    except SwupdError as e:
        report.error(str(e))
        return e.exit_code
    except KeyboardInterrupt:
        report.error("Interrupted. Run the command again to go on where it stopped.")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        # What the rooms below did not foresee is still no reason for a traceback at 3 a.m.
        report.error(f"The system refused an operation: {e}. Check disk and permissions, then run the command again.")
        return WriteError.exit_code


def _call(options: argparse.Namespace, settings: Settings, report: Report) -> int:
    module, _, name = _COMMANDS[options.command][0].partition(":")
    code: int = getattr(importlib.import_module(f"swupd.agent.{module}"), name)(options, settings, report)
    return code


def _report(options: argparse.Namespace) -> Report:
    level = DEBUG if options.debug else VERBOSE if options.verbose else QUIET if options.quiet else NORMAL
    if options.json_output:
        return Json(sys.stdout, level, CONTINUED in os.environ)
    return Text(sys.stdout, sys.stderr, level, not options.no_progress)


def _settings(options: argparse.Namespace) -> Settings:
    _merge_config(options)
    options.prefixed = options.path is not None
    root = Path(getattr(options, "path_to_install", None) or options.path or "/").absolute()
    installing = options.command == "os-install" or getattr(options, "install", False)
    defaults_from = Path("/") if installing else root
    data, cache = _state_folders(options, root)
    certificate = Path(options.certpath) if options.certpath else device.default_certificate(defaults_from)
    return Settings(
        root=root,
        version_url=_url(
            options.versionurl or options.url or device.default_url(defaults_from, "version"), options.port
        ),
        content_url=_url(
            options.contenturl or options.url or device.default_url(defaults_from, "content"), options.port
        ),
        mirrors=_mirrors(options, defaults_from),
        format=options.format or device.default_format(defaults_from),
        data_dir=data,
        cache_dir=cache,
        certificate=certificate,
        root_file=_root_file(options, defaults_from),
        product=options.product or ("" if installing else device.first_line(root, paths.PRODUCT)),
        parallel=_number(options.max_parallel_downloads, "--max-parallel-downloads", 15),
        retries=_number(options.max_retries, "--max-retries", 3),
        retry_delay=float(_number(options.retry_delay, "--retry-delay", 10)),
        check_signatures=not options.nosigcheck,
        check_latest_signature=not (options.nosigcheck or options.nosigcheck_latest),
        ignore_time=options.ignore_time,
        scripts=not options.no_scripts,
        boot_update=not options.no_boot_update,
        wait_for_scripts=options.wait_for_scripts,
        insecure_http=options.allow_insecure_http,
        tls_ca=Path(options.tls_ca) if options.tls_ca else None,
        tls_pin=(options.tls_pin or "").replace(":", "").lower(),
        skip_space_check=options.skip_diskspace_check,
        keep_undo=options.keep_undo != "no",
        repack=options.repack != "no",
        trial=_number(getattr(options, "trial", None), "--trial", 0),
        dry_run=options.dry_run,
    )


def _root_file(options: argparse.Namespace, defaults_from: Path) -> Path | None:
    """The root of trust; whoever names a certificate wants that to be believed, and no root."""
    if options.root_file:
        return Path(options.root_file)
    return None if options.certpath or options.nosigcheck else device.default_root(defaults_from)


def _merge_config(options: argparse.Namespace) -> None:
    """Fills in from configuration files what the command line left out."""
    known = {
        flag[2:]: {"dest": _dest(flags), **settings}
        for flags, settings in (*_GLOBAL, *_OPTIONS.get(options.command, ()))
        for flag in flags
        if flag.startswith("--")
    }
    found = device.read_config((Path(f) for f in device.CONFIG_FILES), options.command)
    for key, value in found.items():
        if key not in known:
            continue
        name = known[key]["dest"]
        is_flag = known[key].get("action") == "store_true"
        if is_flag and not getattr(options, name):
            setattr(options, name, value.lower() == "true")
        elif known[key].get("action") == "append":
            if getattr(options, name) is None:
                setattr(options, name, value.split())
        elif not is_flag and getattr(options, name) in {None, known[key].get("default")}:
            setattr(options, name, _converted(key, value, known[key]))


def _dest(flags: tuple[str, ...]) -> str:
    """The name that argparse gives to an option."""
    return next(flag for flag in flags if flag.startswith("--"))[2:].replace("-", "_")


def _converted(key: str, value: str, option: dict[str, Any]) -> object:
    """The value of an option, as the command line would have it. Raises InvalidOption."""
    choices = option.get("choices")
    try:
        if choices is not None and value not in choices:
            raise ValueError(f"choose from {', '.join(choices)}")
        return option.get("type", str)(value)
    except ValueError as e:
        raise InvalidOption(f"the configuration has {key}={value[:80]!r}: {e}", "Correct the file.") from e


def _state_folders(options: argparse.Namespace, root: Path) -> tuple[Path, Path]:
    data = options.datadir or options.statedir
    cache = options.cachedir or options.statedir
    return Path(data) if data else device.below(root, device.STATE), Path(cache or device.STATE)


def _url(url: str, port: str | None) -> str:
    url = url.rstrip("/") if url else ""
    if not port or not url:
        return url
    if not (port.isascii() and port.isdigit() and len(port) < 6) or not 0 < int(port) < 65536:
        raise SettingsError(f"{port[:20]!r} is no port", "Give a number from 1 to 65535.")
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition(':')[0] if host.rpartition(':')[2].isdigit() else host}:{port}{slash}{path}"


def _mirrors(options: argparse.Namespace, root: Path) -> tuple[device.Mirror, ...]:
    """Those that were named; else those that the image names, but only for its own stream."""
    if options.mirrors is not None:
        return tuple(device.Mirror(url.rstrip("/"), "--mirror-url") for url in options.mirrors)
    own = not (options.url or options.versionurl or options.contenturl)
    return device.default_mirrors(root) if own else ()


def _number(text: str | None, option: str, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 6:
        raise InvalidOption(f"{option} takes a whole number, not {text[:20]!r}", "Correct it.")
    return int(text)
