"""A seed, a level and a number of robots are one world, in every adapter and engine and whatever came before."""

import functools

import gymnasium
import jax
import numpy as np
import pytest
from helpers.worlds import ENGINES

from entropy_env import swarm_v0
from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

LEVELS = 1, 3, 1
SEED = 7


def first_world(layout):
    """Of worlds (E, ...): the first one, with its first spawns and goals and without free slots."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], layout)
    bodies = [one.walls[one.wall_mask], one.boxes[one.box_mask], one.discs[one.disc_mask]]
    return [one.size, one.spawns[:, 0], one.goals[:, 0], *bodies]


def sb3(num_worlds=3, **settings):
    pytest.importorskip("stable_baselines3")
    from entropy_env.adapters.sb3 import SwarmVecEnv

    return SwarmVecEnv(num_worlds, **settings)


MAKERS = {
    "pettingzoo": swarm_v0.parallel_env,
    "pettingzoo_aec": swarm_v0.raw_env,
    "gymnasium": lambda num_agents, **settings: gymnasium.make("entropy_env/Swarm-v0", **settings),
    "gymnasium_vector": lambda num_agents, **settings: gymnasium.make_vec("entropy_env/Swarm-v0", 3, **settings),
    "many_gymnasium_vector": lambda num_agents, **settings: gymnasium.make_vec("entropy_env/Swarm-v0", 300, **settings),
    "sb3": sb3,
}
SINGLE = [name for name in MAKERS if "gymnasium" in name]
SEVERAL = [name for name in MAKERS if "gymnasium" not in name]


def start(env, seed, level=None):
    """Reset an environment of any kind; the first world."""
    if level is not None:
        (env if hasattr(env, "set_difficulty") else env.unwrapped).set_difficulty(level)
    if hasattr(env, "env_is_wrapped"):
        env.seed(seed)
        env.reset()
    else:
        env.reset(seed=seed)
    base = env.unwrapped if hasattr(env, "unwrapped") else env
    base = getattr(base, "env", base)  # a turn-based environment wraps a parallel one
    worlds = getattr(base, "_world", None) or base._worlds
    return first_world(worlds.state.layout)


def same(one, other):
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.parametrize("scenario", ["open", "obstacles", "rooms", "maze", "corridor", "curriculum"])
@pytest.mark.parametrize("name", ["pettingzoo", "gymnasium", "gymnasium_vector", "sb3"])
def test_a_harder_level_in_between_changes_no_world(name, scenario):
    env = MAKERS[name](num_agents=1, scenario=scenario, on_goal="terminate")  # one draw for all adapters
    first, harder, again = (start(env, SEED, level) for level in LEVELS)
    assert same(first, again)
    assert not same(first, harder)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("num_agents", "names"), [(1, [*SINGLE, "sb3", "pettingzoo"]), (10, SEVERAL)])
def test_the_first_world_is_the_same_in_every_adapter_and_engine(num_agents, names, engine):
    expected = expected_world(num_agents)
    for name in names:
        env = MAKERS[name](num_agents=num_agents, scenario="obstacles", engine=engine)
        assert same(start(env, SEED), expected), name


@functools.cache
def expected_world(num_agents):
    return start(swarm_v0.parallel_env(num_agents=num_agents, scenario="obstacles"), SEED)


@pytest.mark.parametrize("num_envs", [4, 30])
def test_both_engines_begin_with_the_same_bits_in_all_worlds(num_envs):
    """Of few worlds and of many, whose layouts are drawn by code compiled otherwise."""
    env = Swarm(SwarmSpec(num_agents=10, on_goal="respawn"), "rooms", 2)
    engines = [make_engine(env, num_envs, engine=name) for name in ENGINES]
    for seed in (3, 4):
        for engine in engines:
            engine.reset(seed)
        one, other = (engine.state.layout for engine in engines)
        assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_world_does_not_depend_on_how_many_there_are_or_whether_they_restart():
    env = Swarm(SwarmSpec(num_agents=4))
    drawn = []
    for num_envs, autoreset in ((2, True), (5, True), (5, False)):
        engine = make_engine(env, num_envs, autoreset=autoreset)
        engine.reset(SEED)
        drawn.append(engine.state.layout.spawns[:2])
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
