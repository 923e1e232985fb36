"""Recurrent PPO starts from other models: its own, those of Stable-Baselines3, and those of V2."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch as th
from helpers.lstm import FLAGS, TINY, refused
from sb3_contrib import RecurrentPPO

from entropy_env import SwarmSpec
from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.sb3.checkpoint import unpack
from trainers.sb3.training import Training
from trainers.sb3.workspace import open_workspace
from trainers.sb3_lstm import main, train


def test_a_plain_zip_of_sb3_serves_as_base_model(tmp_path, stock, capsys):
    stock.save(tmp_path / "v2.zip")
    config = dataclasses.replace(TINY, folder=tmp_path / "new", base_model=tmp_path / "v2.zip")
    with open_workspace(config.folder) as workspace:
        training = Training(config, workspace)
        training.begin()
        for name, tensor in stock.policy.state_dict().items():
            th.testing.assert_close(training.policy.state_dict()[name], tensor, atol=0, rtol=0)
    train(config)
    assert f"Training swarm_1 from {tmp_path / 'v2.zip'}" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="saved by Stable-Baselines3 itself"):
        load_policy(tmp_path / "v2.zip")


def test_a_base_model_brings_its_normaliser_to_any_number_of_lanes(tmp_path, capsys):
    config = dataclasses.replace(TINY, folder=tmp_path / "a", normalize_obs=True, total_steps=64)
    base = train(config)
    more = dataclasses.replace(config, folder=tmp_path / "b", num_worlds=3, base_model=base)
    with open_workspace(more.folder) as workspace:
        training = Training(more, workspace)
        training.begin()
        moments = training.model.get_vec_normalize_env().obs_rms
        np.testing.assert_array_equal(moments.mean, unpack(base).arrays["normalizer/obs_mean"])
    train(more)
    rewards = dataclasses.replace(config, normalize_obs=False, normalize_reward=True, total_steps=32)
    base = train(dataclasses.replace(rewards, folder=tmp_path / "d"))
    with pytest.warns(UserWarning, match="normalize-obs"):
        train(dataclasses.replace(config, folder=tmp_path / "e", base_model=base, total_steps=32))
    base = more.base_model
    with pytest.warns(UserWarning, match="normalize-obs"):
        train(dataclasses.replace(TINY, folder=tmp_path / "c", base_model=base, total_steps=32))


def test_a_base_model_of_v2_sees_goals_as_it_did_there(tmp_path, stock):
    stock.save(tmp_path / "v2.zip")
    config = dataclasses.replace(
        TINY, folder=tmp_path / "new", base_model=tmp_path / "v2.zip", base_from_v2=True, physics="v2"
    )
    with open_workspace(config.folder) as workspace:
        training = Training(config, workspace)
        training.begin()
    there, starts = np.random.default_rng(0).uniform(-1, 1, (5, 36)).astype(np.float32), np.ones(5, bool)
    here = there.copy()
    here[:, SwarmSpec().slice("goal")] *= np.float32([8 / 10, 6 / 10])  # m of V2's arena, over goal_scale
    expected, _ = stock.predict(there, None, starts, deterministic=True)
    np.testing.assert_allclose(training.player()(here)[0], expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["wider", "other observations", "no memory", "no zip", "absent"])
def test_a_base_model_that_does_not_fit_is_refused(policy, tmp_path, trained, stock, capsys):
    path = tmp_path / "base.zip"
    if policy == "no memory":
        from stable_baselines3 import PPO

        PPO("MlpPolicy", SwarmVecEnv(1, 2), n_steps=8, device="cpu").save(path)
    elif policy == "no zip":
        path.write_text("hello")
    elif policy == "other observations":
        env = SwarmVecEnv(1, 2, num_rays=8)
        RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 8}, device="cpu").save(path)
    elif policy == "wider":
        shutil.copy(trained / "models" / "swarm_1.zip", path)
    flags = ["--lstm-hidden-size", "16"] if policy == "wider" else []
    error = refused(tmp_path / "new", capsys, "--base-model", str(path), *flags)
    assert str(path) in error
    word = {"wider": "has shape (32,), this model needs (64,)", "other observations": "shape (32, 12)"}
    assert word.get(policy, "") in error


def test_a_model_trained_here_is_not_taken_for_one_of_v2(trained, tmp_path, capsys):
    base = str(trained / "models" / "swarm_1.zip")
    flags = ["--base-model", base, "--base-from-v2", "--physics", "v2", "--folder", str(tmp_path)]
    assert main([*FLAGS, *flags]) == 2
    assert "was trained here, not by Entropy V2" in capsys.readouterr().err
