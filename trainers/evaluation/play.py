"""Playing whole episodes with a policy, in worlds that no training has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.env import Swarm
from entropy_env.types import Drive, Layout, SwarmParams, SwarmState
from trainers.policies import Memory, Policy

Array = jax.Array | np.ndarray

FRESH = 0x6576616C  # folded into an evaluation's key; no trainer folds it into its own


class Episode(struct.PyTreeNode):
    """What an episode came to; with a leading axis, those of E worlds."""

    layout: Layout
    reached: Array  # (N,) bool
    steps: Array  # (N,) int32, taken by each agent
    contacts: Array  # (N,) int32, of those in contact
    path: Array  # (N,) m
    total_reward: Array  # (N,)


class Moment(NamedTuple):
    """One world of an episode, NumPy, and what its agents have come to so far."""

    state: SwarmState
    obs: Array  # (N, D)
    total_reward: np.ndarray  # (N,)


Live = Callable[[jax.Array, bool], Iterator[Moment]]  # an episode of a key, with sampled actions or the mean ones


def episode_key(seed: int, index: int | jax.Array) -> jax.Array:
    """The key of one episode of an evaluation: its world and its sampled actions."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), FRESH), index)


def play(env: Swarm, policy: Policy, params: SwarmParams, key: jax.Array, sampled: jax.Array | bool) -> Episode:
    """One episode, until every agent has arrived or the time is up, with sampled actions or the mean ones."""
    k_world, k_actions = jax.random.split(key)
    obs, state = env.reset(k_world, params)
    memory, zero = policy.begin(env.spec.num_agents), jnp.zeros(env.spec.num_agents, jnp.int32)
    episode = Episode(state.layout, zero > 0, zero, zero, zero.astype(jnp.float32), zero.astype(jnp.float32))

    def going(carry):
        return ~carry[1].done

    def step(carry):
        obs, before, memory, episode = carry
        obs, state, memory, reward, terminated, info = act_and_step(
            env, policy, params, k_actions, obs, before, memory, sampled
        )
        episode = episode.replace(
            reached=episode.reached | terminated,
            steps=episode.steps + before.active.astype(jnp.int32),
            contacts=episode.contacts + info["collision"].astype(jnp.int32),
            path=episode.path + travelled(before, state, env.spec.drive),
            total_reward=episode.total_reward + reward,
        )
        return obs, state, memory, episode

    return jax.lax.while_loop(going, step, (obs, state, memory, episode))[-1]


def act_and_step(
    env: Swarm, policy: Policy, params: SwarmParams, key: jax.Array, obs: jax.Array, state: SwarmState, memory: Memory,
    sampled: Any,
) -> tuple[jax.Array, SwarmState, Memory, jax.Array, jax.Array, dict[str, Any]]:  # fmt: skip
    """One step of an episode. key: the episode's, for all its actions."""
    k_act, k_step = jax.random.split(jax.random.fold_in(key, state.step))
    mean, new_memory = policy.act(obs, memory)
    sample, _ = policy.act(obs, memory, k_act)
    obs, state, reward, terminated, _, info = env.step(k_step, state, jnp.where(sampled, sample, mean), params)
    return obs, state, new_memory, reward, terminated, info


def travelled(before: SwarmState, after: SwarmState, drive: Drive = "kinematic") -> jax.Array:
    """(N,) m, along the arc that led from one pose to the other; straight with the force drive, where robots slide."""
    chord = jnp.linalg.norm(after.position - before.position, axis=-1)
    if drive == "force":
        return chord
    turn = (after.heading - before.heading + jnp.pi) % (2 * jnp.pi) - jnp.pi
    return chord / jnp.sinc(turn / (2 * jnp.pi))


def player(
    policy: Policy, env: Swarm, params: SwarmParams, keys: jax.Array
) -> Callable[[jax.Array, jax.Array | bool], Episode]:
    """Plays an episode for each of as many keys as these (E,), compiled."""
    play_all = jax.jit(jax.vmap(partial(play, env), (None, None, 0, None)))
    return partial(play_all.lower(policy, params, keys, True).compile(), policy, params)


def live(policy: Policy, env: Swarm, params: SwarmParams) -> Live:
    """Plays episodes step by step, from the first moment to the last."""
    reset, step = jax.jit(env.reset), jax.jit(partial(act_and_step, env))

    def moments(key: jax.Array, sampled: bool) -> Iterator[Moment]:
        k_world, k_actions = jax.random.split(key)
        obs, state = reset(k_world, params)
        memory = policy.begin(env.spec.num_agents)
        total_reward = np.zeros(env.spec.num_agents, np.float32)
        yield jax.device_get(Moment(state, obs, total_reward))
        while not state.done:
            obs, state, memory, reward, *_ = step(policy, params, k_actions, obs, state, memory, sampled)
            total_reward = total_reward + np.asarray(reward)
            yield jax.device_get(Moment(state, obs, total_reward))

    return moments


def film(policy: Policy, env: Swarm, params: SwarmParams, key: jax.Array, sampled: bool) -> list[SwarmState]:
    """The states of one episode, NumPy."""
    return [moment.state for moment in live(policy, env, params)(key, sampled)]
