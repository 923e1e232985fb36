"""A recurrent PPO small enough for tests, and what its folders hold."""

import contextlib
import dataclasses
import json
import zipfile

import numpy as np
import pytest
from helpers.killed import TIMED
from sb3_contrib import RecurrentPPO

from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.sb3.checkpoint import ABOUT, unpack
from trainers.sb3.options import LstmConfig
from trainers.sb3_lstm import main, train

TINY = LstmConfig(
    num_worlds=2, num_agents=2, n_steps=8, batch_size=16, n_epochs=2, lstm_hidden_size=8, total_steps=8 * 32,
    checkpoint_interval=64, videos=False, eval_episodes=0, env_params={"max_steps": 12.0},
    device="cpu",
)  # fmt: skip
FLAGS = [
    "--num-worlds", "2", "--num-agents", "2", "--n-steps", "8", "--batch-size", "16", "--n-epochs", "2",
    "--lstm-hidden-size", "8", "--total-steps", "256", "--checkpoint-interval", "64", "--no-videos",
    "--eval-episodes", "0", "--env-params", "max_steps", "12",
]  # fmt: skip
LONG = dataclasses.replace(TINY, total_steps=40 * 32)
RISING = dataclasses.replace(  # every robot stands on its goal, so the difficulty rises every 100 episodes
    LONG, curriculum=True, normalize_obs=True, normalize_reward=True,
    env_params={"max_steps": 2.0, "goal_radius": 20.0},
)  # fmt: skip


class KilledError(BaseException):
    """Ends a training as a kill does: nobody handles it."""


@contextlib.contextmanager
def failing_after(calls, error, owner=SwarmVecEnv, method="step_wait"):
    """Raise an error in the call of a method that comes after so many."""
    original, done = getattr(owner, method), iter(range(calls))

    def call(*args, **kwargs):
        if next(done, None) is None:
            raise error
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, call)
        yield


def stop(config, after):
    """Press Ctrl-C after so many rollouts."""
    with failing_after(int(after * config.n_steps), KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        train(config)


def lines(folder, name="swarm_1"):
    text = (folder / "runs" / name / "metrics.jsonl").read_text()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in text.splitlines()]


def content(path):
    """Weights, the optimiser's state and all arrays of a zip by name."""
    return content_of(unpack(path))


def content_of(saved):
    arrays = {f"weights/{name}": value.numpy() for name, value in saved.weights["policy"].items()}
    for index, state in saved.weights["policy.optimizer"]["state"].items():
        arrays |= {f"optimizer/{index}/{name}": np.asarray(value) for name, value in state.items()}
    return arrays | saved.arrays


def assert_same(one, other):
    assert lines(one) == lines(other)
    mine, theirs = (content(folder / "models" / "swarm_1.zip") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def collect(policy_class, n_steps=16):
    """A model with a full buffer, in which episodes of 12 steps start in many places."""
    env = SwarmVecEnv(num_worlds=2, num_agents=2, max_steps=5, seed=0)
    model = RecurrentPPO(
        policy_class, env, n_steps=n_steps, batch_size=24, policy_kwargs={"lstm_hidden_size": 8}, seed=3, device="cpu"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "train", lambda: None)
        model.learn(n_steps * 4)
    return model


def rewritten(path, to, change):
    """A copy of a zip in which `change` has changed {name: bytes}."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return to


def edited(path, to, **changes):
    def change(members):
        members[ABOUT] = json.dumps(json.loads(members[ABOUT]) | changes).encode()

    return rewritten(path, to, change)


def refused(folder, capsys, *flags):
    """What a training that must not begin prints."""
    assert main([*FLAGS, "--folder", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
