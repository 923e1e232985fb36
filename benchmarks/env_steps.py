"""Measure the agent steps per second of the batched simulator, with random actions.

    python -m benchmarks.env_steps --json benchmarks/results/env_steps.json

An agent step is one agent advanced by one control period: four substeps of motion and contacts, 32 lidar rays over
everything in the arena, the observation and the reward. Resets are included. Agents that have arrived still count until
their world is over. `numba` is stepped from Python, `jax` in one compiled loop on the device. Both get the same actions,
drawn beforehand. Compile time is the time until reset and steps are ready to run. It is measured apart, in fresh
processes, with empty compilation caches (`compile_s`) and with filled ones (`compile_cached_s`). `ratios` are speeds over
those of the other engines on the same case.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import tyro

from benchmarks.measure import Effort, Row, add_ratios, measure, progress, python
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, Engine, rollout, use_all_cores
from entropy_env.engines import ENGINES

CASES = (
    "open:10:1024",
    "open:100:16",
    "rooms:10:256",
    "open:10:256",
    "open:10:256:8",
    "obstacles:10:256",
    "maze:10:256",
    "corridor:10:256",
    "crossing:10:256",
    "circle:10:256",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    effort: tyro.conf.OmitArgPrefixes[Effort] = dataclasses.field(default_factory=Effort)
    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = tuple(ENGINES)
    """Engines to measure."""
    cases: tuple[str, ...] = CASES
    """Cases, as scenario:agents:worlds, or with a fourth part the speakers that each robot hears."""
    compile_times: bool = True
    """Also measure compile times, in fresh processes."""


def compile_seconds(engine: Engine, case: Case, caches: str) -> float:
    """Return the seconds until an engine is ready in a fresh process. caches: folder of the compilation caches."""
    code = f"from benchmarks.rollouts import *; use_all_cores(); print(rollout({engine!r}, {case!r}).row['compile_s'])"
    printed = python(
        "-c",
        code,
        JAX_COMPILATION_CACHE_DIR=f"{caches}/jax",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        NUMBA_CACHE_DIR=f"{caches}/numba",
    )
    return float(printed.split()[-1])


def main(options: Options) -> None:
    """Measure all cases in turn."""
    use_all_cores()
    cases = [(engine, Case.parse(text)) for text in options.cases for engine in options.engines]
    runs = [rollout(engine, case) for engine, case in progress(cases, "compiling")]
    rows: list[Row] = [{"benchmark": "env_steps"} | row for row in measure(runs, options.effort)]
    add_ratios(rows, "scenario", "num_agents", "num_envs", "comm_neighbours")
    if options.compile_times:
        for row, (engine, case) in zip(progress(rows, "compiling in fresh processes"), cases, strict=True):
            with tempfile.TemporaryDirectory() as caches:
                row["compile_s"] = compile_seconds(engine, case, caches)
                row["compile_cached_s"] = compile_seconds(engine, case, caches)
    show(rows)
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
