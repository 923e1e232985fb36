"""PPO on probes whose values and best actions are known."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.algorithms.ppo import PPO, Runner
from trainers.algorithms.ppo_options import STEERABLE, Hyperparameters
from trainers.learn.advantages import gae
from trainers.learn.distributions import Categorical, Distribution, Gaussian, MultiCategorical
from trainers.learn.steering import Steered

AGENTS = 2
GAUSSIAN = Gaussian(1)
PROBE = Hyperparameters(
    num_envs=16, num_steps=8, num_minibatches=2, num_epochs=4, learning_rate=5e-3,
    anneal_learning_rate=False, gamma=0.5, hidden_sizes=(16,), normalize_obs=False,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Probe:
    """A world of lanes that all do the same: `length` steps, the observation is the step's number, then an ending.

    The reward is 1 at the end, or how near the first action is to 0.5, or the share of choices that equal the step's
    number. With `idle`, lane 1 takes no part, and what it says is nonsense.
    """

    length: int = 1
    truncates: bool = False
    rewards_action: bool = False
    rewards_choices: bool = False
    idle: bool = False

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        clock = jnp.zeros((PROBE.num_envs, AGENTS), jnp.int32)
        return self.obs(clock), clock

    def obs(self, clock: jax.Array) -> jax.Array:
        obs = clock[..., None].astype(jnp.float32)
        return obs.at[:, 1].set(1000.0) if self.idle else obs

    def step(self, key: jax.Array, clock: jax.Array, action: jax.Array, params: Any) -> tuple:
        ended = clock + 1 == self.length
        reward = ended.astype(jnp.float32)
        if self.rewards_action:
            reward = -jnp.square(action[..., 0] - 0.5)
        if self.rewards_choices:
            choices = action.reshape(*clock.shape, -1)
            reward = jnp.mean((choices == clock[..., None]).astype(jnp.float32), axis=-1)
        active = jnp.ones_like(ended)
        if self.idle:
            active, reward = active.at[:, 1].set(False), reward.at[:, 1].set(1000.0)
        no = jnp.zeros_like(ended)
        terminated, truncated = (no, ended) if self.truncates else (ended, no)
        zero = jnp.zeros_like(reward)
        info = {
            "final_obs": self.obs(clock + 1 - self.length if self.truncates else clock + 1),
            "acted": active, "collision": no, "success": no, "goals_reached": no.astype(jnp.int32),
            "episode_return": zero, "episode_length": clock + 1,
        }  # fmt: skip
        clock = jnp.where(ended, 0, clock + 1)
        return self.obs(clock), clock, reward, terminated, truncated, info


def learn(
    probe: Probe, updates: int = 150, actions: Distribution = GAUSSIAN, **changes: Any
) -> tuple[PPO, Runner, dict[str, jax.Array]]:
    config = dataclasses.replace(PROBE, **changes)
    ppo = PPO(config, probe, obs_dim=1, actions=actions, num_agents=AGENTS, num_updates=1)
    runner = ppo.init(jax.random.key(0), None)
    for _ in range(updates):
        runner, metrics = ppo.update(runner, None)
    return ppo, runner, metrics


def value_of(ppo: PPO, runner: Runner, obs: float) -> float:
    return float(ppo.value(runner, jnp.array([obs])))


def test_the_critic_learns_the_value_of_a_constant() -> None:
    ppo, runner, _ = learn(Probe())
    assert value_of(ppo, runner, 0.0) == pytest.approx(1.0, abs=0.03)


def test_a_reward_two_steps_away_is_discounted_once() -> None:
    ppo, runner, _ = learn(Probe(length=2))
    assert value_of(ppo, runner, 1.0) == pytest.approx(1.0, abs=0.03)
    assert value_of(ppo, runner, 0.0) == pytest.approx(0.5, abs=0.03)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    ppo, runner, _ = learn(Probe(truncates=True))
    assert value_of(ppo, runner, 0.0) == pytest.approx(1 / (1 - PROBE.gamma), abs=0.06)


def test_the_actor_finds_the_rewarded_action() -> None:
    ppo, runner, _ = learn(Probe(rewards_action=True))
    (mean, _), *_ = ppo.networks.act(runner.params, jnp.zeros(1))
    assert float(mean[0]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("actions", [Categorical(3), MultiCategorical((2, 4))])
def test_the_actor_finds_the_rewarded_choices_at_each_step(actions: Distribution, shared_trunk: bool) -> None:
    ppo, runner, _ = learn(Probe(length=2, rewards_choices=True), actions=actions, shared_trunk=shared_trunk)
    for step in (0, 1):
        described, *_ = ppo.networks.act(runner.params, jnp.full(1, step, jnp.float32))
        assert np.all(actions.mode(described) == step)
    assert value_of(ppo, runner, 1.0) == pytest.approx(1.0, abs=0.06)
    assert value_of(ppo, runner, 0.0) == pytest.approx(1.5, abs=0.09)


def test_a_shared_trunk_has_one_set_of_hidden_layers() -> None:
    ppo = PPO(dataclasses.replace(PROBE, shared_trunk=True), Probe(), 1, Gaussian(1), AGENTS, 1)
    runner = ppo.init(jax.random.key(0), None)
    shapes = jax.tree.map(jnp.shape, runner.params["critic"]["params"])
    assert shapes == {"MLP_0": {"Dense_0": {"kernel": (16, 1), "bias": (1,)}}}
    moved = jax.tree.map(lambda x: x + 1.0, runner.params["actor"])
    assert value_of(ppo, runner, 1.0) != value_of(ppo, runner.replace(params=runner.params | {"actor": moved}), 1.0)


def test_an_idle_lane_teaches_nothing() -> None:
    ppo, runner, metrics = learn(Probe(idle=True), normalize_obs=True)
    assert value_of(ppo, runner, 0.0) == pytest.approx(1.0, abs=0.03)
    assert float(runner.moments.mean[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["train/reward_mean"]) == pytest.approx(1.0)
    assert float(metrics["train/active_share"]) == 0.5


def test_gae_matches_a_sum_over_every_episode() -> None:
    rng = np.random.default_rng(0)
    steps, lanes, discount, lam = 12, 5, 0.9, 0.8
    reward, value, next_value = rng.normal(size=(3, steps, lanes))
    terminated, truncated = rng.random((2, steps, lanes)) < 0.15
    done = terminated | truncated
    expected = np.zeros((steps, lanes))
    for lane in range(lanes):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                bootstrap = 0.0 if terminated[t, lane] else next_value[t, lane]
                expected[start, lane] += weight * (reward[t, lane] + discount * bootstrap - value[t, lane])
                weight *= discount * lam
                if done[t, lane]:
                    break
    advantage, target = gae(reward, value, next_value, terminated, done, discount=discount, lam=lam)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)
    np.testing.assert_allclose(target, expected + value, atol=1e-5)


def test_bf16_is_what_networks_compute_in_and_nothing_else() -> None:
    ppo = PPO(dataclasses.replace(PROBE, precision="bf16"), Probe(), 1, GAUSSIAN, AGENTS, 1)
    runner = ppo.init(jax.random.key(0), None)
    used = str(jax.make_jaxpr(ppo.networks.act)(runner.params, runner.obs))
    assert "bf16" in used
    obs, whole = jnp.linspace(-1, 1, 50)[:, None], dataclasses.replace(ppo, config=PROBE)
    near = ppo.value(runner, obs), whole.value(runner, obs)
    np.testing.assert_allclose(*near, atol=0.05)
    assert not np.array_equal(*near)
    runner, metrics = ppo.update(runner, None)
    kept = jax.tree.leaves((runner.params, runner.opt_state, runner.moments, metrics))
    assert {leaf.dtype.name for leaf in kept} == {"float32", "int32"}


def test_options_among_the_inputs_reach_the_learner_without_a_recompile() -> None:
    ppo = PPO(PROBE, Probe(), obs_dim=1, actions=Gaussian(1), num_agents=AGENTS, num_updates=1)
    plain = ppo.update(ppo.init(jax.random.key(0), None), None)[0]
    own = {name: jnp.float32(getattr(PROBE, name)) for name in STEERABLE}
    runner = ppo.init(jax.random.key(0), Steered(None, own))
    before = PPO.update._cache_size()
    runner, _ = ppo.update(runner, Steered(None, own))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), runner.params, plain.params)
    weights = jax.device_get(runner.params)
    runner, _ = ppo.update(runner, Steered(None, own | {"learning_rate": jnp.float32(0)}))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(runner.params), weights)
    assert PPO.update._cache_size() == before + 1


@pytest.mark.parametrize(("update", "coefficient"), [(0, 1.0), (1, 0.75), (4, 0.0)])
def test_the_weight_of_the_entropy_bonus_changes_linearly_over_the_run(update: int, coefficient: float) -> None:
    def once(**options: Any) -> dict[str, Any]:
        ppo = PPO(dataclasses.replace(PROBE, **options), Probe(), 1, Gaussian(1), AGENTS, num_updates=4)
        runner = ppo.init(jax.random.key(0), None).replace(update=jnp.int32(update))
        return jax.device_get(ppo.update(runner, None)[0].params)

    changing = once(entropy_coefficient=1.0, entropy_coefficient_final=0.0)
    same = once(entropy_coefficient=coefficient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), changing, same)
    other = once(entropy_coefficient=0.5)
    assert not np.array_equal(changing["actor"]["params"]["log_std"], other["actor"]["params"]["log_std"])


@pytest.mark.parametrize("name", STEERABLE)
def test_each_of_these_options_is_one(name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(Hyperparameters)}
