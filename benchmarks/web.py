"""A web server on 127.0.0.1 that counts what it sends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CONFIGURATION = """\
user root;
daemon off;
pid {run}/nginx.pid;
error_log {run}/error.log;
events {{}}
http {{
    log_format bytes '$body_bytes_sent';
    access_log {run}/access.log bytes;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@dataclass(frozen=True)
class Web:
    """url: of the folder that is served."""

    url: str
    log: Path

    def sent(self) -> int:
        """Bytes of all bodies since this was asked last."""
        time.sleep(0.2)
        total = sum(map(int, self.log.read_text().split()))
        os.truncate(self.log, 0)
        return total


@contextlib.contextmanager
def serving(folder: Path, run: Path) -> Iterator[Web]:
    """nginx for the time of the context."""
    run.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = run / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(run=run, port=port, folder=folder))
    server = subprocess.Popen([_nginx(), "-c", configuration], stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        yield Web(f"http://127.0.0.1:{port}", run / "access.log")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _nginx() -> str:
    return shutil.which("nginx") or "/usr/sbin/nginx"


def _wait(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("nginx does not answer")
