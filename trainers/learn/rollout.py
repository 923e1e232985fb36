"""Collect experience from a batch of worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from trainers.envs.contract import NEEDED, OPTIONAL, BatchedEnv, going_on


class Scene(NamedTuple):
    """Where E worlds with N lanes each stand, as an agent and its critic see it."""

    env_state: Any
    obs: jax.Array  # (E, N, D)
    memory: Any  # (E, N, ...) each, of the episodes so far; no arrays for networks that remember nothing


class Choice(NamedTuple):
    """What networks make of observations (E, N, D)."""

    action: jax.Array  # (E, N, A), or (E, N) for one choice
    executed: jax.Array  # the same as the environment takes it
    log_prob: jax.Array  # (E, N)
    value: jax.Array | None  # (E, N), if the critic gives it now
    memory: Any  # after the observations, (E, N, ...) each
    noise: jax.Array | None = None  # (E, N, K), what decided words, if a learner needs it


class Transitions(struct.PyTreeNode):
    """T steps of E worlds with N lanes each."""

    obs: jax.Array  # (T, E, N, D)
    action: jax.Array  # (T, E, N, A), or (T, E, N) for one choice
    log_prob: jax.Array  # (T, E, N)
    reward: jax.Array  # (T, E, N)
    terminated: jax.Array  # (T, E, N) bool
    truncated: jax.Array  # (T, E, N) bool
    acted: jax.Array  # (T, E, N) bool, the lane's agent took part in this step
    goes_on: jax.Array  # (T, E, N) bool, it acted, and its episode did not end
    final_value: jax.Array  # (T, E, N) value of the last observation where truncated, else 0
    info: dict[str, jax.Array]  # (T, E, N) each, by the names in `info` that learners report
    value: jax.Array | None = None  # (T, E, N), if the critic gives it in the rollout
    critic_input: jax.Array | None = None  # (T, E, N, K), if the critic sees more than the observations
    told: Any = None  # (T, E, N, ...), what a learner is told of the worlds before each step
    noise: jax.Array | None = None  # (T, E, N, K), see `Choice`

    @property
    def done(self) -> jax.Array:
        """Whether an episode ended, (T, E, N) bool."""
        return self.terminated | self.truncated


REPORTED = *NEEDED[2:], *OPTIONAL  # of `info`


def collect(
    key: jax.Array, env: BatchedEnv, env_params: Any, scene: Scene, num_steps: int,
    act: Callable[..., Choice],
    value: Callable[[jax.Array, jax.Array | None, Any], jax.Array],
    critic_input: Callable[[Any, Any], jax.Array | None] | None = None, every: int | None = None,
    tell: Callable[[Any, Any], Any] | None = None,
) -> tuple[Scene, Transitions, Any]:  # fmt: skip
    """Step the worlds `num_steps` times. Returns the new scene, the transitions, and memories (T / every, E, N, ...).

    act: maps a key, obs (E, N, D) and memory to a `Choice`. value: maps obs, what else the critic sees, and memory to
    values (E, N); used only for the last observations of truncated episodes, with the memory from before their end.
    critic_input: returns (E, N, K) from state and parameters, where the critic sees more than observations.
    tell: returns from state and parameters what `act` is given besides, (E, N, ...).
    every: the memory is returned from before each step whose number is a multiple of it, by default from the first alone.
    What is remembered begins anew where an episode ends, and a lane that takes no part remembers nothing.
    """

    def step(scene: Scene, key: jax.Array) -> tuple[Scene, Transitions]:
        k_act, k_env = jax.random.split(key)
        seen = None if critic_input is None else critic_input(scene.env_state, env_params)
        told = () if tell is None else (tell(scene.env_state, env_params),)
        choice = act(k_act, scene.obs, scene.memory, *told)
        obs, env_state, reward, terminated, truncated, info = env.step(
            k_env, scene.env_state, choice.executed, env_params
        )
        final_value = jax.lax.cond(
            jnp.any(truncated),
            lambda *final: jnp.where(truncated, value(*final), 0.0),
            lambda *final: jnp.zeros_like(reward),
            info["final_obs"], None if seen is None else info["final_critic_input"], choice.memory,
        )  # fmt: skip
        goes_on = going_on(terminated, truncated, info)
        memory = jax.tree.map(
            lambda x: jnp.where(goes_on.reshape(*goes_on.shape, *(1,) * (x.ndim - 2)), x, 0.0), choice.memory
        )
        kept = {name: info[name] for name in (*REPORTED, "counted") if name in info}
        transition = Transitions(
            scene.obs, choice.action, choice.log_prob, reward, terminated, truncated, info["acted"], goes_on,
            final_value, kept, choice.value, seen, told[0] if told else None, choice.noise,
        )  # fmt: skip
        return Scene(env_state, obs, memory), transition

    def several(scene: Scene, keys: jax.Array) -> tuple[Scene, tuple[Transitions, Any]]:
        after, transitions = jax.lax.scan(step, scene, keys)
        return after, (transitions, scene.memory)

    keys = jax.random.split(key, num_steps).reshape(-1, every or num_steps)
    scene, (transitions, memories) = jax.lax.scan(several, scene, keys)
    return scene, jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), transitions), memories
