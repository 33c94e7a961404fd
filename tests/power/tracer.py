"""Runs programs and stops them before each call that changes a file system: to count, to kill, to make the call fail.

What strace's `inject` does, with one count over all processes of a command, so that a shell script and all that it
starts can be cut short together. Linux on x86-64, as root. A seccomp filter picks the calls; all others run at speed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = platform.machine() == "x86_64" and platform.system() == "Linux"
CALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 40: "sendfile", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink",
    90: "chmod", 91: "fchmod", 92: "chown", 93: "fchown", 94: "lchown", 132: "utime", 133: "mknod", 162: "sync",
    188: "setxattr", 189: "lsetxattr", 190: "fsetxattr", 197: "removexattr", 198: "lremovexattr",
    199: "fremovexattr", 235: "utimes", 258: "mkdirat", 259: "mknodat", 260: "fchownat", 263: "unlinkat",
    264: "renameat", 265: "linkat", 266: "symlinkat", 268: "fchmodat", 280: "utimensat", 285: "fallocate",
    296: "pwritev", 306: "syncfs", 316: "renameat2", 326: "copy_file_range", 328: "pwritev2", 452: "fchmodat2",
}  # fmt: skip
"""Numbers and names of the calls at which a program is stopped, beside those in _CREATING."""
_CREATING = {2: ("open", 1), 257: ("openat", 2)}
"""Calls that count only where they may create a file; and which argument holds the flags."""
_ENDS = {"fsync", "fdatasync", "sync", "syncfs"}
RENAMING = frozenset({"rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"})
_PATHS = {
    "rename": (0, 1), "renameat": (1, 3), "renameat2": (1, 3), "link": (0, 1), "linkat": (1, 3), "unlink": (0,),
    "unlinkat": (1,), "mkdir": (0,), "mkdirat": (1,), "rmdir": (0,), "symlink": (1,), "symlinkat": (2,), "open": (0,),
    "openat": (1,), "creat": (0,), "chmod": (0,), "fchmodat": (1,), "fchownat": (1,), "lchown": (0,), "chown": (0,),
    "setxattr": (0,), "lsetxattr": (0,), "removexattr": (0,), "lremovexattr": (0,), "utimensat": (1,),
}  # fmt: skip
_FD = frozenset({"write", "pwrite64", "fsync", "fdatasync", "syncfs", "ftruncate", "fchmod", "fchown", "fsetxattr"})

_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS, _INFO = 0, 7, 12, 13, 0x4200, 0x420E
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100000
"""Follow fork, vfork, clone and exec; stop at the filter's calls; nobody outlives the tracer."""
_EVENT_SECCOMP = 7
_WALL = 0x40000000
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Killed(Exception):
    """Raised by a visitor: everything dies before the call at which it was asked."""


@dataclass(frozen=True)
class Call:
    """A call that is about to be made."""

    name: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.paths)})"


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: as waitstatus_to_exitcode gives it, None where it was cut short; calls: how many."""

    code: int | None
    calls: int


class Stopped:
    """A process that waits before a call. number: counted from 1 over the whole run."""

    def __init__(self, pid: int, number: int) -> None:
        self.pid, self.number = pid, number

    def call(self) -> Call:
        """What it is about to do."""
        buffer = ctypes.create_string_buffer(88)
        _ptrace(_INFO, self.pid, len(buffer), ctypes.addressof(buffer))
        number, *arguments = struct.unpack_from("<7Q", buffer, 24)
        name = CALLS.get(number) or _CREATING[number][0]
        if name in _FD:
            return Call(name, (_link(f"/proc/{self.pid}/fd/{arguments[0]}"),))
        return Call(name, tuple(self._path(name, n, arguments) for n in _PATHS.get(name, ())))

    def _path(self, name: str, which: int, arguments: list[int]) -> str:
        text = b""
        # The path may be no pointer at all: futimens is utimensat without one.
        with suppress(OSError), open(f"/proc/{self.pid}/mem", "rb", 0) as memory:
            text = os.pread(memory.fileno(), 4096, arguments[which]).split(b"\0")[0]
        folder = arguments[which - 1] if name.removesuffix("2").endswith("at") and which else None
        if text.startswith(b"/") or folder is None or folder > 2**20:
            return os.fsdecode(text)
        return _link(f"/proc/{self.pid}/fd/{folder}") + "/" + os.fsdecode(text)

    def fail(self, code: int) -> None:
        """Makes the call fail with an error, undone."""
        registers = (ctypes.c_ulonglong * 27)()
        _ptrace(_GETREGS, self.pid, 0, ctypes.addressof(registers))
        registers[15] = 2**64 - 1
        registers[10] = 2**64 - code
        _ptrace(_SETREGS, self.pid, 0, ctypes.addressof(registers))


Visitor = Callable[[Stopped], None]


def _link(place: str) -> str:
    try:
        return os.readlink(place)
    except OSError:
        return "?"


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _program() -> bytes:
    """The filter: load the number; for each call a comparison and a verdict."""
    load, equal, any_bit, greater, give = 0x20, 0x15, 0x45, 0x25, 0x06
    lines = [_instruction(load, 0, 0, 0)]
    for number, (_, argument) in _CREATING.items():
        lines += [
            _instruction(equal, 0, 4, number),
            _instruction(load, 0, 0, 16 + 8 * argument),
            _instruction(any_bit, 0, 1, os.O_CREAT),
            _instruction(give, 0, 0, _TRACE),
            _instruction(give, 0, 0, _ALLOW),
        ]
    for number, name in CALLS.items():
        if name in {"write", "writev"}:  # not what goes to standard output
            lines += [
                _instruction(equal, 0, 4, number),
                _instruction(load, 0, 0, 16),
                _instruction(greater, 0, 1, 2),
                _instruction(give, 0, 0, _TRACE),
                _instruction(give, 0, 0, _ALLOW),
            ]
        else:
            lines += [_instruction(equal, 0, 1, number), _instruction(give, 0, 0, _TRACE)]
    return b"".join((*lines, _instruction(give, 0, 0, _ALLOW)))


_CODE = _program()


def _install_filter() -> None:
    code = ctypes.create_string_buffer(_CODE)
    program = struct.pack("@HxxxxxxP", len(_CODE) // 8, ctypes.addressof(code))
    if _libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _stand_alone(output: Path) -> None:
    """In the child: output to a file, nothing from a terminal."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    zero = os.open(os.devnull, os.O_RDONLY)
    one = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, to in ((zero, 0), (one, 1), (one, 2)):
        os.dup2(fd, to)
    os.closerange(3, 256)
    # What there was may be a recorder of the parent's.
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", errors="backslashreplace", closefd=False) for fd in (1, 2))


def fork(action: Callable[[], int], output: Path, traced: bool = True) -> int:
    """A child that carries out an action in a warm copy of this process. traced: it stops first, for `run`."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        _stand_alone(output)
        if traced:
            _libc.ptrace(_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            _install_filter()
        code = action()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException as e:
        os.write(2, f"{type(e).__name__}: {e}\n".encode("utf-8", "replace"))
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def spawn(
    words: Sequence[str],
    output: Path,
    environment: dict[str, str] | None = None,
    chroot: str = "",
    traced: bool = True,
) -> int:
    """A child that becomes a program. traced: it stops first, for `run`."""

    def become() -> int:
        if chroot:
            os.chroot(chroot)
            os.chdir("/")
        os.execvpe(words[0], list(words), environment if environment is not None else dict(os.environ))

    return fork(become, output, traced)


def wait(pid: int) -> Ended:
    """Waits for a child that nobody traces; its calls are not counted."""
    return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


def run(pid: int, visit: Visitor = lambda _: None) -> Ended:
    """Lets a stopped child run to its end. visit is told of each call and may raise Killed, or anything else."""
    living = {pid}
    seen = {pid}
    number = 0
    result: int | None = None
    try:
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise RuntimeError(f"the child ended before it began: {status}")
        _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
        _ptrace(_CONT, pid, 0, 0)
        while living:
            at, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                living.discard(at)
                if at == pid:
                    result = os.waitstatus_to_exitcode(status)
                continue
            living.add(at)
            pass_on = 0
            if status >> 16 == _EVENT_SECCOMP:
                number += 1
                visit(Stopped(at, number))
            elif status >> 16 == 0 and at in seen:
                pass_on = os.WSTOPSIG(status)
            seen.add(at)
            try:
                _ptrace(_CONT, at, 0, pass_on)
            except ProcessLookupError:
                continue
        return Ended(result, number)
    except Killed:
        return Ended(None, number)
    finally:
        _end(living)


def _end(living: set[int]) -> None:
    for pid in living:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while living:
        try:
            at, status = os.waitpid(-1, _WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            living.discard(at)


def kill_at(number: int) -> Visitor:
    """Kills before the number-th call."""

    def visit(stopped: Stopped) -> None:
        if stopped.number == number:
            raise Killed

    return visit


def fail_at(number: int, code: int) -> Visitor:
    """Makes the number-th call fail."""

    def visit(stopped: Stopped) -> None:
        if stopped.number == number:
            stopped.fail(code)

    return visit


def record(calls: list[Call]) -> Visitor:
    """Writes down every call."""
    return lambda stopped: calls.append(stopped.call())


def makes_durable(name: str) -> bool:
    """Whether a call changes nothing but what a power cut would leave."""
    return name in _ENDS


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EDQUOT")}
