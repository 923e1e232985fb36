"""Words, teams, pairs and scouts in the compiled engine and in the JAX engine, held to each other step by step."""

import dataclasses
import functools
import pickle

import jax
import numpy as np
import pytest
from helpers.words import random_words
from helpers.worlds import ENGINES, Lanes, numpy_tree

from entropy_env.engines import make_engine
from entropy_env.engines.numba_engine import engine as engine_module
from entropy_env.env import Swarm
from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.base import Scenario
from entropy_env.types import SwarmSpec

WORLDS, STEPS = 8, 12
SEED = np.array([3, 5], np.uint32)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
FLAGS = ("terminated", "truncated", "over", "acted", "active", "reached", "success", "goals_reached", "episode_length")
NUMBERS = ("reward", "reward_terms", "episode_return")
KEPT = ("active", "goal_index", "goals_reached", "step", "over")
ON_THE_WAY = {  # world by world
    "comm_range": np.array([1.0, 2.0, 5.0, 20.0, 2.0, 2.0, 20.0, 1.5]),
    "comm_delay": np.array([0, 1, 2, 3, 0, 0, 0, 2]),
    "comm_drop": np.array([0, 0, 0, 0, 0.3, 0.8, 0, 0.2]),
    "comm_noise": np.array([0, 0, 0, 0, 0, 0.3, 0.1, 0.5]),
    "comm_rate": np.array([0, 0, 4.0, 0, 7.0, 0, 2.5, 10.0]),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A simulator whose robots have to do with each other."""

    spec: SwarmSpec
    scenario: str | Scenario = dataclasses.field(default_factory=lambda: Lanes(1))
    params: dict = dataclasses.field(default_factory=dict)
    happens: tuple = ("heard",)  # what must have happened at least once


def spec_of(num_agents, **choices):
    return SwarmSpec(num_agents, **({"num_rays": 1, "substeps": 1, "num_goals": 3} | choices))


RELAY = {"scenario": "relay", "params": {"goal_radius": 0.5, "reward_team": 0.5, "reward_bandwidth": 0.02}}
CASES = {
    "broadcast": Case(
        spec_of(6, comm_neighbours=3, comm_history=3, on_goal="terminate"),
        params=ON_THE_WAY,
        happens=("heard", "lost", "reached"),
    ),
    "targeted": Case(
        spec_of(6, comm_neighbours=8, comm_channel="targeted", comm_history=1, on_goal="respawn"),
        params={name: ON_THE_WAY[name] for name in ("comm_range", "comm_drop", "comm_rate")}
        | {"comm_delay": np.arange(WORLDS) % 2},
        happens=("heard", "reached", "came back"),
    ),
    "team": Case(
        spec_of(6, comm_neighbours=2, comm_channel="team", team_rewards=True, on_goal="next_goal"),
        params={"reward_team": np.linspace(0, 1, WORLDS), "reward_bandwidth": np.linspace(0, 0.2, WORLDS)},
        happens=("heard", "reached"),
    ),
    "pairs that respawn": Case(spec_of(6, on_goal="respawn"), **RELAY, happens=("heard", "reached", "came back")),
    "pairs that end": Case(spec_of(4, on_goal="terminate"), **RELAY, happens=("heard", "reached")),
    "pairs that go on": Case(
        spec_of(4, comm_neighbours=0, on_goal="next_goal", drive="force"),
        "relay",
        {"goal_radius": 0.5, "reward_team": 0.5},
        ("reached",),
    ),
}
if "lookout" in SCENARIOS:
    lookout = {"params": {"goal_radius": 0.5, "max_steps": 50}, "happens": ("heard", "reached", "left with the last")}
    CASES["scouts"] = Case(spec_of(4, on_goal="terminate", num_goals=1), "lookout", **lookout)


@functools.cache
def engines(name):
    """The compiled and the JAX engine of a case."""
    case = CASES[name]
    env = Swarm(case.spec, case.scenario)
    limits = {"max_steps": np.resize([4, 50, 50], WORLDS)}
    params = env.resolve_params(**(limits | {"agent_radius": 0.02} | case.params))
    return [make_engine(env, WORLDS, params, engine, False) for engine in ENGINES]


def scattered(engine, rng):
    """A state in which robots stand anywhere, some near their goals, have said something, and are of any team."""
    engine.reset(SEED)
    state = engine.state
    lanes, size = state.heading.shape, state.layout.size[:, None]
    position = (rng.uniform(0.05, 0.95, (*lanes, 2)) * size).astype(np.float32)
    goals = (position[:, :, None] + rng.uniform(-0.7, 0.7, state.layout.goals.shape)).astype(np.float32)
    layout = state.layout.replace(goals=goals)
    if layout.team is not None and not engine.env.spec.paired:
        layout = layout.replace(team=rng.integers(0, 3, lanes).astype(np.int32))
    words = state.words
    if words is not None:
        words = words.replace(
            token=(rng.integers(0, 32, words.token.shape) * (rng.random(words.token.shape) < 0.7)).astype(np.int32),
            payload=rng.uniform(-1, 1, words.payload.shape).astype(np.float32),
            pose=rng.uniform(0, 3, words.pose.shape).astype(np.float32),
            credit=rng.choice([0, 0.5, 1], words.credit.shape).astype(np.float32),
        )
        if words.to is not None:
            words = words.replace(to=rng.integers(-1, lanes[1], words.to.shape).astype(np.int32))
    active = rng.random(lanes) < 0.9
    if engine.env.spec.paired:
        active = np.repeat(active[:, ::2], 2, axis=1)
    heading = rng.uniform(-3, 3, lanes).astype(np.float32)
    return state.replace(layout=layout, position=position, heading=heading, active=active, words=words)


def random_actions(rng, spec):
    """Some not finite; among the scores some ties."""
    action = rng.uniform(-1, 1, (WORLDS, spec.num_agents, spec.action_dim)).astype(np.float32)
    if spec.talks:
        action[..., 2:] = random_words(rng, WORLDS, spec.num_agents)
        tied = rng.random(action.shape) < 0.1
        action[tied] = np.sign(action[tied])
        odd = rng.random(action.shape)
        action[odd < 0.02], action[odd > 0.98] = np.nan, np.inf
    return action


def copied(transition):
    return {name: np.array(getattr(transition, name)) for name in (*FLAGS, *NUMBERS, "obs", "final_obs")}


def told(spec, obs):
    """What the lidar does not say, which other tests hold to each other."""
    return obs[..., spec.slice("lidar").stop :]


def compare_words(ours, theirs):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        np.testing.assert_array_equal(ours.token, theirs.token)
        for name in ("payload", "pose", "credit"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5, err_msg=name)
        assert (ours.to is None) == (theirs.to is None)
        if ours.to is not None:
            np.testing.assert_array_equal(ours.to, theirs.to)


def compare_steps(spec, ours, theirs):
    """Hold two Transitions to each other."""
    for name in FLAGS:
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    for name in NUMBERS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(told(spec, ours["obs"]), told(spec, theirs["obs"]), **CLOSE)
    ended = ours["terminated"] | ours["truncated"]
    np.testing.assert_allclose(told(spec, ours["final_obs"])[ended], told(spec, theirs["final_obs"])[ended], **CLOSE)


def compare_states(ours, theirs):
    for name in KEPT:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    compare_words(ours.words, theirs.words)
    jax.tree.map(np.testing.assert_array_equal, ours.layout, theirs.layout)


@pytest.mark.parametrize("name", CASES)
def test_words_teams_and_roles_are_the_same_in_both_engines(name):
    rng, both = np.random.default_rng(0), engines(name)
    spec, seen = both[0].env.spec, dict.fromkeys(("heard", "lost", "reached", "came back", "left with the last"), 0)
    for _ in range(3):
        state = scattered(both[0], rng)
        for t in range(STEPS):
            for engine in both:
                engine.state = state
            looks = [told(spec, engine.observe()) for engine in both]
            np.testing.assert_allclose(*looks, **CLOSE)
            action = random_actions(rng, spec)
            ours, theirs = (copied(engine.step(action)) for engine in both)
            compare_steps(spec, ours, theirs)
            ends = [engine.state for engine in both]
            compare_states(*ends)
            np.testing.assert_array_equal(ours["obs"], both[0].observe())
            if spec.talks:
                inbox = ours["obs"][..., spec.slice("inbox")]
                seen["heard"] += np.sum(inbox.reshape(*inbox.shape[:2], -1, 9)[..., 4] > 0)
            seen["reached"] += ours["reached"].sum()
            seen["came back"] += np.sum(ours["active"] & (ours["terminated"] | ~ours["acted"]))
            seen["left with the last"] += np.sum(ours["terminated"] & ~ours["reached"])
            seen["lost"] += np.sum(ends[0].words.token[4:6, :, 0] > 0) if spec.talks else 0
            state = ends[t % 2]
    assert not [what for what in CASES[name].happens if not seen[what]]


CROWD = spec_of(100, comm_neighbours=8, comm_channel="targeted", comm_history=1, on_goal="respawn", num_goals=2)


@functools.cache
def crowd(search, engine, channel="broadcast"):
    env = Swarm(dataclasses.replace(CROWD, neighbour_search=search, comm_channel=channel), "open", 4)
    params = env.resolve_params(
        comm_range=np.array([0.3, 2.0]), comm_delay=np.array([0, 1]), lidar_range=1.0, agent_radius=0.01
    )
    return make_engine(env, 2, params, engine, False)


@pytest.mark.parametrize("channel", ["broadcast", "targeted"])
def test_cells_miss_no_word(channel, monkeypatch):
    """With a hundred robots, and cells narrower than those of the lidar, and wider."""
    monkeypatch.setattr(engine_module, "CELLS_FROM", 10**6)
    both, rng = [crowd(search, "numba", channel) for search in ("grid", "dense")], np.random.default_rng(0)
    spec, heard = both[0].env.spec, 0
    assert [engine._w.cell_end.shape[1] for engine in both] == [400, 1]
    state = spread(both[0], rng)
    for _ in range(6):
        for engine in both:
            engine.state = state
        action = crowd_actions(rng, spec)
        ours, theirs = (copied(engine.step(action)) for engine in both)
        np.testing.assert_array_equal(ours["obs"], theirs["obs"])
        np.testing.assert_array_equal(ours["final_obs"], theirs["final_obs"])
        ends = [engine.state for engine in both]
        jax.tree.map(np.testing.assert_array_equal, *(end.words for end in ends))
        heard += np.sum(ours["obs"][..., spec.slice("inbox")][..., 4::9] > 0)
        state = ends[0]
    assert heard > (100 if channel == "targeted" else 2000)


def spread(engine, rng):
    engine.reset(SEED)
    state = engine.state
    position = (rng.uniform(0.02, 0.98, state.position.shape) * state.layout.size[:, None]).astype(np.float32)
    goals = position[:, :, None] + rng.uniform(-0.5, 0.5, state.layout.goals.shape).astype(np.float32)
    return state.replace(position=position, layout=state.layout.replace(goals=goals.astype(np.float32)))


def crowd_actions(rng, spec):
    motors = rng.uniform(-1, 1, (2, spec.num_agents, 2)).astype(np.float32)
    return np.concatenate([motors, random_words(rng, 2, spec.num_agents)], axis=-1)


def test_a_hundred_robots_hear_the_same_in_both_engines():
    both, rng = [crowd("grid", engine, "targeted") for engine in ENGINES], np.random.default_rng(1)
    spec, state = both[0].env.spec, spread(both[0], rng)
    for t in range(5):
        for engine in both:
            engine.state = state
        action = crowd_actions(rng, spec)
        ours, theirs = (copied(engine.step(action)) for engine in both)
        ends = [engine.state for engine in both]
        compare_words(*(end.words for end in ends))
        inboxes = [step["obs"][..., spec.slice("inbox")] for step in (ours, theirs)]
        touched = np.any(np.abs(ends[0].position - ends[1].position) > 1e-5, axis=-1)
        np.testing.assert_allclose(*(inbox[~touched] for inbox in inboxes), **CLOSE)
        assert touched.sum() < 5
        state = ends[t % 2]


def same_steps(one, other, rng, steps=4):
    spec = one.env.spec
    for _ in range(steps):
        action = random_actions(rng, spec)
        ours, theirs = (copied(engine.step(action)) for engine in (one, other))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)


@pytest.mark.parametrize("name", ["broadcast", "targeted", "pairs that respawn"])
def test_words_in_flight_survive_snapshots_and_pickling(name):
    rng, engine = np.random.default_rng(0), engines(name)[0]
    engine.state = scattered(engine, rng)
    for _ in range(2):
        engine.step(random_actions(rng, engine.env.spec))
    snapshot, before = engine.snapshot(), engine.state
    twin = pickle.loads(pickle.dumps(engine))
    assert before.words.token.any()
    same_steps(engine, twin, rng)
    twin.reset(SEED)
    twin.restore(snapshot)
    jax.tree.map(np.testing.assert_array_equal, twin.state, before)
    engine.restore(snapshot)
    same_steps(engine, twin, rng)


def test_respawned_robots_and_new_episodes_begin_in_silence():
    engine = engines("targeted")[0]
    rng, spec, came = np.random.default_rng(1), engine.env.spec, 0
    for t in range(30):
        if t % 5 == 0:
            engine.state = scattered(engine, rng)
        transition = copied(engine.step(random_actions(rng, spec)))
        words, fresh = engine.state.words, transition["active"] & (transition["terminated"] | ~transition["acted"])
        assert not words.token[fresh].any() and np.all(words.credit[fresh] == 1) and np.all(words.to[fresh] == -1)
        came += fresh.sum()
    assert came > 10
    engine.reset(SEED)
    rest = numpy_tree(engine.state.words)
    assert not rest.token.any() and not rest.payload.any() and not rest.pose.any()
    assert np.all(rest.credit == 1) and np.all(rest.to == -1)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_that_share_a_world_hear_the_same(num_threads, monkeypatch):
    monkeypatch.setattr(engine_module, "TEAM_FROM", 50)
    monkeypatch.setattr(engine_module, "CHUNK", 8)
    env, params = crowd("grid", "numba", "targeted").env, crowd("grid", "numba", "targeted").params
    one, several = (make_engine(env, 2, params, "numba", False, count) for count in (1, num_threads))
    rng = np.random.default_rng(0)
    state = spread(one, rng)
    several.reset(SEED)
    one.state = several.state = state
    for _ in range(4):
        action = crowd_actions(rng, env.spec)
        jax.tree.map(np.testing.assert_array_equal, *(copied(engine.step(action)) for engine in (one, several)))


def test_silent_swarms_have_no_words_and_other_kernels():
    env = Swarm(SwarmSpec(3, num_rays=2))
    quiet, loud = make_engine(env, 1, engine="numba"), engines("broadcast")[0]
    assert quiet._w.talk == ()
    assert quiet._kernels.run is not loud._kernels.run
    quiet.reset(SEED)
    assert quiet.state.words is None
    assert not [name for name in quiet.snapshot() if "words" in name or "team" in name]
