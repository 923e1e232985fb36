"""One interface to step many worlds from Python, on NumPy arrays, and what all engines need to keep to it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import jax
import numpy as np

from entropy_env import checks
from entropy_env.types import cast_params

if TYPE_CHECKING:
    from entropy_env.env import Swarm
    from entropy_env.types import Layout, SwarmParams, SwarmState
    from entropy_env.vector import VectorSwarm

EngineName = Literal["auto", "numba", "jax"]
ROWS = 8  # agents whose spawns and goals are drawn anew at a time
QUICK = {"xla_backend_optimization_level": 0}  # to compile
LITTLE = 256  # agents, below which layouts are drawn by code that is quick to compile
STATE_WIDTHS = {"position": (2,), "wheel_speed": (2,), "velocity": (2,), "rounding": (6,), "sunk": (2,)}


@dataclasses.dataclass(frozen=True)
class Transition:
    """What a step tells about E worlds of N agents. Worlds that are over have been reset if the engine does so."""

    obs: np.ndarray  # (E, N, obs_dim) float32, to act on next; zero for the inactive
    final_obs: np.ndarray  # (E, N, obs_dim) float32, before any respawn or reset; valid where terminated or truncated
    reward: np.ndarray  # (E, N) float32
    terminated: np.ndarray  # (E, N) bool
    truncated: np.ndarray  # (E, N) bool
    done: np.ndarray  # (E,) bool, the world is over
    acted: np.ndarray  # (E, N) bool, who took part in this step
    active: np.ndarray  # (E, N) bool, who is in the world after it, before any reset
    reached: np.ndarray  # (E, N) bool
    collision: np.ndarray  # (E, N) bool
    success: np.ndarray  # (E, N) bool, valid where terminated or truncated
    goals_reached: np.ndarray  # (E, N) int32, since the world's reset
    episode_return: np.ndarray  # (E, N) float32, this step included
    episode_length: np.ndarray  # (E, N) int32, this step included
    reward_terms: np.ndarray  # (E, N, terms) float32, in the order of `Swarm.terms`


class Engine(Protocol):
    """E worlds of N agents. What it returns may be views of its own arrays, good until the next call: copy to keep."""

    env: Swarm
    num_envs: int
    autoreset: bool  # worlds that are over begin again in the step that ends them

    @property
    def params(self) -> SwarmParams:
        """One number for all worlds, or (E,) values. May be set at any time; new layouts follow from the next draw."""

    @params.setter
    def params(self, params: SwarmParams) -> None: ...

    def reset(self, seed: int | np.ndarray | None = None, which: np.ndarray | None = None) -> np.ndarray:
        """New episodes everywhere, or in the worlds of `which` (E,) bool. Observations (E, N, obs_dim).

        seed: a whole number of at least 0, or (2,) uint32; None goes on with the layouts of the seed before. Both
        engines begin with the same layouts, but draw those of later episodes each in its own order.
        """

    def reset_to(self, layout: Layout) -> np.ndarray:
        """New episodes on given layouts (E, ...). Observations (E, N, obs_dim)."""

    @property
    def valid(self) -> np.ndarray:
        """(E,) bool; False where the generator could not fit everyone into a layout."""

    def step(self, action: np.ndarray) -> Transition:
        """One control period. action: (E, N, 2), clipped to [-1, 1]; what is not finite counts as zero."""

    def observe(self) -> np.ndarray:
        """(E, N, obs_dim) of the worlds as they stand."""

    def global_state(self) -> np.ndarray:
        """(E, N * spec.state_dim), see `Swarm.global_state`."""

    @property
    def state(self) -> SwarmState:
        """A copy, (E, ...) with NumPy leaves. May be set, from either engine's: the episodes go on from there."""

    @state.setter
    def state(self, state: SwarmState) -> None: ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of all that decides what comes next, with the layouts to come, by names of the engine's own."""

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot of such an engine with the same simulator, exactly as that did. ValueError for
        another.
        """


def as_seed(seed: int | np.ndarray) -> np.ndarray:
    """(2,) uint32. ValueError for anything else."""
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return np.random.SeedSequence(int(seed)).generate_state(2)
    array = np.asarray(seed)
    if array.shape != (2,) or array.dtype != np.uint32:
        raise ValueError(f"{seed=} must be a whole number of at least 0, or two uint32")
    return array.copy()


def check_shape(name: str, value: Any, expected: tuple[int, ...]) -> None:
    """ValueError naming both shapes."""
    if np.shape(value) != expected:
        raise ValueError(f"{name} has shape {np.shape(value)}, expected {expected}")


def check_draws(env: Swarm) -> None:
    """RuntimeError for a scenario whose maps are given by hand."""
    if not env.scenario.draws:
        raise RuntimeError(
            f"scenario {env.scenario.name!r} draws no maps: give one, with reset_to(layout) of an engine, or with "
            "reset(options={'layout': layout}) or layout=... of an adapter"
        )


def read_draws(snapshot: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """The seed (2,) uint32 and the number of draws in a snapshot. ValueError where they are none."""
    seed, draws = np.asarray(snapshot["seed"]), snapshot["draws"]
    check_shape("snapshot['seed']", seed, (2,))
    check_shape("snapshot['draws']", draws, ())
    if seed.dtype != np.uint32:
        raise ValueError(f"snapshot['seed']={snapshot['seed']!r} must be two uint32")
    return seed.copy(), checks.as_count("snapshot['draws']", draws, checks.COUNT)


def check_names(what: str, given: Mapping[str, Any], expected: set[str]) -> None:
    """ValueError naming one that is missing or unknown."""
    wrong = sorted(given.keys() ^ expected)
    if wrong:
        raise ValueError(f"{what} {'has no' if wrong[0] in expected else 'has an unknown'} {wrong[0]!r}")


def check_which(which: np.ndarray | None, num_envs: int) -> np.ndarray:
    """(E,) bool, everywhere for None."""
    if which is None:
        return np.ones(num_envs, bool)
    check_shape("which", which, (num_envs,))
    return np.array(which, bool)


def check_params(params: SwarmParams, env: Swarm, num_envs: int) -> None:
    """ValueError for a value out of range, or another number of them than one, or one for each world."""
    numbers = params.by_keyword()
    for name, value in numbers.items():
        if not isinstance(value, checks.PLAIN) and np.shape(value) not in ((), (num_envs,)):
            shape = np.shape(value)
            raise ValueError(f"{name} has shape {shape}: give one number, or one for each of {num_envs} worlds")
    checks.check_params(numbers)
    env.check_together(params)


def check_layout(layout: Layout, env: Swarm, num_envs: int) -> None:
    """ValueError for a layout that is not of these many worlds and slots, or has a number out of range."""
    spec = env.spec
    shapes: dict[str, tuple[int, ...]] = {
        "size": (2,),
        "walls": (spec.num_walls, 2, 2),
        "wall_mask": (spec.num_walls,),
        "boxes": (spec.num_boxes, 4),
        "box_mask": (spec.num_boxes,),
        "discs": (spec.num_discs, 3),
        "disc_mask": (spec.num_discs,),
        "spawns": (spec.num_agents, spec.num_goals, 3),
        "goals": (spec.num_agents, spec.num_goals, 2),
        "valid": (),
        "key": (2,),
    }
    for name, shape in shapes.items():
        check_shape(f"layout.{name}", getattr(layout, name), (num_envs, *shape))
    checks.check_layout(layout)


def check_start(layout: Layout, env: Swarm, num_envs: int) -> None:
    """As `check_layout`, and ValueError for a spawn outside the arena. Spawns may overlap: robots come apart."""
    check_layout(layout, env, num_envs)
    spawns, size = np.asarray(layout.spawns), np.asarray(layout.size)
    checks.check_inside("layout.spawns", spawns[..., :2], size[:, None, None])


def check_state(state: SwarmState, env: Swarm, num_envs: int) -> None:
    """ValueError for a state that is not of these many worlds, agents and slots, has a number out of range, an active
    agent outside the arena or a goal that is none. Agents may overlap: they come apart.
    """
    check_layout(state.layout, env, num_envs)
    for field in dataclasses.fields(state):
        if field.name != "layout":
            width = STATE_WIDTHS.get(field.name, ())
            agents = () if field.name in ("step", "done") else (env.spec.num_agents,)
            check_shape(f"state.{field.name}", getattr(state, field.name), (num_envs, *agents, *width))
    for name, allowed in checks.STATE.items():
        checks.check_number(f"state.{name}", getattr(state, name), allowed)
    position, size, active = (np.asarray(each) for each in (state.position, state.layout.size, state.active))
    checks.check_inside("state.position", position, size[:, None], active.astype(bool))
    numbers = [np.asarray(getattr(state, name)) for name in ("position", "heading", "velocity", "angular_velocity")]
    numbers = [array.reshape(*array.shape[:2], -1) for array in numbers]
    digit = np.spacing(np.abs(np.concatenate(numbers, axis=-1), dtype=np.float32))
    if not np.all(np.abs(state.rounding) <= digit / 2):
        raise ValueError(
            "state.rounding is more than half the last digit of its number: set it to 0 where you change one"
        )
    checks.check_number("state.goal_index", state.goal_index, checks.Range(0, env.spec.num_goals - 1, whole=True))


def episode_key(seed: jax.Array, count: jax.Array) -> jax.Array:
    """The key of the count-th draw from a seed (2,) uint32, whatever JAX's default generator is."""
    return jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), count)


def draw(
    batch: VectorSwarm, seed: np.ndarray, count: int | np.integer, params: SwarmParams, device: jax.Device | None = None
) -> Layout:
    """Layouts (S, E, ...), on which both engines begin, of the count-th draw from a seed (2,) uint32.

    device: JAX's own for None.
    """
    params = cast_params(params, np.asarray)  # so that neither the engine nor the kind of number given compiles anew
    little = batch.num_envs * batch.env.spec.num_agents < LITTLE
    quick = little and (device.platform if device else jax.default_backend()) == "cpu"
    with jax.default_device(device):
        return (_draw_little if quick else _draw)(batch, seed, np.uint32(count), params)


def _drawn(batch: VectorSwarm, seed: jax.Array, count: jax.Array, params: SwarmParams) -> Layout:
    k_layout, _ = jax.random.split(episode_key(seed, count))  # as `VectorSwarm.reset` has it
    return batch.draw(k_layout, params)


def _fresh_rows(
    env: Swarm, layouts: Layout, agents: jax.Array, goals_reached: jax.Array, params: SwarmParams
) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(env.fresh_row)(layouts, agents, goals_reached, params)


def draw_rows(
    env: Swarm,
    layouts: Layout,
    agents: np.ndarray,
    goals_reached: np.ndarray,
    params: SwarmParams,
    device: jax.Device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Spawns (K, G, 3) and goals (K, G, 2) of `Swarm.fresh_row`, for K agents.

    layouts, params: (K, ...). agents, goals_reached: (K,) int32. device: JAX's own for None.
    """
    rows, count = [], len(agents)
    for start in range(0, count, ROWS):  # always as many, so that one size is compiled
        index = np.minimum(np.arange(start, start + ROWS), count - 1)
        some = jax.tree.map(lambda array, index=index: array[index], (layouts, agents, goals_reached, params))
        with jax.default_device(device):
            rows.append(jax.tree.map(np.asarray, _draw_rows(env, *some)))
    spawns, goals = (np.concatenate(arrays)[:count] for arrays in zip(*rows, strict=True))
    return spawns, goals


_draw = jax.jit(_drawn, static_argnums=0)
# one small world waits longer for good code than for slow code to run
_draw_little = jax.jit(_drawn, static_argnums=0, compiler_options=QUICK)
_draw_rows = jax.jit(_fresh_rows, static_argnums=0, compiler_options=QUICK)


_forked_from_jax = False


def _note_fork() -> None:
    global _forked_from_jax
    bridge = sys.modules.get("jax._src.xla_bridge")  # no public name tells whether a device has been started
    _forked_from_jax |= bool(getattr(bridge, "backends_are_initialized", lambda: False)())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_fork() -> None:
    """RuntimeError in a process forked from one that had used JAX, whose threads are missing: it would wait for
    ever.
    """
    if _forked_from_jax:
        raise RuntimeError(
            "this process was forked from one that had already used JAX, which cannot go on in it: start workers with "
            'multiprocessing.get_context("spawn"), or "forkserver", or fork before the first reset'
        )
