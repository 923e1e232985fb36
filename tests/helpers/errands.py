"""A batched environment without physics, in which everything that a memory must heed happens often, and PPO in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from trainers.algorithms.ppo import PPO, Batch, Runner
from trainers.algorithms.ppo_options import Hyperparameters
from trainers.learn.distributions import GAUSSIANS, Categorical
from trainers.learn.normalize import RunningMoments

LANES, QUIET = 3, jnp.float32(0)
BASE = Hyperparameters(
    num_envs=8,
    num_steps=12,
    num_minibatches=2,
    hidden_sizes=(16,),
    cell_size=8,
    anneal_learning_rate=False,
)


class Errand(struct.PyTreeNode):
    """Where the lanes stand."""

    active: jax.Array  # (E, N) bool
    secret: jax.Array  # (E, N), what a critic may see


@dataclasses.dataclass(frozen=True)
class Errands:
    """Lanes end at random, wait at random before they begin again, and begin anew where their world ends at random. With
    `leaving`, lanes that ended wait for that end.

    The reward is the lane's secret times `scale`, which observations do not show. `misplaced` shows the critic the rows of
    other lanes. Parameters are what idle lanes observe, and what their critics see too much.
    """

    num_envs: int
    lanes: int
    obs_dim: int = 3
    misplaced: bool = False
    scale: float = 1.0
    leaving: bool = False

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Errand]:
        k_secret, k_obs, k_active = jax.random.split(key, 3)
        shape = self.num_envs, self.lanes
        state = Errand(jax.random.uniform(k_active, shape) < 0.8, jax.random.normal(k_secret, shape))
        return self.look(k_obs, state.active, params), state

    def look(self, key: jax.Array, active: jax.Array, params: Any) -> jax.Array:
        seen = jax.random.normal(key, (*active.shape, self.obs_dim), jnp.float32)
        return jnp.where(active[..., None], seen, params)

    def critic_input(self, state: Errand, params: Any) -> jax.Array:
        secret = jnp.where(state.active, state.secret, state.secret + params)
        rows = jnp.stack([secret, state.active.astype(jnp.float32)], axis=-1)
        return jnp.roll(rows, 1, axis=1) if self.misplaced else rows

    def step(self, key: jax.Array, state: Errand, action: jax.Array, params: Any) -> tuple:
        k_end, k_over, k_wait, k_secret, k_obs, k_final = jax.random.split(key, 6)
        shape = state.active.shape
        over = jax.random.uniform(k_over, shape[:1]) < 0.1
        acted, reward = state.active, jnp.where(state.active, self.scale * state.secret, 0.0)
        terminated = acted & (jax.random.uniform(k_end, shape) < 0.15)
        truncated = acted & ~terminated & over[:, None]
        active = (acted & ~terminated) | over[:, None]
        if not self.leaving:
            active |= jax.random.uniform(k_wait, shape) < 0.4
        fresh = Errand(active, jax.random.normal(k_secret, shape))
        info = {
            "final_obs": self.look(k_final, acted, params), "acted": acted, "over": over,
            "final_critic_input": self.critic_input(state, params),
            "episode_return": reward, "episode_length": jnp.ones(shape, jnp.int32),
        }  # fmt: skip
        return self.look(k_obs, active, params), fresh, reward, terminated, truncated, info


def make(choices: bool = False, env: dict[str, Any] | None = None, **options: Any) -> PPO:
    config = dataclasses.replace(BASE, **options)
    actions = Categorical(3) if choices else GAUSSIANS[config.action_distribution](2)
    errands = Errands(config.num_envs, LANES, **(env or {}))
    return PPO(config, errands, errands.obs_dim, actions, LANES, 10)


def second_rollout(ppo: PPO) -> tuple[Runner, Batch]:
    """A rollout that begins in the middle of episodes, with statistics that are not those of the beginning."""
    runner = ppo.init(jax.random.key(0), QUIET)
    gather = jax.jit(lambda runner, key: ppo.gather(runner, QUIET, key))
    scene, *_ = gather(runner, jax.random.key(1))
    moments = runner.moments.replace(mean=runner.moments.mean + 0.3, variance=2.0 * runner.moments.variance)
    runner = runner.replace(**scene._asdict(), moments=moments)
    if runner.value_moments is not None:
        runner = runner.replace(value_moments=RunningMoments(jnp.float32(1), jnp.float32([0.4]), jnp.float32([2.0])))
    return runner, gather(runner, jax.random.key(2))[-1]
