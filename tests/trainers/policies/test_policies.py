"""Policies are called alike, with a memory or without."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropy_env.task import Task
from trainers.learn.normalize import init_moments
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.lstm import Cell, LSTMPolicy

OBS_DIM, UNITS, AGENTS = 3, 4, 5
KEY = jax.random.key(7)


def feed_forward():
    spec = ActorSpec(OBS_DIM, 2, hidden_sizes=(UNITS,))
    weights = spec.init(jax.random.key(0))
    return ActorPolicy(weights, init_moments(OBS_DIM), spec)


def recurrent():
    rng = np.random.default_rng(0)

    def dense(size, inputs):
        return jnp.asarray(rng.normal(size=(size, inputs)), jnp.float32), jnp.zeros(size)

    cells = (Cell(dense(4 * UNITS, OBS_DIM), dense(4 * UNITS, UNITS)),)
    return LSTMPolicy(
        cells, (), dense(2, UNITS), jnp.zeros(2), jnp.zeros(OBS_DIM), jnp.ones(OBS_DIM), 10.0, Task.of(), step=0
    )


@pytest.fixture(scope="module", params=[feed_forward, recurrent], ids=["feed-forward", "recurrent"])
def policy(request):
    return request.param()


def call(policy, obs, key=None):
    """The actions of agents whose episodes begin."""
    answer = policy(obs, key=key)
    return answer[0] if isinstance(policy, LSTMPolicy) else answer


def seen(*lanes):
    return np.random.default_rng(0).normal(size=(*lanes, OBS_DIM))


@pytest.mark.parametrize("key", [None, KEY], ids=["mean", "sampled"])
def test_a_call_does_as_act(policy, key):
    obs = seen(AGENTS).astype(np.float32)
    expected, _ = policy.act(jnp.asarray(obs), policy.begin(AGENTS), key)
    np.testing.assert_allclose(call(policy, obs, key), expected, atol=1e-6)


def test_a_key_samples_around_the_mean(policy):
    obs = seen(AGENTS)
    assert np.array_equal(call(policy, obs, KEY), call(policy, obs, KEY))
    assert not np.allclose(call(policy, obs, KEY), call(policy, obs))


def test_arrays_of_numpy_give_arrays_of_numpy_and_those_of_jax_those_of_jax(policy):
    action = call(policy, seen(AGENTS))
    assert isinstance(action, np.ndarray) and action.flags.writeable and action.dtype == np.float32
    assert isinstance(call(policy, jnp.asarray(seen(AGENTS))), jax.Array)


@pytest.mark.parametrize("lanes", [(), (2, AGENTS)])
def test_one_agent_or_many_worlds_may_ask(policy, lanes):
    obs = seen(*lanes)
    rows = obs.reshape(-1, OBS_DIM)
    np.testing.assert_allclose(call(policy, obs), call(policy, rows).reshape(*lanes, 2), atol=1e-6)


@pytest.mark.parametrize("shape", [(OBS_DIM + 1,), (2, OBS_DIM - 1), ()])
def test_observations_of_another_size_are_refused(policy, shape):
    with pytest.raises(ValueError, match=r"expects \(\.\.\., 3\)"):
        policy(np.zeros(shape, np.float32))


def test_a_memory_goes_on_in_any_shape():
    policy, obs = recurrent(), seen(2, AGENTS)
    _, memory = policy(obs)
    again, _ = policy(obs, memory)
    _, flat = policy(obs.reshape(-1, OBS_DIM))
    np.testing.assert_allclose(again.reshape(-1, 2), policy(obs.reshape(-1, OBS_DIM), flat)[0], atol=1e-6)
    assert not np.allclose(again, policy(obs)[0])


def test_sampled_still_works_and_warns():
    policy, obs = recurrent(), seen(AGENTS)
    with pytest.warns(DeprecationWarning, match=r"key=jax\.random\.key"):
        sampled, _ = policy(obs, sampled=True)
    with pytest.warns(DeprecationWarning):
        mean, _ = policy(obs, sampled=False)
    assert np.array_equal(mean, policy(obs)[0])
    assert not np.allclose(sampled, mean)


def test_agents_with_a_network_each_act_by_their_own_and_are_as_many():
    spec = ActorSpec(OBS_DIM, 2, hidden_sizes=(UNITS,), agents=2)
    policy, one = ActorPolicy(spec.init(KEY), init_moments(OBS_DIM), spec), dataclasses.replace(spec, agents=0)
    obs = seen(2)
    for i in range(2):
        alone = ActorPolicy(jax.tree.map(lambda x, i=i: x[i], policy.params), policy.moments, one)
        np.testing.assert_allclose(policy(obs)[i], alone(obs[i]), atol=1e-6)
    assert not np.allclose(policy(obs[[0, 0]])[0], policy(obs[[0, 0]])[1])
    for ask in (lambda: policy.begin(3), lambda: policy(seen(3)), lambda: policy(seen())):
        with pytest.raises(ValueError, match=r"each of 2 agents \(sharing=independent\), and there are [13]"):
            ask()


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm"])
def test_what_a_policy_is_given_must_be_of_as_many_agents_as_it_remembers(network):
    spec = ActorSpec(OBS_DIM, 2, hidden_sizes=(UNITS,), network=network, cell_size=UNITS)
    policy = ActorPolicy(spec.init(KEY), init_moments(OBS_DIM), spec)
    memory = policy.begin(AGENTS)
    assert policy.act(seen(AGENTS), memory)[0].shape == (AGENTS, 2)
    for obs in (np.zeros((AGENTS, OBS_DIM + 1)), np.zeros(())):
        with pytest.raises(ValueError, match=r"obs has shape \(.*\), expected \(agents, 3\)"):
            policy.act(obs, memory)
    for count in (-1, 0, 2.5):
        with pytest.raises(ValueError, match=rf"num_agents={count} must be a whole number from 1"):
            policy.begin(count)
    if network != "mlp":
        with pytest.raises(ValueError, match=r"obs has shape \(1, 3\), and memory is of \(5,\) agents"):
            policy.act(seen(1), memory)
        with pytest.raises(ValueError, match=r"memory=None is not one of this policy: begin with policy.begin"):
            policy.act(seen(AGENTS), None)


def test_a_tanh_policy_acts_in_hyperbolic_tangents():
    plain = feed_forward()
    squashed = plain.replace(spec=dataclasses.replace(plain.spec, action_distribution="tanh"))
    np.testing.assert_allclose(squashed(seen(9)), np.tanh(plain(seen(9))), atol=1e-6)
    sampled = squashed(seen(9), KEY)
    assert np.all(np.abs(sampled) < 1)
    assert not np.allclose(sampled, squashed(seen(9)))
