"""One run of a command on one device: settings, sources, state and catalog, put together and taken apart again."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from swupd import paths, stream
from swupd.agent import pending, source, trust
from swupd.agent import settings as device
from swupd.agent.catalog import Catalog
from swupd.agent.report import Report
from swupd.agent.settings import Settings
from swupd.agent.source import Source, Transport
from swupd.agent.state import Cache, Layout, State
from swupd.errors import DocumentError, Refused, RootError, SettingsError, SignatureError
from swupd.tree import Root

if TYPE_CHECKING:
    from swupd.agent.anchor import Anchor, Floors
    from swupd.agent.chain import Chain
    from swupd.agent.origin import Origin
    from swupd.agent.unpacker import Unpacks

_CLIENT_CERTIFICATE = "/etc/swupd/client.pem"


class Session(NamedTuple):
    """What every command that looks at a stream works with. state: None where nothing may be written."""

    settings: Settings
    report: Report
    layout: Layout
    state: State | None
    catalog: Catalog
    levels: frozenset[str]

    @property
    def content(self) -> Origin:
        """Where objects come from."""
        return self.catalog.content

    def root(self) -> Root:
        """The device's tree, opened."""
        return Root(self.settings.root)


@contextlib.contextmanager
def reading(settings: Settings, report: Report) -> Iterator[Session]:
    """A session that writes nothing, for commands that have one thread.

    Most of them find all manifests in the cache: what unpacks is loaded, and its process started, when it is needed.
    """
    tell_unfinished(settings, report)
    with contextlib.ExitStack() as stack:

        @functools.cache
        def unpacker() -> Unpacks:
            from swupd.agent.unpacker import started  # noqa: PLC0415  see above

            return stack.enter_context(started())

        yield opened(settings, report, None, unpacker)


def tell_unfinished(settings: Settings, report: Report) -> None:
    """Warns of a change that was interrupted; nobody but root can see one."""
    with contextlib.suppress(Refused):
        if pending.status(settings.root).unfinished:
            report.warn("A change of this tree was interrupted; the next command that changes it ends it first.")


def stream_layout(settings: Settings) -> Layout:
    """Where state lies, for commands that ask a server. Raises SettingsError."""
    return Layout(settings.data_dir, settings.cache_dir, settings.urls()[1])


def layout(settings: Settings) -> Layout:
    """Where state lies, for commands that need no server."""
    return Layout(settings.data_dir, settings.cache_dir, settings.content_url or "none")


def opened(
    settings: Settings, report: Report, state: State | None, unpacker: Callable[[], Unpacks], asks: bool = False
) -> Session:
    """Puts a session together; asks: whether a server will be asked in any case."""
    url, content_url = settings.urls()
    transport = _transport(settings)
    further = settings.mirror_urls()

    def origin(one: str) -> Origin:
        if not further:
            return Source(one, transport)
        import random  # noqa: PLC0415  most devices have one server

        from swupd.agent.mirrors import Mirrors  # noqa: PLC0415

        return Mirrors((one, *further), transport, random.SystemRandom(), report.warn)

    content = origin(content_url)
    versions = content if url == content_url else origin(url)
    by_root = settings.check_signatures and settings.root_file is not None
    trust_pem = None if by_root else _trust_file(settings)
    verifier = trust.Verifier(trust_pem, now(settings), settings.checks or trust.HERE)
    if asks:
        # Whoever checks signatures loads, too.
        source.load(content_url)
    verifier.check_trust_file()
    layout = Layout(settings.data_dir, settings.cache_dir, content_url)
    cache = state or Cache(layout)
    catalog = Catalog(
        versions=versions,
        content=content,
        chain=_chain(settings, layout, versions, content, cache, report) if by_root else None,
        verifier=verifier,
        cache=cache,
        report=report,
        check_latest=settings.check_latest_signature,
        opener=unpacker,
    )
    return Session(settings, report, layout, state, catalog, _levels(settings))


def _chain(
    settings: Settings, layout: Layout, versions: Origin, content: Origin, cache: Cache, report: Report
) -> Chain:
    from swupd.agent.chain import Chain  # noqa: PLC0415  only devices with a root of trust need it

    return Chain(anchor(settings, layout, report), versions, content, cache, report, settings.stream_format(), _uptime)


def anchor(settings: Settings, layout: Layout, report: Report) -> Anchor:
    """What the device believes before it has asked anybody. Raises RootError."""
    from swupd.agent.anchor import Anchor  # noqa: PLC0415  as above
    from swupd.agent.chain import first_anchor  # noqa: PLC0415

    if settings.root_file is None:
        raise RootError("there is no root of trust", f"Ship {paths.ROOT_OF_TRUST} in the image.")
    try:
        born = settings.root_file.read_bytes()
    except OSError as e:
        raise RootError(f"{settings.root_file} cannot be read: {e.strerror}", "Give another --root-file.") from e
    floors = _floors(layout, report)
    passed = datetime.datetime.fromtimestamp(floors.at(*_uptime()), datetime.UTC)
    checks = settings.checks or trust.HERE
    root = first_anchor(born, _bytes(layout.root), checks)
    return Anchor(root, floors, now(settings), passed, settings.product, checks)


def _floors(layout: Layout, report: Report) -> Floors:
    from swupd.agent.anchor import Floors, load_floors  # noqa: PLC0415  as above

    data = _bytes(layout.floors)
    if data is None:
        return Floors()
    try:
        return load_floors(data)
    except DocumentError as e:
        report.warn(f"{layout.floors} is damaged ({e.problem}): what this device has seen before is forgotten.")
        return Floors()


def _bytes(file: Path) -> bytes | None:
    """A small file's bytes; None where there is none that this user may see."""
    try:
        with file.open("rb") as opened:
            return opened.read(stream.MAX_ROOT)
    except OSError:
        return None


def _uptime() -> tuple[str, int]:
    """The id of this boot, and the seconds since it began, time asleep included."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().decode("ascii").strip()
    except OSError:
        boot = ""
    return boot, int(time.clock_gettime(time.CLOCK_BOOTTIME))


def _transport(settings: Settings) -> Transport:
    client = device.below(settings.root, _CLIENT_CERTIFICATE)
    return Transport(
        retries=settings.retries,
        retry_delay=settings.retry_delay,
        tls_ca=settings.tls_ca,
        tls_pin=settings.tls_pin,
        client_certificate=client if client.is_file() else None,
    )


def _trust_file(settings: Settings) -> bytes | None:
    if not settings.check_signatures:
        return None
    if settings.certificate is None:
        raise SignatureError(
            "there is no certificate to check signatures with",
            "Give --certpath FILE, or ship /usr/share/clear/update-ca/Swupd_Root.pem in the image.",
        )
    try:
        return settings.certificate.read_bytes()
    except OSError as e:
        raise SignatureError(f"{settings.certificate} cannot be read: {e.strerror}", "Give another --certpath.") from e


def clock() -> float:
    """What the device's clock shows, in Unix seconds."""
    return time.time()


def now(settings: Settings) -> datetime.datetime:
    """The time to believe: never before the image was built, since boards without a clock begin in 1970."""
    floor = 0 if settings.ignore_time else device.versionstamp(settings.root)
    return datetime.datetime.fromtimestamp(max(clock(), floor), datetime.UTC)


def _levels(settings: Settings) -> frozenset[str]:
    """What variants of files the processor can run; any tree but the running one gets the plain files (2.4)."""
    if settings.root != Path("/"):
        return frozenset()
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return frozenset()
    flags = frozenset(
        next((line.split(":")[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), ())
    )
    found = {"2"} if flags >= {"avx2", "fma"} else set()
    if "avx512vl" in flags:
        found.add("5")
    for level, name in (("2", "avx2"), ("5", "avx512")):
        if Path(f"/etc/clear/elf-replace-{name}").exists():
            found.discard(level)
    return frozenset(found)


def require_format(settings: Settings, found: int, force: bool) -> None:
    """Raises SettingsError where a release is of another format than the device; force skips it."""
    wanted = settings.stream_format()
    if wanted not in {"staging", str(found)} and not force:
        raise SettingsError(
            f"the release has format {found}, this device understands {wanted}",
            "Give the right --format, or --force to go on.",
        )
