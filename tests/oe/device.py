"""Builds two versions with BitBake, boots the first in QEMU, lets it update, and compares it with the second."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests import servers, trees
from tests.oe import runtime

LAYER = Path(__file__).parents[2]
PORT = 8737
URL = f"http://10.0.2.2:{PORT}"
IMAGE = "swupd-test-image"
HTTP = "--allow-insecure-http --no-progress"
MACHINE_FILES = re.compile(
    r"\./(var|run|tmp|srv|dev|proc|sys|root|lost\+found|boot|etc/(machine-id|\.pwd\.lock|ld\.so\.cache|hostname|\.updated|resolv\.conf|mtab"
    r"|systemd/system/|dropbear|adjtime|fstab|passwd-?|group-?|shadow-?|gshadow-?|swupd))"
)
"""What a machine that has run has of its own, and the folders that an update leaves alone."""
FIRST = (
    "swupd info",
    f"swupd update --dry-run {HTTP}",
    f"swupd update {HTTP}",
    f"swupd bundle-add tools {HTTP}",
    "hello-app",
    "echo damage >>/usr/bin/less",
    f"swupd diagnose {HTTP} | grep -c ^Modified",
    f"swupd repair {HTTP}",
    f"swupd bundle-remove tools {HTTP}",
    f"swupd diagnose {HTTP}",
)
UPDATE = (f"swupd update {HTTP}",)
BACK = (
    "swupd info | grep 'Installed version: 20'",
    f"! swupd check-update {HTTP}",
    "swupd rollback",
    "swupd info | grep 'Installed version: 10'",
)
"""Without a server, after a reboot."""
STAYED = ("swupd info | grep 'Installed version: 10'", "hello-app || true")
SECOND = (
    "swupd info | grep 'Installed version: 20'",
    f"swupd diagnose --picky {HTTP}",
)


class Rig:
    """The build folder and how to build in it."""

    def __init__(self, oecore: Path, rig: Path) -> None:
        self.oecore, self.rig = oecore, rig
        self.work = rig / "swupd-test"
        # A folder for each release: BitBake does not share one between them.
        self.build = self.work / f"build-{self._series()}"
        self.images = self.build / "tmp/deploy/images/qemux86-64"
        self.www = self.build / f"tmp/deploy/swupd/qemux86-64/{IMAGE}/www"

    def _series(self) -> str:
        layer = (self.oecore / "meta/conf/layer.conf").read_text()
        found = re.search(r'LAYERSERIES_COMPAT_core = "(\w+)"', layer)
        assert found is not None, f"{self.oecore} is no openembedded-core"
        return found[1]

    def prepare(self) -> None:
        """Libraries for host and device, keys, configuration."""
        (self.build / "conf").mkdir(parents=True, exist_ok=True)
        python = self.work / "venv/bin/python"
        libraries = ["asn1crypto", "backports.zstd", "bsdiff4", "cryptography"]
        if not python.exists():
            run("/usr/bin/python3", "-m", "venv", self.work / "venv")
            run(python, "-m", "pip", "-q", "download", "--only-binary", ":all:", "-d", self.work / "wheels", *libraries)
        # What only the build host needs, and what was added since the folder was made.
        run(python, "-m", "pip", "-q", "install", *libraries, "hdiffpatch", "lz4", "pyelftools", "requests")
        if not (self.work / "keys").exists():
            run(Path(sys.executable).with_name("swupd-server"), "keygen", self.work / "keys")
        layers = (self.oecore / "meta", self.rig / "meta-bintest", LAYER, LAYER / "tests/oe/meta-swupd-test")
        (self.build / "conf/bblayers.conf").write_text(
            f'LCONF_VERSION = "7"\nBBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS ?= "{" ".join(map(str, layers))}"\n'
        )
        shutil.rmtree(self.www, ignore_errors=True)
        run("chown", "-R", "builder", self.work)

    def bitbake(self, version: int, hello: int, more: str = "") -> float:
        """Builds a version, with more settings; gives the seconds that it took."""
        settings = {
            "CONF_VERSION": "2",
            "MACHINE": "qemux86-64",
            "DISTRO": "bintest",
            "TMPDIR": str(self.build / "tmp"),
            "HELLO_VERSION": str(hello),
            "OS_VERSION": str(version),
            "SWUPD_VERSION_URL": URL,
            "SWUPD_CONTENT_URL": URL,
            "SWUPD_FETCH_PREVIOUS": "0",
            "SWUPD_SIGNING_KEY": str(self.work / "keys/release.key"),
            "SWUPD_SIGNING_CERTIFICATE": str(self.work / "keys/release.pem"),
            "SWUPD_MANIFEST_KEY": str(self.work / "keys/manifest.key"),
            "SWUPD_MANIFEST_CERTIFICATE": str(self.work / "keys/manifest.pem"),
            "SWUPD_ROOT": str(self.work / "keys/1.root"),
            "SWUPD_HEAD_KEY": str(self.work / "keys/head.key"),
            "DEBIAN_DEBS": str(self.rig / "debs"),
        }
        if self.build.name.endswith("scarthgap"):
            # Later releases know no such suffix of TMPDIR, and refuse the variable.
            settings["TCLIBCAPPEND"] = ""
        text = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
        (self.build / "conf/local.conf").write_text(text + more)
        begin = time.monotonic()
        script = 'cd "$0" && . ./oe-init-build-env "$1" >/dev/null && bitbake -q "$2"'
        environment = ["env", "HOME=/home/builder", "LANG=en_US.UTF-8", "LC_ALL=en_US.UTF-8"]
        run("runuser", "-u", "builder", "--", *environment, "bash", "-c", script, self.oecore, self.build, IMAGE)
        return time.monotonic() - begin

    def ext4(self, name: str, copy: str) -> Path:
        """A copy of a built image, which may be written to."""
        target = self.work / copy
        run("cp", "--sparse=always", "-L", self.images / f"{name}-qemux86-64.rootfs.ext4", target)
        return target


class Guest:
    """A machine with a root shell on its serial console."""

    def __init__(self, rig: Rig, disk: Path) -> None:
        words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]
        words += ["-nographic", "-no-reboot", "-kernel", str(rig.images / "bzImage")]
        words += ["-initrd", str(rig.images / "initramfs.cpio.gz")]
        words += ["-append", "console=ttyS0 root=/dev/vda rw quiet panic=-1 systemd.show_status=0"]
        words += ["-drive", f"file={disk},format=raw,if=virtio", "-netdev", "user,id=n0"]
        words += ["-device", "virtio-net-pci,netdev=n0,romfile="]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._heard = b""

    def expect(self, pattern: bytes, seconds: float) -> re.Match[bytes]:
        """Waits until the console says something; gives what matched."""
        end = time.monotonic() + seconds
        assert self._process.stdout is not None
        while time.monotonic() < end:
            found = re.search(pattern, self._heard, re.DOTALL)
            if found:
                self._heard = self._heard[found.end() :]
                return found
            if select.select([self._process.stdout], [], [], 1)[0]:
                self._heard += os.read(self._process.stdout.fileno(), 65536)
        sys.exit(f"The guest did not answer: {self._heard[-2000:].decode('utf-8', 'replace')}")

    def tell(self, text: str) -> None:
        """Types a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def run(self, command: str) -> tuple[int, str]:
        """Runs a command; gives its exit code and what it printed."""
        self.tell(f"echo BE''GIN; {command}; echo EN''D-$?-")
        said = self.expect(rb"BEGIN\r?\n(.*?)END-(\d+)-", 600)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said[1].decode("utf-8", "replace")).replace("\r", "")
        return int(said[2]), text.rstrip("\n")

    def must(self, command: str) -> None:
        """Runs a command, shows what it prints, and ends all where it fails."""
        status, text = self.run(command)
        print(f"# {command}\n{text}", flush=True)
        if status:
            sys.exit(f"It ended with {status}.")

    def stop(self) -> None:
        """Powers off."""
        self.tell("systemctl poweroff")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(90)
        self._process.kill()
        self._process.wait()


def session(rig: Rig, disk: Path, version: int, commands: Sequence[str], served: bool = True) -> None:
    """Boots a disk, runs the layer's runtime cases (where there is a server) and then commands, powers off."""
    guest = Guest(rig, disk)
    guest.expect(rb"root@\S+:~# |bash-\S+# |login: ", 300)
    guest.tell("export SYSTEMD_PAGER=cat TERM=dumb")
    guest.must("systemctl is-system-running --wait")
    guest.must("systemctl start systemd-networkd; sleep 5")
    variables = {"OS_VERSION": str(version), "SWUPD_VERSION_URL": URL, "SWUPD_CONTENT_URL": URL}
    if served and not runtime.run(rig.oecore, guest, variables):
        sys.exit("Runtime cases failed.")
    for command in commands:
        guest.must(command)
    guest.stop()


@contextlib.contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    """A disk's tree."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop,ro", disk, place)
    try:
        yield place
    finally:
        run("umount", place)


def compare(rig: Rig, device: Path, image: Path, version: int) -> None:
    """Ends with an error where a device is not the image of its version."""
    with mounted(device, rig.work / "a") as a, mounted(image, rig.work / "b") as b:
        lines = set(trees.listing(a)) ^ set(trees.listing(b))
    different = sorted({line.split(" ")[3] for line in lines if not MACHINE_FILES.match(line.split(" ")[3])})
    if different:
        sys.exit(f"The device differs from the image in {len(different)} paths: {' '.join(different[:20])}")
    print(f"The device and the image of version {version} are the same tree, machine files aside.")


def c_client(rig: Rig) -> None:
    """Lets swupd-client 7.0.0 follow the stream that BitBake made, if SWUPD_CLIENT_XATTR names it."""
    program = os.environ.get("SWUPD_CLIENT_XATTR")
    if not program:
        print("SWUPD_CLIENT_XATTR does not name swupd-client 7.0.0: it was not tried on this stream.")
        return
    tree, state = rig.work / "c-client", rig.work / "c-state"
    for folder in (tree, state):
        shutil.rmtree(folder, ignore_errors=True)
    options = ["-u", f"file://{rig.www}", "-F", "30", "-C", rig.work / "keys/release.pem", "-S", state]
    options += ["--no-scripts", "--no-progress", "--ignore-time", "--no-boot-update"]
    run(program, "os-install", tree, "-V", "10", *options)
    # Last comes bundle-remove: that client does not create a bundle's entries in /etc, and then calls them missing.
    for words in ("update", "diagnose --picky", "bundle-add tools", "bundle-remove tools", "diagnose --picky"):
        run(program, *words.split(), "-p", tree, *options)
    print("swupd-client 7.0.0: os-install, update, diagnose, bundle-add and bundle-remove on this stream, all 0.")


def run(*words: object) -> None:
    """Runs a command of the host."""
    subprocess.run([str(word) for word in words], check=True)


def main(oecore: str, folder: str) -> None:
    """The whole way."""
    rig = Rig(Path(oecore), Path(folder))
    rig.prepare()
    print(f"Version 10 with 3 bundles and 2 further images was built in {rig.bitbake(10, 1):.0f} s.", flush=True)
    device, undecided, before = (rig.ext4(IMAGE, f"{name}.ext4") for name in ("device", "undecided", "before"))
    print(f"Version 20, one recipe changed, was built in {rig.bitbake(20, 2):.0f} s.", flush=True)
    c_client(rig)
    with servers.nginx(rig.www, PORT):
        session(rig, device, 10, FIRST)
        session(rig, device, 20, SECOND)
        session(rig, undecided, 10, UPDATE)
    compare(rig, device, rig.ext4(IMAGE, "image.ext4"), 20)
    session(rig, undecided, 20, BACK, served=False)
    session(rig, undecided, 10, STAYED, served=False)
    compare(rig, undecided, before, 10)


if __name__ == "__main__":
    main(*sys.argv[1:])
