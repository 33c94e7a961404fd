"""Runs a program and reports what it took: launcher.py SECONDS FILE PROGRAM [WORD]...

A process of its own, and a small one: the peak memory of a program counts from that of the process that starts it.
Writes exit status, processor seconds, wall seconds and peak bytes to FILE; "late" where it had to be ended.
"""

import os
import signal
import sys
import time


def main() -> None:
    """Starts the program in a group of its own and waits."""
    limit, report, line = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            os.execvp(line[0], line)
        except OSError as e:
            os.write(2, f"{e.strerror}\n".encode())
            os._exit(127)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, limit)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - begin
    left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
    said = f"{status} {usage.ru_utime + usage.ru_stime} {wall} {usage.ru_maxrss * 1024}"
    with open(report, "w", encoding="ascii") as file:
        file.write(said if left else "late")


if __name__ == "__main__":
    main()
