"""Measure how the time of an agent step grows with the number of agents in one world.

    python -m benchmarks.scaling --json benchmarks/results/scaling.json

An agent step is one agent of an open world advanced by one control period, as in `env_steps`. In the series `density`
every agent has 4.8 m^2, as ten agents have in 8 x 6 m. In the series `arena` all are in the same 60 x 50 m. Each case is
one world; 16 worlds of 100 agents are measured for reference. The engines take turns on every case.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import tyro

from benchmarks.measure import Effort, Row, add_ratios, measure, progress
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, Engine, rollout, use_all_cores
from entropy_env.engines import ENGINES

COUNTS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
AREA = 4.8  # m^2 per agent
ARENA = (60.0, 50.0)  # m, has room for 10,000 agents


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    effort: tyro.conf.OmitArgPrefixes[Effort] = dataclasses.field(default_factory=lambda: Effort(5, 1.0))
    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = tuple(ENGINES)
    """Engines to measure."""
    counts: tuple[int, ...] = COUNTS
    """Numbers of agents in the world."""
    arena: tuple[float, float] = ARENA
    """Size of the arena in the series `arena`, m."""
    comm_neighbours: int = 0
    """Speakers that each robot hears."""
    reference: str = "open:100:16"
    """Case for reference, as scenario:agents:worlds."""


def cases(
    counts: tuple[int, ...] = COUNTS, arena: tuple[float, float] = ARENA, comm_neighbours: int = 0
) -> list[tuple[str, Case]]:
    """Return every case with the name of its series."""
    dense = [("density", Case("open", count, 1, _size(count), comm_neighbours)) for count in counts]
    return dense + [("arena", Case("open", count, 1, arena, comm_neighbours)) for count in counts]


def _size(num_agents: int) -> tuple[float, float]:
    """Return the size, m, of an arena with sides of 4 to 3 and AREA per agent."""
    height = math.sqrt(AREA * num_agents * 3 / 4)
    return round(height * 4 / 3, 3), round(height, 3)


def scale(engines: tuple[Engine, ...], series: str, case: Case, effort: Effort) -> list[Row]:
    """Measure one case on all engines."""
    rows: list[Row] = [
        {"benchmark": "scaling", "series": series, "size": case.size} | row
        for row in measure([rollout(engine, case) for engine in engines], effort)
    ]
    for row in rows:
        row["world_steps_per_s"] = round(row["agent_steps_per_s"] / case.num_agents, 2)
        row["agent_step_ns"] = round(1e9 / row["agent_steps_per_s"], 1)
    return rows


def main(options: Options) -> None:
    """Measure one case after another."""
    use_all_cores()
    rows: list[Row] = []
    reference = ("worlds", Case.parse(options.reference))
    for series, case in progress(
        [*cases(options.counts, options.arena, options.comm_neighbours), reference], "scaling"
    ):
        rows += scale(options.engines, series, case, options.effort)
    add_ratios(rows, "series", "num_agents")
    show(rows)
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
