"""Models of recurrent PPO are evaluated and filmed."""

import dataclasses
import json
import shutil

import imageio.v3 as imageio
import jax
import numpy as np
import pytest
from helpers.lstm import FLAGS, RISING, TINY, assert_same

from trainers.evaluate import evaluate, evaluate_policy, make_env
from trainers.evaluate import main as evaluate_main
from trainers.evaluation.play import episode_key, live, play, travelled
from trainers.policies import load_policy
from trainers.sb3 import training
from trainers.sb3.checkpoint import unpack
from trainers.sb3_lstm import main, train


def test_start_end_and_both_side_by_side_are_filmed_and_disturb_nothing(tmp_path, trained, capsys):
    config = dataclasses.replace(TINY, folder=tmp_path, videos=True)
    train(config)
    printed = capsys.readouterr().out
    frames = {kind: imageio.imread(tmp_path / "videos" / f"swarm_1_{kind}.gif", index=None)
              for kind in ("start", "end", "comparison")}  # fmt: skip
    assert all(f"Filmed {tmp_path}/videos/swarm_1_{kind}.gif" in printed for kind in frames)
    (_, height, width, _), both = frames["start"].shape, frames["comparison"].shape
    assert both[1:3] == (height, 2 * width)
    assert both[0] == max(len(frames["start"]), len(frames["end"]))
    halves = [frames["comparison"][0, :, cut].astype(int) for cut in (np.s_[:width], np.s_[width:])]
    difference = [[np.abs(half - frames[kind][0]).mean() for kind in ("start", "end")] for half in halves]
    assert np.argmin(difference, axis=1).tolist() == [0, 1]  # their titles tell them apart
    assert_same(tmp_path, trained)  # which was not filmed


def test_a_curriculum_is_filmed_in_the_same_world_at_both_ends(tmp_path, monkeypatch):
    tasks, film = [], training.film
    monkeypatch.setattr(
        training, "film", lambda policy, *given, **how: tasks.append(policy.task) or film(policy, *given, **how)
    )
    path = train(dataclasses.replace(RISING, folder=tmp_path, videos=True, total_steps=12 * 32))
    assert unpack(path).about["env"]["difficulty"] > 1
    assert [task.difficulty for task in tasks] == [1, 1]
    assert tasks[0] == tasks[1]
    assert (tmp_path / "videos" / "swarm_1_comparison.gif").exists()


def test_a_video_that_fails_costs_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    assert main([*FLAGS, "--videos", "--total-steps", "32", "--folder", str(tmp_path)]) == 0
    assert "warning: no video of the start" in capsys.readouterr().err
    assert (tmp_path / "models" / "swarm_1.zip").exists()


def by_hand(policy, episodes, seed, sampled=False):
    """Success, return, steps and path of the mean action or of sampled ones, one world after another with the JAX simulator."""
    env, params = policy.task.make(on_goal="terminate")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    totals = np.zeros((episodes, env.spec.num_agents, 4))
    for index in range(episodes):
        key, _ = jax.random.split(episode_key(seed, index))
        obs, state = reset(key, params)
        memory, k_actions = None, jax.random.split(episode_key(seed, index))[1]
        while not state.over:
            k_act, _ = jax.random.split(jax.random.fold_in(k_actions, state.step))
            actions, memory = policy(np.array(obs), memory, k_act if sampled else None)
            before = state
            obs, state, reward, terminated, _, _ = step(key, before, actions, params)
            row = [terminated, reward, before.active, travelled(before, state)]
            totals[index] += np.array(row, float).T
    return np.moveaxis(totals, -1, 0)


def test_evaluation_equals_episodes_played_by_hand(trained):
    policy = load_policy(trained / "models" / "swarm_1.zip")
    policy = policy.replace(task=policy.task.but(max_steps=40, goal_radius=1.5))
    env, params = make_env(policy)
    results = evaluate_policy(policy, env, params, episodes=4, seed=2)["deterministic"]
    reached, reward, steps, _ = by_hand(policy, 4, 2)
    assert 0 < reached.mean() < 1
    assert results["success"]["mean"] == pytest.approx(reached.mean())
    assert results["return"]["mean"] == pytest.approx(reward.mean(), abs=1e-4)
    some = reached.sum(1) > 0
    assert results["steps_to_goal"]["mean"] == pytest.approx(
        np.mean((steps * reached).sum(1)[some] / reached.sum(1)[some])
    )


def test_episodes_watched_in_turn_are_those_that_are_evaluated(trained):
    policy = load_policy(trained / "models" / "swarm_1.zip")
    env, params = make_env(policy)
    keys, watched = [episode_key(0, index) for index in range(2)], live(policy, env, params)
    in_turn = zip(*(watched(key, True) for key in keys), strict=True)
    *_, last = in_turn
    _, reward, _, _ = by_hand(policy, 2, 0, sampled=True)
    for index, (key, time_step) in enumerate(zip(keys, last, strict=True)):
        evaluated = jax.jit(play, static_argnums=0)(env, policy, params, key, True)
        np.testing.assert_allclose(time_step.total_reward, evaluated.total_reward, atol=1e-4)  # compiled apart
        np.testing.assert_allclose(time_step.total_reward, reward[index], atol=1e-4)
        assert time_step.state.over and time_step.state.step == evaluated.steps.max() > 1
        np.testing.assert_allclose(time_step.obs, jax.jit(env.observe)(time_step.state, params), atol=1e-5)


def test_the_evaluate_command_takes_a_model(trained, tmp_path, capsys):
    path = shutil.copy(trained / "models" / "swarm_1.zip", tmp_path / "swarm_1.zip")
    assert evaluate_main([str(path), "--episodes", "2", "--gif", str(tmp_path / "episode.gif")]) == 0
    assert "checkpoint 256" in capsys.readouterr().out
    results = json.loads((tmp_path / "swarm_1-evaluation.json").read_text())
    again = evaluate(path, 2)
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in results.items() if "seconds" not in k
    }
    assert len(imageio.imread(tmp_path / "episode.gif", index=None)) == 13
    assert evaluate_main([str(tmp_path / "none.zip")]) == 2
    path.write_bytes(b"PK")
    assert evaluate_main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_finished_training_is_evaluated(tmp_path, capsys):
    assert main([*FLAGS, "--total-steps", "32", "--eval-episodes", "2", "--folder", str(tmp_path)]) == 0
    assert "2 fresh worlds" in capsys.readouterr().out
    assert json.loads((tmp_path / "models" / "swarm_1-evaluation.json").read_text())["checkpoint_step"] == 32
