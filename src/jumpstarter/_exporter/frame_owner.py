"""Find the driver's method that a stack frame belongs to, for the watchdog's log.

A call's code runs inside frames of the session, which know the call. Only the watchdog asks, in its
own thread, when something blocks the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final

from .._io.watchdog import FROM_A_THREAD, Holder
from .._protocol.frames import Kind
from .._util.foreign_frames import frame_of, locals_of
from .eager import EagerConnection, resume
from .incoming_call import IncomingCall
from .session import Session
from .stream_forwarder import StreamForwarder
from .tree import DeviceTree

__tracebackhide__ = True  # in a test's traceback, pytest leaves this file's frames out

__all__ = ["owner_of"]

_IN_A_THREAD: Final = "or have what blocks run in a thread: await trio.to_thread.run_sync(...)"
_WORDS: Final = {
    Kind.UNARY: ("method", f"make it a plain method (def, without async), {_IN_A_THREAD}"),
    Kind.GENERATOR: (
        "generator",
        f"make it a plain generator (def, without async), {_IN_A_THREAD}",
    ),
    Kind.STREAM: ("stream", _IN_A_THREAD.removeprefix("or ")),
}


def _holder(session: Session, call: IncomingCall) -> Holder:
    word, advice = _WORDS[call.head.kind]
    return Holder(f"{word} {session.title(call)}", advice, call)


def _of_answer(own: Mapping[str, Any]) -> Holder:
    return _holder(own["self"], own["call"])


def _of_reader(own: Mapping[str, Any]) -> Holder | None:
    session = own["self"]._answerer  # noqa: SLF001 - the frame's own
    return None if session.begun is None else _holder(session, session.begun)


def _of_thread(own: Mapping[str, Any]) -> Holder | None:
    call = own["worker"].call
    return None if call is None else _holder(own["self"], call)


def _of_begun(own: Mapping[str, Any]) -> Holder | None:
    frame = frame_of(own["work"])
    return None if frame is None else owner_of(frame)


def _of_forwarder(own: Mapping[str, Any]) -> Holder | None:
    """Find the stream whose second task this is, which forwards the client's bytes."""
    client = own["self"]._client  # noqa: SLF001 - as below, the frame's own
    connection = client._connection  # noqa: SLF001
    session, call = connection._owner, connection.handlers.get(client.slot)  # noqa: SLF001
    return None if call is None else _holder(session, call)


def _of_verb(own: Mapping[str, Any]) -> Holder:
    """Name the `reset` or `close` for which the loop waits; it runs in a thread."""
    verb, title = own["round_"].verb, own["self"].title_of(own["turn"])
    return Holder(f"{verb} of {title}", FROM_A_THREAD, own["driver"])


_KNOWN: Final[dict[CodeType, Callable[[Mapping[str, Any]], Holder | None]]] = {
    Session.answer.__code__: _of_answer,
    Session.answer_in_thread.__code__: _of_thread,
    EagerConnection._read_loop.__code__: _of_reader,  # noqa: SLF001 - as below
    resume.__code__: _of_begun,
    DeviceTree._run_all.__code__: _of_verb,  # noqa: SLF001 - only its code object is used
    StreamForwarder._carry_up.__code__: _of_forwarder,  # noqa: SLF001
}


def owner_of(frame: FrameType) -> Holder | None:
    """Return the method that a frame belongs to; None if the frame answers no call."""
    ask = _KNOWN.get(frame.f_code)
    if ask is None:
        return None
    try:
        return ask(locals_of(frame))
    except (KeyError, AttributeError):  # the frame has just begun, or ends
        return None
