"""The simulator on NumPy arrays: the one part of the PettingZoo and Gymnasium adapters that runs JAX.

Compiled functions belong to the module, with the simulator as a static argument. Simulators of equal settings
are equal, so a second environment compiles nothing, and neither does a new parameter value.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.env import Info, Swarm
from entropy_env.rewards import TERMS
from entropy_env.scenarios import Scenario
from entropy_env.scenarios.custom import Custom, check_layout, make_layout, pad_layout, spec_for
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState
from entropy_env.vector import VectorState, VectorSwarm

RENDER_MODES = ("human", "rgb_array")
NO_RENDER_MODE = "nothing is drawn: the environment was made without a render_mode"
FLAGS = ("terminated", "truncated", "done", "active", "reached", "collision")
SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(SwarmSpec))


@dataclasses.dataclass(frozen=True)
class Transition:
    """What a step tells about N agents, in fresh arrays; of many worlds, (E, N, ...)."""

    obs: np.ndarray  # (N, obs_dim) float32
    reward: np.ndarray  # (N,) float32
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    done: np.ndarray  # (N,) bool, the world is over
    info: dict[str, Any]  # (N,) each: active after the step, reached, collision, goals_reached; and a dict reward_terms

    @classmethod
    def unpack(cls, packed: jax.Array) -> Transition:
        """From what `_pack` made, with one copy from the device."""
        table = np.asarray(packed)
        numbers = len(FLAGS) + 2 + len(TERMS)
        rest = np.moveaxis(table[..., -numbers:], -1, 0).copy()
        flags = dict(zip(FLAGS, rest[: len(FLAGS)].astype(bool), strict=True))
        reward, goals_reached, *terms = rest[len(FLAGS) :]
        return cls(
            obs=table[..., :-numbers].copy(),
            reward=reward,
            terminated=flags["terminated"],
            truncated=flags["truncated"],
            done=flags["done"],
            info={
                "active": flags["active"],
                "reached": flags["reached"],
                "collision": flags["collision"],
                "goals_reached": goals_reached.astype(np.int32),
                "reward_terms": dict(zip(TERMS, terms, strict=True)),
            },
        )

    def infos(self) -> list[dict[str, Any]]:
        """Of one world: `info` as a dict of Python numbers for each agent."""
        return _rows(self.info)


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = [_rows(column) if isinstance(column, dict) else column.tolist() for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


class _Simulator:
    """What one world and many have in common: a simulator with its parameters, and a picture."""

    def __init__(
        self,
        num_agents: int,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        render_mode: str | None = None,
        max_steps: int | None = None,
        **settings: Any,
    ) -> None:
        """settings: further fields of SwarmSpec and SwarmParams, and the name of a `reward` preset."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"{render_mode=} must be None or one of {', '.join(RENDER_MODES)}")
        self.render_mode = render_mode
        self._renderer: Any = None
        self._spec = SwarmSpec(num_agents, **{name: settings.pop(name) for name in SPEC_FIELDS & settings.keys()})
        self._scenario = scenario
        self._settings = settings if max_steps is None else settings | {"max_steps": max_steps}
        self._largest = 1
        self.difficulty = scenario.difficulty if isinstance(scenario, Scenario) else difficulty
        self.swarm, self.params = self._at(self.difficulty)
        self._seed = np.zeros(2, np.uint32)
        self._state: Any = None

    def set_difficulty(self, difficulty: int) -> None:
        """From the next reset on. ValueError where the scenario cannot be had at this level."""
        self._at(difficulty)
        self.difficulty = difficulty

    def _at(self, difficulty: int) -> tuple[Swarm, SwarmParams]:
        """The simulator and its parameters at a level. It keeps the size of the hardest level seen so far, so that a
        curriculum that goes back compiles nothing."""
        swarm = Swarm(self._spec, self._scenario, max(self._largest, difficulty))
        params = swarm.make_params(difficulty=difficulty, **self._settings)
        self._largest = swarm.scenario.difficulty
        return swarm, params

    @property
    def state(self) -> Any:
        """On the device. RuntimeError before the first reset."""
        if self._state is None:
            raise RuntimeError("no episode has begun: call reset()")
        return self._state

    @property
    def render_fps(self) -> int:
        """Frames a second of simulated time."""
        return round(1 / float(self.params.dt))

    def _draw(self, state: SwarmState) -> np.ndarray | None:
        """A frame (H, W, 3) uint8 of one world, or None once it is on the screen."""
        if self._renderer is None:
            from entropy_env.render import Renderer

            self._renderer = Renderer("human" if self.render_mode == "human" else "rgb_array")
        return self._renderer.draw(state, self.params)

    def close(self) -> None:
        """Take the window down; a later frame opens another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_renderer": None}


class World(_Simulator):
    """One world, which starts again when told to."""

    def __init__(self, num_agents: int, layout: Layout | Mapping[str, Any] | None = None, **settings: Any) -> None:
        if layout is not None and settings.get("scenario", "open") == "open":
            settings["scenario"] = Custom()
        super().__init__(num_agents, **settings)
        self._layout = layout
        if layout is not None:
            fit_layout(layout, self.swarm, self.params)
        self._done = True

    def reset(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> np.ndarray:
        """A new episode, observations (N, obs_dim). options: `difficulty` and `layout`, for this episode alone."""
        options = known_options(options, "difficulty", "layout")
        swarm, params = self._at(options.get("difficulty", self.difficulty))
        layout, seed = options.get("layout", self._layout), draw_seed(rng)
        if layout is None:
            obs, state = _reset(swarm, seed, params)
            check_valid(state.layout, swarm, params)
        else:
            swarm, layout = fit_layout(layout, swarm, params)
            obs, state = _reset_to(swarm, layout, params)
        self.swarm, self.params, self._seed, self._state, self._done = swarm, params, seed, state, True
        self._show()
        self._done = False
        return np.array(obs)

    def step(self, action: np.ndarray) -> Transition:
        """One control period, at the end of which robots that wait to respawn do so. action: (N, 2) float32, finite."""
        self._state, table = _step(self.swarm, self._seed, self.state, action, self.params)
        told = Transition.unpack(table)
        self._done = bool(told.done[0])
        self._show()
        return told

    def check_running(self) -> None:
        """RuntimeError before the first reset and once an episode is over."""
        if self._done:
            raise RuntimeError("no episode is running: call reset() before step()")

    def global_state(self) -> np.ndarray:
        """(N * 8,) float32, see `Swarm.global_state`."""
        return np.array(_global_state(self.swarm, self.state))

    def render(self) -> np.ndarray | None:
        """A frame (H, W, 3) uint8 in mode `rgb_array`, else None."""
        state = self.state
        if self.render_mode is None:
            warnings.warn(NO_RENDER_MODE, stacklevel=3)
            return None
        return self._draw(jax.device_get(state))

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()


class Worlds(_Simulator):
    """Many worlds, which start again by themselves in the step that ends them."""

    def __init__(self, num_envs: int, num_agents: int, **settings: Any) -> None:
        super().__init__(num_agents, **settings)
        self.batch = VectorSwarm(self.swarm, num_envs)
        self._steps = 0

    def reset(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> np.ndarray:
        """New episodes, observations (E, N, obs_dim). options: `difficulty`, until the next call."""
        options = known_options(options, "difficulty")
        swarm, params = self._at(options.get("difficulty", self.difficulty))
        batch, seed = VectorSwarm(swarm, self.batch.num_envs), draw_seed(rng)
        obs, state = _batch_reset(batch, seed, params)
        check_valid(state.worlds.layout, swarm, params)
        self.swarm, self.params, self.batch, self._seed, self._state = swarm, params, batch, seed, state
        self._steps = 0
        return np.array(obs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Transition]:
        """One control period. action: (E, N, 2) float32, finite.

        Returns the observations (E, N, obs_dim) to act on next, and what the step tells, whose `obs` are those from
        before any reset.
        """
        count = np.uint32(self._steps)
        obs, self._state, table = _batch_step(self.batch, self._seed, count, self.state, action, self.params)
        self._steps += 1
        told = Transition.unpack(table)
        if told.done.any():
            check_valid(self._state.worlds.layout, self.swarm, self.params)
        return np.array(obs), told

    def render(self) -> tuple[Any, ...] | None:
        """A frame (H, W, 3) uint8 of every world, or None without a render mode."""
        worlds = jax.device_get(self.state.worlds)
        if self.render_mode is None:
            warnings.warn(NO_RENDER_MODE, stacklevel=3)
            return None
        return tuple(self._draw(jax.tree.map(lambda x, i=i: x[i], worlds)) for i in range(self.batch.num_envs))


def check_action(whose: str, action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 copy of that shape. ValueError naming whose action it is where that cannot be, or is not finite."""
    try:
        array = np.array(action, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{whose} is no array of numbers: {action!r}") from None
    if array.shape != shape:
        raise ValueError(f"{whose} has shape {array.shape}, expected {shape}")
    for where in np.argwhere(~np.isfinite(array)):
        raise ValueError(f"{whose} is not finite: {array[tuple(where)]} at {where.tolist()}")
    return array


def known_options(options: Mapping[str, Any] | None, *known: str) -> dict[str, Any]:
    """The options of a reset that mean something here; a warning for each that does not."""
    options = dict(options or {})
    for name in options.keys() - set(known):
        warnings.warn(f"unknown reset option {name!r} is ignored: known are {', '.join(known)}", stacklevel=4)
    return {name: options[name] for name in known if name in options}


def fit_layout(layout: Layout | Mapping[str, Any], swarm: Swarm, params: SwarmParams) -> tuple[Swarm, Layout]:
    """The simulator with room for a map given by hand, and the map with as many slots. ValueError if it cannot be."""
    layout = layout if isinstance(layout, Layout) else make_layout(**layout)
    swarm = Swarm(spec_for(layout, swarm.spec), swarm.scenario)
    layout = pad_layout(layout, swarm.spec)
    check_layout(layout, params)
    return swarm, layout


def check_valid(layout: Layout, swarm: Swarm, params: SwarmParams) -> None:
    """RuntimeError where a generator could not fit everyone into a layout."""
    if not np.all(layout.valid):
        raise RuntimeError(
            f"scenario {swarm.scenario.name!r} at difficulty {int(params.difficulty)} found no room for "
            f"{swarm.spec.num_agents} agents of radius {float(params.agent_radius):g} m"
        )


def draw_seed(rng: np.random.Generator) -> np.ndarray:
    """(2,) uint32, the key of an episode."""
    return rng.integers(0, 2**32, size=2, dtype=np.uint32)


def _key(seed: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(seed, impl="threefry2x32")


@functools.partial(jax.jit, static_argnums=0)
def _reset(swarm: Swarm, seed: jax.Array, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
    return swarm.reset(_key(seed), params)


@functools.partial(jax.jit, static_argnums=0)
def _reset_to(swarm: Swarm, layout: Layout, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
    return swarm.reset_to(layout, params)


@functools.partial(jax.jit, static_argnums=0)
def _global_state(swarm: Swarm, state: SwarmState) -> jax.Array:
    return swarm.global_state(state)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    swarm: Swarm, seed: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams
) -> tuple[SwarmState, jax.Array]:
    key = jax.random.fold_in(_key(seed), state.step)
    obs, state, reward, terminated, truncated, info = swarm.step(key, state, action, params)
    if swarm.spec.on_goal == "respawn":

        def respawn(state):
            state = swarm.respawn(state, params)
            return swarm.observe(state, params), state

        waiting = ~state.done & ~jnp.all(state.active)
        obs, state = jax.lax.cond(waiting, respawn, lambda state: (obs, state), state)
    flags = terminated, truncated, jnp.broadcast_to(state.done, reward.shape), state.active
    return state, _pack(obs, reward, state.goals_reached, flags, info)


@functools.partial(jax.jit, static_argnums=0)
def _batch_reset(batch: VectorSwarm, seed: jax.Array, params: SwarmParams) -> tuple[jax.Array, VectorState]:
    return batch.reset(_key(seed), params)


@functools.partial(jax.jit, static_argnums=0)
def _batch_step(
    batch: VectorSwarm, seed: jax.Array, count: jax.Array, state: VectorState, action: jax.Array, params: SwarmParams
) -> tuple[jax.Array, VectorState, jax.Array]:
    key = jax.random.fold_in(_key(seed), count)
    obs, state, reward, terminated, truncated, info = batch.step(key, state, action, params)
    done = jnp.broadcast_to((state.worlds.step == 0)[:, None], reward.shape)
    flags = terminated, truncated, done, info["active"] & ~terminated
    return obs, state, _pack(info["final_obs"], reward, info["goals_reached"], flags, info)


def _pack(
    obs: jax.Array, reward: jax.Array, goals_reached: jax.Array, flags: tuple[jax.Array, ...], info: Info
) -> jax.Array:
    """(..., N, obs_dim + more) float32: everything in one array, because every array from the device costs a call."""
    terms = (info["reward_terms"][name] for name in TERMS)
    columns = *flags, info["reached"], info["collision"], reward, goals_reached, *terms
    return jnp.concatenate([obs, jnp.stack([column.astype(jnp.float32) for column in columns], axis=-1)], axis=-1)
