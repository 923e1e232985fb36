"""The interface of all engines, which step many worlds on NumPy arrays, and the checks and draws that engines share."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env import checks, geodesic
from entropy_env.scenarios.base import empty_layout
from entropy_env.types import SwarmState, cast_params, narrow, old_name
from entropy_env.vector import param_axes

if TYPE_CHECKING:
    from entropy_env.env import Swarm
    from entropy_env.types import Layout, SwarmParams, SwarmSpec
    from entropy_env.vector import VectorSwarm

ROWS = 8  # agents whose spawns and goals are drawn again at a time
QUICK = {"xla_backend_optimization_level": 0}  # makes XLA compile faster, and slower code
LITTLE = 256  # with fewer agents in all worlds, layouts are drawn by code that compiles faster


@dataclasses.dataclass(frozen=True)
class Transition:
    """The results of a step of E worlds of N agents. With `autoreset`, worlds that are over have already been reset."""

    obs: np.ndarray  # (E, N, obs_dim) float32, after any respawn or reset, to act on next; zero for inactive agents
    final_obs: np.ndarray  # (E, N, obs_dim) float32, before any respawn or reset; valid where terminated or truncated
    reward: np.ndarray  # (E, N) float32
    terminated: np.ndarray  # (E, N) bool
    truncated: np.ndarray  # (E, N) bool
    over: np.ndarray  # (E,) bool, the world is over
    acted: np.ndarray  # (E, N) bool, the agent took part in this step
    active: np.ndarray  # (E, N) bool, the agent is in the world after the step, before any reset
    reached: np.ndarray  # (E, N) bool
    collision: np.ndarray  # (E, N) bool
    success: np.ndarray  # (E, N) bool, valid where terminated or truncated
    goals_reached: np.ndarray  # (E, N) int32, since the world's reset
    episode_return: np.ndarray  # (E, N) float32, this step included
    episode_length: np.ndarray  # (E, N) int32, this step included
    reward_terms: np.ndarray  # (E, N, terms) float32, in the order of `Swarm.terms`

    done = old_name("done", "over")


class Engine(Protocol):
    """Steps E worlds of N agents.

    Returned arrays may be views of the engine's own. They are valid until the next call, so copy what you keep.
    """

    env: Swarm
    num_envs: int
    autoreset: bool  # reset a world in the step that ends it

    @property
    def params(self) -> SwarmParams:
        """The parameters: each one number for all worlds, or (E,) values.

        May be set at any time. Layouts follow them from the next draw on.
        """

    @params.setter
    def params(self, params: SwarmParams) -> None: ...

    def reset(self, seed: int | np.ndarray | None = None, which: np.ndarray | None = None) -> np.ndarray:
        """Begin new episodes everywhere, or in the worlds of `which` (E,) bool. Returns observations (E, N, obs_dim).

        seed: a whole number of at least 0, or (2,) uint32. With None the layouts go on from the last seed. From one seed,
        both engines begin on the same layouts, but each draws the layouts of later episodes in its own order.
        """

    def reset_to(self, layout: Layout) -> np.ndarray:
        """Begin new episodes on given layouts (E, ...). Returns observations (E, N, obs_dim)."""

    @property
    def valid(self) -> np.ndarray:
        """Whether the generator fitted everyone into the layout of each world, (E,) bool."""

    def step(self, action: np.ndarray) -> Transition:
        """Step by one control period. action: (E, N, action_dim), clipped to [-1, 1]. What is not finite counts as 0."""

    def observe(self) -> np.ndarray:
        """Return the current observations (E, N, obs_dim)."""

    def global_state(self) -> np.ndarray:
        """Return the global states (E, N * spec.state_dim), see `Swarm.global_state`."""

    @property
    def state(self) -> SwarmState:
        """A copy of the state, (E, ...) with NumPy leaves. May be set, also to another engine's: episodes go on from it."""

    @state.setter
    def state(self, state: SwarmState) -> None: ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return copies, by name, of all arrays that decide what happens next, with the layouts of later episodes.

        Each engine has its own names.
        """

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on exactly from a snapshot. Raises ValueError if it is of another kind of engine, or another simulator."""


def as_seed(seed: int | np.ndarray) -> np.ndarray:
    """Return a seed as (2,) uint32. Raises ValueError unless it is a whole number of at least 0, or two uint32."""
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return np.random.SeedSequence(int(seed)).generate_state(2)
    array = np.asarray(seed)
    if array.shape != (2,) or array.dtype != np.uint32:
        raise ValueError(f"{seed=} must be a whole number of at least 0, or two uint32")
    return array.copy()


def check_shape(name: str, value: Any, expected: tuple[int, ...]) -> None:
    """Raise ValueError, naming both shapes, if a value does not have the expected one."""
    if np.shape(value) != expected:
        raise ValueError(f"{name} has shape {np.shape(value)}, expected {expected}")


def check_draws(env: Swarm) -> None:
    """Raise RuntimeError if the scenario draws no maps, because they are given by hand."""
    if not env.scenario.draws:
        raise RuntimeError(
            f"scenario {env.scenario.name!r} draws no maps: give one, with reset_to(layout) of an engine, or with "
            "reset(options={'layout': layout}) or layout=... of an adapter"
        )


def read_draws(snapshot: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """Return the seed (2,) uint32 and the number of draws in a snapshot. Raises ValueError if they are malformed."""
    seed, draws = np.asarray(snapshot["seed"]), snapshot["draws"]
    check_shape("snapshot['seed']", seed, (2,))
    check_shape("snapshot['draws']", draws, ())
    if seed.dtype != np.uint32:
        raise ValueError(f"snapshot['seed']={snapshot['seed']!r} must be two uint32")
    return seed.copy(), checks.as_count("snapshot['draws']", draws, checks.COUNT)


def check_names(what: str, given: Mapping[str, Any], expected: set[str]) -> None:
    """Raise ValueError if a name is missing or unknown. what: begins the message."""
    wrong = sorted(given.keys() ^ expected)
    if wrong:
        raise ValueError(f"{what} {'has no' if wrong[0] in expected else 'has an unknown'} {wrong[0]!r}")


def check_which(which: np.ndarray | None, num_envs: int) -> np.ndarray:
    """Return which worlds, (E,) bool; all of them for None. Raises ValueError for another shape."""
    if which is None:
        return np.ones(num_envs, bool)
    check_shape("which", which, (num_envs,))
    return np.array(which, bool)


def check_params(params: SwarmParams, env: Swarm, num_envs: int) -> None:
    """Check parameters: each must be one number, or one for each world, and in range. Raises ValueError."""
    numbers = params.by_keyword()
    for name, value in numbers.items():
        if not isinstance(value, checks.PLAIN) and np.shape(value) not in ((), (num_envs,)):
            shape = np.shape(value)
            raise ValueError(f"{name} has shape {shape}: give one number, or one for each of {num_envs} worlds")
    checks.check_params(numbers)
    env.check_together(params)


@functools.cache
def state_shapes(spec: SwarmSpec) -> SwarmState:
    """Return the shapes and types of the state of one world. Computes nothing and starts no device."""

    def start() -> SwarmState:
        layout = empty_layout(jnp.zeros(2, jnp.float32), spec)
        return SwarmState.at_rest(layout, layout.spawns[:, 0], jnp.zeros(spec.num_agents, jnp.int32), spec)

    return jax.eval_shape(start)


def _check_shapes(what: str, given: Any, expected: Any, num_envs: int) -> None:
    """Raise ValueError if an array does not have the shape of one world, with an axis of `num_envs` in front."""
    for name, leaf in vars(expected).items():
        if name not in ("layout", "ways", "words") and leaf is not None:
            check_shape(f"{what}.{name}", getattr(given, name), (num_envs, *leaf.shape))


def check_layout_shapes(layout: Layout, env: Swarm, num_envs: int) -> None:
    """Check that a layout has the shapes for these worlds, and all numbers in range. Raises ValueError."""
    expected = state_shapes(env.spec).layout
    _check_shapes("layout", layout, expected, num_envs)
    if (layout.team is None) != (expected.team is None):
        raise ValueError(
            f"layout.team is {'missing' if layout.team is None else 'given'}, and teams={env.spec.teams} here"
        )
    if (layout.ways is None) != (expected.ways is None):
        raise ValueError(f"layout.ways is {layout.ways and 'given'}, and geodesic={env.spec.geodesic} here")
    if expected.ways is not None:
        _check_shapes("layout.ways", layout.ways, expected.ways, num_envs)
    checks.check_layout_numbers(layout)


def with_ways(layout: Layout, env: Swarm, params: SwarmParams, device: jax.Device | None = None) -> Layout:
    """Return layouts (E, ...) with their shortest ways as NumPy arrays, if `geodesic` is on and they have none yet."""
    if layout.ways is not None or not env.spec.geodesic:
        return layout
    check_fork()
    with jax.default_device(device):
        return jax.tree.map(np.asarray, _chart(env, narrow(layout), cast_params(params, np.asarray)))


def check_arrivals(layout: Layout, env: Swarm, params: SwarmParams) -> None:
    """Raise ValueError naming an agent that has no way to one of its goals, if `geodesic` is on. layout: (E, ...)."""
    if not env.spec.geodesic or np.all(layout.valid):
        return
    arrives = jax.vmap(geodesic.arrives, (0, param_axes(params)))(narrow(layout), cast_params(params))
    for world, agent, turn in np.argwhere(~np.asarray(arrives)):
        spawn, goal = np.asarray(layout.spawns)[world, agent, 0, :2], np.asarray(layout.goals)[world, agent, turn]
        raise ValueError(
            f"agent_{agent}: its goal {goal.tolist()} cannot be reached from its spawn {spawn.tolist()}, and geodesic=True "
            "needs a way to every goal"
        )


def check_start(layout: Layout, env: Swarm, num_envs: int) -> None:
    """Check a layout as `check_layout_shapes` does, and that spawns are inside the arena. Raises ValueError.

    Spawns may overlap: the robots come apart.
    """
    check_layout_shapes(layout, env, num_envs)
    spawns, size = np.asarray(layout.spawns), np.asarray(layout.size)
    checks.check_inside("layout.spawns", spawns[..., :2], size[:, None, None])


def check_state(state: SwarmState, env: Swarm, num_envs: int) -> None:
    """Check that a state has the shapes for these worlds, and that its numbers are in range. Raises ValueError.

    Active agents must be inside the arena, and goal indices must exist. Agents may overlap: they come apart.
    """
    check_layout_shapes(state.layout, env, num_envs)
    _check_shapes("state", state, state_shapes(env.spec), num_envs)
    if (state.words is None) == env.spec.talks:
        raise ValueError(
            f"state.words is {'missing' if state.words is None else 'given'}, and comm_neighbours={env.spec.comm_neighbours} here"
        )
    if state.words is not None:
        words = state_shapes(env.spec).words
        _check_shapes("state.words", state.words, words, num_envs)
        for name, columns in checks.WORDS.items():
            if getattr(words, name) is not None:
                checks.check_number(f"state.words.{name}", getattr(state.words, name), *columns)
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


def draw_key(seed: jax.Array, count: jax.Array) -> jax.Array:
    """Return the key of the count-th draw from a seed (2,) uint32. It does not depend on JAX's default generator."""
    return jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), count)


def draw(
    batch: VectorSwarm, seed: np.ndarray, count: int | np.integer, params: SwarmParams, device: jax.Device | None = None
) -> Layout:
    """Draw layouts (S, E, ...), the count-th draw from a seed (2,) uint32. Both engines begin on these.

    device: None for JAX's default.
    """
    # Fixed types, so that another engine, or another type of number from the user, does not compile again.
    params = cast_params(params, np.asarray)
    little = batch.num_envs * batch.env.spec.num_agents < LITTLE
    quick = little and (device.platform if device else jax.default_backend()) == "cpu"
    with jax.default_device(device):
        return (_draw_little if quick else _draw)(batch, seed, np.uint32(count), params)


def _drawn(batch: VectorSwarm, seed: jax.Array, count: jax.Array, params: SwarmParams) -> Layout:
    k_layout, _ = jax.random.split(draw_key(seed, count))  # the same split as in `VectorSwarm.reset`
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
    """Draw spawns (K, G, 3) and goals (K, G, 2) with `Swarm.fresh_row`, for K agents.

    layouts, params: (K, ...). agents, goals_reached: (K,) int32. device: None for JAX's default.
    """
    rows, count = [], len(agents)
    for start in range(0, count, ROWS):  # always ROWS at a time, so only one size is compiled
        index = np.minimum(np.arange(start, start + ROWS), count - 1)
        some = jax.tree.map(lambda array, index=index: array[index], (layouts, agents, goals_reached, params))
        with jax.default_device(device):
            rows.append(jax.tree.map(np.asarray, _draw_rows(env, *some)))
    spawns, goals = (np.concatenate(arrays)[:count] for arrays in zip(*rows, strict=True))
    return spawns, goals


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _chart(env: Swarm, layout: Layout, params: SwarmParams) -> Layout:
    return jax.vmap(env.chart, (0, param_axes(params)))(layout, params)


_draw = jax.jit(_drawn, static_argnums=0)
# For few agents, compiling optimised code takes longer than running unoptimised code.
_draw_little = jax.jit(_drawn, static_argnums=0, compiler_options=QUICK)
_draw_rows = jax.jit(_fresh_rows, static_argnums=0, compiler_options=QUICK)


_forked_from_jax = False


def _note_fork() -> None:
    global _forked_from_jax
    bridge = sys.modules.get("jax._src.xla_bridge")  # JAX has no public way to ask whether a device has been started
    _forked_from_jax |= bool(getattr(bridge, "backends_are_initialized", lambda: False)())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def check_fork() -> None:
    """Raise RuntimeError in a process forked from one that had used JAX.

    JAX's threads do not exist in such a process, so JAX would wait for them forever.
    """
    if _forked_from_jax:
        raise RuntimeError(
            "this process was forked from one that had already used JAX, which cannot go on in it: start workers with "
            'multiprocessing.get_context("spawn"), or "forkserver", or fork before the first reset'
        )
