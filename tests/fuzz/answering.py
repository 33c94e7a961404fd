"""A socket on 127.0.0.1 that says the bytes that it was given to whoever asks, and hangs up."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Answering:
    """answer: what is said next."""

    answer: bytes = b""
    socket: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def serve(self) -> None:
        """Until the process ends."""
        while True:
            asked, _ = self.socket.accept()
            with asked, contextlib.suppress(OSError):
                asked.settimeout(1)
                heard = b""
                while b"\r\n\r\n" not in heard and (more := asked.recv(65536)):
                    heard += more
                asked.sendall(self.answer)


def answering() -> Answering:
    """One that is at work, in a thread of this process."""
    made = Answering()
    threading.Thread(target=made.serve, daemon=True).start()
    return made
