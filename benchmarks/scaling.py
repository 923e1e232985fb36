"""How the time of an agent step grows with the number of agents in one world.

    python -m benchmarks.scaling --json benchmarks/results/scaling.json

One step is one agent of an open world advanced by one control period, as in `env_steps`. Series `density` gives every
agent 4.8 m^2, as ten have in 8 x 6 m; series `arena` puts all in the same 60 x 50 m. One world each, and 16 worlds of
100 agents for reference. The engines take turns on one world after the other.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import tyro

from benchmarks.measure import Effort, Row, add_ratios, measure, progress
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, Engine, rollout, use_all_cores

COUNTS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
AREA = 4.8  # m^2 an agent
ARENA = (60.0, 50.0)  # m, in which 10,000 fit


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    effort: tyro.conf.OmitArgPrefixes[Effort] = dataclasses.field(default_factory=lambda: Effort(5, 1.0))
    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = ("numba", "jax")
    """Which engines."""
    counts: tuple[int, ...] = COUNTS
    """Agents in the world."""
    arena: tuple[float, float] = ARENA
    """m, the arena that stays the same."""
    reference: str = "open:100:16"
    """scenario:agents:worlds."""


def cases(counts: tuple[int, ...] = COUNTS, arena: tuple[float, float] = ARENA) -> list[tuple[str, Case]]:
    """Every case with the name of its series."""
    dense = [("density", Case("open", count, 1, _size(count))) for count in counts]
    return dense + [("arena", Case("open", count, 1, arena)) for count in counts]


def _size(num_agents: int) -> tuple[float, float]:
    """m, 4 to 3."""
    height = math.sqrt(AREA * num_agents * 3 / 4)
    return round(height * 4 / 3, 3), round(height, 3)


def scale(engines: tuple[Engine, ...], series: str, case: Case, effort: Effort) -> list[Row]:
    """One case on all engines."""
    rows: list[Row] = [
        {"benchmark": "scaling", "series": series, "size": case.size} | row
        for row in measure([rollout(engine, case) for engine in engines], effort)
    ]
    for row in rows:
        row["world_steps_per_s"] = round(row["agent_steps_per_s"] / case.num_agents, 2)
        row["agent_step_ns"] = round(1e9 / row["agent_steps_per_s"], 1)
    return rows


def main(options: Options) -> None:
    """Measure one world after the other."""
    use_all_cores()
    rows: list[Row] = []
    reference = ("worlds", Case.parse(options.reference))
    for series, case in progress([*cases(options.counts, options.arena), reference], "scaling"):
        rows += scale(options.engines, series, case, options.effort)
    add_ratios(rows, "series", "num_agents")
    show(rows)
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
