"""URLs taken apart: who is to be asked, and for what. Opens nothing."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

_PORTS = {"http": 80, "https": 443}
_SAFE = "!#$%&'()*+,/:;=?@[]~"


class Address(NamedTuple):
    """One http or https URL.

    scheme: "http" or "https". host: a name, or an IP address without brackets. target: path and query, quoted.
    login: what HTTP's Basic authentication sends for the name and password in the URL, or "".
    """

    scheme: str
    host: str
    port: int
    target: str
    login: str = ""

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs of one server have in common."""
        return self.scheme, self.host, self.port

    @property
    def server(self) -> str:
        """Host and port as a request names them: without a port that goes without saying."""
        return self.named_host if self.port == _PORTS[self.scheme] else f"{self.named_host}:{self.port}"

    @property
    def named_host(self) -> str:
        """The host as a URL has it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        """The whole URL, without name and password."""
        return f"{self.scheme}://{self.server}{self.target}"


def parse(url: str) -> Address:
    """Takes a URL apart. Raises ValueError, with a reason."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url[:200]!r} is no http:// or https:// URL")
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not host or any(letter <= " " or letter == "\x7f" for letter in host):
        raise ValueError(f"{url[:200]!r} names no host")
    login = ""
    if parts.username is not None and parts.password is not None:
        words = f"{unquote(parts.username)}:{unquote(parts.password)}"
        login = "Basic " + base64.b64encode(words.encode("latin-1")).decode("ascii")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, host, port, quote(target, safe=_SAFE), login)


def following(before: Address, location: str) -> Address:
    """Where an answer leads to. location: its header. Raises ValueError.

    A password goes along to the same server only, which may be safer than before.
    """
    to = parse(urljoin(before.url, quote(location.encode("latin-1"), safe=_SAFE)))
    upgraded = (before.scheme, before.port, to.scheme, to.port) == ("http", 80, "https", 443)
    same = before.host == to.host and (upgraded or before.origin == to.origin)
    return to if to.login or not same else to._replace(login=before.login)
