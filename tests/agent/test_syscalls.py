"""What the C library is asked for directly."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from swupd.agent import syscalls

_THREADS = """
import ctypes, sys, threading
sys.path[:0] = {path!r}
from swupd.agent import syscalls
{first}
kept, there = [], threading.Barrier(5)
def work():
    kept.append([bytes(2000) for _ in range(100)])
    there.wait()
for _ in range(4):
    threading.Thread(target=work).start()
there.wait()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
@pytest.mark.parametrize(("first", "heaps"), [("syscalls.share_heap()", 1), ("", 5)])
def test_threads_share_one_heap(first: str, heaps: int) -> None:
    code = _THREADS.format(path=sys.path, first=first)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = said.count("<heap nr=")
    assert found == 1 if heaps == 1 else found > 1


def test_a_c_library_with_one_heap_needs_no_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_libc", object())
    syscalls.share_heap()
