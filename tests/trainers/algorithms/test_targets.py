"""The values from which PPO learns, with a memory and with critics of more than observations, against loops in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errands import BASE, LANES, QUIET, Errands, make, second_rollout

CRITICS = ["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("central", "privileged"))]


@pytest.mark.parametrize("critic", CRITICS)
def test_targets_are_those_of_a_loop_over_the_steps(critic: str) -> None:
    ppo = make(network="gru", critic=critic, sequence_length=1, normalize_value=True)
    runner, _ = second_rollout(ppo)
    scene, steps, batch = jax.jit(lambda runner: ppo.gather(runner, QUIET, jax.random.key(2)))(runner)

    def judge(obs: Any, more: Any, memory: Any) -> np.ndarray:
        seen = (obs - runner.moments.mean) / np.sqrt(runner.moments.variance)
        value = ppo.networks.value(runner.params, seen, ppo.see(runner, more), memory)
        return np.asarray(value) * np.sqrt(2.0) + 0.4  # see `second_rollout`

    def at(tree: Any, t: int) -> Any:
        return jax.tree.map(lambda x: x[t], tree)

    memories = jax.tree.map(lambda x: x.swapaxes(0, 1), batch.memory)
    values = [judge(steps.obs[t], at(steps.critic_input, t), at(memories, t)) for t in range(BASE.num_steps)]
    values.append(judge(scene.obs, ppo.critic_input(scene.env_state, QUIET), scene.memory))
    advantage = np.zeros_like(values[0])
    for t in reversed(range(BASE.num_steps)):
        ahead = np.where(steps.truncated[t], steps.final_value[t], values[t + 1])
        gain = steps.reward[t] + ppo.config.gamma * np.where(steps.terminated[t], 0, ahead) - values[t]
        later = ppo.config.gamma * ppo.config.gae_lambda * advantage
        advantage = np.asarray(gain + np.where(steps.done[t], 0, later))
        there = np.asarray(steps.acted[t])
        np.testing.assert_allclose(batch.advantage[:, t][there], advantage[there], atol=1e-5)
        np.testing.assert_allclose(batch.target[:, t][there], (advantage + values[t])[there], atol=1e-5)
    assert np.any(steps.terminated)
    assert np.any(steps.truncated)


@dataclasses.dataclass(frozen=True)
class Truncating(Errands):
    """Every step is the last of an episode, at whose end an agent observes ones and a critic sees twos."""

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        obs, state, reward, terminated, _, info = super().step(key, state, action, params)
        last = {name: jnp.full_like(info[name], seen) for name, seen in (("final_obs", 1), ("final_critic_input", 2))}
        return obs, state, reward, terminated & False, info["acted"], info | last


@pytest.mark.parametrize("critic", CRITICS)
def test_the_value_of_a_last_observation_is_from_before_the_reset(critic: str) -> None:
    ppo = make(network="gru", critic=critic, num_steps=1)
    ppo = dataclasses.replace(ppo, env=Truncating(BASE.num_envs, LANES))
    runner = ppo.init(jax.random.key(0), QUIET)
    memory = ppo.act(runner, jax.random.key(3), runner.obs, runner.memory).memory
    _, steps, _ = jax.jit(lambda runner: ppo.gather(runner, QUIET, jax.random.key(1)))(runner)
    ones = jnp.ones_like(runner.obs)
    twos = None if critic == "local" else jnp.full((BASE.num_envs, LANES, 2), 2.0)
    value = ppo.value(runner, ones, twos, memory)
    np.testing.assert_allclose(steps.final_value[0], jnp.where(steps.acted[0], value, 0.0), atol=1e-6)
    before = ppo.value(runner, ones, steps.critic_input if twos is None else steps.critic_input[0], runner.memory)
    assert not np.allclose(value, before, atol=1e-3)
