"""What a run of the agent was told: options, configuration files and the defaults shipped in the image.

Order, strongest first: command line, /etc/swupd/config, /run/swupd/config, /usr/share/defaults/swupd/config; then, for
URLs and format, the files of swupd-client 7.0.0 (stream format, 6.1). Reads files, writes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from swupd import paths
from swupd.errors import SettingsError, VersionUnknown
from swupd.stream import MAX_VERSION, is_digest
from swupd.values import Checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from swupd.agent.trust import Checks

CONFIG_FILES = (
    "/usr/share/defaults/swupd/config",
    "/run/swupd/config",
    "/etc/swupd/config",
)
STATE = "/var/lib/swupd"
DEFAULT_PICKY_WHITELIST = "/usr/lib/modules|/usr/lib/kernel|/usr/local|/usr/src"
"""Where no file counts as extra, as a regular expression."""
_FORBIDDEN_STATE = frozenset({"/", "/var", "/usr"})


class Mirror(NamedTuple):
    """A further URL of the stream. place: where it was named."""

    url: str
    place: str


class _Settings(NamedTuple):
    root: Path = Path("/")
    version_url: str = ""
    content_url: str = ""
    mirrors: tuple[Mirror, ...] = ()
    format: str = ""
    data_dir: Path = Path(STATE)
    cache_dir: Path = Path(STATE)
    certificate: Path | None = None
    root_file: Path | None = None
    product: str = ""
    parallel: int = 15
    retries: int = 3
    retry_delay: float = 10.0
    check_signatures: bool = True
    check_latest_signature: bool = True
    ignore_time: bool = False
    scripts: bool = True
    boot_update: bool = True
    wait_for_scripts: bool = False
    insecure_http: bool = False
    tls_ca: Path | None = None
    tls_pin: str = ""
    skip_space_check: bool = False
    keep_undo: bool = True
    repack: bool = True
    trial: int = 0
    dry_run: bool = False
    checks: Checks | None = None


class Settings(Checked, _Settings):
    """Everything that a command needs to know.

    root: the tree that is worked on. version_url, content_url: "" where none is known.
    mirrors: further URLs that hold the same stream, both version files and content.
    format: a positive number as text, or "staging". data_dir, cache_dir: where state and cache live.
    certificate: trust file for signatures, or None where there is none.
    root_file: the first root of trust, or None where certificates alone are believed; product: what this device is.
    retry_delay: seconds before the first retry. parallel: downloads at a time.
    keep_undo: the tree before a change stays at hand. repack: what is compressed in files may be compressed again here.
    trial: boots within which an update must be confirmed, 0: none.
    checks: who says whether signatures are right, None for this process.
    """

    __slots__ = ()

    def check(self) -> None:
        for folder in (self.data_dir, self.cache_dir):
            if not folder.is_absolute() or str(folder) in _FORBIDDEN_STATE or ".." in folder.parts:
                raise SettingsError(f"{folder} cannot be a state folder", f"Use a folder of its own, such as {STATE}.")
        if self.tls_pin and not is_digest(self.tls_pin):
            raise SettingsError("--tls-pin is no SHA-256 fingerprint", "Give the 64 hex digits of the certificate's.")
        if self.parallel < 1 or self.retries < 0 or self.retry_delay < 0:
            raise SettingsError("numbers of downloads, retries and seconds cannot be negative")

    def stream_format(self) -> str:
        """The format, checked. Raises SettingsError where none is known."""
        text = self.format
        if text == "staging" or 0 < _number(text) <= MAX_VERSION:
            return text
        problem = f"the format {text[:40]!r} is not a number" if text else "the format of the update stream is unknown"
        raise SettingsError(problem, f"Give --format, or ship {paths.DEFAULTS}/format in the image.")

    def urls(self) -> tuple[str, str]:
        """(version URL, content URL), checked. Raises SettingsError."""
        for name, url in (("version", self.version_url), ("content", self.content_url)):
            if not url:
                raise SettingsError(
                    f"the {name} URL is unknown", f"Give --url, or ship {paths.DEFAULTS}/{name}url in the image."
                )
            self._check_scheme(url, "")
        return self.version_url, self.content_url

    def mirror_urls(self) -> tuple[str, ...]:
        """The URLs of mirrors, checked. Raises SettingsError."""
        for mirror in self.mirrors:
            self._check_scheme(mirror.url, f"{mirror.place}: ")
        return tuple(m.url for m in self.mirrors)

    def _check_scheme(self, url: str, place: str) -> None:
        scheme = url.partition("://")[0].lower()
        if scheme == "http" and not self.insecure_http:
            raise SettingsError(
                f"{place}{url} is plain HTTP, which was not allowed", "Add --allow-insecure-http, or use https://."
            )
        if "://" not in url or scheme not in {"http", "https", "file"}:
            raise SettingsError(f"{place}{url[:200]!r} is no https://, http:// or file:// URL", "Correct the URL.")


def _number(text: str) -> int:
    """A number of a sane length, else -1; int() itself refuses thousands of digits by an error of its own."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def read_config(files: Iterable[Path], command: str) -> dict[str, str]:
    """Options from configuration files, later ones override earlier: those of [GLOBAL] and of [command].

    Keys come back in lower case with "_" as "-". Raises SettingsError for a malformed line.
    """
    options: dict[str, str] = {}
    for file in files:
        section = "global"
        for number, line in enumerate(_lines(file), 1):
            if not line or line[0] in ";#":
                continue
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1].lower()
                continue
            key, equals, value = line.partition("=")
            if not equals or not key or not value:
                raise SettingsError(f"{file}, line {number}: {line[:80]!r} is not key=value", "Correct the file.")
            if section in {"global", command}:
                options[key.lower().replace("_", "-")] = value
    return options


def _lines(file: Path, errors: str = "strict") -> list[str]:
    try:
        return file.read_text("utf-8", errors).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{file} cannot be read: {e}", "Correct or remove it.") from e


def first_line(root: Path, *names: str) -> str:
    """The first line of the first file below a root that there is; "" if none."""
    for name in names:
        lines = _lines(below(root, name))
        if lines:
            return lines[0].strip()
    return ""


def below(root: Path, path: str) -> Path:
    """The host's path of something inside a root."""
    return root / path.lstrip("/")


def default_url(root: Path, kind: str) -> str:
    """The URL that the image ships, kind being "version" or "content"; a mirror in /etc goes first."""
    return first_line(root, f"/etc/swupd/mirror_{kind}url", f"{paths.DEFAULTS}/{kind}url") or first_line(
        Path("/"), f"{paths.DEFAULTS}/{kind}url"
    )


def default_mirrors(root: Path) -> tuple[Mirror, ...]:
    """The URLs of the first file of mirrors that there is: one a line, "#" begins a comment."""
    for file in (
        below(root, "/etc/swupd/mirrors"),
        below(root, f"{paths.DEFAULTS}/mirrors"),
        Path(f"{paths.DEFAULTS}/mirrors"),
    ):
        if file.is_file():
            lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(_lines(file), 1))
            return tuple(Mirror(url.rstrip("/"), f"{file}, line {number}") for number, url in lines if url)
    return ()


def default_format(root: Path) -> str:
    """The format that the image ships."""
    return first_line(root, f"{paths.DEFAULTS}/format") or first_line(Path("/"), f"{paths.DEFAULTS}/format")


def default_certificate(root: Path) -> Path | None:
    """The trust file in the tree itself, else the running system's."""
    for candidate in (below(root, paths.CERTIFICATE), Path(paths.CERTIFICATE)):
        if candidate.is_file():
            return candidate
    return None


def default_root(root: Path) -> Path | None:
    """The root of trust that the image ships."""
    for candidate in (below(root, paths.ROOT_OF_TRUST), Path(paths.ROOT_OF_TRUST)):
        if candidate.is_file():
            return candidate
    return None


def os_release(root: Path, key: str) -> str | None:
    """A value from os-release, quotes removed; None where the file lacks it (stream format, 6.1).

    Raises VersionUnknown where the file cannot be read.
    """
    for name in (paths.OS_RELEASE, "/etc/os-release"):
        try:
            lines = _lines(below(root, name), "surrogateescape")
        except SettingsError as e:
            raise VersionUnknown(f"{e.problem}, so the installed version is unknown", "Restore that file.") from e
        for line in lines:
            if line.startswith(f"{key}="):
                return line[len(key) + 1 :].replace('"', "").replace("'", "").strip()
        if lines:
            return None
    return None


def current_version(root: Path) -> int:
    """The release that a tree says it is. Raises VersionUnknown."""
    text = os_release(root, "VERSION_ID")
    if text is not None and 0 <= _number(text) <= MAX_VERSION:
        return _number(text)
    what = "has no VERSION_ID" if text is None else f"has the VERSION_ID {text[:40]!r}, which is not a number"
    raise VersionUnknown(
        f"{below(root, paths.OS_RELEASE)} {what}, so the installed version is unknown",
        "Restore that file, or name the version: swupd repair --force --version N",
    )


def installed_bundles(root: Path) -> frozenset[str]:
    """Names of the bundles on a device; os-core always."""
    folder = below(root, paths.BUNDLES)
    try:
        names = {f.name for f in folder.iterdir() if f.is_file() and not f.is_symlink() and not f.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        names = set()
    except OSError as e:
        raise SettingsError(f"{folder} cannot be read: {e.strerror}", "Check its permissions.") from e
    return frozenset(names | {"os-core"})


def aliases(root: Path) -> dict[str, tuple[str, ...]]:
    """Bundle aliases: a user's file masks the system's of the same name; the first definition wins (6.1)."""
    files: dict[str, Path] = {}
    for place in (f"{paths.DEFAULTS}/alias.d", "/etc/swupd/alias.d"):
        folder = below(root, place)
        if folder.is_dir():
            files.update({f.name: f for f in folder.iterdir() if f.is_file()})
    found: dict[str, tuple[str, ...]] = {}
    for _, file in sorted(files.items()):
        for line in _lines(file):
            name, *bundles = line.split("\t")
            if name and any(bundles) and not line.startswith("#"):
                found.setdefault(name, tuple(filter(None, bundles)))
    return found


def versionstamp(root: Path) -> int:
    """The build's time stamp in Unix seconds, 0 where there is none: time is never believed to be before it."""
    text = first_line(root, paths.VERSIONSTAMP)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 11 else 0
