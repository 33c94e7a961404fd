"""Processes that give up all that they can: for what reads what nobody verified yet. There is no way back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534
_FILES = 32
"""Enough for a group of deltas (patching), whose files a worker is sent at once."""
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NAME, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 4, 15, 24, 38
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
_OWN = (_NEWNS | _NEWUTS | _NEWIPC | _NEWNET, _NEWNS, _NEWUTS, _NEWIPC, _NEWNET)
_MS_EMPTY = 0xF
"""MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC."""
_MS_REC_SLAVE = 0x4000 | 0x80000
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
_libc = ctypes.CDLL(None, use_errno=True)


def pretending() -> bool:
    """Whether root is played by pseudo or fakeroot, as in image builds: nothing could be given up that is not there.

    Their libraries sit in every process, and wait for ever for their server where it is out of reach.
    """
    return any(name in os.environ for name in ("PSEUDO_PREFIX", "FAKEROOTKEY"))


def forked(channel: socket.socket, action: Callable[[], None]) -> int:
    """A child that has one open file and carries out an action; its id. Raises OSError."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        close_all_but(channel.fileno())
        end_with(parent)
        action()
    finally:
        os._exit(0)


def end_with(parent: int) -> None:
    """Has this process killed when its parent dies; parent: its id, for the case that it has died already."""
    _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def close_all_but(fd: int) -> None:
    """Closes every other descriptor, standard input and output too."""
    if fd:
        os.closerange(0, fd)
    os.closerange(fd + 1, 1 << 20)


def confine(memory: int, name: str) -> None:
    """Gives up privileges, files, network and processes; memory: bytes that it may take beyond what it has.

    name: what the process is called from then on.

    What the system does not allow to give up stays: without root there is less to lose.
    """
    with contextlib.suppress(OSError, ValueError):
        memory += int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    _libc.prctl(_SET_NAME, name.encode("ascii"), 0, 0, 0)
    _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _enter_nothing(_own_namespaces())
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0):
            break
    drop: tuple[Callable[[], None], ...] = (
        lambda: os.setgroups([]),
        lambda: os.setresgid(NOBODY, NOBODY, NOBODY),
        lambda: os.setresuid(NOBODY, NOBODY, NOBODY),
    )
    for step in drop:
        with contextlib.suppress(OSError):
            step()
    _libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    _libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    _limit(resource.RLIMIT_NOFILE, _FILES)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, memory)


def _own_namespaces() -> bool:
    """Leaves the namespaces that it may leave; whether that of mounts is among them."""
    if os.geteuid() != 0 and _libc.unshare(_NEWUSER | _OWN[0]) == 0:
        return True
    if _libc.unshare(_OWN[0]) == 0:
        return True
    results: list[int] = [_libc.unshare(kind) for kind in _OWN[1:]]
    return not results[0]


def _enter_nothing(own_mounts: bool) -> None:
    """Makes an empty folder the root."""
    place = b"/proc/self/fdinfo"
    # Not a folder on any disk: it would have to be made and could be filled.
    # What is mounted over /proc has /proc for its parent, where that is a mount: this one must not tell others. In a
    # chroot / is none.
    if (
        own_mounts
        and _libc.mount(b"none", b"/proc", None, _MS_REC_SLAVE, None) == 0
        and _libc.mount(b"none", b"/proc", b"tmpfs", _MS_EMPTY, None) == 0
    ):
        place = b"/proc"
    with contextlib.suppress(OSError):
        os.chroot(place)
        os.chdir("/")


def _limit(what: int, most: int) -> None:
    with contextlib.suppress(OSError, ValueError, OverflowError):
        hard = resource.getrlimit(what)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))
