"""TLS over a socket, without a task switch for each record.

`trio.SSLStream` always waits in its event loop, so a call over it cannot be written by the code
that makes it, nor be answered in its thread: it took six to twenty times the processor time of a
call over a Unix socket. Here TLS is a conversion of bytes, by `ssl.MemoryBIO`, around the same
reads and writes that a plain connection makes:

    TlsEngine       ciphertext in, plaintext out, and back
    TlsTransport    the transport of a connection
    TlsStream       a Trio stream for the handshake, and for HTTP
    TlsListener     accepts such streams

The first two are in `tls_transport`, which is compiled.

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
- No peer may renegotiate: a write would have to wait for a read. An exporter answers a request for
  that by an alert, and a client's next write ends the connection. A peer that makes more answers
  than it reads is at fault, since they would fill memory.
"""

from __future__ import annotations

import math
import ssl
import sys
from typing import Any, Final

import trio

from .tls_transport import TlsEngine, TlsTransport
from .transport import Buffer

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["TlsListener", "TlsStream"]

_READ_SIZE: Final = 64 * 1024  # bytes of ciphertext in one read


class TlsStream(trio.abc.Stream):
    """A TLS connection over a Trio stream.

    Only one task may send and one may receive, and neither may be cancelled in between if the
    stream is to be used afterwards.

    Attributes:
        transport_stream: The stream with the ciphertext, as in `trio.SSLStream`.
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
        self._engine = TlsEngine(context, server_hostname, server_side)

    def getpeercert(self) -> Any:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert` does."""
        return self._engine.getpeercert()

    async def do_handshake(self) -> None:
        """Shake hands. A checkpoint; does nothing if it was done before.

        Raises:
            trio.BrokenResourceError: It failed. The cause says why.
        """
        await trio.lowlevel.checkpoint()
        while not self._engine.is_established:
            try:
                self._engine.shake_hands()
            except ssl.SSLWantReadError:
                await self._send_ciphertext()
                self._engine.feed(await self.transport_stream.receive_some(_READ_SIZE))
            except ssl.SSLError as exc:
                with trio.CancelScope(shield=True, deadline=-math.inf):  # an alert, if it fits
                    await self._send_ciphertext()
                raise trio.BrokenResourceError from exc
        await self._send_ciphertext()

    async def send_all(self, data: Buffer) -> None:
        """Send bytes, and shake hands first. See `trio.abc.SendStream`."""
        await self.do_handshake()
        try:
            self._engine.encrypt(data)
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError from exc
        await self._send_ciphertext()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` may not have to wait."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, and shake hands first. See `trio.abc.ReceiveStream`."""
        size = sys.maxsize if max_bytes is None else max_bytes
        await self.do_handshake()
        while True:
            try:
                data = self._engine.decrypt(size)
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError from exc
            if data is not None:
                return data
            await self._send_ciphertext()
            self._engine.feed(await self.transport_stream.receive_some(_READ_SIZE))

    async def aclose(self) -> None:
        """Close the stream, without close_notify."""
        await self.transport_stream.aclose()

    async def _send_ciphertext(self) -> None:
        if data := self._engine.take():
            await self.transport_stream.send_all(data)

    def make_transport(self) -> TlsTransport:
        """Return the transport of a connection over this stream, which is over a socket."""
        assert isinstance(self.transport_stream, trio.SocketStream)
        return TlsTransport(self._engine, self.transport_stream)


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
