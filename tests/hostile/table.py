"""Turn measurements into verdicts and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .attacks import Attack
from .target import Measured

__all__ = ["HEAD", "caveat", "comparison", "line", "percentile", "raw", "verdict"]

MAX_GROWTH: Final = 16.0  # MiB of the resident set
MAX_WAIT: Final = 0.020  # seconds; the 99th percentile of calls
MAX_CONNECT: Final = 0.2  # seconds; the same to connect, make a call and disconnect

_COLUMNS: Final = (
    "attack",
    "row",
    "frames",
    "connections",
    "cut",
    "grew MiB",
    "p50 ms",
    "p99 ms",
    "newcomers' p99 ms",
    "failures",
    "log KiB",
    "verdict",
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a share of the values does not exceed, or 0 without values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else 0.0


def verdict(measured: Measured) -> str:
    """Return "ok", or all faults of a server during an attack."""
    if measured.died:
        return "died"
    faults = []
    if measured.failures:
        faults.append(f"failed ({len(measured.failures)})")
    if (wait := percentile(measured.calls, 0.99)) > MAX_WAIT:
        faults.append(f"slow ({_short(wait * 1000)} ms)")
    if (wait := percentile(measured.newcomers, 0.99)) > MAX_CONNECT:
        faults.append(f"slow to connect ({_short(wait * 1000)} ms)")
    if measured.grew > MAX_GROWTH:
        faults.append(f"grew ({_short(measured.grew)} MiB)")
    return ", ".join(faults) or "ok"


def _short(value: float) -> str:
    return f"{value:,.{0 if value >= 10 else 1}f}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(columns: Sequence[str]) -> str:
    return f"{_row(columns)}\n{'|---' * len(columns)}|"


HEAD: Final = _head(_COLUMNS)


def line(attack: Attack, measured: Measured) -> str:
    """Return an attack's line in the table of one server."""
    return _row(
        (
            attack.name,
            attack.row,
            f"{measured.frames:,}",
            f"{measured.connections:,}",
            f"{measured.cuts:,}",
            _short(measured.grew),
            _short(percentile(measured.calls, 0.5) * 1000),
            _short(percentile(measured.calls, 0.99) * 1000),
            _short(percentile(measured.newcomers, 0.99) * 1000),
            str(len(measured.failures)),
            _short(measured.logged),
            verdict(measured),
        )
    )


def comparison(
    attacks: Iterable[Attack], results: Mapping[str, Mapping[str, Measured | None]]
) -> str:
    """Return the table of all servers. `results` is by server, then attack; None means n/a."""
    lines = [_head(("attack", "row", "what it does", *results))]
    for attack in attacks:
        found = [results[peer].get(attack.name) for peer in results]
        cells = ("n/a" if measured is None else verdict(measured) for measured in found)
        lines.append(_row((attack.name, attack.row, attack.what, *cells)))
    return "\n".join(lines)


def caveat(peace: Mapping[str, Measured | None]) -> str:
    """Return a warning that names the servers that were slow without an attack, or "".

    The results of these servers measure the machine, not the attacks.

    Args:
        peace: The measurements without an attack, by server.
    """
    slow = [name for name, found in peace.items() if found is not None and verdict(found) != "ok"]
    if not slow:
        return ""
    return f"The machine was too busy to say who was slow: {', '.join(slow)} had no peace.\n"


def raw(attack: Attack, measured: Measured) -> dict[str, Any]:
    """Return an attack's figures for other programs, with times in ms."""
    return {
        "attack": attack.name,
        "row": attack.row,
        "frames": measured.frames,
        "connections": measured.connections,
        "cuts": measured.cuts,
        "grew_mib": measured.grew,
        "logged_kib": measured.logged,
        "calls": len(measured.calls),
        "p50_ms": percentile(measured.calls, 0.5) * 1000,
        "p99_ms": percentile(measured.calls, 0.99) * 1000,
        "newcomers": len(measured.newcomers),
        "newcomers_p99_ms": percentile(measured.newcomers, 0.99) * 1000,
        "failures": measured.failures,
        "verdict": verdict(measured),
    }
