"""Evaluating a run: what is loaded, on which worlds, and what the figures mean."""

import io
import json
import os
import pwd
import shutil
import subprocess
import sys
from types import SimpleNamespace

import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.reference import arc

from entropy_env import vector
from entropy_env.task import Task
from trainers import evaluate as command
from trainers.algorithms.ppo import PPO
from trainers.algorithms.ppo_options import Hyperparameters
from trainers.evaluate import evaluate, evaluate_policy, load_policy, main, make_env
from trainers.evaluation import figures as evaluation
from trainers.evaluation.intervals import mean_interval, share_interval
from trainers.evaluation.play import Episode, episode_key, live, play, travelled
from trainers.learn.distributions import Gaussian
from trainers.learn.normalize import init_moments, normalize, update_moments
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.run.checkpoint import CheckpointError, save_checkpoint
from trainers.run.compilation import cache_compilations

TASK = Task.of(num_agents=3, num_rays=4, substeps=1, max_steps=12)  # few rays and substeps compile quickly
SPEC = ActorSpec(obs_dim=8, action_dim=2, hidden_sizes=(8,))
FIGURES = {"success", "world_success", "worst_tenth", "collision_rate", "steps_to_goal", "spl", "return"}
TIMES = {"compile_seconds", "run_seconds"}


def make_ppo():
    env, params = TASK.make("respawn")
    config = Hyperparameters(num_envs=2, num_minibatches=2, hidden_sizes=SPEC.hidden_sizes)
    return PPO(config, vector.batch(env, 2), env.spec.obs_dim, Gaussian(env.spec.action_dim), 3, num_updates=1), params


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(command, "cache_compilations", lambda: None)


@pytest.fixture(scope="module")
def runner():
    """Of a run that has seen some observations, but learnt nothing."""
    ppo, params = make_ppo()
    runner = ppo.init(jax.random.key(0), params)
    return runner.replace(moments=update_moments(runner.moments, runner.obs, jnp.ones(runner.obs.shape[:2])))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory, runner):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "checkpoints", runner, step=7, metadata=describe_policy(SPEC, TASK))
    return folder


@pytest.fixture(scope="module")
def results(saved_run):
    return evaluate(saved_run, episodes=5, seed=1)


def make_run(folder, runner, metadata):
    save_checkpoint(folder / "checkpoints", runner, step=7, metadata=metadata)
    return folder


def linear_policy(task, kernel, log_std=-5.0):
    """A policy with actions linear in observations."""
    spec = ActorSpec(obs_dim=task.spec.obs_dim, action_dim=2, hidden_sizes=())
    dense = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(2)}
    params = {"params": {"MLP_0": {"Dense_0": dense}, "log_std": jnp.full(2, log_std)}}
    return ActorPolicy(params, init_moments(spec.obs_dim), spec, task, step=0)


def driver(task, forward):
    """Turns towards the goal and drives."""
    kernel = np.zeros((task.spec.obs_dim, 2))
    kernel[task.spec.slice("goal")] = forward * np.array([[20.0, 20.0], [-20.0, 20.0]])
    return linear_policy(task, kernel)


def assert_no_nan(value):
    json.dumps(value, allow_nan=False)


def test_results_hold_every_figure_with_an_interval_around_its_mean(results):
    assert results.keys() == FIGURES | TIMES | {
        "deterministic", "episodes", "seed", "scenario", "difficulty", "num_agents", "max_steps", "checkpoint_step",
        "device", "versions",
    }  # fmt: skip
    assert results["deterministic"].keys() == FIGURES
    assert (results["episodes"], results["seed"], results["checkpoint_step"]) == (5, 1, 7)
    assert (results["scenario"], results["difficulty"], results["num_agents"], results["max_steps"]) == (
        "open",
        1,
        3,
        12,
    )
    for figures in (results, results["deterministic"]):
        for name in FIGURES:
            assert figures[name].keys() == {"mean", "low", "high"}
            if figures[name]["low"] is not None:
                assert figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"], name
    assert_no_nan(results)


def test_the_same_seed_gives_the_same_figures_in_whatever_chunks(saved_run, results, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 2 * 3 * 64)
    again = evaluate(saved_run, episodes=5, seed=1)
    assert {k: v for k, v in again.items() if k not in TIMES} == {k: v for k, v in results.items() if k not in TIMES}


def test_worlds_are_not_those_of_training(runner):
    env, params = make_env(ActorPolicy(None, None, SPEC, TASK, 0))
    keys = jax.vmap(episode_key, (None, 0))(0, jnp.arange(4))  # training used seed 0, too
    fresh = jax.jit(jax.vmap(lambda key: env.generate(jax.random.split(key)[0], params)))(keys).spawns
    trained = np.asarray(runner.env_state.worlds.layout.spawns).reshape(-1, 3)
    assert not np.intersect1d(fresh, trained).size
    assert len(np.unique(np.asarray(fresh).reshape(4, -1), axis=0)) == 4


def test_robots_that_drive_to_their_goals_succeed_and_every_count_adds_up(monkeypatch):
    played, summarise = [], evaluation.summarise
    monkeypatch.setattr(evaluation, "summarise", lambda *given: played.append(given) or summarise(*given))
    policy = driver(Task.of(num_agents=2, num_rays=1, substeps=1), forward=1.0)
    env, params = make_env(policy)
    results = evaluate_policy(policy, env, params, episodes=8, seed=0)
    for figures in (results, results["deterministic"]):
        assert figures["success"]["mean"] == figures["world_success"]["mean"] == 1
        assert 0.5 < figures["success"]["low"] < figures["success"]["high"] == 1
        assert 0.8 < figures["spl"]["mean"] < 1
    for episodes, shortest, _ in played:
        assert np.all(episodes.path > shortest - 1e-3)
        assert np.all(episodes.path < 0.1 * episodes.steps)
        costs = params.reward_collision * episodes.contacts + params.reward_time * episodes.steps
        np.testing.assert_allclose(episodes.total_reward, shortest + 1 - costs, atol=0.1)  # it ends within the reach


@pytest.mark.parametrize("sampled", [True, False])
def test_an_episode_watched_step_by_step_is_the_one_that_is_evaluated(sampled):
    policy = driver(Task.of(num_agents=2, num_rays=1, substeps=1), forward=1.0)
    env, params = make_env(policy)
    evaluated = jax.jit(play, static_argnums=0)(env, policy, params, episode_key(0, 3), sampled)
    time_steps = list(live(policy, env, params)(episode_key(0, 3), sampled))
    assert [int(time_step.state.step) for time_step in time_steps] == list(range(len(time_steps)))
    assert len(time_steps) == 1 + max(evaluated.steps) and time_steps[-1].state.over
    np.testing.assert_allclose(time_steps[-1].total_reward, evaluated.total_reward, rtol=1e-3)  # compiled apart
    np.testing.assert_allclose(time_steps[5].obs, jax.jit(env.observe)(time_steps[5].state, params), atol=1e-5)


def test_a_robot_that_stands_still_arrives_nowhere_and_has_no_steps_to_the_goal():
    task = Task.of(num_agents=1, num_rays=1, substeps=1, max_steps=3)
    policy = driver(task, forward=0.0)
    env, params = make_env(policy)
    results = evaluate_policy(policy, env, params, episodes=2, seed=0)
    still = results["deterministic"]
    assert (still["success"]["mean"], still["success"]["low"], still["spl"]["mean"]) == (0, 0, 0)
    assert still["collision_rate"]["low"] == still["collision_rate"]["mean"] == 0 < still["collision_rate"]["high"]
    assert still["steps_to_goal"] == {"mean": None, "low": None, "high": None}
    assert still["return"]["mean"] == pytest.approx(-3 * 0.005)
    assert_no_nan(results)


def test_figures_of_an_episode_written_out():
    def episodes(**fields):
        return Episode(layout=None, **{name: np.array(value) for name, value in fields.items()})

    figures = evaluation.summarise(
        episodes(
            reached=[[True, True], [True, False]],
            steps=[[10, 20], [30, 50]],
            contacts=[[0, 3], [0, 40]],
            path=[[2.0, 4.0], [1.0, 9.0]],
            total_reward=[[1.0, 2.0], [3.0, -1.0]],
        ),
        shortest=np.array([[2.0, 2.0], [1.0, 3.0]]),
        max_steps=50,
    )
    means = {name: figure["mean"] for name, figure in figures.items()}
    assert means == pytest.approx(
        {
            "success": (2 / 2 + 1 / 2) / 2,
            "world_success": 1 / 2,
            "worst_tenth": 1 / 2,
            "collision_rate": (3 / 30 + 40 / 80) / 2,
            "steps_to_goal": (15 + 30) / 2,
            "spl": ((1 + 0.5) / 2 + (1 + 0) / 2) / 2,
            "return": (1.5 + 1.0) / 2,
        }
    )


def test_the_travelled_way_is_the_arc_the_wheels_rolled():
    start = np.array([4.0, 3.0, 3.0])
    end = arc(start, 0.2, 1.0, wheel_base=0.2, time=0.1)
    end[2] -= 2 * np.pi  # across the cut
    before, after = (SimpleNamespace(position=pose[None, :2], heading=pose[None, 2]) for pose in (start, end))
    np.testing.assert_allclose(travelled(before, after), [0.6 * 0.1], rtol=1e-5)
    np.testing.assert_allclose(travelled(before, before), [0])


@pytest.mark.parametrize("successes", [0, 1, 13, 20])
def test_the_interval_of_a_share_of_worlds_is_wilsons(successes):
    worlds = np.arange(20) < successes
    low, high = scipy.stats.binomtest(successes, 20).proportion_ci(method="wilson")
    assert share_interval(worlds) == pytest.approx({"mean": successes / 20, "low": low, "high": high}, abs=1e-12)


@pytest.mark.parametrize("mean", [0.5, 0.97])
@pytest.mark.parametrize("correlation", [0.02, 0.5])
def test_the_interval_of_shares_covers_their_mean(mean, correlation):
    rng = np.random.default_rng(0)
    weight = (1 - correlation) / correlation
    worlds = rng.binomial(10, rng.beta(mean * weight, (1 - mean) * weight, (600, 64))) / 10
    intervals = [share_interval(shares) for shares in worlds]
    covered = np.mean([found["low"] <= mean <= found["high"] for found in intervals])
    assert 0.92 < covered < 0.995
    widths = [found["high"] - found["low"] for found in intervals]
    as_if_binary = np.diff(scipy.stats.binomtest(round(64 * mean), 64).proportion_ci(method="wilson"))
    assert np.mean(widths) < as_if_binary[0]


def test_the_interval_of_a_mean_is_students():
    values = np.array([3.0, 4.0, 8.0])
    low, high = scipy.stats.t.interval(0.95, 2, loc=5, scale=scipy.stats.sem(values))
    assert mean_interval(values) == pytest.approx({"mean": 5, "low": low, "high": high})
    assert mean_interval(values, 0, 10) == {"mean": 5, "low": 0, "high": 10}
    assert mean_interval(values[:1]) == {"mean": 3, "low": None, "high": None}
    assert mean_interval(values[:0]) == {"mean": None, "low": None, "high": None}


def test_a_loaded_policy_acts_as_the_one_that_was_saved(saved_run, runner):
    ppo, _ = make_ppo()
    policy = load_policy(saved_run)
    obs = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    (mean, _), *_ = ppo.networks.act(runner.params, normalize(runner.moments, obs))
    np.testing.assert_allclose(policy(obs), np.clip(mean, -1, 1), rtol=1e-6, atol=1e-8)
    key = jax.random.key(3)
    sample = ppo.act(runner, key, obs).action
    np.testing.assert_allclose(policy(obs, key), np.clip(sample, -1, 1), rtol=1e-6, atol=1e-8)
    assert np.any(np.abs(sample) > 1)
    assert (policy.obs_dim, policy.spec, policy.task, policy.step) == (8, SPEC, TASK, 7)


def test_a_policy_takes_any_leading_axes_and_gives_back_the_kind_of_array_it_took(saved_run):
    policy = load_policy(saved_run)
    for shape in ((8,), (3, 8), (2, 3, 8), (0, 8)):
        obs = np.zeros(shape)
        action = policy(obs)
        assert (type(action), action.shape, action.dtype) == (np.ndarray, (*shape[:-1], 2), np.float32)
        assert action.flags.writeable
        assert action.flags.owndata
    obs = jnp.ones((3, 8))
    inside = jax.jit(lambda policy, obs, key: policy(obs, key))(policy, obs, jax.random.key(0))
    assert isinstance(policy(obs), jax.Array)
    np.testing.assert_allclose(inside, policy(obs, jax.random.key(0)), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=r"\(3, 7\).*\(\.\.\., 8\)"):
        policy(np.zeros((3, 7)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "sb3_lstm"}, "'sb3_lstm'"),
        ({"policy": {}}, "policy"),
        ({"env": {"gravity": 9.81}}, "gravity"),
        ({"policy": {"obs_dim": 9, "action_dim": 2, "hidden_sizes": [8]}}, r"float32\[8.*expected float32\[9"),
        ({"policy": {"obs_dim": 8, "action_dim": 2, "activation": "step"}}, "activation='step'"),
    ],
)
def test_a_checkpoint_that_holds_no_such_policy_is_refused(tmp_path, runner, change, message):
    make_run(tmp_path, runner, describe_policy(SPEC, TASK) | change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(tmp_path)


def test_the_command_prints_a_table_writes_the_figures_and_draws(saved_run, results, tmp_path, capsys):
    gif, mp4 = tmp_path / "videos" / "a.gif", tmp_path / "videos" / "a.mp4"
    options = ["--episodes", "5", "--seed", "1", "--gif", str(gif), "--mp4", str(mp4), "--deterministic-video"]
    assert main([str(saved_run), *options]) == 0
    written = json.loads((saved_run / "evaluation.json").read_text())
    assert {k: v for k, v in written.items() if k not in TIMES} == {k: v for k, v in results.items() if k not in TIMES}
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*FIGURES, "sampled", "deterministic", "5 fresh worlds of seed 1"))
    assert len(imageio.imread(gif)) == 12 + 1
    assert mp4.stat().st_size > 0
    assert {path.name for path in saved_run.iterdir()} == {"checkpoints", "evaluation.json"}


def test_overrides_change_the_task(saved_run, capsys):
    assert (
        main([str(saved_run), "--episodes", "1", "--scenario", "circle", "--difficulty", "2", "--num-agents", "4"]) == 0
    )
    written = json.loads((saved_run / "evaluation-circle-2-4.json").read_text())
    assert (written["scenario"], written["difficulty"], written["num_agents"]) == ("circle", 2, 4)
    assert written["return"]["low"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "0"], "episodes=0 must be at least 1"),
        (["--seed", "-1"], "seed=-1"),
        (["--scenario", "oben"], "unknown scenario 'oben'"),
        (["--difficulty", "9"], "difficulty=9"),
        (["--num-agents", "100000"], "at most"),
        (["--gif", "a.mp4"], "--gif a.mp4 must end in .gif"),
        (["--mp4", "a"], "--mp4 a must end in .mp4"),
        (["--gif", f"{os.devnull}/a.gif"], f"'{os.devnull}/a.gif'"),
    ],
)
def test_an_impossible_wish_is_one_line_on_stderr(saved_run, capsys, monkeypatch, options, message):
    monkeypatch.setattr(command, "evaluate_policy", None)  # it is refused before
    assert main([str(saved_run), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_whose_observations_differ_is_refused(tmp_path, runner, capsys):
    make_run(tmp_path, runner, describe_policy(SPEC, Task.of(num_rays=16)))
    assert main([str(tmp_path)]) == 2
    assert "observations have 20 numbers here, the policy expects 8" in capsys.readouterr().err


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path, runner, capsys):
    (tmp_path / "checkpoints").mkdir()
    assert main([str(tmp_path)]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "step_000000000001.safetensors").write_bytes(b"torn")
    assert main([str(tmp_path)]) == 2
    assert "no whole checkpoint in" in capsys.readouterr().err


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tmp_path, runner, capsys):
    make_run(tmp_path, runner, describe_policy(SPEC, TASK))
    (tmp_path / "checkpoints" / "step_000000000008.safetensors").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="falling back"):
        assert load_policy(tmp_path).step == 7
    main([str(tmp_path), "--scenario", "nowhere"])
    error = capsys.readouterr().err
    assert error.count("falling back") == 1
    assert "step_000000000008" in error
    assert "warnings.warn" not in error


def test_compilations_are_kept_in_the_users_cache_unless_jax_is_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "jax_compilation_cache_dir"
    before = getattr(jax.config, name)
    try:
        for transition, expected in ((None, str(tmp_path / "entropy_env" / "jax")), ("elsewhere", "elsewhere")):
            jax.config.update(name, transition)
            cache_compilations()
            assert getattr(jax.config, name) == expected
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize("home", [None, os.devnull])
def test_without_a_folder_for_the_cache_there_is_a_warning_and_none(monkeypatch, home):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)  # the user of a container
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    name = "jax_compilation_cache_dir"
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, None)
        with pytest.warns(UserWarning, match="compiled code cannot be kept .*JAX_COMPILATION_CACHE_DIR"):
            cache_compilations()
        assert getattr(jax.config, name) is None
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize("name", ["café", "caf\udce9"])
def test_a_folder_that_the_terminal_cannot_show_is_evaluated(saved_run, tmp_path, monkeypatch, name):
    run = shutil.copytree(saved_run, tmp_path / name)
    (run / "checkpoints" / "step_000000000008.safetensors").write_bytes(b"torn")
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main([str(run), "--episodes", "2", "--gif", str(run / f"{name}.gif")]) == 0
    assert b"success" in sys.stdout.buffer.getvalue()
    assert b"warning: " in sys.stderr.buffer.getvalue()
    assert (run / f"{name}.gif").exists()


def test_the_command_line_fails_without_a_traceback():
    command = [sys.executable, "-m", "trainers.evaluate", "no/such/run"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (2, "evaluate: error: no run folder no/such/run\n")
