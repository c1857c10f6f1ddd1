"""Record a console while its board and its watchers come and go: a short `make soak-console`."""

from __future__ import annotations

import math
from pathlib import Path

from console_soak import Plan, console_output, soak


def test_a_record_is_exact_whatever_happens_to_the_console(tmp_path: Path) -> None:
    plan = Plan(cycles=12, rate=math.inf, buffer_size=256 * 1024, seed=1)
    result = soak(plan, tmp_path)
    assert result.cycles + result.plugs == 12
    assert min(result.plugs, result.cycles) > 0
    assert result.filed == result.said > result.kept == plan.buffer_size
    assert min(result.sessions) >= 1
    assert result.watched > 0


def test_the_output_at_an_offset_does_not_depend_on_how_it_is_cut() -> None:
    whole = console_output(0, 10_000)
    assert b"".join(console_output(at, at + 7) for at in range(0, 9_996, 7)) == whole[:9_996]
    assert len({whole[at : at + 96] for at in range(0, 9_600, 96)}) == 100
