"""Tests of `jumpstarter._util.deferred_signals`: no signal handler interrupts a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import PATIENCE
from jumpstarter._util import deferred_signals
from jumpstarter._util.deferred_signals import (
    DeferAllSignals,
    DeferSignals,
    never_defer,
)


class Handler:
    """A signal handler that counts its calls, and raises a given exception."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error = error
        self.ran: list[int] = []

    def __call__(self, signum: int, _frame: object) -> None:
        self.ran.append(signum)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _same_handlers_after() -> Iterator[None]:
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {signum: signal.getsignal(signum) for signum in watched}
    yield
    for signum, handler in before.items():
        assert signal.signal(signum, handler) == handler


@pytest.fixture
def on_sigterm(_same_handlers_after: None) -> Iterator[Handler]:
    handler = Handler(SystemExit)
    previous = signal.signal(signal.SIGTERM, handler)
    yield handler
    assert signal.signal(signal.SIGTERM, previous) is handler


def test_a_handler_runs_when_the_block_ends() -> None:
    reached: list[str] = []

    def be_struck() -> None:
        with DeferSignals():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
        reached.append("beyond")

    with pytest.raises(KeyboardInterrupt):
        be_struck()
    assert reached == ["the end"]


def test_a_handler_runs_once_for_each_signal(
    on_sigterm: Handler,
) -> None:
    on_sigterm.error = None
    with DeferSignals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert not on_sigterm.ran
    assert on_sigterm.ran == [signal.SIGTERM] * 2


def test_all_handlers_run_even_if_one_raises(on_sigterm: Handler) -> None:
    def be_struck() -> None:
        with DeferSignals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        be_struck()
    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert on_sigterm.ran == [signal.SIGTERM]


def test_an_exception_of_the_block_propagates_without_a_signal() -> None:
    with pytest.raises(ValueError, match="the body's"), DeferSignals():
        raise ValueError("the body's")


def test_a_signal_during_restoration_leaves_no_handler_out(
    on_sigterm: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = deferred_signals._set

    def install_and_strike(signum: int, handler: Any) -> None:
        install(signum, handler)
        if handler is on_sigterm and not on_sigterm.ran:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit), DeferSignals():
        monkeypatch.setattr(deferred_signals, "_set", install_and_strike)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_deferral_restores_all_handlers(
    on_sigterm: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = deferred_signals._set

    def install_and_strike(signum: int, handler: Any) -> None:
        if signum == signal.SIGTERM and not on_sigterm.ran:
            signal.raise_signal(signal.SIGTERM)
        install(signum, handler)

    monkeypatch.setattr(deferred_signals, "_set", install_and_strike)
    with pytest.raises(SystemExit):
        DeferSignals().__enter__()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is on_sigterm


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.SIG_DFL])
def test_signals_without_a_python_handler_are_left_alone(disposition: signal.Handlers) -> None:
    previous = signal.signal(signal.SIGUSR1, disposition)
    try:
        with DeferSignals():
            assert signal.getsignal(signal.SIGUSR1) is disposition
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_other_threads_defer_nothing() -> None:
    seen: list[object] = []

    def enter() -> None:
        with DeferSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [signal.default_int_handler]


def test_a_handler_that_never_raises_stays_installed() -> None:
    """Installing it again would undo `siginterrupt`, whose setting cannot be read."""

    def nothing(_signum: int, _frame: object) -> None:
        """Do nothing."""

    never_defer(nothing)
    previous = signal.signal(signal.SIGUSR1, nothing)
    try:
        with DeferAllSignals():
            assert signal.getsignal(signal.SIGUSR1) is nothing
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGUSR1, previous)
