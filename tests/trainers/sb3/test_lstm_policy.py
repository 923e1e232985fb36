"""Recurrent PPO's policy does what the stock one does, and its files open without this package."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch as th
from helpers.lstm import FLAGS, TINY, collect, edited, failing_after
from sb3_contrib import RecurrentPPO

from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.sb3.checkpoint import unpack
from trainers.sb3.lstm import LstmPolicy
from trainers.sb3.training import make_model
from trainers.sb3_lstm import main


def test_the_policy_collects_what_the_stock_one_collects(stock):
    ours = collect(LstmPolicy)
    assert (stock.rollout_buffer.episode_starts[1:] > 0).any()
    for name in ("observations", "actions", "values", "log_probs", "advantages", "hidden_states_pi", "cell_states_vf"):
        np.testing.assert_allclose(
            getattr(ours.rollout_buffer, name), getattr(stock.rollout_buffer, name), atol=1e-5, err_msg=name
        )


def evaluated(policy, sample):
    """Values, log probabilities, entropies and every gradient of some function of them."""
    values, log_prob, entropy = policy.evaluate_actions(
        sample.observations, sample.actions, sample.lstm_states, sample.episode_starts
    )
    mask = sample.mask > 1e-8
    weights = th.linspace(-1, 1, int(mask.sum()))
    policy.zero_grad()
    ((values.flatten()[mask] + log_prob[mask]) * weights + entropy[mask]).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters()]
    return [values.flatten()[mask], log_prob[mask], entropy[mask], *gradients]


def ours_like(stock):
    policy = LstmPolicy(stock.observation_space, stock.action_space, lambda _: 0.0, lstm_hidden_size=8)
    policy.load_state_dict(stock.policy.state_dict())
    return policy


def test_the_policy_evaluates_and_learns_as_the_stock_one(stock):
    ours, seen = ours_like(stock), 0
    for sample in stock.rollout_buffer.get(24):
        seen += bool(sample.episode_starts.any())
        for mine, theirs in zip(evaluated(ours, sample), evaluated(stock.policy, sample), strict=True):
            th.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert seen


def test_a_start_within_a_sequence_clears_the_memory_there(stock):
    ours = ours_like(stock)
    sample = next(stock.rollout_buffer.get(24))
    sequences = sample.lstm_states.pi[0].shape[1]
    starts = th.zeros(sequences, len(sample.episode_starts) // sequences)
    starts[::2, 2] = 1
    sample = sample._replace(episode_starts=starts.flatten())
    results = evaluated(ours, sample)
    for mine, theirs in zip(results, evaluated(stock.policy, sample), strict=True):
        th.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    unbroken = evaluated(ours, sample._replace(episode_starts=th.zeros_like(sample.episode_starts)))
    assert not th.allclose(results[0], unbroken[0], atol=1e-4)


PLAIN = """
import sys
sys.modules |= {"trainers": None, "entropy_env": None}
import numpy as np, torch
torch.set_num_threads(1)
from sb3_contrib import RecurrentPPO
model = RecurrentPPO.load(sys.argv[1], device="cpu")
data = np.load(sys.argv[2])
actions, memory = model.predict(data["obs"], None, np.ones(3, bool), deterministic=True)
again, _ = model.predict(data["obs"], memory, np.zeros(3, bool), deterministic=True)
np.savez(sys.argv[3], actions=actions, again=again)
"""


def test_the_model_opens_without_this_package_and_acts_the_same(trained, tmp_path):
    policy, obs = load_policy(trained / "models" / "swarm_1.zip"), np.random.default_rng(0).random((3, 36), np.float32)
    actions, memory = policy(obs)
    again, _ = policy(obs, memory)
    np.savez(tmp_path / "in.npz", obs=obs)
    files = [trained / "models" / "swarm_1.zip", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", PLAIN, *files], check=True)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["actions"], actions, atol=1e-6)
        np.testing.assert_allclose(out["again"], again, atol=1e-6)
    assert not np.allclose(actions, again)
    assert not np.allclose(policy(obs, key=jax.random.key(0))[0], actions)


def test_the_model_is_made_as_the_options_say():
    config = dataclasses.replace(TINY, learning_rate=1e-3, gamma=0.9, gae_lambda=0.8, clip_range=0.1, ent_coef=0.2,
                                 vf_coef=0.3, max_grad_norm=0.4, n_epochs=3)  # fmt: skip
    model = make_model(config)
    for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "n_epochs", "n_steps", "batch_size"):
        assert getattr(model, name) == getattr(config, name), name
    assert (model.lr_schedule(1.0), model.clip_range(1.0)) == (1e-3, 0.1)
    assert model.policy.lstm_actor.hidden_size == model.policy.lstm_critic.hidden_size == 8


@pytest.mark.parametrize("rewards_only", [True, False])
def test_either_half_of_the_normaliser_can_be_had(rewards_only, tmp_path, capsys):
    flags = ["--normalize-reward"] if rewards_only else ["--normalize-obs"]
    config = [*FLAGS, "--folder", str(tmp_path), *flags, "--total-steps", "64"]
    with failing_after(12, KeyboardInterrupt()):
        assert main(config) == 130
    assert main(config) == 0
    policy, obs = load_policy(tmp_path / "models" / "swarm_1.zip"), np.full((1, 36), 0.5, np.float32)
    arrays = unpack(tmp_path / "models" / "swarm_1.zip").arrays
    assert ("normalizer/obs_mean" in arrays) != rewards_only
    if not rewards_only:
        mean, var = arrays["normalizer/obs_mean"], arrays["normalizer/obs_var"]
        obs_as_trained = np.clip((obs - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)
        model = RecurrentPPO.load(tmp_path / "models" / "swarm_1.zip", device="cpu")
        expected, _ = model.predict(obs_as_trained, None, np.ones(1, bool), deterministic=True)
        np.testing.assert_allclose(policy(obs)[0], expected, atol=1e-6)
        assert not np.allclose(model.predict(obs, None, np.ones(1, bool), deterministic=True)[0], expected, atol=1e-6)


def test_weights_that_are_not_those_of_the_description_are_refused(trained, tmp_path):
    about = unpack(trained / "models" / "swarm_1.zip").about["env"]
    path = edited(trained / "models" / "swarm_1.zip", tmp_path / "a.zip", env=about | {"num_rays": 8})
    with pytest.raises(CheckpointError, match="has shape"):
        load_policy(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs base_model"),
        ({"base_model": Path("v2.zip")}, "needs physics v2"),
        ({"base_model": Path("v2.zip"), "physics": "v2", "normalize_obs": True}, "no normalize_obs"),
    ],
)
def test_a_policy_of_v2_needs_what_it_was_trained_in(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, base_from_v2=True, **options)
