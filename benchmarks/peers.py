"""Compare the speed of other simulators of navigating robots with ours, with equal numbers of agents and worlds.

    python -m benchmarks.peers --json benchmarks/results/peers.json

An agent step is one agent advanced by one control period, with its observation and its reward. All systems get the same
random actions, drawn beforehand, and are reset every 200 steps. They do not simulate the same things:

- `vmas`, VMAS `navigation` on torch: holonomic discs that collide, 32 rays over the other agents, 3 m; spawned in
  8 x 6 m like ours, 2 substeps. https://github.com/proroklab/VectorizedMultiAgentSimulator
- `jaxnav`, JaxMARL's JaxNav: differential drive in a grid map, 32 beams sampled every 5 cm up to 6 m; an agent that
  collides stops for good. https://github.com/FLAIROXX/JaxMARL
- `camar`, CAMAR `random_grid`: differential drive among 800 discs, the three nearest observed instead of a lidar.
  https://github.com/AIRI-Institute/CAMAR

A system that is not installed is skipped with a message. `ratios` are speeds over those of the other systems with the
same numbers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from benchmarks.measure import Effort, Row, Run, add_ratios, measure, progress
from benchmarks.report import save_rows, show
from benchmarks.rollouts import Case, Engine, device_loop, rollout, use_all_cores
from entropy_env.engines import ENGINES

EPISODE = 200  # steps, the time limit of our open arena
PEERS = {"vmas": "vmas", "jaxnav": "jaxmarl", "camar": "camar"}  # names of the systems and their packages


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    effort: tyro.conf.OmitArgPrefixes[Effort] = dataclasses.field(default_factory=lambda: Effort(5, 3.0))
    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = tuple(ENGINES)
    """Our engines to measure."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Other systems to measure."""
    cases: tuple[str, ...] = ("open:10:256", "open:32:64")
    """Cases, as scenario:agents:worlds. The scenario is for our engines."""


def vmas(case: Case) -> tuple[str, Callable[[int], None]]:
    """Return the scenario and the stepper of VMAS, on torch, on the CPU."""
    import torch
    from vmas import make_env

    env = make_env(
        "navigation",
        num_envs=case.num_envs,
        device="cpu",
        continuous_actions=True,
        seed=0,
        n_agents=case.num_agents,
        n_lidar_rays=32,
        lidar_range=3.0,
        world_spawning_x=4.0,
        world_spawning_y=3.0,
        enforce_bounds=True,
    )
    batches = [[torch.from_numpy(row.copy()) for row in batch.swapaxes(0, 1)] for batch in case.actions()]
    count = itertools.count()

    def go(num_steps: int) -> None:
        for i in itertools.islice(count, num_steps):
            if i % EPISODE == 0:
                env.reset()
            env.step(batches[i % len(batches)])

    return "navigation", go


def jaxnav(case: Case) -> tuple[str, Callable[[int], None]]:
    """Return the scenario and the stepper of JaxNav, on JAX.

    It calls `step_env`, which leaves out the reset that JaxMARL's `step` computes every time.
    """
    import jaxmarl

    env = jaxmarl.make("jaxnav", num_agents=case.num_agents, lidar_num_beams=32)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, ...]:
        return env.step_env(key, state, {agent: action[i] for i, agent in enumerate(env.agents)})

    return "jaxnav", jax_peer(env.reset, step, case)


def camar(case: Case) -> tuple[str, Callable[[int], None]]:
    """Return the scenario and the stepper of CAMAR, on JAX."""
    from camar import camar_v0

    env = camar_v0(dynamic="DiffDriveDynamic", map_kwargs={"num_agents": case.num_agents})
    return "random_grid", jax_peer(env.reset, env.step, case)


def jax_peer(reset: Callable[..., Any], step: Callable[..., Any], case: Case) -> Callable[[int], None]:
    """Return a function that steps many worlds of a gymnax-like environment in one compiled loop."""
    key = jax.random.key(0)

    def start(key: jax.Array) -> Any:
        return jax.vmap(reset)(jax.random.split(key, case.num_envs))[1]

    def advance(state: Any, action: jax.Array, count: jax.Array) -> tuple[Any, jax.Array]:
        k_reset, k_step = jax.random.split(jax.random.fold_in(key, count))
        state = jax.lax.cond(count % EPISODE == 0, lambda: start(k_reset), lambda: state)
        obs, state, reward, *_ = jax.vmap(step, (None, 0, 0))(k_step, state, action)
        return state, sum(leaf.sum() for leaf in jax.tree.leaves((obs, reward)))

    return device_loop(advance, jax.jit(start)(key), jnp.asarray(case.actions()))[0]


def peer(name: str, case: Case) -> Run:
    """Return a peer as a run, with the numbers of agents and worlds of the case."""
    started = time.perf_counter()
    scenario, go = {"vmas": vmas, "jaxnav": jaxnav, "camar": camar}[name](case)
    go(1)
    row = case.row(name) | {"scenario": scenario, "compile_s": round(time.perf_counter() - started, 2)}
    return Run(row, go, work=case.num_agents * case.num_envs, episode=EPISODE)


def main(options: Options) -> None:
    """Measure one case after another, all systems in turn."""
    use_all_cores()
    warnings.simplefilter("ignore")  # the other systems' warnings
    present = [name for name in options.peers if importlib.util.find_spec(PEERS[name])]
    for name in options.peers:
        if name not in present:
            print(f"{name}: {PEERS[name]} is not installed, skipped")
    rows: list[Row] = []
    for text in progress(options.cases, "comparing"):
        case = Case.parse(text)
        runs = [rollout(engine, case) for engine in options.engines] + [peer(name, case) for name in present]
        rows += [{"benchmark": "peers"} | row for row in measure(runs, options.effort)]
    add_ratios(rows, "num_agents", "num_envs")
    show(rows)
    if options.json:
        save_rows(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
