"""What all adapters have in common: keywords, difficulty, threads and kinds of numbers."""

import gymnasium
import jax
import numpy as np
import pytest

from entropy_env import swarm_v0
from entropy_env.adapters.gymnasium import SwarmEnv, SwarmVectorEnv
from entropy_env.engines.numba_engine import threads
from entropy_env.render import Renderer
from entropy_env.render.video import write_video
from entropy_env.scenarios.open import Open

ENV_ID = "entropy_env/Swarm-v0"


def make_sb3(**settings):
    pytest.importorskip("stable_baselines3", reason="the sb3 extra is not installed")
    from entropy_env.adapters.sb3 import SwarmVecEnv

    return SwarmVecEnv(num_worlds=2, **settings)


MAKERS = {
    "parallel_env": swarm_v0.parallel_env,
    "raw_env": swarm_v0.raw_env,
    "env": swarm_v0.env,
    "gymnasium": SwarmEnv,
    "vector": SwarmVectorEnv,
    "sb3": make_sb3,
}
SWARMS = ("parallel_env", "env", "sb3")
every_adapter = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
every_swarm = pytest.mark.parametrize("make", [MAKERS[name] for name in SWARMS], ids=SWARMS)


def engine_of(env):
    return env.unwrapped._simulator.engine if hasattr(env, "unwrapped") else env._simulator.engine


@every_adapter
@pytest.mark.parametrize("wrong", ["2", None, True, 1.0, np.float64(2), 0, 9, np.int64(9)])
def test_a_wrong_difficulty_is_one_error_everywhere(make, wrong):
    def refuses(call):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == f"difficulty={wrong!r} must be a whole number from 1 to 4"

    refuses(lambda: make(difficulty=wrong))
    refuses(lambda: make(scenario=Open(), difficulty=wrong))
    env = make()
    refuses(lambda: env.set_difficulty(wrong))
    if hasattr(env, "set_options"):
        env.set_options({"difficulty": wrong})
        refuses(env.reset)
    else:
        refuses(lambda: env.reset(options={"difficulty": wrong}))
    assert env.difficulty == 1


@every_adapter
def test_the_difficulty_can_be_asked_for(make):
    env = make(difficulty=2)
    assert env.difficulty == 2
    env.set_difficulty(np.int64(3))
    assert env.difficulty == 3
    assert type(env.difficulty) is int
    assert make(scenario=Open(4)).difficulty == 4


@pytest.mark.parametrize("make", [swarm_v0.parallel_env, swarm_v0.raw_env, SwarmEnv, SwarmVectorEnv, make_sb3])
def test_the_difficulty_can_be_set_as_an_attribute(make):
    env = make()
    env.difficulty = 2
    assert engine_of(env) is not None
    assert env._simulator.difficulty == 2
    with pytest.raises(ValueError, match="difficulty=5 must be"):
        env.difficulty = 5


@every_adapter
@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("scenari", "scenario"),
        ("nr_rays", "num_rays"),
        ("max_weel_speed", "max_wheel_speed"),
        ("presets", "preset"),
        ("rewards", "reward"),
        ("engines", "engine"),
        ("threads", "num_threads"),
        ("on_gaol", "on_goal"),
        ("rendermode", "render_mode"),
    ],
)
@pytest.mark.parametrize("value", [10, None])
def test_the_nearest_of_all_keywords_is_named(make, wrong, nearest, value):
    with pytest.raises(ValueError, match=f"unknown keyword '{wrong}'; did you mean '{nearest}'"):
        make(**{wrong: value})


@every_swarm
def test_the_number_of_agents_is_among_the_keywords_of_a_swarm(make):
    with pytest.raises(ValueError, match="unknown keyword 'nr_agents'; did you mean 'num_agents'"):
        make(nr_agents=10)


@pytest.mark.parametrize("make", [SwarmEnv, SwarmVectorEnv])
def test_one_robot_is_not_made_many(make):
    with pytest.raises(ValueError, match=r"num_agents=3: there is one robot here, swarm_v0\.parallel_env has many"):
        make(num_agents=3)


def test_keywords_of_one_adapter_are_named_by_it_alone():
    for wrong, make, nearest in (
        ("num_world", make_sb3, "num_worlds"),
        ("nun_envs", SwarmVectorEnv, "num_envs"),
        ("auto_reset_mode", SwarmVectorEnv, "autoreset_mode"),
        ("layuot", SwarmEnv, "layout"),
    ):
        with pytest.raises(ValueError, match=f"unknown keyword '{wrong}'; did you mean '{nearest}'"):
            make(**{wrong: 1})
    with pytest.raises(ValueError, match=r"unknown keyword 'zzz': choose from .*agent_radius.*scenario"):
        swarm_v0.parallel_env(zzz=1)


@every_adapter
def test_the_number_of_threads_is_a_keyword(make):
    assert engine_of(make(num_threads=np.int64(1))).num_threads == 1
    env = make(num_threads=3)
    assert engine_of(env).num_threads == 3
    env.set_difficulty(4)  # takes another engine
    env.reset()
    assert engine_of(env).num_threads == 3
    with pytest.raises(ValueError, match="num_threads=0 must be a whole number from 1 to 4096"):
        make(num_threads=0)


def test_gymnasium_hands_the_number_of_threads_on():
    assert gymnasium.make(ENV_ID, num_threads=3).unwrapped._simulator.engine.num_threads == 3
    assert gymnasium.make_vec(ENV_ID, 2, num_threads=3).unwrapped._simulator.engine.num_threads == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NUMBA_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": " 3,2 "}, 3),
        ({"NUMBA_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 5),
        ({"NUMBA_NUM_THREADS": "", "OMP_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": ""}, 7),
        ({}, 7),
    ],
)
def test_the_environment_decides_the_number_of_threads(monkeypatch, variables, expected):
    monkeypatch.setattr(threads, "num_cores", lambda: 7)
    for name in threads.ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert engine_of(swarm_v0.parallel_env()).num_threads == expected
    assert engine_of(swarm_v0.parallel_env(num_threads=2)).num_threads == 2


@pytest.mark.parametrize("wrong", ["many", "0", "-1", "1.5", "99999"])
def test_a_variable_that_is_no_number_of_threads_is_said_not_to_count(monkeypatch, wrong):
    monkeypatch.setattr(threads, "num_cores", lambda: 7)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", wrong)
    with pytest.warns(UserWarning, match=f"OMP_NUM_THREADS='{wrong}' is ignored: it must be a whole number from 1"):
        assert engine_of(swarm_v0.parallel_env()).num_threads == 7


NUMPY = {
    "difficulty": np.int64(2),
    "max_steps": np.int32(20),
    "max_wheel_speed": np.float64(0.5),
    "agent_radius": np.float32(0.08),
    "num_rays": np.int64(8),
    "substeps": np.uint8(2),
    "reward_time": np.int64(1),
    "num_threads": np.int64(1),
    "scenario": Open(np.int64(2), size=(np.float32(8), np.int64(6))),
}


@every_adapter
def test_numpy_numbers_are_numbers(make):
    settings = NUMPY | ({} if make in (SwarmEnv, SwarmVectorEnv) else {"num_agents": np.int64(3)})
    settings |= {"num_envs": np.int64(2)} if make is SwarmVectorEnv else {}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    numbers = []
    for kind, seed in ((settings, np.int64(5)), (plain, 5)):
        env = make(**kind)
        if make is make_sb3:
            env.seed(seed)
            env.reset()
        else:
            env.reset(seed=seed)
        numbers.append(engine_of(env).global_state())
        assert type(getattr(env, "num_envs", 1)) is int
    np.testing.assert_array_equal(*numbers)


def test_numpy_numbers_draw_and_film(tmp_path):
    env = swarm_v0.parallel_env(2)
    env.reset(seed=0)
    state = jax.tree.map(lambda leaf: leaf[0], env._world.state)
    renderer = Renderer(max_size=(np.int64(160), np.int64(120)), trails=np.int64(3), fps=np.float32(10))
    frames = [renderer.draw(state, env._world.params) for _ in range(2)]
    for fps in (np.float32(10), np.float64(10), np.int64(10)):
        assert write_video(tmp_path / "seen.gif", frames, fps).stat().st_size > 0
