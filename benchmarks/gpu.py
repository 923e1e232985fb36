"""Measure everything of interest on an accelerator, in one call of a few minutes.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json

Agent steps are as in `env_steps`, on JAX. Rows `gpu/worlds` multiply the number of worlds by four until that is hardly
faster or the memory is full. `gpu/cases` are a crowd and a scenario with walls. `gpu/scaling` is as in `scaling`.
`gpu/training` is the update of PPO. `operations_per_s` and `bytes_per_s` are the least that a rollout needs
(`benchmarks.cost`), divided by the time it took. `operations_share` and `bytes_share` are these divided by the device's
float32 and memory limits, or null if the limits are unknown. After the time limit, the rest is skipped with a message.
`--quick` runs tiny sizes anywhere.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import tyro

from benchmarks import scaling
from benchmarks.cost import cost, device_limits
from benchmarks.measure import Effort, Row, measure
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, jax_worlds, rollout
from benchmarks.training import speed

WORLDS = (1_024, 4_096, 16_384, 65_536, 262_144)
CASES = (Case("open", 100, 4_096), Case("rooms", 10, 16_384))
PAYS = 1.05  # least gain in speed by four times the worlds, else the series ends


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    json: Path | None = None
    """File to write the rows to."""
    quick: bool = False
    """Use tiny sizes, to see that everything runs."""
    limit_s: float = 420.0
    """Seconds after which no new measurement is started."""
    updates: int = 40
    """Number of PPO updates to time."""


def measured(case: Case, effort: Effort) -> Row:
    """Measure a case. Its row also tells how close it comes to the device's limits."""
    (row,) = measure([rollout("jax", case)], effort)
    reset, step = jax_worlds(case)
    lanes = case.num_envs, case.num_agents
    action, count = jax.ShapeDtypeStruct((*lanes, 2), np.float32), jax.ShapeDtypeStruct((), np.int32)
    least = cost(step, jax.eval_shape(reset), action, count)
    limits = device_limits(jax.devices()[0].device_kind) or (None, None)
    for name, amount, limit in zip(("bytes", "operations"), (least.bytes, least.operations), limits, strict=True):
        needed = amount / math.prod(lanes)
        achieved = needed * row["agent_steps_per_s"]
        row |= {f"{name}_per_agent_step": round(needed), f"{name}_per_s": round(achieved)}
        row[f"{name}_share"] = limit and round(achieved / limit, 4)
    return row


def worlds(counts: tuple[int, ...], effort: Effort) -> Iterator[Row]:
    """Measure ten agents in more and more worlds."""
    best = 0
    for count in counts:
        try:
            row = measured(Case("open", 10, count), effort)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"10 x {count:,} worlds do not fit into the device's memory")
            return
        yield row
        if row["agent_steps_per_s"] < PAYS * best:
            return
        best = row["agent_steps_per_s"]


def everything(options: Options) -> Iterator[Row]:
    """Measure everything, one part after another."""
    quick, effort = options.quick, Effort(1, 0.01) if options.quick else Effort(3, 1.0)
    for row in worlds((4,) if quick else WORLDS, effort):
        yield {"benchmark": "gpu/worlds"} | row
    for case in (Case("rooms", 4, 4),) if quick else CASES:
        yield {"benchmark": "gpu/cases"} | measured(case, effort)
    for num_envs in (8,) if quick else (256, 4_096):
        yield {"benchmark": "gpu/training", "engine": "jax"} | speed(
            1 if quick else options.updates, {"num_envs": num_envs}
        )[0]
    for series, case in [("density", Case("open", 4, 1, (3.0, 3.0)))] if quick else scaling.cases():
        for row in scaling.scale(("jax",), series, case, effort):
            yield row | {"benchmark": "gpu/scaling"}


def main(options: Options) -> None:
    """Measure until everything is done or the time is up. Writes the file again after every row."""
    started, rows = time.perf_counter(), []
    for row in everything(options):
        show([row])
        rows.append(row)
        if options.json:
            save_rows(options.json, rows)
        if time.perf_counter() - started > options.limit_s:
            print(f"{options.limit_s:g} s are over, the rest is skipped")
            break


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
