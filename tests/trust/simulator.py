"""A publisher with all its keys, the web server that an attacker may hold, and a clock: what attacks are tried on.

The releases are real ones of swupd-server; what an attacker does with stolen keys is written with the same code.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from swupd import crypto, envelope, heads, roots, stream
from swupd.heads import Head
from swupd.lengths import Named
from swupd.publickey import KeyHolder
from swupd.roots import Delegation, Role, Root
from swupd.server import signing
from tests import builders
from tests.agent.devices import Device

NOW = builders.NOW
DAY = datetime.timedelta(days=1)
PRODUCT = "test/image"
CONTENT: Mapping[str, Iterable[str]] = {
    "os-core": builders.REST,
    "editors": ["/usr/bin/vi", "/usr/share/clear/bundles/editors"],
    "acme-tool": ["/opt/acme/bin/tool", "/usr/share/clear/bundles/acme-tool"],
}


def files(version: int) -> dict[str, builders.Spec]:
    """What a release holds."""
    return {
        "/usr/bin/hello": builders.File(f"#!/bin/sh\necho {version}\n" * 50, 0o755),
        "/usr/bin/vi": builders.File("vi" * 3000, 0o755),
        "/usr/lib/common": "never changes" * 200,
        "/opt/acme/bin/tool": builders.File(f"tool {version // 20}" * 100, 0o755),
        "/usr/share/clear/bundles/os-core": "",
        "/usr/share/clear/bundles/editors": "",
        "/usr/share/clear/bundles/acme-tool": "",
        "/usr/share/defaults/swupd/product": f"{PRODUCT}\n",
    }


def holder(kind: str = "ed25519") -> KeyHolder:
    """A new key."""
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    return KeyHolder(crypto.of(key.public_key()), crypto.raw_signer(key))


def of_signer(signer: signing.Signer) -> KeyHolder:
    """The key of a certificate."""
    return KeyHolder(crypto.of(signer.key.public_key()), crypto.raw_signer(signer.key))


@dataclass
class Keys:
    """Who holds what. root: three people, two of whom must sign."""

    root: tuple[KeyHolder, ...]
    head: KeyHolder
    release: signing.Signer
    build: signing.Signer


@dataclass
class Simulator:
    """A stream and those who sign it."""

    base: Path
    keys: Keys
    delegations: tuple[Delegation, ...] = ()
    now: datetime.datetime = NOW
    roots: list[Root] = field(default_factory=list)

    @property
    def www(self) -> Path:
        return self.base / "www"

    @property
    def root_file(self) -> Path:
        """The root that is in the image."""
        return self.www / stream.root(1)

    def root(self, **changes: Any) -> Root:
        """The next root as it would be with the keys there are; changes: fields of Root, or roles by name."""
        k = self.keys
        groups = {
            roots.ROOT: k.root, roots.HEAD: (k.head,), roots.RELEASE: (of_signer(k.release),),
            roots.BUILD: (of_signer(k.build),),
        }  # fmt: skip
        groups.update(changes.pop("groups", {}))
        thresholds = {roots.ROOT: 2, **changes.pop("thresholds", {})}
        roles = {
            name: Role(tuple(h.public.id for h in group), thresholds.get(name, 1)) for name, group in groups.items()
        }
        keys = {h.public.id: h.public for group in groups.values() for h in group}
        for more in changes.pop("more", ()):
            keys[more.public.id] = more.public
        made = Root(len(self.roots) + 1, self.now + 3650 * DAY, keys, roles, self.delegations)
        return made._replace(**changes)

    def signed_root(self, root: Root, by: Iterable[KeyHolder]) -> bytes:
        """A root's bytes."""
        made = envelope.Envelope(roots.ROOT, roots.payload(root))
        for one in by:
            made = made.signed_by(one)
        return envelope.serialize(made)

    def publish_root(self, root: Root | None = None, by: Iterable[KeyHolder] | None = None) -> None:
        """Publishes the next root, by default signed by two of the people who may."""
        root = self.root() if root is None else root
        place = self.www / stream.root(len(self.roots) + 1)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.signed_root(root, self.keys.root[:2] if by is None else by))
        self.roots.append(root)

    def release(self, version: int, product: str = PRODUCT, content: Mapping[str, Any] = CONTENT, **more: Any) -> None:
        """Publishes a release, and the head for it."""
        tree = {**files(version), **more.pop("files", {})}
        builders.release(
            self.base, version, tree, content, signer=self.keys.release, manifest_signer=self.keys.build,
            previous_versions=2 if version > 10 else 0, product=product, without_head=True, **more,
        )  # fmt: skip
        self.put_head(self.head(version))

    def mom(self, version: int) -> bytes:
        """The bytes of a release's MoM."""
        return (self.www / stream.manifest(version, "MoM")).read_bytes()

    def named(self, version: int) -> Named:
        """A release's MoM by hash."""
        data = self.mom(version)
        return Named(hashlib.sha256(data).hexdigest(), len(data))

    def head(self, release: int, **changes: Any) -> Head:
        """The head for a release."""
        named = self.named(release)
        made = Head(30, release, named.digest, named.length, self.now, self.now + 14 * DAY, PRODUCT)
        return made._replace(**changes)

    def signed_head(self, head: Head, *by: KeyHolder) -> bytes:
        """A head's bytes."""
        made = envelope.Envelope(heads.ROLE, heads.payload(head))
        for one in by or (self.keys.head,):
            made = made.signed_by(one)
        return envelope.serialize(made)

    def put_head(self, head: Head, *by: KeyHolder) -> None:
        """Publishes a head."""
        self.put(stream.head(30), self.signed_head(head, *by))

    def put(self, name: str, data: bytes) -> None:
        """Writes an object of the stream."""
        place = self.www / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def read(self, name: str) -> bytes:
        """Reads one."""
        return (self.www / name).read_bytes()

    def edited(self, name: str, change: Callable[[dict[str, Any]], object], role: str, *by: KeyHolder) -> bytes:
        """A signed document whose payload was changed as JSON, and signed anew by somebody."""
        payload = json.loads(envelope.parse(self.read(name), role).payload)
        change(payload)
        made = envelope.Envelope(role, json.dumps(payload).encode())
        for one in by:
            made = made.signed_by(one)
        return envelope.serialize(made)


def publisher(base: Path, delegations: tuple[Delegation, ...] = ()) -> Simulator:
    """A publisher with keys and a root, and no release yet."""
    made = Keys(
        (holder(), holder(), holder("ecdsa")),
        holder(),
        builders.keys(base / "keys", "release"),
        builders.keys(base / "keys", "build"),
    )
    simulator = Simulator(base, made, delegations)
    simulator.publish_root()
    return simulator


ENDLESS = b"\0endless"
"""In place of an object's bytes: an answer that does not end by itself."""
TRICKLE = b"\0trickle"
"""And one that comes at two bytes a second."""
Answer = Callable[[str, bytes | None], bytes | None]


@dataclass
class Attacker:
    """The server: what it answers is decided by `tampering`, by object name, given what the publisher wrote.

    asked: names of the objects that were asked for.
    """

    url: str
    tampering: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answers(self, name: str, data: bytes | None) -> None:
        """From now on an object is what the attacker wants; None for missing."""
        self.tampering.append(lambda asked, honest: data if asked == name else honest)

    def relent(self) -> None:
        """Is honest again."""
        self.tampering.clear()
        self.asked.clear()


@contextlib.contextmanager
def serving(www: Path) -> Iterator[Attacker]:
    """Serves a stream by plain HTTP on 127.0.0.1."""
    attacker = Attacker("")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            attacker.asked.append(name)
            place = www / name
            data = place.read_bytes() if place.is_file() else None
            for answer in attacker.tampering:
                data = answer(name, data)
            if data is ENDLESS or data is TRICKLE:
                self._endless(data is TRICKLE)
                return
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data or b"")

        do_HEAD = do_GET

        def _endless(self, slowly: bool) -> None:
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(ConnectionError):
                while self.command == "GET":
                    self.wfile.write(bytes(1 if slowly else 1 << 16))
                    time.sleep(0.5 if slowly else 0)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to standard error."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        attacker.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield attacker
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Trusting(Device):
    """A device that has a root of trust."""

    root_file: Path = Path()
    product: str = PRODUCT

    def options(self) -> list[str]:
        place = ["--url", self.url, "--format", self.format, "--statedir", str(self.state)]
        trust = ["--root-file", str(self.root_file), "--product", self.product]
        return [*place, *trust, "--allow-insecure-http", "--no-scripts", "--no-progress", "--retry-delay", "0"]
