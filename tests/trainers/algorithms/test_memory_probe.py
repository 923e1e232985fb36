"""A probe that only a memory solves: a bit is shown once, and asked for later."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from trainers.algorithms.ppo import PPO
from trainers.algorithms.ppo_options import Hyperparameters
from trainers.learn.distributions import Categorical

DELAY = 16


class Asked(struct.PyTreeNode):
    bit: jax.Array  # (E, 1) int32
    clock: jax.Array  # (E, 1) int32


@dataclasses.dataclass(frozen=True)
class Recall:
    """One agent in each world. The bit is seen at the first step; `DELAY` steps later the action should be it."""

    num_envs: int

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Asked]:
        bit = jax.random.bernoulli(key, shape=(self.num_envs, 1)).astype(jnp.int32)
        state = Asked(bit, jnp.arange(self.num_envs, dtype=jnp.int32)[:, None] % (DELAY + 1))
        return self.look(state), state

    def look(self, state: Asked) -> jax.Array:
        cue = jnp.where(state.clock == 0, 2.0 * state.bit - 1, 0.0)
        return jnp.stack([cue, (state.clock == DELAY).astype(jnp.float32)], axis=-1)

    def step(self, key: jax.Array, state: Asked, action: jax.Array, params: Any) -> tuple:
        over = state.clock == DELAY
        reward = jnp.where(over & (action == state.bit), 1.0, 0.0)
        fresh = jax.random.bernoulli(key, shape=state.bit.shape).astype(jnp.int32)
        info = {"final_obs": self.look(state), "acted": over | True, "episode_return": reward,
                "episode_length": state.clock + 1}  # fmt: skip
        state = Asked(jnp.where(over, fresh, state.bit), jnp.where(over, 0, state.clock + 1))
        return self.look(state), state, reward, over, over & False, info


@pytest.mark.slow
@pytest.mark.parametrize(("options", "least", "most"), [
    ({}, 0.4, 0.6),
    ({"network": "gru"}, 0.95, 1),
    ({"network": "gru", "shared_trunk": True, "sequence_length": 17, "burn_in": 0}, 0.95, 1),
    ({"network": "lstm"}, 0.95, 1),
])  # fmt: skip
def test_a_bit_is_remembered_for_16_steps(options: dict[str, Any], least: float, most: float) -> None:
    config = Hyperparameters(
        num_envs=64, num_steps=34, num_minibatches=4, hidden_sizes=(16,), cell_size=32, gamma=0.99, learning_rate=3e-3,
        anneal_learning_rate=False, normalize_obs=False, **options,
    )  # fmt: skip
    ppo = PPO(config, Recall(config.num_envs), 2, Categorical(2), 1, 1)
    runner = ppo.init(jax.random.key(0), None)
    recent = []
    for _ in range(300_000 // ppo.steps_per_update):
        runner, metrics = ppo.update(runner, None)
        recent.append(float(metrics["train/episode_return"]))
    assert least <= sum(recent[-10:]) / 10 <= most
