import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.words import Talk, in_team, place_told, random_words, turned, words
from helpers.worlds import KEY, Lanes, make_world

from entropy_env import Swarm, SwarmSpec, vector
from entropy_env.scenarios.custom import Custom
from entropy_env.spaces import observation_space

pytestmark = pytest.mark.core


def test_in_play_words_are_heard_in_the_next_observation_with_the_pose_before_the_physics():
    """Robots drive in short lanes, arrive, wait and begin again, and talk all the time."""
    num_agents, rng = 8, np.random.default_rng(5)
    spec = SwarmSpec(num_agents, comm_neighbours=4, comm_history=1, on_goal="respawn", num_rays=4)
    env = Swarm(spec, Lanes())
    step, respawn, observe = jax.jit(env.step), jax.jit(env.respawn), jax.jit(env.observe)
    columns, begun = env.spec.slice("inbox"), 0
    for delay in (0, 1):
        params = env.make_params(comm_range=2.0, comm_delay=delay, max_steps="never", comm_rate=6.0)
        slow = Talk(num_agents, 4, comm_range=2.0, delay=delay, rate=6.0)
        state = env.reset(KEY(1), params)[1]
        for _ in range(40):
            action = np.concatenate([rng.uniform(0.5, 1, (num_agents, 2)), random_words(rng, num_agents)], axis=1)
            before = np.asarray(state.position), np.asarray(state.heading), np.asarray(state.active)
            spoken = slow.speak(*before, action[:, 2:])
            obs, state, *_, info = step(KEY(0), state, action.astype(np.float32), params)
            np.testing.assert_allclose(info["reward_terms"]["bandwidth"], -0.01 * spoken, atol=1e-8)
            for seen in (obs, None):
                if seen is None:
                    active, state = np.asarray(state.active), respawn(state, params)
                    fresh = np.flatnonzero(np.asarray(state.active) & ~active)
                    for robot in fresh:
                        slow.begin_again(robot)
                    begun, seen = begun + len(fresh), observe(state, params)
                now = np.asarray(state.position), np.asarray(state.heading), np.asarray(state.active)
                expected = slow.inboxes(*now).reshape(num_agents, -1)
                np.testing.assert_allclose(np.asarray(seen)[:, columns], expected, atol=1e-5)
    assert begun > 10


def test_a_place_told_in_the_speakers_frame_is_exact_for_the_listener():
    """Told by a robot that turns and drives on, to one that does too, also some steps later."""
    env = Swarm(SwarmSpec(2, comm_neighbours=1, comm_history=2, num_rays=4), Custom())
    place, rng = np.array([6.0, 4.5]), np.random.default_rng(6)
    for delay in (0, 2):
        params = env.make_params(comm_range=10.0, comm_delay=delay)
        state = make_world(env, [[2, 2], [5, 3]], [0.3, -2.0], goal=[[0.5, 0.5]] * 2)
        step, off = jax.jit(env.step), []
        for turn in range(8):
            told = [
                turned(*(place - at), -a)
                for at, a in zip(np.asarray(state.position), np.asarray(state.heading), strict=True)
            ]
            payload = np.concatenate([np.zeros((2, 2)), np.array(told) / 10], axis=1)
            action = np.concatenate([rng.uniform(-1, 1, (2, 2)), words([7, 7], payload)], axis=1).astype(np.float32)
            obs, state, *_ = step(KEY(0), state, action, params)
            if turn < delay:
                continue
            inbox = np.asarray(obs)[:, env.spec.slice("inbox")].astype(float)
            found = [
                turned(*at, a) for at, a in zip(place_told(inbox, 1, 10, 10), np.asarray(state.heading), strict=True)
            ]
            off.append(np.abs(np.asarray(state.position) + found - place).max())
        assert max(off) < 1e-5
        assert len(off) == 8 - delay


def test_observations_stay_in_the_bounds_of_their_space():
    env = Swarm(SwarmSpec(8, comm_neighbours=4, comm_history=2, on_goal="respawn", num_rays=4), "open")
    batch, box = vector.batch(env, 4), observation_space(env.spec)
    for range_, noise, delay in ((0.5, 0.5, 2), (10.0, 0.0, 0)):
        params = env.make_params(comm_range=range_, comm_noise=noise, comm_delay=delay, comm_drop=0.1)

        def body(state, key):
            action = jax.random.uniform(key, (4, 8, env.spec.action_dim), jnp.float32, -1.5, 1.5)
            obs, state, *_ = batch.step(key, state, action, params)  # noqa: B023
            return state, (obs.min(axis=(0, 1)), obs.max(axis=(0, 1)))

        _, state = jax.jit(batch.reset)(KEY(0), params)
        least, most = jax.jit(lambda state: jax.lax.scan(body, state, jax.random.split(KEY(1), 300)))(state)[1]
        assert np.all(np.asarray(least) >= box.low)
        assert np.all(np.asarray(most) <= box.high)
        inbox = np.asarray(most)[:, env.spec.slice("inbox")]
        assert np.all(inbox.max(axis=0)[:9] > 0)


def test_without_words_nothing_is_different():
    env = Swarm(SwarmSpec(3, comm_neighbours=0, comm_history=4, comm_channel="team"))
    assert (env.spec.obs_dim, env.spec.action_dim, env.spec.talks) == (36, 2, False)
    params = env.make_params()
    obs, state = jax.eval_shape(env.reset, KEY(0), params)
    assert obs.shape == (3, 36)
    assert state.words is None
    assert params.own_weights == {}
    assert Swarm(SwarmSpec(4, comm_neighbours=0), "relay").spec.obs_dim == 36 + 2
    assert Swarm(SwarmSpec(4), "relay").spec.obs_dim == 36 + 9 * 8 + 2


@pytest.mark.parametrize(
    ("given", "cost"), [({}, 0.01), ({"reward_bandwidth": 0.3}, 0.3), ({"reward_bandwidth": 0}, 0.0)]
)
def test_each_word_that_is_spoken_costs_reward_bandwidth(given, cost):
    env = Swarm(SwarmSpec(3, comm_neighbours=2, num_rays=4), Custom())
    state = make_world(env, [[1, 1], [3, 3], [5, 5]], active=[True, True, False])
    action = np.concatenate([np.zeros((3, 2)), words([1, 0, 1])], axis=1).astype(np.float32)
    *_, reward, _, _, info = jax.jit(env.step)(KEY(0), state, action, env.make_params(**given))
    np.testing.assert_allclose(info["reward_terms"]["bandwidth"], [-cost, 0, 0], atol=1e-8)
    np.testing.assert_allclose(reward, [-0.005 - cost, -0.005, 0], atol=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_reward_team_is_the_share_of_the_mean_of_those_of_the_team_that_acted(share):
    env = Swarm(SwarmSpec(5, comm_neighbours=2, num_rays=4, team_rewards=True), Custom())
    position = np.array([[1, 1], [3, 1], [5, 1], [1, 4], [3, 4]], float)
    state = make_world(
        env, position, goal=position + np.array([[1, 0], [2, 0], [1, 0], [0.3, 0], [1, 0]]), active=[1, 1, 0, 1, 1]
    )
    state = in_team(state, [0, 0, 0, 1, 1])
    motors = np.array([[1, 1], [0.5, 0.5], [1, 1], [1, 1], [-1, -1]])
    action = np.concatenate([motors, words([1, 0, 1, 0, 2])], axis=1).astype(np.float32)
    params = env.make_params(reward_team=share)
    _, after, reward, terminated, _, info = jax.jit(env.step)(KEY(0), state, action, params)
    own = np.sum(list(info["reward_terms"].values()), axis=0)
    assert terminated.tolist() == [False, False, False, True, False]
    assert after.active.tolist() == [True, True, False, False, True]
    np.testing.assert_allclose(info["reward_terms"]["progress"], [0.1, 0.05, 0, 0.1, -0.1], atol=1e-5)
    mean = [own[:2].mean()] * 2 + [0] + [own[3:].mean()] * 2
    expected = (1 - share) * own + share * np.array(mean)
    np.testing.assert_allclose(reward, expected, atol=1e-6)


def test_rewards_of_a_team_need_no_words_and_without_teams_are_everybodys():
    env = Swarm(SwarmSpec(3, num_rays=4, team_rewards=True), Custom())
    state = make_world(env, [[1, 1], [3, 1], [5, 1]])
    assert state.layout.team is None
    motors = np.array([[1, 1], [0, 0], [-1, -1]], np.float32)
    *_, reward, _, _, info = jax.jit(env.step)(KEY(0), state, motors, env.make_params(reward_team=1.0))
    own = np.sum(list(info["reward_terms"].values()), axis=0)
    np.testing.assert_allclose(reward, own.mean(), atol=1e-6)
    assert np.ptp(own) > 0.05
