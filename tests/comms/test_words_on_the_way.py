import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.words import in_team, random_places, random_words, talkers, words
from helpers.worlds import make_world

from entropy_env import comms

pytestmark = pytest.mark.core


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_words_arrive_after_the_delay_with_the_pose_they_were_spoken_in(delay):
    """A robot counts, one metre further on for every word."""
    env, speak, listen = talkers(2, 2, history=3)
    params, state = env.make_params(comm_delay=delay, comm_range=10.0), make_world(env, [[1, 1], [0, 1]])
    arrived = []
    for step in range(6):
        state, _ = speak(state, words([step + 1, 0]), params)
        state = state.replace(position=state.position.at[0, 0].add(1))
        arrived.append(np.asarray(listen(state, params)[0])[1, 0])
    for step, slot in enumerate(arrived):
        said = step - delay
        expected = [(said + 1) / 10, 0, 1, 0, (said + 1) / 31] if said >= 0 else [0] * 5
        np.testing.assert_allclose(slot[:5], expected, atol=1e-6)


def test_silence_between_words_is_delayed_too():
    env, speak, listen = talkers(2, 2, history=3)
    params, state = env.make_params(comm_delay=2), make_world(env, [[1, 1], [2, 1]])
    heard = []
    for token in (5, 0, 6, 0, 0, 0):
        state, _ = speak(state, words([token, 0]), params)
        heard.append(round(float(listen(state, params)[0][1, 0, 4]) * 31))
    assert heard == [0, 0, 5, 0, 6, 0]


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("channel", "num_agents"), [("targeted", 16), ("team", 16), ("targeted", 100), ("broadcast", 100)]
)
def test_all_ways_to_find_the_nearest_give_the_same_inboxes(channel, num_agents, monkeypatch):
    """To the last bit, with losses and noise, and with fewer robots in the world."""
    rng, found = np.random.default_rng(4), {}
    place, team = random_places(rng, num_agents), rng.integers(0, 3, num_agents)
    said = random_words(rng, num_agents)
    for few, search in ((16, "dense"), (0, "dense"), (0, "grid")):
        monkeypatch.setattr(comms, "FEW", few)
        env, speak, listen = talkers.__wrapped__(num_agents, 8, channel, 0, search)
        talk = jax.jit(lambda state, params: listen(speak(state, said, params)[0], params))  # noqa: B023
        for count, comm_range in ((num_agents, 1.5), (num_agents, 20.0), (num_agents // 2, 3.0)):
            params = env.make_params(comm_range=comm_range, comm_drop=0.3, comm_noise=0.1)
            state = in_team(make_world(env, *place, active=np.arange(num_agents) < count), team)
            found.setdefault((count, comm_range), []).append([np.asarray(each) for each in talk(state, params)])
    for first, *others in found.values():
        assert first[1].max() >= 0
        for one, other in zip(first * len(others), [each for answer in others for each in answer], strict=True):
            np.testing.assert_array_equal(one, other)


@functools.cache
def many_clocks(clocks, num_agents):
    """Robots on one spot that all speak, and what they hear at as many clocks."""
    env, speak, listen = talkers(num_agents, num_agents)

    def talk(state, clock, params):
        return listen(speak(state, words(np.ones(num_agents, int)), params)[0].replace(step=clock), params)

    clock = jnp.arange(clocks, dtype=jnp.int32)
    return env, jax.jit(lambda state, params: jax.vmap(talk, (None, 0, None))(state, clock, params))


def listened(clocks, num_agents=16, seed=0, **params):
    """Inboxes and whom, at as many clocks."""
    env, talk = many_clocks(clocks, num_agents)
    state = make_world(env, np.full((num_agents, 2), 2.0))
    state = state.replace(layout=state.layout.replace(key=jnp.array([3, seed], jnp.uint32)))
    return tuple(np.asarray(each) for each in talk(state, env.make_params(**params)))


def test_each_listener_misses_the_share_of_words_that_comm_drop_says():
    clocks, num_agents = 400, 16
    whom = listened(clocks, comm_drop=0.3)[1]
    got = np.stack([np.any(whom == speaker, axis=2) for speaker in range(num_agents)], axis=2)
    pairs = ~np.eye(num_agents, dtype=bool)
    assert abs(got[:, pairs].mean() - 0.7) < 0.005
    for axes in ((1, 2), (0, 1), (0, 2)):  # at every time, from every speaker, to every listener
        count = clocks * num_agents * (num_agents - 1) / len(np.mean(got, axis=axes))
        share = got.sum(axis=axes) / count
        assert np.max(np.abs(share - 0.7)) < 4.5 * np.sqrt(0.21 / count)
    rate = got.mean(axis=0)[pairs]
    assert np.std(rate) == pytest.approx(np.sqrt(0.21 / clocks), rel=0.2)
    both_ways = np.corrcoef(got[:, pairs].ravel(), got.swapaxes(1, 2)[:, pairs].ravel())[0, 1]
    after = np.corrcoef(got[1:][:, pairs].ravel(), got[:-1][:, pairs].ravel())[0, 1]
    assert max(abs(both_ways), abs(after)) < 0.02


def test_a_drop_of_one_loses_all_and_of_zero_none():
    assert np.all(listened(400, comm_drop=1.0)[1] == -1)
    assert np.all(np.sum(listened(400, comm_drop=0.0)[1] >= 0, axis=2) == 15)


def test_what_is_lost_follows_from_the_key():
    first, again, other = (listened(400, seed=seed, comm_drop=0.5)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_noise_on_payloads_is_normal_and_clipped():
    inboxes, whom = listened(400, comm_noise=0.1)
    noise = inboxes[whom >= 0][:, 5:]
    assert len(noise) == 400 * 16 * 15
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(noise.std(axis=0), 0.1, atol=1e-3)
    np.testing.assert_allclose(np.mean(np.abs(noise) > 0.196, axis=0), 0.05, atol=4e-3)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(4), atol=0.02)
    plain = listened(400)[0]
    np.testing.assert_array_equal(inboxes[..., :5], plain[..., :5])
    loud = listened(400, comm_noise=100.0)[0][..., 5:]
    assert loud.min() == -1
    assert loud.max() == 1


@pytest.mark.parametrize("rate", [0.0, 0.5, 3.0, 8.0, 10.0, 25.0])
def test_robots_say_as_many_words_a_second_as_comm_rate(rate):
    env, speak, _ = talkers(2, 2)
    params, steps = env.make_params(comm_rate=rate, dt=0.1), 2000
    state = make_world(env, [[1, 1], [2, 1]])

    def body(state, silent):
        state, spoken = speak(state, jnp.where(silent, 0.0, jnp.asarray(words([1, 1]))), params)
        return state, (spoken, state.words.credit)

    silent = jnp.zeros(steps, bool).at[1000:1500].set(True)
    spoken, credit = (np.asarray(each) for each in jax.lax.scan(body, state, silent)[1])
    expected = min(rate, 10.0) if rate else 10.0
    assert spoken[:1000, 0].sum() / 100 == pytest.approx(expected, abs=0.011 + 1e-3 * expected)
    assert not spoken[1000:1500].any()
    after = np.cumsum(spoken[1500:, 0])
    assert np.all(after <= 1 + np.arange(1, 501) * 0.1 * expected + 0.01), "silence saves up one word alone"
    assert after[0] == 1
    assert credit.min() >= 0
    assert credit.max() <= 1
