"""Step worlds with random actions, with one function per engine."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Row, Run
from entropy_env import spread, vector
from entropy_env.engines import ENGINES, make_engine
from entropy_env.engines.numba_engine.threads import num_cores
from entropy_env.env import Swarm
from entropy_env.scenarios.open import Open
from entropy_env.types import SwarmSpec

Engine = Literal[*ENGINES]
ACTION_BATCHES = 8  # batches of actions, drawn beforehand and used in turn, so that drawing them is not timed


@dataclasses.dataclass(frozen=True)
class Case:
    """A scenario with a number of agents and a number of worlds."""

    scenario: str
    num_agents: int
    num_envs: int
    size: tuple[float, float] | None = None  # m, of an open arena; None for the scenario's own size
    comm_neighbours: int = 0  # speakers that each robot hears

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read a case from scenario:agents:worlds, or with a fourth part the speakers that each robot hears."""
        scenario, agents, envs, *heard = text.split(":")
        return cls(scenario, int(agents), int(envs), comm_neighbours=int(*heard))

    def swarm(self) -> Swarm:
        """Return the simulator."""
        spec = SwarmSpec(num_agents=self.num_agents, comm_neighbours=self.comm_neighbours)
        return Swarm(spec, Open(size=self.size) if self.size else self.scenario)

    def actions(self) -> np.ndarray:
        """Return random actions (batches, E, N, A) float32 in [-1, 1]. They are the same at every call."""
        shape = (ACTION_BATCHES, self.num_envs, self.num_agents, self.swarm().spec.action_dim)
        return np.random.default_rng(0).random(shape, np.float32) * 2 - 1

    def row(self, engine: str) -> Row:
        """Return the fields that describe this case in every row."""
        fields: Row = {"engine": engine, "scenario": self.scenario}
        return fields | {name: getattr(self, name) for name in ("num_agents", "num_envs", "comm_neighbours")}


def rollout(engine: Engine, case: Case) -> Run:
    """Return the case on an engine as a run. `compile_s` in its row is the time until it was ready."""
    started = time.perf_counter()
    go, facts = jax_rollout(case) if engine == "jax" else engine_rollout(engine, case)
    facts = {"compile_s": round(time.perf_counter() - started, 2)} | facts
    env = case.swarm()
    return Run(
        row=case.row(engine) | facts,
        go=go,
        work=case.num_agents * case.num_envs,
        episode=int(env.make_params().max_steps),
    )


def engine_rollout(name: Engine, case: Case) -> tuple[Callable[[int], None], Row]:
    """Return a function that steps an engine from Python, one call per step, and more fields of the row."""
    env, actions = case.swarm(), case.actions()
    engine = make_engine(env, case.num_envs, env.resolve_params(), name)
    engine.reset(np.zeros(2, np.uint32))
    engine.step(actions[0])
    batches = itertools.cycle(actions)

    def go(num_steps: int) -> None:
        for _ in range(num_steps):
            engine.step(next(batches))

    return go, {}


def jax_rollout(case: Case) -> tuple[Callable[[int], None], Row]:
    """Return a function that takes all steps in one compiled loop, as a learner in JAX does, and more fields of the row."""
    reset, step = jax_worlds(case)
    state = jax.jit(reset)()
    go, compiled = device_loop(step, state, jnp.asarray(case.actions()))
    return go, {
        "state_bytes_per_world": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // case.num_envs,
        "working_bytes_per_world": compiled.memory_analysis().temp_size_in_bytes // case.num_envs,
    }


def use_all_cores() -> None:
    """Make each core a JAX device, because XLA steps a batch on little more than one core.

    Call it before any other use of JAX. Otherwise it has no effect.
    """
    with contextlib.suppress(RuntimeError):  # JAX has already been used
        jax.config.update("jax_num_cpu_devices", num_cores())


def jax_batch(case: Case) -> vector.VectorSwarm | spread.SpreadSwarm:
    """Return the worlds of a case. On a CPU they are spread over all cores, if these can share them evenly."""
    env, devices = case.swarm(), jax.local_devices()
    if devices[0].platform != "cpu" or len(devices) == 1 or case.num_envs % len(devices):
        return vector.batch(env, case.num_envs)
    return spread.SpreadSwarm(env, case.num_envs, tuple(devices))


def jax_worlds(case: Case) -> tuple[Callable[[], Any], Callable[..., tuple[Any, jax.Array]]]:
    """Return two functions: one without arguments that returns the first state, and the `step` of `device_loop`."""
    batch, key = jax_batch(case), jax.random.key(0)
    params = batch.env.make_params()

    def reset() -> vector.VectorState:
        return batch.reset(key, params)[1]

    def step(state: vector.VectorState, action: jax.Array, count: jax.Array) -> tuple[vector.VectorState, jax.Array]:
        obs, state, reward, *_ = batch.step(jax.random.fold_in(key, count), state, action, params)
        return state, obs.sum() + reward.sum()

    return reset, step


def device_loop(
    step: Callable[..., tuple[Any, jax.Array]], state: Any, actions: jax.Array
) -> tuple[Callable[[int], None], jax.stages.Compiled]:
    """Return a function that takes a number of steps in one compiled loop, and the compiled loop.

    step: maps state, action and the count of steps so far to the next state and a number, (). The number must depend on
    everything that a learner reads; otherwise XLA would not compute it. actions: (batches, ...), used in turn.
    """

    def loop(state: Any, actions: jax.Array, first: jax.Array, last: jax.Array) -> tuple[Any, jax.Array]:
        def body(count: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, read = step(carry[0], actions[count % len(actions)], count)
            return state, carry[1] + read

        return jax.lax.fori_loop(first, last, body, (state, jnp.float32(0)))

    compiled = jax.jit(loop, donate_argnums=0).lower(state, actions, jnp.int32(0), jnp.int32(1)).compile()
    taken = 0

    def go(num_steps: int) -> None:
        nonlocal state, taken
        state, read = compiled(state, actions, np.int32(taken), np.int32(taken + num_steps))
        taken += num_steps
        jax.block_until_ready(read)

    return go, compiled
