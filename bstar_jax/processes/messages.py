"""Messages over a socket: a JSON header, then bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading

_SIZES = struct.Struct("!II")  # of header and body
_MOST_BYTES = 2**31  # of a header or a body


class Closed(Exception):
    """The connection can no longer be used; the text says why."""


class Connection:
    """A socket that several threads may send through, while one receives."""

    def __init__(self, end: socket.socket):
        """Takes over a connected socket, and closes it in the end."""
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._lock = end, threading.Lock()

    def send(self, header: dict, body: bytes = b"") -> None:
        """Sends one message.

        Raises:
          Closed: If the other side is gone.
        """
        text = json.dumps(header).encode()
        try:
            with self._lock:
                self._socket.sendall(_SIZES.pack(len(text), len(body)) + text + body)
        except OSError as error:
            raise Closed(f"its connection broke off ({error.strerror or error})") from error

    def receive(self, seconds: float) -> tuple[dict, bytes]:
        """Waits for the next message.

        Raises:
          Closed: If the other side is gone, or has been silent for `seconds`.
        """
        try:
            self._socket.settimeout(seconds)
            text, body = _SIZES.unpack(self._exactly(_SIZES.size))
            return json.loads(self._exactly(text)), self._exactly(body)
        except TimeoutError as error:
            raise Closed(f"nothing was heard of it for {seconds:.0f} s") from error
        except OSError as error:
            raise Closed(f"its connection broke off ({error.strerror or error})") from error

    def close(self) -> None:
        """Closes the socket, which the other side notices."""
        # Without a shutdown a receiving thread would go on waiting.
        with contextlib.suppress(OSError):  # the other side may have closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        if count > _MOST_BYTES:
            raise Closed("it speaks another protocol")
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(min(count - len(parts), 2**20))
            if not part:
                raise Closed("its connection broke off")
            parts += part
        return bytes(parts)
