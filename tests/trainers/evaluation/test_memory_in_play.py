"""Episodes that are played or filmed carry the memory of a policy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env import Swarm, SwarmSpec
from trainers.evaluation.play import film, play

WAIT = 3


class Waiting(struct.PyTreeNode):
    """Counts its steps, stands still for the first few, and then drives on."""

    def begin(self, num_agents: int) -> jax.Array:
        return jnp.zeros(num_agents, jnp.int32)

    def act(self, obs: jax.Array, memory: jax.Array, key: Any = None) -> tuple[jax.Array, jax.Array]:
        return jnp.where(memory >= WAIT, 1.0, 0.0)[:, None] * jnp.ones(2), memory + 1


def test_a_policy_is_given_what_it_remembered() -> None:
    env = Swarm(SwarmSpec(num_agents=2, on_goal="terminate"))
    params, policy, key = env.make_params(max_steps=6), Waiting(), jax.random.key(0)
    whole = jax.jit(lambda key: play(env, policy, params, key, False))(key)
    assert np.all(whole.path > 0)
    states = [time_step.state for time_step in film(policy, env, params, key, False)]
    moved = [np.any(after.position != before.position) for before, after in itertools.pairwise(states)]
    assert moved == [False] * WAIT + [True] * 3
