"""A batched environment without physics in which one robot must tell the other a bit, and PPO in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from entropy_env.types import HEARD, PAYLOAD, TOKENS
from trainers.algorithms.ppo import PPO
from trainers.algorithms.ppo_options import Hyperparameters
from trainers.learn.distributions import GAUSSIANS
from trainers.learn.speech import Speech, Talking
from trainers.networks.inbox import Inbox

OPEN, TOKENS_ALONE, CUT = (
    jnp.float32([1, 1]),
    jnp.float32([1, 0]),
    jnp.float32([0, 0]),
)  # what arrives: words, and payloads
TRUE = 25, 6  # tokens that are true, for -1 and 1
SEEN = 3  # numbers of an observation before the inbox: the bit, and who one is
OWN = Hyperparameters(
    num_envs=64, num_steps=16, num_minibatches=4, num_epochs=4, learning_rate=3e-3, anneal_learning_rate=False, gamma=0.9,
    gae_lambda=0.9, entropy_coefficient=0.0, hidden_sizes=(32,), cell_size=8,
)  # fmt: skip


class Told(struct.PyTreeNode):
    """Where the worlds stand."""

    bit: jax.Array  # (E,), 1 or -1
    clock: jax.Array  # (E,) int32, 0 or 1
    said: jax.Array  # (E, 2, 5), payload and token, after the clock's step 0


@dataclasses.dataclass(frozen=True)
class Bits:
    """Two robots, and episodes of two steps. In the first one robot 0 sees a bit, and in the second robot 1 should drive its
    left motor forwards for 1 and backwards for -1. Both are rewarded. Each hears the other, with one slot.
    """

    num_envs: int

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Told]:
        said = jnp.zeros((self.num_envs, 2, PAYLOAD + 1), jnp.float32)
        clock = jnp.arange(self.num_envs, dtype=jnp.int32) % 2
        state = Told(self.draw(key), clock, said)
        return self.look(state, params), state

    def draw(self, key: jax.Array) -> jax.Array:
        return jax.random.rademacher(key, (self.num_envs,), jnp.float32)

    def heard(self, state: Told, params: Any) -> jax.Array:
        other = jnp.array([1, 0], jnp.int32)
        return jnp.where((state.said[:, ::-1, -1] > 0) & (params[0] > 0), other, -1)[..., None]

    def truth(self, state: Told, params: Any) -> jax.Array:
        token = jnp.where(state.bit > 0, float(TRUE[1]), float(TRUE[0]))
        told = jnp.zeros_like(state.said).at[:, 0, 2].set(0.5 * state.bit).at[:, 0, -1].set(token)
        return jnp.where((state.clock == 0)[:, None, None], told, 0.0)

    def look(self, state: Told, params: Any) -> jax.Array:
        first = state.clock == 0
        word = state.said[:, ::-1]
        place = jnp.broadcast_to(
            jnp.array([0.0, 0.0, 1.0, 0.0]), (*word.shape[:2], 4)
        )  # where the other is, and how it stands
        slot = jnp.concatenate([place, word[..., -1:] / (TOKENS - 1), params[1] * word[..., :PAYLOAD]], axis=-1)
        slot = jnp.where(self.heard(state, params) >= 0, slot, 0.0)
        seen = jnp.zeros((self.num_envs, 2, SEEN), jnp.float32)
        seen = seen.at[:, 0, 0].set(jnp.where(first, state.bit, 0.0))
        seen = seen.at[:, [0, 1], [1, 2]].set(1.0)
        return jnp.concatenate([seen, slot], axis=-1)

    def step(self, key: jax.Array, state: Told, action: jax.Array, params: Any) -> tuple:
        last = state.clock == 1
        right = action[:, 1, 0] * state.bit > 0
        reward = jnp.broadcast_to(jnp.where(last & right, 1.0, 0.0)[:, None], (self.num_envs, 2))
        token = jnp.argmax(action[..., 2 : 2 + TOKENS], axis=-1).astype(jnp.float32)
        said = jnp.concatenate([jnp.clip(action[..., 2 + TOKENS :], -1.0, 1.0), token[..., None]], axis=-1)
        fresh = Told(
            jnp.where(last, self.draw(key), state.bit), 1 - state.clock, jnp.where(last[:, None, None], 0.0, said)
        )
        ended = jnp.broadcast_to(last[:, None], reward.shape)
        info = {
            "final_obs": self.look(state, params), "acted": jnp.ones_like(ended), "over": last, "episode_return": reward,
            "episode_length": jnp.broadcast_to(state.clock[:, None] + 1, reward.shape),
        }  # fmt: skip
        return self.look(fresh, params), fresh, reward, ended, jnp.zeros_like(ended), info


def make(
    method: str = "reinforced", kind: str | None = "attention", updates: int = 10, speech: Any = (), **options: Any
) -> PPO:
    """PPO on these worlds. kind: of listening, or None. speech: fields of `Speech`. options: of PPO."""
    config = dataclasses.replace(OWN, **options)
    inbox = None if kind is None else Inbox(SEEN, 1, 1.0, 1.0, kind)
    actions = Talking(GAUSSIANS[config.action_distribution](2), worded=method != "differentiable")
    about = Bits(config.num_envs), SEEN + HEARD, actions, 2, updates, None, Speech(method, **dict(speech)), inbox
    return PPO(config, *about)
