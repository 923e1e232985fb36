import dataclasses
import pickle
import subprocess
import sys
import warnings

import gymnasium
import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import (
    FlattenObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RecordVideo,
    TransformObservation,
)
from helpers.worlds import ENGINES

from entropy_env.adapters.gymnasium import SwarmEnv, SwarmVectorEnv
from entropy_env.scenarios.open import Open
from entropy_env.types import SwarmSpec

ENV_ID = "entropy_env/Swarm-v0"
FORWARD = np.ones(2, np.float32)
VELOCITY, GOAL = map(SwarmSpec().slice, ("velocity", "goal"))
AHEAD = {"size": (8, 6), "spawns": [[1.0, 3.0]], "goals": [[1.5, 3.0]]}


def make_worlds(num_envs=3, **settings):
    return gymnasium.make_vec(ENV_ID, num_envs, **({"max_steps": 6} | settings))


def shapes(infos):
    """The structure of infos: names, shapes and kinds of arrays."""
    if isinstance(infos, dict):
        return {name: shapes(value) for name, value in infos.items()}
    return infos.shape, infos.dtype.kind


def run_python(*lines):
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("imports", ["import entropy_env, gymnasium", "import gymnasium, entropy_env"])
def test_gymnasium_knows_the_environment_in_either_order_of_import(imports):
    assert run_python(imports, f"print(gymnasium.spec('{ENV_ID}').id)").strip() == ENV_ID


def test_gymnasium_imports_the_package_where_the_name_says_so():
    found = run_python("import gymnasium", f"print(gymnasium.make('entropy_env:{ENV_ID}').spec.id)")
    assert found.strip() == ENV_ID


def test_gymnasium_accepts_the_environment(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gymnasium.make(ENV_ID, difficulty=1, render_mode="rgb_array")
        check_env(env.unwrapped)
    unbounded = ("minimum value is -infinity", "maximum value is infinity")
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in unbounded)] == []
    assert isinstance(env.unwrapped, SwarmEnv)


def test_the_goal_terminates():
    env = gymnasium.make(ENV_ID, layout=AHEAD)
    env.reset(seed=0)
    steps = [env.step(FORWARD) for _ in range(3)]
    assert [step[2] for step in steps] == [False, False, True]
    assert not any(step[3] for step in steps)
    assert steps[-1][4]["reached"]
    assert steps[-1][1] > 0.9
    assert steps[-1][4]["reward_terms"]["progress"] == pytest.approx(0.1, abs=1e-4)
    with pytest.raises(RuntimeError, match=r"no episode is running: call reset\(\)"):
        env.step(FORWARD)


def test_the_time_limit_truncates():
    env = gymnasium.make(ENV_ID, layout=AHEAD, max_steps=2)
    env.reset()
    assert env.step(FORWARD)[2:4] == (False, False)
    assert env.step(FORWARD)[2:4] == (False, True)


def test_the_next_goal_ends_nothing():
    env = gymnasium.make(ENV_ID, on_goal="next_goal", num_goals=2, layout=AHEAD | {"goals": [[[1.5, 3], [7, 3]]]})
    env.reset()
    steps = [env.step(FORWARD) for _ in range(4)]
    assert [step[4]["reached"] for step in steps] == [False, False, True, False]
    assert not any(step[2] or step[3] for step in steps)
    assert steps[-1][4]["goals_reached"] == 1


@pytest.mark.parametrize("make", [SwarmEnv, SwarmVectorEnv])
def test_a_single_robot_does_not_respawn(make):
    with pytest.raises(ValueError, match="on_goal='respawn' is for swarms"):
        make(on_goal="respawn")


def test_a_wrong_action_fails():
    env = gymnasium.make(ENV_ID).unwrapped
    env.reset()
    with pytest.raises(ValueError, match=r"the action has shape \(3,\), expected \(2,\)"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"the action has shape \(2, 1\), expected \(2,\)"):
        env.step(np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"the action is not finite: nan at \[0\]"):
        env.step([np.nan, 0.0])


def test_a_pickled_environment_goes_on_by_itself():
    env = gymnasium.make(ENV_ID).unwrapped
    env.reset(seed=1)
    copied = pickle.loads(pickle.dumps(env))
    assert data_equivalence(copied.step(FORWARD), env.step(FORWARD), exact=True)
    assert data_equivalence(copied.reset(), env.reset(), exact=True)


def test_make_vec_makes_one_batched_environment():
    for mode in (None, "vector_entry_point"):
        worlds = make_worlds(vectorization_mode=mode)
        assert isinstance(worlds, SwarmVectorEnv)
        assert worlds.num_envs == 3
        assert worlds.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        assert worlds.observation_space.shape == (3, 36)
        assert worlds.single_action_space.shape == (2,)


def test_batched_results_look_like_those_of_separate_environments():
    batched = make_worlds()
    separate = make_worlds(vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"})
    assert batched.observation_space == separate.observation_space
    assert batched.action_space == separate.action_space
    for worlds in (batched, separate):
        assert shapes(worlds.reset(seed=0)[1]) == {}
    going, ending = [], []
    for worlds in (batched, separate):
        steps = [worlds.step(np.zeros((3, 2))) for _ in range(6)]
        going.append(steps[0])
        ending.append(steps[-1])
        assert not steps[4][3].any()
        assert steps[5][3].all()
    for one, other in (going, ending):
        assert [(value.shape, value.dtype) for value in one[:4]] == [(value.shape, value.dtype) for value in other[:4]]
    assert shapes(going[0][4]) == shapes(going[1][4])
    final = ("final_obs", "_final_obs", "final_info", "_final_info")
    assert {name: shapes(ending[0][4][name]) for name in final} == {name: shapes(ending[1][4][name]) for name in final}


def test_a_world_that_ends_is_reset_and_hands_over_its_last_observation():
    worlds = make_worlds()
    worlds.reset(seed=0)
    for _ in range(5):
        obs, *_, infos = worlds.step(np.ones((3, 2)))
        assert "final_obs" not in infos
        assert infos["_reached"].all()
    obs, _, terminated, truncated, infos = worlds.step(np.ones((3, 2)))
    assert truncated.all()
    assert not terminated.any()
    assert infos["_final_obs"].all()
    assert infos["_final_info"].all()
    assert not infos["_reached"].any()
    for last in infos["final_obs"]:
        assert last in worlds.single_observation_space
        assert last[VELOCITY][0] == pytest.approx(1.0)
    assert np.all(obs[:, VELOCITY][:, 0] == 0)
    terms = infos["final_info"]["reward_terms"]
    np.testing.assert_allclose(terms["time"], -0.005, rtol=1e-5)
    assert np.all(terms["progress"] != 0)
    assert np.all(terms["distance"] == 0)


def test_only_the_worlds_that_end_report_a_final_observation():
    worlds = make_worlds(max_steps=200)
    obs, _ = worlds.reset(seed=0)
    for _ in range(200):
        ahead, left = obs[:, GOAL].T
        turn = np.clip(np.arctan2(left, ahead), -1, 1)
        obs, _, terminated, truncated, infos = worlds.step(np.stack([1 - turn, 1 + turn], axis=1))
        ended = terminated | truncated
        assert ("final_obs" in infos) == ended.any()
        if ended.any() and not ended.all():
            break
    assert terminated.tolist() == ended.tolist() == infos["_final_obs"].tolist() == infos["_final_info"].tolist()
    assert [last is not None for last in infos["final_obs"]] == ended.tolist()
    assert infos["final_info"]["goals_reached"].tolist() == infos["final_info"]["reached"].tolist() == ended.tolist()
    assert infos["_reached"].tolist() == (~ended).tolist()
    assert not infos["reached"].any()
    assert infos["final_info"]["_reached"].tolist() == ended.tolist()


def test_episode_statistics_are_recorded():
    worlds = RecordEpisodeStatistics(make_worlds())
    worlds.reset(seed=0)
    steps = [worlds.step(np.ones((3, 2))) for _ in range(6)]
    np.testing.assert_allclose(steps[-1][4]["episode"]["r"], np.sum([step[1] for step in steps], axis=0))
    assert steps[-1][4]["episode"]["l"].tolist() == [6, 6, 6]


def test_a_seed_fixes_all_episodes_of_the_batch():
    def episodes(seed):
        worlds = make_worlds()
        first = worlds.reset(seed=seed)[0]
        return [first, *(worlds.step(np.ones((3, 2)))[0] for _ in range(7)), worlds.reset()[0]]

    one, same, other = episodes(0), episodes(0), episodes(1)
    assert data_equivalence(one, same, exact=True)
    assert not data_equivalence(one[0], other[0])
    assert not data_equivalence(one[0], one[-1])
    assert not data_equivalence(one[0][0], one[0][1])


def test_the_batch_hands_out_fresh_arrays():
    worlds, twin = make_worlds(), make_worlds()
    twin.reset(seed=0)
    worlds.reset(seed=0)[0][:] = 7.0
    for value in worlds.step(np.ones((3, 2)))[:4]:
        value[:] = 1
    twin.step(np.ones((3, 2)))
    assert data_equivalence(worlds.step(np.ones((3, 2))), twin.step(np.ones((3, 2))), exact=True)


def test_a_pickled_batch_goes_on_by_itself():
    worlds = make_worlds().unwrapped
    worlds.reset(seed=0)
    copied = pickle.loads(pickle.dumps(worlds))
    assert data_equivalence(copied.step(np.ones((3, 2))), worlds.step(np.ones((3, 2))), exact=True)


def test_the_batch_names_what_is_wrong():
    worlds = make_worlds()
    with pytest.raises(RuntimeError, match="no episode has begun"):
        worlds.step(np.zeros((3, 2)))
    worlds.reset()
    with pytest.raises(ValueError, match=r"the array of actions has shape \(2,\), expected \(3, 2\)"):
        worlds.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"the array of actions is not finite: inf at \[2, 1\]"):
        worlds.step([[0, 0], [0, 0], [0, np.inf]])
    with pytest.warns(UserWarning, match="'layout' is ignored: known are difficulty"):
        worlds.reset(options={"layout": AHEAD})
    with pytest.raises(ValueError, match=r"layout: .* vectorization_mode='sync'"):
        make_worlds(layout=AHEAD)
    with pytest.raises(ValueError, match="rgb_array"):
        make_worlds(render_mode="human")


def test_a_layout_without_room_fails_in_the_step_that_resets_to_it():
    worlds = make_worlds()
    worlds.reset(seed=0)
    worlds._worlds.engine._next_maps.valid[1] = False
    for _ in range(5):
        worlds.step(np.zeros((3, 2)))
    with pytest.raises(RuntimeError, match="found no room"):
        worlds.step(np.zeros((3, 2)))


def test_every_world_of_the_batch_is_drawn():
    worlds = make_worlds(render_mode="rgb_array")
    worlds.reset(seed=0)
    frames = worlds.render()
    assert len(frames) == 3
    assert all(frame.dtype == np.uint8 and frame.shape[2] == 3 for frame in frames)
    assert np.any(frames[0] != frames[1])
    worlds.close()
    worlds.close()


@dataclasses.dataclass(frozen=True)
class Ahead(Open):
    """Every world alike: the goal is straight ahead, so that what is driven decides when a world ends."""

    def generate(self, key, spec, params):
        layout = super().generate(key, spec, params)
        spawn, goal = jnp.array([1.0, 3.0, 0.0], jnp.float32), jnp.array([1.5, 3.0], jnp.float32)
        return layout.replace(
            spawns=jnp.broadcast_to(spawn, layout.spawns.shape), goals=jnp.broadcast_to(goal, layout.goals.shape)
        )


SPEEDS = np.array([[1.0, 1.0], [0.5, 0.5], [0.0, 0.0], [1.0, -1.0]], np.float32)  # ends after 3, 5, 8 and 8 steps


def separate(autoreset_mode):
    kwargs = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": autoreset_mode}}
    return gymnasium.make_vec(ENV_ID, 4, scenario=Ahead(), max_steps=8, **kwargs)


def together(autoreset_mode, **settings):
    return gymnasium.make_vec(
        ENV_ID, 4, scenario=Ahead(), autoreset_mode=autoreset_mode, **({"max_steps": 8} | settings)
    )


def same(one, other, atol):
    """Both of a step's or a reset's results, with masks that hold for no world left out."""
    for ours, theirs in zip(one[:-1], other[:-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
        assert ours.dtype == theirs.dtype
    held, expected = of_worlds(one[-1]), of_worlds(other[-1])
    assert held.keys() == expected.keys()
    for name, values in held.items():
        for value, wanted in zip(values, expected[name], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=atol)


def of_worlds(infos, path=""):
    """Of every info that some world has, the values of those worlds."""
    found = {}
    for name, value in infos.items():
        if name.startswith("_") or not np.any(infos[f"_{name}"]):
            continue
        found |= (
            of_worlds(value, f"{path}{name}/") if isinstance(value, dict) else {path + name: value[infos[f"_{name}"]]}
        )
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_every_reset_mode_is_that_of_separate_environments(mode, engine):
    ours, theirs = together(mode, engine=engine), separate(mode)
    atol = 0 if engine == "numba" else 1e-5  # JAX rounds four worlds otherwise than one
    same(ours.reset(seed=0), theirs.reset(seed=0), atol)
    for _ in range(25):
        one, other = ours.step(SPEEDS), theirs.step(SPEEDS)
        same(one, other, atol)
        ended = one[2] | one[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            one, other = (each.reset(options={"reset_mask": ended.copy()}) for each in (ours, theirs))
            same(one, other, atol)


def test_a_world_waits_a_step_for_its_next_episode():
    worlds = together("NextStep")
    first, _ = worlds.reset(seed=0)
    for _ in range(3):
        obs, _, terminated, _, infos = worlds.step(SPEEDS)
    assert terminated.tolist() == [True, False, False, False]
    assert infos["reached"].tolist() == [True, False, False, False]
    assert "final_obs" not in infos
    assert 0 < 10 * obs[0, GOAL][0] < 0.25
    obs, reward, terminated, _, infos = worlds.step(SPEEDS)
    assert infos["_reached"].tolist() == [False, True, True, True]
    assert (reward[0], terminated[0]) == (0, False)
    np.testing.assert_array_equal(obs[0], first[0])
    assert worlds.step(SPEEDS)[1][0] > 0


@pytest.mark.parametrize("name", ["NextStep", "NEXT_STEP", "next_step", "next-step", AutoresetMode.NEXT_STEP])
def test_a_reset_mode_goes_by_its_names(name):
    assert together(name).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert SwarmVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("name", ["never", None, 3])
def test_a_wrong_reset_mode_is_named(name):
    with pytest.raises(ValueError, match=f"autoreset_mode={name!r} must be one of NextStep, SameStep, Disabled"):
        together(name)


def test_without_autoreset_a_world_that_has_ended_is_not_stepped():
    worlds = together(AutoresetMode.DISABLED)
    worlds.reset(seed=0)
    for _ in range(3):
        obs, *_ = worlds.step(SPEEDS)
    with pytest.raises(RuntimeError, match=r"worlds \[0\] have ended: reset\(options=\{'reset_mask': worlds\}\)"):
        worlds.step(SPEEDS)
    kept, _ = worlds.reset(options={"reset_mask": np.array([False, True, False, False])})
    np.testing.assert_array_equal(kept[[0, 2, 3]], obs[[0, 2, 3]])
    with pytest.raises(RuntimeError, match=r"worlds \[0\] have ended"):
        worlds.step(SPEEDS)
    worlds.reset()
    worlds.step(SPEEDS)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_reset_of_some_worlds_leaves_the_others_alone(mode):
    worlds, twin = (gymnasium.make_vec(ENV_ID, 4, max_steps=50, autoreset_mode=mode) for _ in range(2))
    for each in (worlds, twin):
        each.reset(seed=0)
        before = each.step(SPEEDS)[0]
    which = np.array([True, False, False, True])
    options = {"reset_mask": which}
    worlds.set_difficulty(3)
    obs, infos = worlds.reset(seed=7, options=options)
    assert infos == {}
    assert options == {"reset_mask": which}
    np.testing.assert_array_equal(obs[~which], before[~which])
    assert not np.any(np.all(obs[which] == before[which], axis=1))
    np.testing.assert_array_equal(twin.reset(seed=7, options=options)[0], obs)
    np.testing.assert_array_equal(worlds.step(SPEEDS)[0], twin.step(SPEEDS)[0])


@pytest.mark.parametrize("mask", [np.zeros(4, bool), np.ones(3, bool), np.ones(4), [True] * 5, None])
def test_a_wrong_mask_is_named(mask):
    worlds = together("Disabled")
    worlds.reset(seed=0)
    with pytest.raises(ValueError, match=r"reset_mask=.* must be an array of 4 bools, at least one of them true"):
        worlds.reset(options={"reset_mask": mask})


def test_a_mask_has_its_place():
    worlds = together("Disabled")
    with pytest.raises(RuntimeError, match="no episode has begun"):
        worlds.reset(options={"reset_mask": np.ones(4, bool)})
    worlds.reset()
    with pytest.raises(ValueError, match="difficulty together with reset_mask"):
        worlds.reset(options={"reset_mask": np.ones(4, bool), "difficulty": 2})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_episodes_are_recorded_as_of_separate_environments(mode):
    def record(worlds):
        worlds = RecordEpisodeStatistics(worlds)
        worlds.reset(seed=0)
        for _ in range(25):
            _, _, terminated, truncated, _ = worlds.step(SPEEDS)
            ended = terminated | truncated
            if mode is AutoresetMode.DISABLED and ended.any():
                worlds.reset(options={"reset_mask": ended})
        return list(worlds.length_queue), list(worlds.return_queue)

    lengths, returns = record(together(mode))
    assert set(lengths) == {3, 5, 8}
    if mode is AutoresetMode.NEXT_STEP:  # with the other, SyncVectorEnv takes the mask away from the wrapper
        assert (lengths, returns) == record(separate(mode))


def test_observations_are_normalised_as_of_separate_environments():
    ours, theirs = (NormalizeObservation(make("NextStep")) for make in (together, separate))
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    for _ in range(12):
        np.testing.assert_array_equal(ours.step(SPEEDS)[0], theirs.step(SPEEDS)[0])


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_wrappers_of_observations_take_other_modes_than_same_step(mode):
    doubled = TransformObservation(together(mode), lambda obs: 2 * obs)
    assert np.all(doubled.reset(seed=0)[0] == 2 * together(mode).reset(seed=0)[0])
    with pytest.raises(ValueError, match="NEXT_STEP or DISABLED"):
        TransformObservation(together("SameStep"), lambda obs: 2 * obs)


def test_more_wrappers_of_gymnasium_run():
    worlds = NormalizeReward(FlattenObservation(together("NextStep")))
    worlds.reset(seed=0)
    for _ in range(12):
        obs, *_ = worlds.step(SPEEDS)
    assert obs.shape == (4, 36)


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos:UserWarning")
def test_a_video_shows_the_end_of_an_episode(tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo wants moviepy")
    worlds = RecordVideo(together("NextStep", render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda k: k == 0)
    worlds.reset(seed=0)
    for _ in range(5):
        worlds.step(SPEEDS)
    worlds.close()
    assert list(tmp_path.glob("*.mp4"))


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos:UserWarning")
def test_a_video_of_one_robot_shows_its_episode(tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo wants moviepy")
    robot = gymnasium.make(ENV_ID, layout=AHEAD, render_mode="rgb_array")
    robot = gymnasium.wrappers.RecordVideo(robot, str(tmp_path), episode_trigger=lambda k: k == 0)
    robot.reset(seed=0)
    for _ in range(3):
        *_, terminated, _, _ = robot.step(FORWARD)
    assert terminated
    robot.close()
    [video] = tmp_path.glob("*.mp4")
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert (frames, seconds) == (4, pytest.approx(0.4))


@pytest.mark.parametrize("context", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_play_what_this_process_plays(context):
    settings = {"num_envs": 2, "max_steps": 3}
    here = gymnasium.make_vec(ENV_ID, vectorization_mode="sync", **settings)
    there = gymnasium.make_vec(ENV_ID, vectorization_mode="async", vector_kwargs={"context": context}, **settings)
    try:
        same(there.reset(seed=0), here.reset(seed=0), 0)
        for _ in range(5):
            same(there.step(SPEEDS[:2]), here.step(SPEEDS[:2]), 0)
    finally:
        there.close()


@pytest.mark.filterwarnings("ignore:.*fork", "ignore:.*the following error", "ignore:.*Raising the last exception")
def test_workers_forked_too_late_say_why():
    """Those forked before this process uses JAX play: see test_engines."""
    gymnasium.make(ENV_ID).reset(seed=0)
    workers = gymnasium.make_vec(ENV_ID, 2, vectorization_mode="async", vector_kwargs={"context": "fork"})
    try:
        with pytest.raises(RuntimeError, match="forked from one that had already used JAX"):
            workers.reset(seed=0)
    finally:
        workers.close(terminate=True)


def test_the_last_state_of_a_world_can_be_drawn():
    worlds = together("NextStep", render_mode="rgb_array")
    worlds.reset(seed=0)
    first = worlds.render()[0]
    frames = []
    for _ in range(4):
        worlds.step(SPEEDS)
        frames.append(worlds.render()[0])
    assert np.any(frames[2] != first)
    np.testing.assert_array_equal(frames[3], first)


def test_attributes_are_those_of_every_world():
    worlds = make_worlds(4, render_mode="rgb_array")
    assert worlds.get_attr("difficulty") == worlds.call("difficulty") == (1,) * 4
    assert worlds.get_attr("action_space") == (worlds.single_action_space,) * 4
    assert worlds.get_attr("observation_space") == (worlds.single_observation_space,) * 4
    assert worlds.call("set_difficulty", 2) == (None,) * 4
    worlds.set_attr("difficulty", 3)
    assert worlds.difficulty == 3
    worlds.set_attr("difficulty", [2, 2, 2, 2])
    worlds.set_attr("note", (np.ones(2),) * 4)
    assert worlds.note.tolist() == [1, 1]
    assert worlds.difficulty == 2
    worlds.reset(seed=0)
    assert len(worlds.call("render")) == 4
    with pytest.raises(ValueError, match=r"set_attr\('difficulty'\): worlds share it"):
        worlds.set_attr("difficulty", [1, 1, 1, 2])
    with pytest.raises(ValueError, match="worlds share it"):
        worlds.set_attr("difficulty", [1])
    with pytest.raises(AttributeError, match="nothing"):
        worlds.get_attr("nothing")
    with pytest.raises(ValueError, match=r"call\('reset'\): worlds share"):
        worlds.call("reset")


def test_a_pickled_batch_remembers_who_is_to_begin():
    worlds = together("NextStep")
    worlds.reset(seed=0)
    for _ in range(3):
        worlds.step(SPEEDS)
    copied = pickle.loads(pickle.dumps(worlds))
    assert data_equivalence(copied.step(SPEEDS), worlds.step(SPEEDS), exact=True)
