"""Policies that speak and listen: loaded from a run, in PettingZoo, and what they attend to."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropy_env import swarm_v0
from entropy_env.types import HEARD, PAYLOAD, TOKENS
from trainers.learn.distributions import Gaussian
from trainers.learn.normalize import init_moments
from trainers.learn.speech import Talking
from trainers.networks.inbox import Inbox
from trainers.policies.jax import ActorPolicy, ActorSpec

KEY, AGENTS, SLOTS, SEEN = jax.random.key(7), 4, 3, 5
INBOX = Inbox(SEEN - 1, SLOTS, 10.0, 10.0)


def policy_of(obs_dim: int = SEEN + SLOTS * HEARD, inbox: Inbox | None = INBOX, **network: Any) -> ActorPolicy:
    spec = ActorSpec.of(obs_dim, Talking(Gaussian(2)), hidden_sizes=(8,), cell_size=8, inbox=inbox, **network)
    return ActorPolicy(spec.init(KEY), init_moments(obs_dim), spec)


def seen(taken: int = SLOTS) -> np.ndarray:
    """Observations of robots that hear as many words."""
    obs = np.random.default_rng(0).uniform(-0.3, 0.3, (AGENTS, SEEN + SLOTS * HEARD)).astype(np.float32)
    slots = obs[:, INBOX.columns].reshape(AGENTS, SLOTS, HEARD)
    slots[..., 4] = 6 / 31
    slots[:, taken:] = 0
    obs[:, INBOX.columns] = slots.reshape(AGENTS, -1)
    return obs


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm"])
@pytest.mark.parametrize("key", [None, KEY], ids=["mean", "sampled"])
def test_actions_are_motors_scores_of_which_one_is_highest_and_a_payload(network: str, key: Any) -> None:
    policy = policy_of(network=network)
    action, _ = policy.act(seen(), policy.begin(AGENTS), key)
    assert action.shape == (AGENTS, 2 + TOKENS + PAYLOAD)
    scores = np.asarray(action)[:, 2 : 2 + TOKENS]
    assert np.all(np.sort(scores, axis=1) == [-1] * (TOKENS - 1) + [1])
    assert np.all(np.abs(action) <= 1)


def test_sampled_words_differ_and_mean_ones_do_not() -> None:
    policy = policy_of()
    tokens = [np.argmax(policy(seen(), jax.random.key(k))[:, 2 : 2 + TOKENS], axis=1) for k in range(20)]
    assert len(np.unique(tokens)) > 10
    np.testing.assert_array_equal(policy(seen()), policy(seen()))


def test_a_description_survives_json() -> None:
    spec = policy_of(network="gru", agents=2).spec
    again = ActorSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec
    assert again.inbox == INBOX
    assert again.actions == Talking(Gaussian(2))


def test_a_description_of_an_older_version_is_of_a_silent_policy() -> None:
    old = {name: value for name, value in dataclasses.asdict(ActorSpec(3, 2)).items() if name not in ("talks", "inbox")}
    assert ActorSpec(**old) == ActorSpec(3, 2)
    assert ActorSpec(**old).actions == Gaussian(2)


@pytest.mark.parametrize("network", ["mlp", "gru"])
@pytest.mark.parametrize("agents", [0, AGENTS])
@pytest.mark.parametrize("taken", [0, 2])
def test_attention_tells_to_whom_each_listens(network: str, agents: int, taken: int) -> None:
    policy = policy_of(network=network, agents=agents)
    weights = policy.attention(seen(taken), policy.begin(AGENTS))
    assert weights.shape == (AGENTS, SLOTS)
    assert np.all(weights[:, taken:] == 0)
    np.testing.assert_allclose(weights.sum(axis=1), taken > 0, atol=1e-6)
    assert np.all(weights[:, :taken] > 0)


def test_agents_with_a_network_each_listen_by_their_own() -> None:
    policy = policy_of(agents=AGENTS)
    params = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), policy.params
    )
    policy = policy.replace(params=params)
    weights = policy.attention(seen(), ())
    for i in range(AGENTS):
        spec = dataclasses.replace(policy.spec, agents=0)
        alone = ActorPolicy(jax.tree.map(lambda x, i=i: x[i], policy.params), policy.moments, spec)
        np.testing.assert_allclose(alone.attention(seen(), ())[i], weights[i], atol=1e-6)


def test_a_policy_that_listens_to_nobody_says_so() -> None:
    policy = policy_of(inbox=None)
    with pytest.raises(ValueError, match="listens to nobody: train one with --comm attention or mean"):
        policy.attention(seen(), ())
    assert policy.tuned(3.0) is policy
    with pytest.raises(ValueError, match=r"obs has shape \(4, 3\), expected \(agents, 32\)"):
        policy_of().attention(np.zeros((4, 3)), ())


def test_a_tuned_policy_does_the_same_where_words_are_heard_less_far() -> None:
    policy, obs = policy_of(), seen()
    near = np.array(obs)
    slots = near[:, INBOX.columns].reshape(AGENTS, SLOTS, HEARD)
    slots[..., :2] *= 10.0 / 4.0  # the same offsets over 4 m
    near[:, INBOX.columns] = slots.reshape(AGENTS, -1)
    same, other = policy.tuned(4.0).attention(near, ()), policy.attention(near, ())
    expected = policy.attention(obs, ())
    gap = np.abs(np.asarray(same) - expected).max()
    assert gap < 0.02  # the offsets themselves are features, too
    assert np.abs(np.asarray(other) - expected).max() > 5 * gap


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_a_policy_talks_in_a_parallel_env(network: str) -> None:
    env = swarm_v0.parallel_env(scenario="relay", num_agents=2, max_steps=4, num_rays=4)
    observations, _ = env.reset(seed=0)
    obs_dim = observations[env.agents[0]].shape[0]
    inbox = Inbox(obs_dim - 2 - 8 * HEARD, 8, 10.0, 10.0)  # the partner comes last
    policy = policy_of(obs_dim, inbox, network=network)
    memory = policy.begin(2)
    while env.agents:
        assert env.action_space(env.agents[0]).shape == (38,)
        rows = np.stack([observations[agent] for agent in env.agents])
        action, memory = policy.act(rows, memory, KEY)
        actions = dict(zip(env.agents, np.array(action), strict=True))
        assert all(env.action_space(agent).contains(each) for agent, each in actions.items())
        observations, *_ = env.step(actions)
    env.close()
