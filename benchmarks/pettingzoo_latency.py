"""Measure how long a step of the PettingZoo environment takes, with its dicts of actions, observations and infos.

    python -m benchmarks.pettingzoo_latency --json benchmarks/results/pettingzoo_latency.json

A step is one `parallel_env().step` of one open world. All agents stay (`on_goal="next_goal"`, no time limit), so every
dict is full. An agent step is one agent in such a step. `reset_s` is one `reset()`. `first_use_s` is the time from the
start of a fresh process to the end of its first step, with imports, compilation and an empty Numba cache.
`second_use_s` is the same in the next process, which finds that cache filled. JAX compiles again in both, as it does for
users who set no cache folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import tyro

from benchmarks.measure import Effort, Row, Run, add_ratios, measure, progress, python, seconds_of
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, Engine
from entropy_env import swarm_v0
from entropy_env.engines import ENGINES

FIRST_USE = """
import time
from entropy_env import swarm_v0
env = swarm_v0.parallel_env(num_agents={num_agents}, engine={engine!r})
env.reset(seed=0)
env.step({{agent: [0.5, 0.4] for agent in env.agents}})
print(time.time())
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    effort: tyro.conf.OmitArgPrefixes[Effort] = dataclasses.field(default_factory=lambda: Effort(seconds=1.0))
    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = tuple(ENGINES)
    """Engines to measure."""
    num_agents: tuple[int, ...] = (1, 10, 100)
    """Numbers of agents in the world."""
    resets: int = 20
    """Number of resets to time."""
    first_use: bool = True
    """Also measure fresh processes."""


def latency(engine: Engine, num_agents: int, resets: int) -> Run:
    """Return the steps of one environment as a run. Its row already has the time of a reset."""
    case = Case("open", num_agents, 1)
    started = time.perf_counter()
    env = swarm_v0.parallel_env(num_agents=num_agents, engine=engine, on_goal="next_goal", max_steps=1_000_000_000)
    env.reset(seed=0)
    actions = itertools.cycle([dict(zip(env.agents, batch[0], strict=True)) for batch in case.actions()])
    env.step(next(actions))
    compile_s = time.perf_counter() - started
    reset_s = statistics.median(seconds_of(env.reset) for _ in range(resets))

    def go(num_steps: int) -> None:
        for _ in range(num_steps):
            env.step(next(actions))

    return Run(case.row(engine) | {"compile_s": round(compile_s, 2), "reset_s": round(reset_s, 6)}, go, work=num_agents)


def first_use(engine: Engine, num_agents: int, cache: str) -> float:
    """Return the seconds from the start of a process to the end of its first step. cache: folder of Numba's cache."""
    started = time.time()
    code = FIRST_USE.format(engine=engine, num_agents=num_agents)
    printed = python("-c", code, NUMBA_CACHE_DIR=cache, JAX_COMPILATION_CACHE_DIR=None)
    return round(float(printed.split()[-1]) - started, 2)


def main(options: Options) -> None:
    """Measure all environments in turn."""
    cases = [(engine, num_agents) for num_agents in options.num_agents for engine in options.engines]
    runs = [latency(*case, options.resets) for case in progress(cases, "compiling")]
    rows: list[Row] = [{"benchmark": "pettingzoo_latency"} | row for row in measure(runs, options.effort)]
    add_ratios(rows, "num_agents")
    for row in rows:
        row["world_steps_per_s"] = round(row["agent_steps_per_s"] / row["num_agents"], 1)
    if options.first_use:
        for row, case in zip(progress(rows, "in fresh processes"), cases, strict=True):
            with tempfile.TemporaryDirectory() as cache:
                row["first_use_s"] = first_use(*case, cache)
                row["second_use_s"] = first_use(*case, cache)
    show(rows)
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
