"""How many agent steps a second the batched simulator makes, with random actions.

    python -m benchmarks.env_steps --json benchmarks/results/env_steps.json

One step is one agent advanced by one control period: four substeps of motion and contacts, 32 lidar rays over
everything in the arena, the observation and the reward, resets included. The configurations run in turn, several
times; the median counts. Compile time is apart: of reset and rollout together, in processes of their own, with an
empty compilation cache (`compile_s`) and a filled one (`compile_cached_s`).
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.progress import track

from benchmarks.report import save_rows
from entropy_env import vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

CASES = (
    ("open", 10, 1024),
    ("open", 100, 16),
    ("rooms", 10, 256),
    ("open", 10, 256),
    ("obstacles", 10, 256),
    ("maze", 10, 256),
    ("corridor", 10, 256),
    ("crossing", 10, 256),
    ("circle", 10, 256),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    """File to write the rows to."""
    repeats: int = 7
    """Times that every configuration runs."""
    num_steps: int = 100
    """Control periods in a run."""
    compile_times: bool = True
    """Also measure compile times, in fresh processes."""


def rollout(scenario: str, num_agents: int, num_envs: int, num_steps: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """A function that runs `num_steps` control periods, compiled, and what compiling and memory took."""
    env = Swarm(SwarmSpec(num_agents=num_agents), scenario)
    worlds = vector.batch(env, num_envs)
    params = env.make_params()

    @jax.jit
    def run(key: jax.Array, state: vector.VectorState) -> tuple[vector.VectorState, jax.Array]:
        def step(state: vector.VectorState, key: jax.Array) -> tuple[vector.VectorState, jax.Array]:
            k_action, k_step = jax.random.split(key)
            action = jax.random.uniform(k_action, (num_envs, num_agents, 2), minval=-1.0, maxval=1.0)
            obs, state, reward, *_ = worlds.step(k_step, state, action, params)
            return state, obs.sum() + reward.sum()

        return jax.lax.scan(step, state, jax.random.split(key, num_steps))

    started = time.perf_counter()
    _, state = jax.jit(worlds.reset)(jax.random.key(0), params)
    compiled = run.lower(jax.random.key(0), state).compile()
    jax.block_until_ready(state)
    facts = {
        "compile_s": round(time.perf_counter() - started, 2),
        "state_bytes_per_world": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // num_envs,
        "working_bytes_per_world": compiled.memory_analysis().temp_size_in_bytes // num_envs,
    }
    keys = iter(jax.random.split(jax.random.key(1), 10_000))

    def go() -> None:
        nonlocal state
        state, out = compiled(next(keys), state)
        jax.block_until_ready(out)

    return go, facts


def compile_seconds(scenario: str, num_agents: int, num_envs: int, cache: str) -> float:
    """Seconds to compile reset and rollout in a process of its own, with a given cache folder."""
    code = f"from benchmarks.env_steps import rollout; print(rollout({scenario!r}, {num_agents}, {num_envs}, 100)[1]['compile_s'])"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(options: Options) -> None:
    """Measure all cases in turn."""
    rows = [
        {"benchmark": "env_steps", "engine": "jax", "scenario": scenario, "num_agents": agents, "num_envs": envs}
        for scenario, agents, envs in CASES
    ]
    runs = []
    for row, case in zip(track(rows, "compiling"), CASES, strict=True):
        go, facts = rollout(*case, options.num_steps)
        row |= facts
        go()
        runs.append(go)
    seconds: list[list[float]] = [[] for _ in CASES]
    for _ in track(range(options.repeats), "measuring"):
        for go, times in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            go()
            times.append(time.perf_counter() - started)
    for row, times in zip(rows, seconds, strict=True):
        work = row["num_agents"] * row["num_envs"] * options.num_steps
        row["agent_steps_per_s"] = round(work / statistics.median(times))
        row["best_agent_steps_per_s"] = round(work / min(times))
    if options.compile_times:
        for row, case in zip(track(rows, "compiling in fresh processes"), CASES, strict=True):
            with tempfile.TemporaryDirectory() as cache:
                row["compile_s"] = compile_seconds(*case, cache)
                row["compile_cached_s"] = compile_seconds(*case, cache)
    for row in rows:
        print(
            f"{row['scenario']:10} {row['num_agents']:4} x {row['num_envs']:5} {row['agent_steps_per_s']:>10,} agent steps/s"
        )
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
