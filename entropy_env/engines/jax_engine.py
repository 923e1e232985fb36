"""The JAX engine: `vector` on NumPy arrays, many worlds in one jitted step, on JAX's default device.

Compiled functions belong to the module, with the batch as a static argument. Simulators with equal settings are equal,
so a second engine compiles nothing. A new parameter value compiles nothing either.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.checks import NEVER, as_action
from entropy_env.engines.interface import (
    Transition,
    as_seed,
    check_draws,
    check_fork,
    check_names,
    check_params,
    check_shape,
    check_start,
    check_state,
    check_which,
    draw,
    draw_key,
    read_draws,
    with_ways,
)
from entropy_env.env import Swarm
from entropy_env.scenarios.base import empty_layout
from entropy_env.types import OLD_FIELDS, Layout, SwarmParams, SwarmState, cast_params
from entropy_env.vector import VectorState, VectorSwarm, param_axes

FLAGS = ("terminated", "truncated", "over", "acted", "active", "reached", "collision", "success")
COUNTS = ("goals_reached", "episode_length")
NUMBERS = ("reward", "episode_return")


class JaxEngine:
    """`entropy_env.engines.interface.Engine` in JAX. The first reset starts the device."""

    def __init__(
        self, env: Swarm, num_envs: int, params: SwarmParams, autoreset: bool = True, num_threads: int | None = None
    ) -> None:
        """Make the engine. num_threads: has no effect, because XLA has its own threads."""
        self.env, self.num_envs, self.autoreset = env, num_envs, autoreset
        self._batch = VectorSwarm(env, num_envs, autoreset=autoreset)
        self._seed, self._draws = np.zeros(2, np.uint32), 0
        self._vector_state: VectorState | None = None
        self.params = params

    @property
    def params(self) -> SwarmParams:
        """See `Engine`."""
        return self._params

    @params.setter
    def params(self, params: SwarmParams) -> None:
        check_params(params, self.env, self.num_envs)
        self._batch = dataclasses.replace(self._batch, fresh_rows=bool(np.any(np.asarray(params.max_steps) == NEVER)))
        self._params = params
        self._device_params: SwarmParams | None = None

    def reset(self, seed: int | np.ndarray | None = None, which: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`."""
        check_draws(self.env)
        where = check_which(which, self.num_envs)
        if which is not None:
            self._running()
        if seed is not None:
            self._seed, self._draws = as_seed(seed), 0
        layouts = draw(self._batch, *self._next_draw(), self._params)
        if which is None:
            obs, self._vector_state = _reset_to(self._batch, layouts, self._on_device())
        else:
            obs, self._vector_state = _start_where(self._batch, layouts, self._running(), where, self._on_device())
        return np.array(obs)

    def reset_to(self, layout: Layout) -> np.ndarray:
        """See `Engine`."""
        layout = with_ways(layout, self.env, self._params)
        check_start(layout, self.env, self.num_envs)
        return self._begin(layout)

    @property
    def valid(self) -> np.ndarray:
        """See `Engine`."""
        return np.array(self._running().worlds.layout.valid)

    def step(self, action: np.ndarray) -> Transition:
        """See `Engine`."""
        running = self._running()
        action = as_action("action", action, (self.num_envs, self.env.spec.num_agents, self.env.spec.action_dim))
        state, obs, table = _step(self._batch, *self._next_draw(), running, action, self._on_device())
        self._vector_state = state
        return _unpack(np.array(obs), np.asarray(table))

    def observe(self) -> np.ndarray:
        """See `Engine`."""
        return np.array(_observe(self._batch.env, self._running().worlds, self._on_device()))

    def global_state(self) -> np.ndarray:
        """See `Engine`."""
        return np.array(_global_state(self._batch.env, self._running().worlds))

    @property
    def state(self) -> SwarmState:
        """See `Engine`."""
        return jax.tree.map(np.array, self._running().worlds)

    @state.setter
    def state(self, state: SwarmState) -> None:
        check_state(state, self.env, self.num_envs)
        check_fork()
        worlds = jax.tree.map(lambda like, leaf: jnp.array(leaf, like.dtype), self._empty.worlds, state)
        if self._vector_state is None:
            self._begin(state.layout)
        nothing = jnp.zeros(worlds.heading.shape, jnp.float32)
        next_layout = self._running().next_layout if self.env.scenario.draws else worlds.layout
        self._vector_state = self._running().replace(
            worlds=worlds, next_layout=next_layout, episode_return=nothing, episode_length=nothing.astype(jnp.int32)
        )

    def snapshot(self) -> dict[str, np.ndarray]:
        """See `Engine`."""
        return _named(jax.tree.map(np.array, self._running())) | {"seed": self._seed, "draws": np.array(self._draws)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """See `Engine`."""
        check_fork()
        like = self._empty
        leaves = _named(like)
        new_fields = {f"worlds/{old}": f"worlds/{new}" for new, old in OLD_FIELDS.items()}
        snapshot = {new_fields.get(name, name): array for name, array in snapshot.items()}
        check_names("snapshot", snapshot, {*leaves, "seed", "draws"})
        for name, leaf in leaves.items():
            check_shape(f"snapshot[{name!r}]", snapshot[name], leaf.shape)
        seed, draws = read_draws(snapshot)
        arrays = [jnp.array(snapshot[name], leaf.dtype) for name, leaf in leaves.items()]
        self._vector_state = jax.tree.unflatten(jax.tree.structure(like), arrays)
        self._seed, self._draws = seed, draws

    @functools.cached_property
    def _empty(self) -> VectorState:
        """The shapes and types of a state."""
        return jax.eval_shape(functools.partial(_empty_state, self._batch), self._on_device())

    def _begin(self, layout: Layout) -> np.ndarray:
        check_fork()
        like = self._empty.next_layout
        layouts = jax.tree.map(lambda like, leaf: np.asarray(leaf, like.dtype)[None], like, layout)
        obs, self._vector_state = _reset_to(self._batch, layouts, self._on_device())
        return np.array(obs)

    def _running(self) -> VectorState:
        if self._vector_state is None:
            raise RuntimeError("no episode has begun: call reset()")
        return self._vector_state

    def _on_device(self) -> SwarmParams:
        if self._device_params is None:
            self._device_params = cast_params(self._params)
        return self._device_params

    def _next_draw(self) -> tuple[np.ndarray, np.uint32]:
        check_fork()
        self._draws += 1
        return self._seed, np.uint32(self._draws - 1)


def _named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree, named by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _empty_state(batch: VectorSwarm, params: SwarmParams) -> VectorState:
    """Return a state of empty worlds."""
    layout = empty_layout(jnp.zeros(2, jnp.float32), batch.env.spec)
    layouts = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (1, batch.num_envs, *leaf.shape)), layout)
    return batch.reset_to(layouts, params)[1]


@functools.partial(jax.jit, static_argnums=0)
def _start_where(
    batch: VectorSwarm, layouts: Layout, state: VectorState, which: jax.Array, params: SwarmParams
) -> tuple[jax.Array, VectorState]:
    return batch.start_where(layouts, state, which, params)


@functools.partial(jax.jit, static_argnums=0)
def _reset_to(batch: VectorSwarm, layouts: Layout, params: SwarmParams) -> tuple[jax.Array, VectorState]:
    return batch.reset_to(layouts, params)


@functools.partial(jax.jit, static_argnums=0)
def _observe(env: Swarm, worlds: SwarmState, params: SwarmParams) -> jax.Array:
    return jax.vmap(env.observe, (0, param_axes(params)))(worlds, params)


@functools.partial(jax.jit, static_argnums=0)
def _global_state(env: Swarm, worlds: SwarmState) -> jax.Array:
    return jax.vmap(env.global_state)(worlds)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    batch: VectorSwarm, seed: jax.Array, count: jax.Array, state: VectorState, action: jax.Array, params: SwarmParams
) -> tuple[VectorState, jax.Array, jax.Array]:
    """Step all worlds. Returns the state, observations (E, N, obs_dim), and all other results in one array.

    One array, because each array copied from the device costs a call.
    """
    key = draw_key(seed, count)
    obs, state, reward, terminated, truncated, info = batch.step(key, state, action, params)
    transition = info | {
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "over": jnp.broadcast_to(info["over"][:, None], reward.shape),
    }
    columns = [transition[name] for name in FLAGS + COUNTS + NUMBERS] + [
        info["reward_terms"][name] for name in batch.env.terms
    ]
    numbers = jnp.stack([column.astype(jnp.float32) for column in columns], axis=-1)
    return state, obs, jnp.concatenate([info["final_obs"], numbers], axis=-1)


def _unpack(obs: np.ndarray, table: np.ndarray) -> Transition:
    names = FLAGS + COUNTS + NUMBERS
    first = obs.shape[-1]
    kinds: dict[str, Any] = dict.fromkeys(FLAGS, np.bool_) | dict.fromkeys(COUNTS, np.int32)
    transition = {name: table[..., first + i].astype(kinds.get(name, np.float32)) for i, name in enumerate(names)}
    transition["over"] = transition["over"][:, 0].copy()
    return Transition(
        obs=obs, final_obs=table[..., :first].copy(), reward_terms=table[..., first + len(names) :].copy(), **transition
    )
