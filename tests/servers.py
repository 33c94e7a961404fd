"""nginx on 127.0.0.1, as a publisher would run it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_CONFIG = """\
user root;
worker_processes 1;
pid {run}/pid;
error_log {run}/error.log;
events {{}}
http {{
    access_log {run}/access.log;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{ listen 127.0.0.1:{port}; root {www}; location /status/500 {{ return 500; }} }}
}}
"""


@contextlib.contextmanager
def nginx(www: Path, port: int = 0) -> Iterator[str]:
    """Serves a folder at a port, 0 for any; gives its URL. Skips the test where there is no nginx."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as run:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(run, "nginx.conf")
        config.write_text(_CONFIG.format(run=run, port=port, www=www))
        server = subprocess.Popen([program, "-p", run, "-c", str(config), "-g", "daemon off;"])
        try:
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError("nginx did not start")
