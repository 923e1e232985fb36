import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.words import NUMBERS, Talk, in_team, moved, random_places, random_words, talkers, turned, words
from helpers.worlds import KEY, make_world

from entropy_env import Swarm, SwarmSpec

pytestmark = pytest.mark.core

CHANNELS = ("broadcast", "targeted", "team")
WAYS = {"few": (12, "dense"), "dense": (20, "dense"), "grid": (20, "grid")}  # how the nearest are found


def hear(position, tokens, heading=0.0, payload=(0, 0, 0, 0), channel="broadcast", neighbours=4, then=None, **params):
    """Robots say tokens (N,) at positions (N, 2) m, and may stand elsewhere, `then`, as they hear. Returns inboxes and whom."""
    active, team = params.pop("active", True), params.pop("team", None)
    env, speak, listen = talkers(len(position), neighbours, channel)
    numbers = env.make_params(**params)
    state = make_world(env, position, heading, active=np.broadcast_to(active, len(position)))
    state, _ = speak(in_team(state, team) if team else state, words(tokens, payload), numbers)
    if then is not None:
        state = state.replace(position=jnp.asarray(then, jnp.float32))
    return tuple(np.asarray(each) for each in listen(state, numbers))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("way", WAYS)
def test_inboxes_are_those_of_the_slow_reference(way, channel):
    """Anybody may be anywhere in the next step, and leave the world or come back, and speaks or not."""
    num_agents, search = WAYS[way]
    env, speak, listen = talkers(num_agents, 5, channel, 2, search)
    rng, heard_at_all = np.random.default_rng(1), 0
    team = rng.integers(0, 3, num_agents)
    for comm_range, delay, rate in ((2.0, 0, 0.0), (3.0, 1, 7.0), (20.0, 2, 0.0)):
        params = env.make_params(comm_range=comm_range, comm_delay=delay, comm_rate=rate)
        slow = Talk(num_agents, 5, channel, team, comm_range, delay, rate)
        place = random_places(rng, num_agents)
        state = in_team(make_world(env, *place), team)
        active = np.ones(num_agents, bool)
        for _ in range(12):
            said = random_words(rng, num_agents)
            state, spoken = speak(state, said, params)
            np.testing.assert_array_equal(spoken, slow.speak(*place, active, said))
            place, active = random_places(rng, num_agents), rng.random(num_agents) < 0.8
            state = moved(state, *place, active)
            inboxes, whom = listen(state, params)
            np.testing.assert_array_equal(whom, slow.slots(place[0], active))
            np.testing.assert_allclose(inboxes, slow.inboxes(*place, active), atol=2e-6)
            heard_at_all += np.sum(np.asarray(whom) >= 0)
    assert heard_at_all > (20 if channel == "targeted" else 200)


def test_the_nearest_come_first_and_of_as_near_ones_the_lowest():
    position = [[4, 3], [4, 4.5], [5, 3], [4, 2], [3, 3], [4, 3.5]]
    _, whom = hear(position, [1] * 6)
    assert whom[0].tolist() == [5, 2, 3, 4]
    assert whom[4].tolist() == [0, 5, 3, 1]


@pytest.mark.parametrize("way", WAYS)
def test_of_robots_as_near_the_lowest_come_first_however_they_are_found(way):
    """On a square grid, where most distances are had by several."""
    num_agents, search = WAYS[way]
    env, speak, listen = talkers(num_agents, 6, search=search)
    rng = np.random.default_rng(2)
    place = np.stack(np.divmod(rng.permutation(num_agents), 5), axis=-1) * 0.5 + 1.0
    slow, params = Talk(num_agents, 6, comm_range=1.0), env.make_params(comm_range=1.0)
    said, everyone = words(np.ones(num_agents, int)), np.ones(num_agents, bool)
    slow.speak(place, np.zeros(num_agents), everyone, said)
    state, _ = speak(make_world(env, place), said, params)
    whom = np.asarray(listen(state, params)[1])
    np.testing.assert_array_equal(whom, slow.slots(place, everyone))
    assert np.all(np.sum(whom >= 0, axis=1) >= 4)


def test_words_reach_as_far_as_comm_range_and_empty_slots_are_zero():
    inboxes, whom = hear([[1, 3], [3.5, 3], [6.25, 3]], [1, 2, 3], comm_range=2.5)
    assert whom.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1], [-1] * 4]
    assert not inboxes[0, 1:].any()
    assert not inboxes[2].any()
    np.testing.assert_allclose(inboxes[0, 0], [1, 0, 1, 0, 2 / 31, 0, 0, 0, 0], atol=1e-6)


def test_there_may_be_more_slots_than_robots():
    inboxes, whom = hear([[1, 1], [2, 2]], [4, 5], neighbours=7)
    assert whom.tolist() == [[1] + [-1] * 6, [0] + [-1] * 6]
    assert inboxes.shape == (2, 7, NUMBERS)
    assert not inboxes[:, 1:].any()


def test_robots_alone_in_the_world_hear_nothing():
    inboxes, whom = hear([[1, 1]], [4], neighbours=3)
    assert whom.tolist() == [[-1] * 3]
    assert not inboxes.any()


def test_silence_is_not_heard_and_nobody_hears_itself():
    _, whom = hear([[1, 1], [1.5, 1], [2, 1]], [1, 0, 1])
    assert whom.tolist() == [[2, -1, -1, -1], [0, 2, -1, -1], [0, -1, -1, -1]]


def test_inactive_robots_are_silent_and_deaf():
    inboxes, whom = hear([[1, 1], [1.5, 1], [2, 1]], [1, 1, 1], active=[True, False, True])
    assert whom.tolist() == [[2, -1, -1, -1], [-1] * 4, [0, -1, -1, -1]]
    assert not inboxes[1].any()


def test_a_robot_that_leaves_right_after_its_word_is_not_heard():
    env, speak, listen = talkers(3, 4)
    params = env.make_params()
    state, spoken = speak(make_world(env, [[1, 1], [1.5, 1], [2, 1]]), words([1, 1, 1]), params)
    assert spoken.tolist() == [1, 1, 1]
    _, whom = listen(state.replace(active=jnp.array([True, False, True])), params)
    assert whom.tolist() == [[2, -1, -1, -1], [-1] * 4, [0, -1, -1, -1]]


def test_order_goes_by_where_robots_are_now_and_the_pose_by_where_they_spoke():
    inboxes, whom = hear([[1, 1], [2, 1], [4, 1]], [1, 2, 3], comm_range=5.0, then=[[1, 1], [4, 1], [3, 1]])
    assert whom[0, :2].tolist() == [2, 1]
    np.testing.assert_allclose(inboxes[0, :2, 0], [3 / 5, 1 / 5], atol=1e-6)


def test_offsets_of_those_who_spoke_beyond_the_range_are_clipped():
    inboxes, whom = hear([[1, 1], [7, 5]], [1, 1], comm_range=1.0, then=[[1, 1], [1.5, 1]])
    assert whom[0, 0] == 1
    np.testing.assert_array_equal(inboxes[0, 0, :2], [1, 1])


@pytest.mark.parametrize(
    ("scores", "token"),
    [
        ({3: 0.5, 9: 0.5}, 3),  # ties go to the lowest
        ({3: 1.0, 9: 2.0}, 9),  # compared before they are clipped
        ({}, 0),
        ({0: -5.0, 31: -4.0} | dict.fromkeys(range(1, 31), -9.0), 31),
        ({4: np.inf, 5: 0.5}, 5),  # what is not finite counts as 0
        ({0: -1.0, 7: np.nan} | {k: -1.0 for k in range(1, 32) if k != 7}, 7),
        ({6: 3e38, 7: -np.inf}, 6),
    ],
)
def test_the_highest_score_is_spoken(scores, token):
    env, speak, _ = talkers(2, 4)
    said = np.zeros((2, 36), np.float32)
    said[0, list(scores)] = list(scores.values())
    state, spoken = speak(make_world(env, [[1, 1], [2, 2]]), said, env.make_params())
    assert state.words.token[:, 0].tolist() == [token, 0]
    assert spoken.tolist() == [float(token > 0), 0]


def test_payloads_are_clipped_and_what_is_not_finite_is_zero():
    inboxes, _ = hear([[1, 1], [2, 1]], [1, 1], payload=[[3, -3, 0.5, np.nan], [np.inf, -np.inf, 1, -1]])
    np.testing.assert_array_equal(inboxes[1, 0, 5:], [1, -1, 0.5, 0])
    np.testing.assert_array_equal(inboxes[0, 0, 5:], [0, 0, 1, -1])


@pytest.mark.parametrize("scale", [1.0, 0.01, 1e-30])
@pytest.mark.parametrize(
    ("degrees", "meant"), [(0, 1), (14.9, 1), (-14.9, 1), (15.1, -1), (-15.1, -1), (180, -1), (90, 2)]
)
def test_a_targeted_word_reaches_only_whom_it_points_at(scale, degrees, meant):
    """The speaker looks up, at one robot; another one is to its left, and a third is behind the first."""
    heading, position = np.pi / 2, [[4, 2], [4, 3], [3, 2], [4, 3.5]]
    direction = np.array(turned(1, 0, np.radians(degrees))) * scale
    _, whom = hear(position, [1, 0, 0, 0], heading, (*direction, 0, 0), "targeted")
    assert np.flatnonzero(whom[:, 0] == 0).tolist() == ([] if meant < 0 else [meant])


def test_a_targeted_word_without_direction_reaches_nobody():
    _, whom = hear([[1, 1], [2, 1], [0.5, 1]], [1, 1, 1], payload=(0, 0, 1, 1), channel="targeted")
    assert np.all(whom == -1)


def test_a_targeted_word_skips_those_beyond_the_cone_or_the_range_or_not_in_the_world():
    position, ahead = [[1, 3], [2, 3], [3, 3], [1.5, 4]], (1, 0, 0, 0)
    for active, comm_range, meant in (([1, 1, 1, 1], 5, [1]), ([1, 0, 1, 1], 5, [2]), ([1, 0, 1, 1], 1.9, [])):
        _, whom = hear(
            position, [1, 0, 0, 0], 0.0, ahead, "targeted", active=np.array(active, bool), comm_range=float(comm_range)
        )
        assert np.flatnonzero(whom[:, 0] == 0).tolist() == meant


def test_a_targeted_word_is_for_whom_it_pointed_at_as_it_was_spoken():
    position, then = [[1, 3], [2, 3], [6, 3]], [[1, 3], [6, 3], [2, 3]]
    _, whom = hear(position, [1, 0, 0], 0.0, (1, 0, 0, 0), "targeted", then=then, comm_range=5.0)
    assert whom[:, 0].tolist() == [-1, 0, -1]
    _, whom = hear(position, [1, 0, 0], 0.0, (1, 0, 0, 0), "targeted", then=then, comm_range=4.0)
    assert np.all(whom == -1), "who is beyond the range as the word arrives hears nothing"


def test_teams_hear_their_own_alone():
    position, tokens = [[1, 1], [1.5, 1], [2, 1], [2.5, 1]], [1] * 4
    _, whom = hear(position, tokens, channel="team", team=[0, 1, 0, 1])
    assert whom[:, 0].tolist() == [2, 3, 0, 1]
    assert np.all(whom[:, 1:] == -1)


def test_without_teams_all_are_in_one():
    position, tokens = [[1, 1], [1.5, 1], [2, 1]], [1] * 3
    np.testing.assert_array_equal(hear(position, tokens, channel="team")[0], hear(position, tokens)[0])
    env = Swarm(SwarmSpec(4, comm_neighbours=2, comm_channel="team"))
    assert quick_jit(env.generate)(KEY(0), env.make_params()).team.tolist() == [0] * 4


@pytest.mark.parametrize("search", ["dense", "grid"])
@pytest.mark.parametrize("channel", CHANNELS)
def test_the_order_of_robots_does_not_matter(channel, search):
    num_agents = 20
    env, speak, listen = talkers(num_agents, 5, channel, 2, search)
    rng, params = np.random.default_rng(3), env.make_params(comm_range=3.0)
    place, active, team = random_places(rng, num_agents), rng.random(num_agents) < 0.9, rng.integers(0, 3, num_agents)
    said, order = random_words(rng, num_agents), rng.permutation(num_agents)
    inboxes = []
    for index in (np.arange(num_agents), order):
        state = in_team(make_world(env, place[0][index], place[1][index], active=active[index]), team[index])
        inboxes.append(np.asarray(listen(speak(state, said[index], params)[0], params)[0]))
    np.testing.assert_allclose(inboxes[1], inboxes[0][order], atol=1e-6)
    assert inboxes[0].any()
