"""Errands of robots that talk: words are heard at random, in any order, through a noisy channel. And PPO in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from helpers.errands import BASE, Errands

from entropy_env.types import HEARD, PAYLOAD, TOKENS
from trainers.algorithms.ppo import PPO
from trainers.learn.distributions import GAUSSIANS
from trainers.learn.speech import Speech, Talking
from trainers.networks.inbox import Inbox

ROBOTS, SLOTS, SEEN = 4, 3, 3  # SEEN: numbers of an observation before the inbox


class Chat(struct.PyTreeNode):
    """Where the robots stand, and what they have heard."""

    active: jax.Array  # (E, N) bool
    secret: jax.Array  # (E, N)
    who: jax.Array  # (E, N, SLOTS) int32, -1 for none
    slots: jax.Array  # (E, N, SLOTS, 9)


@dataclasses.dataclass(frozen=True)
class Chatter(Errands):
    """`Errands` whose robots also observe words. The inbox of those that wait is empty.

    `noise` is the standard deviation of what the channel adds to payloads.
    """

    noise: float = 0.3

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Chat]:
        obs, errand = super().reset(key, params)
        shape = self.num_envs, self.lanes, SLOTS
        state = Chat(
            errand.active, errand.secret, jnp.full(shape, -1, jnp.int32), jnp.zeros((*shape, HEARD), jnp.float32)
        )
        return self.with_words(obs, state.slots), state

    def with_words(self, obs: jax.Array, slots: jax.Array) -> jax.Array:
        return jnp.concatenate([obs, slots.reshape(*obs.shape[:-1], -1)], axis=-1)

    def heard(self, state: Chat, params: Any) -> jax.Array:
        return state.who

    def truth(self, state: Chat, params: Any) -> jax.Array:
        token = jnp.where(state.active & (state.secret > 0), 6.0, 0.0)
        return jnp.stack([jnp.tanh(state.secret)] * PAYLOAD + [token], axis=-1)

    def step(self, key: jax.Array, state: Chat, action: jax.Array, params: Any) -> tuple:
        key, k_who, k_slots = jax.random.split(key, 3)
        final_obs, errand, reward, terminated, truncated, info = super().step(key, state, action[..., :2], params)
        token = jnp.argmax(action[..., 2 : 2 + TOKENS], axis=-1)
        speaks = state.active & ~(terminated | truncated) & ~info["over"][:, None] & (token > 0)
        chance = jax.random.uniform(k_who, (*token.shape, self.lanes))  # of a listener and a speaker
        hears = speaks[:, None] & errand.active[:, :, None] & ~jnp.eye(self.lanes, dtype=bool)[None] & (chance < 0.8)
        order = jnp.argsort(jnp.where(hears, chance, jnp.inf), axis=-1)[..., :SLOTS].astype(jnp.int32)
        who = jnp.where(jnp.take_along_axis(hears, order, axis=-1), order, -1)
        world = jnp.arange(self.num_envs)[:, None, None]
        k_place, k_noise = jax.random.split(k_slots)
        place = 0.5 * jax.random.normal(k_place, (*who.shape, HEARD - PAYLOAD - 1), jnp.float32)
        said = jnp.clip(action[..., 2 + TOKENS :], -1.0, 1.0)[world, who]
        said = jnp.clip(said + self.noise * jax.random.normal(k_noise, said.shape, jnp.float32), -1.0, 1.0)
        slots = jnp.concatenate([place, token[world, who][..., None] / (TOKENS - 1), said], axis=-1)
        slots = jnp.where((who >= 0)[..., None], slots, 0.0)
        info["final_obs"] = self.with_words(info["final_obs"], slots)
        fresh = Chat(errand.active, errand.secret, who, slots)
        return self.with_words(final_obs, slots), fresh, reward, terminated, truncated, info


def make(
    method: str = "reinforced", kind: str | None = "attention", speech: dict[str, Any] | None = None, noise: float = 0.3,
    leaving: bool = False, **options: Any,
) -> PPO:  # fmt: skip
    """PPO among robots that talk. kind: of listening, or None. speech: fields of `Speech`. options: of PPO."""
    config = dataclasses.replace(BASE, **options)
    env = Chatter(config.num_envs, ROBOTS, SEEN, leaving=leaving, noise=noise)
    talking = Talking(GAUSSIANS[config.action_distribution](2), worded=method != "differentiable")
    inbox = None if kind is None else Inbox(SEEN, SLOTS, 4.0, 5.0, kind)
    size = SEEN + SLOTS * HEARD
    return PPO(config, env, size, talking, ROBOTS, 10, None, Speech(method, **(speech or {})), inbox)
