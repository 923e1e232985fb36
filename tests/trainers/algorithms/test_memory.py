"""Memory, critics and sharing in PPO: what the learner recomputes is what the rollout computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errands import BASE, LANES, QUIET, make, second_rollout
from helpers.worlds import Lanes

from entropy_env import vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec
from trainers.algorithms.ppo import PPO, Batch, Runner
from trainers.envs.views import Central
from trainers.learn.distributions import GAUSSIANS
from trainers.learn.normalize import RunningMoments

VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp central": {"critic": "central", "head_sizes": (8,)},
    "mlp independent": {"sharing": "independent", "shared_trunk": True},
    "gru": {"network": "gru"},
    "gru shared": {"network": "gru", "shared_trunk": True, "sequence_length": 4, "normalize_value": True},
    "gru burn-in": {"network": "gru", "sequence_length": 6, "burn_in": 4, "layer_norm": True},
    "gru central": {"network": "gru", "critic": "central", "sequence_length": 3, "deviation": "state"},
    "gru privileged": {"network": "gru", "critic": "privileged", "action_distribution": "tanh"},
    "gru independent": {"network": "gru", "sharing": "independent", "sequence_length": 6},
    "gru independent central": {"network": "gru", "sharing": "independent", "critic": "central"},
    "lstm": {"network": "lstm", "head_sizes": (8,), "sequence_length": 4, "burn_in": 4},
    "lstm independent": {"network": "lstm", "sharing": "independent", "shared_trunk": True, "burn_in": 0},
}


EVERY = {  # critic, sharing and whether lanes wait for the end of their world, as with `--on-goal terminate`
    f"{network} {critic} {sharing} {'terminate' if leaving else 'respawn'}": (
        {
            "network": network,
            "critic": critic,
            "sharing": sharing,
            "sequence_length": 4,
            "burn_in": 2 * (network != "mlp"),
        },
        {"leaving": leaving},
    )
    for network in ("mlp", "gru", "lstm")
    for critic in ("local", "central", "privileged")
    for sharing in ("shared", "independent")
    for leaving in (False, True)
}
NEAR = 1e-6 if jax.default_backend() == "cpu" else 1e-4  # of probability ratios that should be 1
QUICK = {"mlp central", "gru shared", "gru burn-in", "gru independent central", "lstm independent"}


@pytest.fixture(autouse=True)
def precise():
    """GPUs would round products to a few digits."""
    with jax.default_matmul_precision("highest"):
        yield


def recompute(ppo: PPO, runner: Runner, batch: Batch) -> tuple[Batch, jax.Array, jax.Array]:
    """A minibatch as the learner sees it, and what its networks say of it now."""
    worlds = jax.random.permutation(jax.random.key(2), ppo.config.num_envs)[: ppo.config.num_envs // 2]

    def judge(params: Any, batch: Batch) -> tuple:
        some = ppo.arrange(params, jax.tree.map(lambda x: x[worlds], batch))
        described, value, _ = ppo.networks(params, some.obs, some.critic_input, some.memory, some.goes_on)
        return some, ppo.actions.log_prob(some.action, described), value

    return jax.jit(judge)(runner.params, batch)


@pytest.mark.parametrize(
    "name", [*sorted(QUICK), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(VARIANTS.keys() - QUICK))]
)
def test_the_learner_finds_the_probabilities_and_values_of_the_rollout(name: str) -> None:
    assert_found_again(make(**VARIANTS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_it_does_with_every_network_critic_sharing_and_end_at_goals(name: str) -> None:
    options, env = EVERY[name]
    assert_found_again(make(env=env, **options))


def assert_found_again(ppo: PPO) -> None:
    runner, batch = second_rollout(ppo)
    some, log_prob, value = recompute(ppo, runner, batch)
    ratio = np.exp(np.asarray(log_prob - some.log_prob))[np.asarray(some.mask)]
    assert ratio.size > 20
    np.testing.assert_allclose(ratio, 1, atol=NEAR)
    if not ppo.config.normalize_value:
        np.testing.assert_allclose(np.asarray(value)[some.mask], np.asarray(some.value)[some.mask], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gru", "lstm"])
@pytest.mark.parametrize("on_goal", ["respawn", "terminate"])
def test_the_learner_finds_the_probabilities_of_the_rollout_in_a_swarm(on_goal: Any, network: str) -> None:
    env = Swarm(SwarmSpec(num_agents=4, on_goal=on_goal), Lanes())
    worlds = vector.batch(env, BASE.num_envs, stagger=True, critic=Central(env))
    config = dataclasses.replace(BASE, network=network, critic="central", sequence_length=4, burn_in=2)
    ppo, params = PPO(config, worlds, env.spec.obs_dim, GAUSSIANS["clipped"](2), 4, 10), env.make_params()
    runner = ppo.init(jax.random.key(0), params)
    _, steps, batch = jax.jit(lambda runner: ppo.gather(runner, params, jax.random.key(1)))(runner)
    assert np.any(steps.terminated)
    assert np.any(steps.truncated)
    some, log_prob, _ = recompute(ppo, runner, batch)
    np.testing.assert_allclose(np.exp(log_prob - some.log_prob)[np.asarray(some.mask)], 1, atol=NEAR)


def test_a_memory_that_begins_one_step_late_is_found() -> None:
    ppo = make(network="gru")
    runner, batch = second_rollout(ppo)
    late = batch.replace(goes_on=jnp.roll(batch.goes_on, 1, axis=1))
    some, log_prob, _ = recompute(ppo, runner, late)
    assert np.abs(np.exp(log_prob - some.log_prob) - 1)[np.asarray(some.mask)].max() > 1e-3


@pytest.mark.parametrize("network", ["gru", "lstm"])
def test_what_is_remembered_ends_with_an_episode_and_lanes_that_wait_remember_nothing(network: str) -> None:
    ppo = make(network=network, num_steps=6, sequence_length=1)
    runner = ppo.init(jax.random.key(0), QUIET)
    scene, steps, batch = jax.jit(lambda runner: ppo.gather(runner, QUIET, jax.random.key(1)))(runner)
    goes_on = np.asarray(steps.acted & ~steps.terminated & ~steps.truncated)
    assert 0.2 < goes_on.mean() < 0.9
    for stored, last in zip(jax.tree.leaves(batch.memory), jax.tree.leaves(scene.memory), strict=True):
        after = np.concatenate([np.asarray(stored).swapaxes(0, 1)[1:], np.asarray(last)[None]])
        assert np.all(after[~goes_on] == 0)
        assert np.all(np.abs(after[goes_on]).max(axis=-1) > 0)


@pytest.mark.parametrize("options", [
    {"shared_trunk": True, "normalize_value": True}, {"critic": "central"}, {"critic": "privileged"},
])  # fmt: skip
def test_idle_lanes_teach_a_memory_nothing(options: dict[str, Any]) -> None:
    ppo, noisy = make(network="gru", **options), jnp.float32(100)
    results = [ppo.update(ppo.init(jax.random.key(0), seen), seen)[0] for seen in (QUIET, noisy)]
    jax.tree.map(np.testing.assert_array_equal, *(each.replace(obs=0, key=0) for each in results))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(results[0].memory)), "it is kept from update to update"


@pytest.mark.parametrize(("critic", "env", "normalize_value", "known"), [
    ("central", {}, False, True), ("central", {"misplaced": True}, False, False),
    pytest.param("local", {}, False, False, marks=pytest.mark.slow),
    pytest.param("privileged", {}, False, True, marks=pytest.mark.slow),
    pytest.param("privileged", {"scale": 1000.0}, False, False, marks=pytest.mark.slow),
    ("privileged", {"scale": 1000.0}, True, True),
])  # fmt: skip
def test_a_critic_learns_what_it_alone_sees_of_its_own_lane(
    critic: str, env: dict[str, Any], normalize_value: bool, known: bool
) -> None:
    ppo = make(critic=critic, env=env, normalize_value=normalize_value, gamma=0.0, learning_rate=3e-3)
    runner = ppo.init(jax.random.key(0), QUIET)
    acted = 0.0
    for _ in range(60):
        runner, metrics = ppo.update(runner, QUIET)
        acted += float(metrics["train/active_share"]) * ppo.steps_per_update
    assert (float(metrics["loss/explained_variance"]) > 0.9) == known
    assert (runner.critic_moments is None) == (critic == "local")
    assert runner.critic_moments is None or float(runner.critic_moments.count) == pytest.approx(acted, abs=1)


def test_a_central_critic_does_not_mind_the_order_or_the_number_of_the_others() -> None:
    ppo = make(critic="central")
    runner = ppo.init(jax.random.key(0), QUIET)
    obs, rows = jax.random.normal(jax.random.key(1), (5, 3)), jax.random.normal(jax.random.key(2), (5, 2))
    rows = rows.at[:, -1].set(jnp.array([1, 1, 0, 1, 1]))
    order = np.array([3, 0, 1, 4, 2])
    value = ppo.networks.value(runner.params, obs, rows)
    np.testing.assert_allclose(ppo.networks.value(runner.params, obs[order], rows[order]), value[order], atol=1e-6)
    there = np.flatnonzero(rows[:, -1])
    np.testing.assert_allclose(ppo.networks.value(runner.params, obs[there], rows[there]), value[there], atol=1e-6)
    assert not np.allclose(ppo.networks.value(runner.params, obs[:2], rows[:2]), value[:2], atol=1e-3)
    critic = runner.params["critic"]["params"]
    other = {"critic": {"params": critic | {"others": jax.tree.map(lambda x: x + 1, critic["others"])}}}
    np.testing.assert_array_equal(*(ppo.networks.value(params, obs[:1], rows[:1]) for params in (runner.params, other)))


def test_a_central_critic_is_told_exactly_who_is_there() -> None:
    ppo = make(critic="central")
    runner = jax.eval_shape(ppo.init, jax.random.key(0), QUIET)
    runner = runner.replace(critic_moments=RunningMoments(jnp.float32(9), jnp.full(2, 0.7), jnp.full(2, 4.0)))
    seen = ppo.see(runner, jnp.array([[2.7, 1.0], [-1.3, 0.0]]))
    np.testing.assert_allclose(seen, [[1, 1], [-1, 0]], atol=1e-6)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    ppo = make(network="gru", entropy_coefficient=0.3, value_coefficient=0.7)
    total, parts = jax.jit(lambda runner, batch: ppo.loss(runner.params, batch))(*second_rollout(ppo))
    policy, value, entropy = (float(parts[f"loss/{name}"]) for name in ("policy", "value", "entropy"))
    assert float(total) == pytest.approx(policy + 0.7 * value - 0.3 * entropy, abs=1e-5)
    assert abs(entropy) > 0.1


def test_parts_of_a_minibatch_give_the_gradients_of_the_whole() -> None:
    ppo = make(network="gru", sharing="independent", sequence_length=4)
    runner, batch = second_rollout(ppo)
    parts = dataclasses.replace(ppo, config=dataclasses.replace(ppo.config, accumulate=2))
    found = [jax.jit(each.gradients)(runner.params, batch)[0] for each in (ppo, parts)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *found)


def test_independent_agents_learn_from_their_own_lanes_alone() -> None:
    ppo = make(network="gru", sharing="independent")
    runner, batch = second_rollout(ppo)
    changed = batch.replace(advantage=batch.advantage.at[..., 0].mul(-3.0), obs=batch.obs.at[..., 0, :].add(1.0))
    one, other = (jax.jit(ppo.gradients)(runner.params, each)[0] for each in (batch, changed))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])
        assert not np.array_equal(a[0], b[0])


@pytest.mark.parametrize(("options", "told"), [
    ({"sequence_length": 5}, "sequence_length=5 must divide num_steps=12"),
    ({"burn_in": 2, "network": "gru"}, "burn_in=2 needs a sequence_length below num_steps=12"),
    ({"burn_in": 5, "network": "gru", "sequence_length": 4}, "burn_in=5 must be from 0 to sequence_length=4"),
    ({"burn_in": 2, "network": "mlp"}, "burn_in=2 needs a network that remembers"),
    ({"sequence_length": -4}, "sequence_length=-4 must be above 0"),
    ({"value_coefficient": -1.0}, "value_coefficient=-1.0 must not be negative"),
    ({"cell_size": 0}, "cell_size=0 must be above 0"),
    ({"entropy_coefficient_final": -1.0}, "entropy_coefficient_final=-1.0 must not be negative"),
    ({"head_sizes": (8, 0)}, "head_sizes=(8, 0) must be above 0"),
    ({"critic": "central", "shared_trunk": True}, "critic='central' sees more than the actor"),
])  # fmt: skip
def test_impossible_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        dataclasses.replace(BASE, **options)
    assert told in str(error.value)


def test_choices_have_no_deviation() -> None:
    with pytest.raises(ValueError, match="deviation='state' needs actions that are numbers"):
        make(choices=True, deviation="state")


def test_a_critic_of_more_than_observations_needs_an_environment_that_shows_more() -> None:
    class Plain:
        pass

    config = dataclasses.replace(BASE, critic="privileged")
    with pytest.raises(ValueError, match=r"critic='privileged' needs an environment.*Plain has none"):
        PPO(config, Plain(), 3, GAUSSIANS["clipped"](1), LANES, 1)  # type: ignore[arg-type]
