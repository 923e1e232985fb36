"""What PPO carries from update to update, and what it learns from."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from trainers.learn.normalize import RunningMoments
from trainers.networks.actor_critic import NO_MEMORY


class Runner(struct.PyTreeNode):
    """Everything that training carries from one update to the next. A checkpoint holds all of it."""

    params: dict[str, Any]  # weights, `actor` and `critic`
    opt_state: Any
    moments: RunningMoments  # of observations
    env_state: Any
    obs: jax.Array  # (E, N, D)
    key: jax.Array
    update: jax.Array  # () int32, updates done
    memory: Any = NO_MEMORY  # of the actor and the critic, (E, N, ...) each
    critic_moments: RunningMoments | None = None  # of what the critic sees beside the observations
    value_moments: RunningMoments | None = None  # of returns, with `normalize_value`


class Batch(struct.PyTreeNode):
    """Samples to learn from: obs (E, T, N, D), action (E, T, N, ...), all up to the mask (E, T, N)."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    mask: jax.Array
    critic_input: jax.Array | None = None  # (E, T, N, K)
    goes_on: jax.Array | None = None  # (E, T, N) bool, where the memory is kept after the step
    told: Any = None  # (E, T, N, ...), of a learner that speaks: the truth (5), or who was heard (K)
    noise: jax.Array | None = None  # (E, T, N, 36), what decided words
    memory: Any = NO_MEMORY  # (E, T / every, N, ...) each, from before each step whose number is a multiple of `every`
