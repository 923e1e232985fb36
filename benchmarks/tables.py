"""Write numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Row
from benchmarks.report import RESULTS


def percent(value: float) -> str:
    """Format a share, for example 0.9934 as 99.3 %."""
    return f"{100 * value:.1f} %"


def span(values: list[float], form: Callable[[float], str] = percent) -> str:
    """Format the smallest and the largest value, or only one if both look the same. Without values return an empty text."""
    if not values:
        return ""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = (" | ".join(cells) for cells in (heads, *lines))
    top, *rest = (f"| {row} |" for row in rows)
    return "\n".join([top, "|" + "---|" * len(heads), *rest])


def counts(row: Row) -> str:
    """Format the numbers of robots and worlds."""
    return f"{row['num_agents']:,} x {row['num_envs']:,}"


def shown(row: Row, name: str, form: Callable[[Any], str]) -> str:
    """Format a value, or return an empty text if there is none."""
    return "" if row.get(name) is None else form(row[name])


def picture(name: str, text: str, folder: str = "results") -> str:
    """Return the link to a plot of `benchmarks.plots`, or an empty text if it has not been drawn.

    folder: that of the results, seen from the page.
    """
    return f"\n![{text}]({folder}/{name}.png)\n" if (RESULTS / f"{name}.png").exists() else ""
