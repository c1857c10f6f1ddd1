"""TLS over a socket, without a task switch for each record.

`trio.SSLStream` always waits in its event loop, so a call over it cannot be written by the code
that makes it, nor be answered in its thread: it took six to twenty times the processor time of a
call over a Unix socket. Here TLS is a conversion of bytes, by `ssl.MemoryBIO`, around the same
reads and writes that a plain connection makes:

    TlsStream       ciphertext in, plaintext out, and back; and a Trio stream for the handshake
    TlsListener     accepts such streams
    TlsTransport    the transport of a connection

Rules:

- No close_notify is sent, and its absence is not an error, as in HTTPS. The protocol above
  announces its own end and treats any other end as an error, so a truncation attack fails. And
  closing never waits for a peer that does not read or has not shaken hands.
- Plaintext that was encrypted cannot be taken back. If the socket does not take all ciphertext, the
  transport keeps it, and an empty buffer at the front of the rest stands for it.
- A read decrypts all that has arrived: what is left in the memory BIO is an incomplete record. So
  the socket is readable whenever there may be something to read. The client's handshake reads no
  data, since the exporter sends none before the client's HELLO.
- The exporter shakes hands as it reads. Its messages fit into the kernel's queue, which is empty.
- The peer may want an answer to what is neither data nor the handshake (a key update). It leaves
  with the next write.
- No peer may renegotiate: a write would have to wait for a read. A request for that is answered by
  an alert. A peer that makes more answers than it reads is at fault, since they would fill memory.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import trio

from .. import _nonblocking
from .transport import Buffer, SocketTransport

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TlsListener", "TlsStream", "TlsTransport"]

_READ_SIZE: Final = 64 * 1024  # bytes of ciphertext in one read
_RECORD_SIZE: Final = 16 * 1024  # bytes of plaintext: the most in a record
_WRITE_SIZE: Final = 64 * 1024  # bytes of plaintext that are encrypted before a write is tried
_ANSWERS: Final = 64 * 1024  # bytes of answers that may wait behind other ciphertext
_PENDING: Final = b""  # in a rest: ciphertext that the transport keeps


class TlsStream(trio.abc.Stream):
    """A TLS connection over a Trio stream.

    Only one task may send and one may receive, and neither may be cancelled in between if the
    stream is to be used afterwards.

    Attributes:
        transport_stream: The stream with the ciphertext, as in `trio.SSLStream`.
        is_established: The two sides have shaken hands.
        has_ended: Nothing more can come, after what was decrypted.
    """

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        *,
        server_side: bool = False,
    ) -> None:
        self.transport_stream: trio.abc.Stream = transport_stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.is_established: bool = False
        self.has_ended: bool = False

    # ---------------------------------------------------------------------------- conversion

    def feed(self, ciphertext: bytes | bytearray) -> None:
        """Take ciphertext that was received; nothing means that no more will come."""
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def decrypt(self, size: float = math.inf) -> bytes | None:
        """Return what is there: nothing at the end, None if the rest of a record is missing.

        Shakes hands first, as far as that is possible with what has arrived.

        Args:
            size: The most bytes to return. The rest stays for the next call.

        Raises:
            ssl.SSLError: The peer broke the protocol, or the handshake failed.
        """
        pieces: list[bytes] = []
        try:
            if not self.is_established:
                self.shake_hands()
            while size > 0 and not self.has_ended:
                wanted = _RECORD_SIZE if size > _RECORD_SIZE else int(size)
                piece = self._tls.read(wanted)
                if not piece:
                    self.has_ended = True
                    break
                pieces.append(piece)
                size -= len(piece)
                # The usual case, without an exception. Less than was wanted ends a record.
                if not (self._incoming.pending or (len(piece) == wanted and self._tls.pending())):
                    break
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            if not self.is_established:
                raise
            self.has_ended = True
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"" if self.has_ended else None

    def shake_hands(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLWantReadError: Bytes from the peer are missing.
            ssl.SSLError: It failed.
        """
        self._tls.do_handshake()
        self.is_established = True

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
            raise ssl.SSLError("the peer renegotiates, which is not supported") from None

    def take(self) -> bytes:
        """Remove and return the ciphertext to send; alerts and the handshake's messages too."""
        return self._outgoing.read() if self._outgoing.pending else b""

    @property
    def has_ciphertext(self) -> bool:
        """True if there is something to `take`."""
        return self._outgoing.pending > 0

    def check_answers(self) -> None:
        """Check that the peer has read most answers to what it sent.

        Raises:
            ssl.SSLError: It has not.
        """
        if self._outgoing.pending > _ANSWERS:
            raise ssl.SSLError("the peer asks for answers that it does not read")

    def getpeercert(self) -> Any:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert` does."""
        return self._tls.getpeercert() if self.is_established else None

    # ------------------------------------------------------------------------ a Trio stream

    async def do_handshake(self) -> None:
        """Shake hands. A checkpoint; does nothing if it was done before.

        Raises:
            trio.BrokenResourceError: It failed. The cause says why.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_established:
            try:
                self.shake_hands()
            except ssl.SSLWantReadError:
                await self._send_ciphertext()
                self.feed(await self.transport_stream.receive_some(_READ_SIZE))
            except ssl.SSLError as exc:
                with trio.CancelScope(shield=True, deadline=-math.inf):  # an alert, if it fits
                    await self._send_ciphertext()
                raise trio.BrokenResourceError from exc
        await self._send_ciphertext()

    async def send_all(self, data: Buffer) -> None:
        """Send bytes, and shake hands first. See `trio.abc.SendStream`."""
        await self.do_handshake()
        try:
            self.encrypt(data)
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError from exc
        await self._send_ciphertext()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` may not have to wait."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, and shake hands first. See `trio.abc.ReceiveStream`."""
        await self.do_handshake()
        while True:
            try:
                data = self.decrypt(math.inf if max_bytes is None else max_bytes)
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError from exc
            if data is not None:
                return data
            await self._send_ciphertext()
            self.feed(await self.transport_stream.receive_some(_READ_SIZE))

    async def aclose(self) -> None:
        """Close the stream, without close_notify."""
        await self.transport_stream.aclose()

    async def _send_ciphertext(self) -> None:
        if data := self.take():
            await self.transport_stream.send_all(data)

    def make_transport(self) -> TlsTransport:
        """Return the transport of a connection over this stream, which is over a socket."""
        assert isinstance(self.transport_stream, trio.SocketStream)
        return TlsTransport(self, self.transport_stream)


class TlsListener(trio.abc.Listener[TlsStream]):
    """Accept TLS connections. The handshake comes with the first use of a stream."""

    def __init__(
        self, transport_listener: trio.abc.Listener[trio.SocketStream], context: ssl.SSLContext
    ) -> None:
        self.transport_listener: trio.abc.Listener[trio.SocketStream] = transport_listener
        self._context = context

    async def accept(self) -> TlsStream:
        """Accept a connection. See `trio.abc.Listener`."""
        return TlsStream(await self.transport_listener.accept(), self._context, server_side=True)

    async def aclose(self) -> None:
        """Close the listener. See `trio.abc.AsyncResource`."""
        await self.transport_listener.aclose()


class TlsTransport(SocketTransport):
    """A transport over TLS over a socket."""

    def __init__(self, stream: TlsStream, transport_stream: trio.SocketStream) -> None:
        super().__init__(transport_stream)
        self._tls = stream
        self._ciphertext: Buffer = b""  # that the socket did not take

    # ----------------------------------------------------------------------------- writing

    def try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """See `Transport`. The rest begins with an empty buffer if ciphertext was kept."""
        if len(buffers) == 1 and 0 < len(buffers[0]) <= _WRITE_SIZE and not self._ciphertext:
            self._tls.encrypt(buffers[0])  # the usual case of a single call, behind any answers
            return [] if self._flush() else [_PENDING]
        buffers = [buffer for buffer in buffers if buffer]
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        start = 0
        while self._flush():
            if start == len(data):
                return []
            self._tls.encrypt(data[start : start + _WRITE_SIZE])
            start = min(start + _WRITE_SIZE, len(data))
        return [_PENDING, data[start:]] if start < len(data) else [_PENDING]

    def _flush(self) -> bool:
        """Write ciphertext. Return whether all of it has left."""
        data = self._ciphertext or self._tls.take()
        while data:
            written = _nonblocking.write(self._fd, data)
            if not written:
                break
            data = memoryview(data)[written:] if written < len(data) else self._tls.take()
        self._ciphertext = data
        return not data

    # ----------------------------------------------------------------------------- reading

    def try_read(self) -> bytes | None:
        """Return what is there: nothing at the end, None if there is no whole record yet.

        Never waits. Any thread that owns the connection may call it.

        Raises:
            OSError: The stream is broken, or the peer broke TLS.
        """
        has_ended = self._tls.has_ended
        if has_ended:
            return b""
        ciphertext = _nonblocking.read(self._fd, _READ_SIZE)
        if ciphertext is None:
            return None
        self._tls.feed(ciphertext)
        try:
            data = self._tls.decrypt()
        finally:
            # An answer of the handshake, or an alert. A peer that has closed has no use for it, and
            # the next write reports that; what it sent before must still be read.
            if self._ciphertext or self._tls.has_ciphertext:
                with suppress(OSError):
                    self._flush()
        self._tls.check_answers()
        if data and self._tls.has_ended:  # so that the socket stays readable
            with suppress(OSError):
                self._stream.socket.shutdown(socket.SHUT_RD)
        return data

    def try_read_on(self) -> bytes | None:
        """Read as `try_read` does: TLS has no use for the shared buffer."""
        return self.try_read()
