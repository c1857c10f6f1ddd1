"""TLS between a socket and the frames of a connection: a conversion of bytes.

`tls` has the rules. This module is compiled: each call over TLS passes through it twice at each
end.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import trio

from .. import _nonblocking
from .transport import Buffer, SocketTransport

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TlsEngine", "TlsTransport"]

_READ_SIZE: Final = 64 * 1024  # bytes of ciphertext in one read
_RECORD_SIZE: Final = 16 * 1024  # bytes of plaintext: the most in a record
_WRITE_SIZE: Final = 64 * 1024  # bytes of plaintext that are encrypted before a write is tried
_ANSWERS: Final = 64 * 1024  # bytes of answers that may wait behind other ciphertext
_PENDING: Final = b""  # in a rest: ciphertext that the transport keeps
_ALL: Final = sys.maxsize  # bytes: all of them


def _fault(text: str) -> ssl.SSLError:
    # With the text alone, the error's text would be that of a tuple.
    return ssl.SSLError(ssl.SSL_ERROR_SSL, text)


class TlsEngine:
    """One side of a TLS connection: ciphertext in, plaintext out, and back.

    Only one thread at a time may use it.

    Attributes:
        is_established: The two sides have shaken hands.
        has_ended: Nothing more can come, after what was decrypted.
        failure: What the next `decrypt` raises. An earlier one has raised it, or returned bytes.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "failure", "has_ended", "is_established")

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str | None, server_side: bool
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.is_established: bool = False
        self.has_ended: bool = False
        self.failure: ssl.SSLError | None = None

    def shake_hands(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLWantReadError: Bytes from the peer are missing.
            ssl.SSLError: It failed.
        """
        self._tls.do_handshake()
        self.is_established = True

    def feed(self, ciphertext: bytes | bytearray) -> None:
        """Take ciphertext that was received; nothing means that no more will come."""
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def decrypt(self, size: int = _ALL) -> bytes | None:
        """Return what is there: nothing at the end, None if the rest of a record is missing.

        Shakes hands first, as far as that is possible with what has arrived.

        Args:
            size: The most bytes to return. The rest stays for the next call.

        Raises:
            ssl.SSLError: The handshake failed, or the peer broke the protocol. Earlier bytes were
                returned before.
        """
        if self.failure is not None:
            raise self.failure
        pieces: list[bytes] = []
        try:
            if not self.is_established:
                self.shake_hands()
            # Plaintext is shorter than its ciphertext. A small message needs no large object.
            wanted = self._incoming.pending or _RECORD_SIZE
            while size > 0 and not self.has_ended:
                wanted = min(wanted, size, _RECORD_SIZE)
                piece = self._tls.read(wanted)
                if not piece:
                    self.has_ended = True
                    break
                pieces.append(piece)
                size -= len(piece)
                # The usual case, without an exception. Less than was wanted ends a record.
                if not (self._incoming.pending or (len(piece) == wanted and self._tls.pending())):
                    break
                wanted = _RECORD_SIZE
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            if not self.is_established:
                raise
            self.has_ended = True
        except ssl.SSLError as exc:
            self.failure = exc  # as OpenSSL reports it, behind the records before the broken one
            if not pieces:
                raise
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"" if self.has_ended else None

    def encrypt(self, data: Buffer) -> None:
        """Encrypt plaintext; `take` returns the ciphertext.

        Raises:
            ssl.SSLError: The connection has failed before, or the peer renegotiates.
        """
        if not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLWantReadError:
            raise _fault("the peer renegotiates, which is not supported") from None

    def take(self) -> bytes:
        """Remove and return the ciphertext to send; alerts and the handshake's messages too."""
        return self._outgoing.read()

    def has_ciphertext(self) -> bool:
        """Return whether there is something to `take`."""
        return self._outgoing.pending > 0

    def check_answers(self) -> None:
        """Set `failure` unless the peer has read most answers to what it sent."""
        if self.failure is None and self._outgoing.pending > _ANSWERS:
            self.failure = _fault("the peer asks for answers that it does not read")

    def getpeercert(self) -> Any:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert` does."""
        return self._tls.getpeercert() if self.is_established else None


class TlsTransport(SocketTransport):
    """A transport over TLS over a socket."""

    def __init__(self, engine: TlsEngine, transport_stream: trio.SocketStream) -> None:
        super().__init__(transport_stream)
        self._engine = engine
        self._ciphertext: Buffer = b""  # that the socket did not take

    # ----------------------------------------------------------------------------- writing

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """See `Transport`. The rest begins with an empty buffer if ciphertext was kept."""
        if len(buffers) == 1 and 0 < len(buffers[0]) <= _WRITE_SIZE and not self._ciphertext:
            self._engine.encrypt(buffers[0])  # the usual case of a single call, behind any answers
            return [] if self._flush() else [_PENDING]
        buffers = [buffer for buffer in buffers if buffer]
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        start = 0
        while self._flush():
            if start == len(data):
                return []
            self._engine.encrypt(data[start : start + _WRITE_SIZE])
            start = min(start + _WRITE_SIZE, len(data))
        return [_PENDING, data[start:]] if start < len(data) else [_PENDING]

    def _flush(self) -> bool:
        """Write ciphertext. Return whether all of it has left."""
        data = self._ciphertext or self._engine.take()
        while data:
            written = _nonblocking.write(self._fd, data)
            if written < len(data):
                self._ciphertext = memoryview(data)[written:]
                return False
            # If that was kept from an earlier write, more may have been encrypted behind it.
            data = self._engine.take() if self._ciphertext else b""
            self._ciphertext = b""
        return True

    # ----------------------------------------------------------------------------- reading

    def try_read(self) -> bytes | None:
        """Return what is there: nothing at the end, None if there is no whole record yet.

        Never waits. Any thread that owns the connection may call it.

        Raises:
            OSError: The stream is broken, or the peer broke TLS.
        """
        engine = self._engine
        has_ended = engine.has_ended
        if has_ended:
            return b""
        ciphertext = _nonblocking.read(self._fd, _READ_SIZE)
        if ciphertext is None:
            return None
        engine.feed(ciphertext)
        try:
            data = engine.decrypt()
        finally:
            # An answer of the handshake, or an alert. A peer that has closed has no use for it, and
            # the next write reports that; what it sent before must still be read.
            if self._ciphertext or engine.has_ciphertext():
                with suppress(OSError):
                    self._flush()
        engine.check_answers()
        if engine.failure is not None and not data:
            raise engine.failure
        if engine.has_ended or engine.failure is not None:  # so that the socket stays readable
            with suppress(OSError):
                self._stream.socket.shutdown(socket.SHUT_RD)
        return data

    def try_read_on(self) -> bytes | None:
        """Read as `try_read` does: TLS has no use for the shared buffer."""
        return self.try_read()
