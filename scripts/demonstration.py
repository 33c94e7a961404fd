"""The main job from end to end: two real trees, a signed stream, nginx, a device that installs, updates and heals."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import images

NGINX = """\
user root;
pid {run}/nginx.pid;
error_log {run}/error.log;
events {{}}
http {{
    log_format bytes '$body_bytes_sent $request_method $request_uri';
    access_log {run}/access.log bytes;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{ listen 127.0.0.1:{port}; root {www}; }}
}}
"""


def main(folder: Path) -> None:
    """Runs the demonstration below a folder."""
    folder = folder.absolute()
    for name in ("www", "device", "state", "keys", "nginx", "images"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"

    say("Two root file systems of one system in two patch levels (Debian packages; fetched once)")
    run("scripts/make-corpus", folder / "corpus")
    say("Keys, made for this run: in real life the release key stays with the release engineer")
    run(tool("swupd-server"), "keygen", folder / "keys")

    www = folder / "www"
    for version, extra in ((10, ()), (20, ("--previous-versions", "1"))):
        say(f"Publish version {version}: os-core and the bundles {' and '.join(images.BUNDLES)}, signed")
        image = folder / "images" / str(version)
        image.parent.mkdir(exist_ok=True)
        lists = images.prepare(folder / f"corpus/v{version}", image, version, url, folder / "keys")
        content = [word for bundle, path in lists.items() for word in ("--content", f"{bundle}={path}")]
        keys = [
            *("--signing-key", folder / "keys/release.key", "--certificate", folder / "keys/release.pem"),
            *("--head-key", folder / "keys/head.key", "--root", folder / "keys/1.root", "--product", images.PRODUCT),
            *("--manifest-key", folder / "keys/manifest.key", "--manifest-certificate", folder / "keys/manifest.pem"),
        ]
        publish = (tool("swupd-server"), "publish", "--www", www, "--version", version, "--rootfs", image)
        run(*publish, *content, *keys, *extra)

    with nginx(folder / "nginx", www, port) as log:
        device(folder, www, url, log)
    say("The end. The stream is in " + str(www.relative_to(Path.cwd()) if www.is_relative_to(Path.cwd()) else www))


def device(folder: Path, www: Path, url: str, log: Path) -> None:
    """What happens on the device."""
    tree, state = folder / "device", folder / "state"
    common = ("--statedir", state, "--allow-insecure-http", "--no-scripts")
    agent = tool("swupd")

    def swupd(command: str, *words: object, expect: int = 0) -> None:
        run(agent, command, *words, "--path", tree, *common, expect=expect)

    say("Install version 10 into a folder that stands for the device; everything is checked, over plain HTTP")
    trust = ("--root-file", folder / "keys/1.root", "--product", images.PRODUCT, "--format", 30, "--url", url)
    run(agent, "os-install", tree, "--version", 10, "--bundles", "python", *trust, *common)
    say("Add a bundle")
    swupd("bundle-add", "sync")
    say("What would an update do?")
    swupd("update", "--dry-run")
    for name, code in (("version/format30/head", 61), ("20/Manifest.os-core.sig", 65)):
        say(f"An attacker on the way changes one byte of {name}")
        with tampered(www / name):
            swupd("update", expect=code)
    say("The device is as it was. Whom does it believe?")
    swupd("info")
    before = downloaded(log)
    say("Update to version 20, by delta packs")
    swupd("update")
    fetched = downloaded(log) - before
    say("Damage three files")
    with (tree / "usr/bin/openssl").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    (tree / "usr/bin/perl").unlink()
    (tree / "usr/bin/intruder").write_text("I do not belong here\n")
    swupd("diagnose", "--picky", expect=1)
    swupd("repair", "--picky")
    swupd("diagnose", "--picky")
    say("Remove a bundle")
    swupd("bundle-remove", "sync")
    swupd("bundle-list", "--status")
    # Not what is kept to go back: most of it is the same files under second names.
    files = (f for f in tree.rglob("*") if f.is_file() and not f.is_symlink() and tree / ".swupd" not in f.parents)
    full = sum(f.lstat().st_size for f in files)
    print(
        f"\nThe update from 10 to 20 downloaded {fetched / 1e6:.2f} MB; "
        f"the installed system has {full / 1e6:.1f} MB: 1/{full / max(1, fetched):.0f} of it."
    )


@contextlib.contextmanager
def tampered(file: Path) -> Iterator[None]:
    """The last byte of a file is another for a while."""
    genuine = file.read_bytes()
    file.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
    try:
        yield
    finally:
        file.write_bytes(genuine)


def downloaded(log: Path) -> int:
    """Bytes of bodies that nginx has sent."""
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(int(m[1]) for line in lines if (m := re.match(r"(\d+) GET ", line)))


@contextlib.contextmanager
def nginx(run_folder: Path, www: Path, port: int) -> Iterator[Path]:
    """Serves a folder on 127.0.0.1; gives the access log."""
    run_folder.mkdir()
    config = run_folder / "nginx.conf"
    config.write_text(NGINX.format(run=run_folder, www=www, port=port))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    server = subprocess.Popen([program, "-p", str(run_folder), "-c", str(config), "-g", "daemon off;"])
    try:
        _wait_for(port, server)
        yield run_folder / "access.log"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    sys.exit("nginx did not start; see its error.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tool(name: str) -> str:
    """A program of this project's environment."""
    return str(Path(sys.executable).with_name(name))


def say(text: str) -> None:
    """A headline."""
    print(f"\n== {text}", flush=True)


def run(*words: object, expect: int = 0) -> None:
    """Runs a command, shown first; ends the demonstration where it exits otherwise than expected."""
    command = [str(word) for word in words]
    shown = " ".join(word.removeprefix(str(Path.cwd()) + "/") for word in command)
    print(f"$ {shown if len(shown) < 200 else shown[:200] + ' …'}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code != expect:
        sys.exit(f"The command ended with {code}, not {expect}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
