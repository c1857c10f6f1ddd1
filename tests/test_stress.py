"""A short run of the stress test; `make stress SECONDS=600` is a long one."""

from __future__ import annotations

from stress import run


def test_one_connection_is_used_in_every_way_concurrently() -> None:
    counts = run(seconds=3, seed=1)
    for kind in ("call", "time_out", "fail", "iterate", "async", "be_interrupted"):
        assert counts[kind] > 0, kind


def test_a_signal_handler_raises_beside_threads_streams_and_generators() -> None:
    counts = run(seconds=0, seed=1, over="tls", calls=300)
    assert counts["interruptions"] > 0
    assert counts["be_interrupted"] == 300
