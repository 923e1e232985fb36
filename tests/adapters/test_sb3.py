"""`SwarmVecEnv` as a vectorised environment: seeds, options, attributes, pictures, errors."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from helpers.lanes import AGENTS, LANES, WORLDS, begun, make, roam
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec


def test_a_seed_fixes_all_that_follows():
    def episodes(env, seed=None):
        if seed is not None:
            assert env.seed(seed) == list(range(seed, seed + LANES))
        first = env.reset()
        return [first, *(transition[0] for transition in roam(env, first, 30)), env.reset()]

    env, _ = begun()
    one, same = episodes(env, 3), episodes(env, 3)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one, episodes(make(max_steps=25, seed=3)))
    np.testing.assert_array_equal(one, episodes(VecNormalize(make(max_steps=25), norm_obs=False), 3))
    assert not np.array_equal(one[0], one[-1])
    assert not np.array_equal(one[0][:AGENTS], one[0][AGENTS:])
    assert not np.array_equal(one[0], episodes(env, 4)[0])
    assert not np.array_equal(make().reset(), make().reset())
    env.seed()
    unseeded = env.reset()
    env.seed()
    assert not np.array_equal(unseeded, env.reset())
    with pytest.raises(ValueError, match="non-negative"):
        env.seed(-1)


def test_a_difficulty_may_be_an_option_of_one_reset():
    env, _ = begun()
    env.set_options({"difficulty": 3})
    env.reset()
    assert env._worlds.state.layout.size.tolist() == [[10, 8]] * WORLDS
    assert not env.step(np.zeros((LANES, 2)))[2].any()
    env.reset()
    assert np.all(env._worlds.state.layout.size < 7.5)
    env.set_options([{"difficulty": 2}] + [{}] * (LANES - 1))
    with pytest.raises(ValueError, match="give set_options one dict"):
        env.reset()
    env.set_options({"map": 1})
    with pytest.warns(UserWarning, match="'map' is ignored: known are difficulty"):
        env.reset()


def test_a_picture_has_a_tile_for_every_world():
    for num_worlds, rows, columns, least, most in ((1, 1, 1, 900, 960), (2, 2, 1, 400, 480), (3, 2, 2, 400, 480)):
        env, _ = begun(num_worlds=num_worlds, render_mode="rgb_array")
        images = env.get_images()
        assert len(images) == num_worlds
        height, width, _ = images[0].shape
        assert least <= width <= most
        picture = env.render()
        assert picture.shape == env.render("rgb_array").shape == (height * rows, width * columns, 3)
        assert picture.dtype == np.uint8
        for k, image in enumerate(images):
            top, left = height * (k // columns), width * (k % columns)
            np.testing.assert_array_equal(picture[top : top + height, left : left + width], image)
        assert all(np.any(images[0] != image) for image in images[1:])
        env.close()
        env.close()


def test_a_window_shows_the_first_world(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env, obs = begun(render_mode="human")
    drawn = []
    with monkeypatch.context() as patched:
        from entropy_env.render import Renderer

        draw = Renderer.draw
        patched.setattr(
            Renderer, "draw", lambda self, state, *rest, **told: drawn.append(state) or draw(self, state, *rest, **told)
        )
        assert env.render() is None
        assert env.render("human") is None
    assert len(drawn) == 2
    np.testing.assert_array_equal(drawn[0].position, env._worlds.state.position[0])
    roam(env, obs, 2)
    with pytest.warns(UserWarning, match="has to be the same as the environment render mode"):
        assert env.render("rgb_array") is None
    env.close()


def test_nothing_is_drawn_without_a_render_mode():
    env, _ = begun()
    with pytest.warns(UserWarning, match="no `render_mode` was passed"):
        assert env.render() is None
    with pytest.warns(UserWarning, match="nothing is drawn"):
        assert env.get_images() == []
    env.close()
    with pytest.raises(ValueError, match=r"render_mode='ansi' must be None or one of human, rgb_array"):
        make(render_mode="ansi")


def test_attributes_and_methods_are_those_of_all_lanes():
    env, _ = begun()
    assert env.get_attr("num_agents") == [AGENTS] * LANES
    assert env.get_attr("difficulty", [0, 4]) == [1, 1]
    assert env.get_attr("render_mode", 2) == [None]
    assert env.has_attr("difficulty")
    assert not env.has_attr("no_such_thing")
    env.set_attr("note", "here", range(LANES))
    assert env.note == "here"
    assert env.env_is_wrapped(Monitor) == [True] * LANES
    assert env.env_is_wrapped(gymnasium.Wrapper, [1]) == [False]
    one, other = env.env_method("snapshot", indices=[1, 2])
    assert one is other
    assert env.env_method("set_difficulty", difficulty=2) == [None] * LANES
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    for call in (
        lambda: env.get_attr("difficulty", LANES),
        lambda: env.env_method("set_difficulty", 3, indices=[0, LANES]),
        lambda: env.env_is_wrapped(Monitor, [-LANES - 1]),
        lambda: env.set_attr("note", "", [LANES]),
    ):
        with pytest.raises(IndexError, match=f"must be lanes from 0 to {LANES - 1}"):
            call()
    assert env.difficulty == 2
    with pytest.raises(ValueError, match=r"set_attr\('note'\) for some lanes: lanes share their worlds"):
        env.set_attr("note", "", [0, 1])
    with pytest.raises(ValueError, match=r"env_method\('set_difficulty'\) for some lanes: lanes share their worlds"):
        env.env_method("set_difficulty", 3, indices=[1])
    assert env.difficulty == 2


def test_what_is_wrong_is_named():
    env = make(seed=0)
    with pytest.raises(RuntimeError, match="no episode has begun"):
        env.step(np.zeros((LANES, 2)))
    env.reset()
    with pytest.raises(ValueError, match=r"the array of actions has shape \(2,\), expected \(6, 2\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"expected \(6, 2\)"):
        env.step(np.zeros((WORLDS, AGENTS, 2)))
    bad = np.zeros((LANES, 2))
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"the array of actions is not finite: nan at \[4, 1\]"):
        env.step(bad)
    with pytest.raises(ValueError, match="no array of numbers"):
        env.step([["left", "right"]] * LANES)
    for wrong, message in (
        ({"dtt": 0.1}, "unknown keyword 'dtt'; did you mean 'dt'"),
        ({"scenario": "moon"}, "moon"),
        ({"difficulty": 5}, "difficulty"),
        ({"on_goal": "stop"}, "on_goal"),
        ({"engine": "cuda"}, "engine='cuda' must be one of"),
        ({"num_worlds": 0}, "0 must be a whole number from 1"),
        ({"num_agents": 0}, "num_agents"),
        ({"reward": "none"}, "unknown reward 'none'"),
        ({"layout": {}}, "layout: give a Scenario of your own"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**wrong)


def test_settings_are_those_of_the_other_environments():
    env, _ = begun(num_rays=8, velocity_frame="world", max_wheel_speed=0.5, reward="v3")
    spec = SwarmSpec(num_rays=8)
    assert env.observation_space.shape == (spec.obs_dim,)
    obs, rewards, *_ = env.step(np.ones((LANES, 2)))
    np.testing.assert_allclose(np.hypot(*obs[:, spec.slice("velocity")].T), 0.5, rtol=1e-5)
    assert np.all(rewards < 0)
    assert isinstance(make(engine="jax")._worlds.engine, type(make_engine(Swarm(), 1, engine="jax")))


def test_the_missing_extra_is_named():
    code = "import sys; sys.modules['stable_baselines3'] = None; import entropy_env.adapters.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ModuleNotFoundError: SwarmVecEnv needs Stable-Baselines3" in result.stderr
    assert "pip install 'entropy-env[sb3]'" in result.stderr
