"""What a critic sees of a swarm beside the observations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.worlds import Lanes

from entropy_env import vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec
from trainers.envs.views import Central, view_of

ENV = Swarm(SwarmSpec(num_agents=4), Lanes())
PARAMS = ENV.make_params(max_steps=3)


def test_a_critic_sees_the_state_before_the_reset_at_the_end_and_after_it_next() -> None:
    kept, reset = (vector.batch(ENV, 3, critic=Central(ENV), autoreset=autoreset) for autoreset in (False, True))
    key, action = jax.random.key(0), jnp.full((3, 4, 2), 0.3)
    states = [worlds.reset(key, PARAMS)[1] for worlds in (kept, reset)]
    states[0] = states[0].replace(worlds=states[1].worlds)
    steps = [jax.jit(worlds.step) for worlds in (kept, reset)]
    for _ in range(3):
        results = [step(key, state, action, PARAMS) for step, state in zip(steps, states, strict=True)]
        states, infos = [result[1] for result in results], [result[-1] for result in results]
        seen = kept.critic_input(states[0], PARAMS)
        for info in infos:
            np.testing.assert_allclose(info["final_critic_input"], seen, atol=1e-6)
    assert np.all(infos[1]["over"])
    assert not np.allclose(reset.critic_input(states[1], PARAMS)[..., :2], seen[..., :2], atol=0.01)


def test_a_central_critic_sees_a_row_for_each_agent_and_who_is_there() -> None:
    _, state = ENV.reset(jax.random.key(0), PARAMS)
    state = state.replace(active=state.active.at[1].set(False))
    rows = Central(ENV)(state, PARAMS)
    assert rows.shape == (4, ENV.spec.state_dim + 1)
    np.testing.assert_array_equal(rows[:, -1], [1, 0, 1, 1])
    np.testing.assert_allclose(rows[:, :2], np.where(rows[:, -1:], state.position, 0), atol=1e-6)


def test_worlds_without_a_view_say_so() -> None:
    assert view_of("local", ENV) is None
    worlds = vector.batch(ENV, 2)
    state = jax.eval_shape(worlds.reset, jax.random.key(0), PARAMS)[1]
    with pytest.raises(ValueError, match="these worlds show a critic nothing"):
        worlds.critic_input(state, PARAMS)
