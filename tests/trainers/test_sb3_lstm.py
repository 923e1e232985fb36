"""Recurrent PPO: it goes on exactly where it was cut, keeps what it has, and says what is wrong."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import torch as th
from helpers.disk import full_disk
from sb3_contrib import RecurrentPPO

from entropy_env import SwarmSpec
from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.evaluate import evaluate, evaluate_policy, make_env
from trainers.evaluate import main as evaluate_main
from trainers.evaluation.play import episode_key, live, play, travelled
from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.run.curriculum import Curriculum
from trainers.sb3 import training
from trainers.sb3.checkpoint import ABOUT, unpack
from trainers.sb3.lstm import LstmPolicy
from trainers.sb3.options import LstmConfig
from trainers.sb3.training import Training, make_model
from trainers.sb3.workspace import Workspace, open_workspace
from trainers.sb3_lstm import main, train

ROOT = Path(__file__).parents[2]
TINY = LstmConfig(
    num_worlds=2, num_agents=2, n_steps=8, batch_size=16, n_epochs=2, lstm_hidden_size=8, total_steps=8 * 32,
    checkpoint_interval=64, videos=False, eval_episodes=0, env_params={"max_steps": 12.0},
    device="cpu",
)  # fmt: skip
FLAGS = [
    "--num-worlds",
    "2",
    "--num-agents",
    "2",
    "--n-steps",
    "8",
    "--batch-size",
    "16",
    "--n-epochs",
    "2",
    "--lstm-hidden-size",
    "8",
    "--total-steps",
    "256",
    "--checkpoint-interval",
    "64",
    "--no-videos",
    "--eval-episodes",
    "0",
    "--env-params",
    "max_steps",
    "12",
]
LONG = dataclasses.replace(TINY, total_steps=40 * 32)
RISING = dataclasses.replace(  # every robot stands on its goal, so the difficulty rises every 100 episodes
    LONG, curriculum=True, normalize_obs=True, normalize_reward=True,
    env_params={"max_steps": 2.0, "goal_radius": 20.0},
)  # fmt: skip
NORMALISED = dataclasses.replace(LONG, normalize_obs=True, normalize_reward=True)
V2 = dataclasses.replace(LONG, physics="v2")
ENTROPY = dataclasses.replace(LONG, ent_coef=0.5, ent_coef_final=0.0)
WATCHED = dataclasses.replace(LONG, eval_interval=96, eval_episodes=3, early_stop=2, target_success=1.0)
TIMED = {"train/fps", "train/sps", "system/cpu_memory", "system/gpu_memory"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are rounded otherwise with more, and tests beside each other crawl."""
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@pytest.fixture(autouse=True)
def usual_signals():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished training, which tests must not change."""
    config = dataclasses.replace(TINY, folder=tmp_path_factory.mktemp("trained"))
    with contextlib.redirect_stdout(io.StringIO()):
        train(config)
    return config.folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a training stopped at 224 of 256 steps, with two checkpoints, which tests must not change."""
    folder = tmp_path_factory.mktemp("stopped")
    with contextlib.redirect_stdout(io.StringIO()):
        stop(dataclasses.replace(TINY, folder=folder), after=7.5)
    return folder


@pytest.fixture
def half_way(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "half_way")


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


@pytest.fixture(scope="module")
def stock():
    return collect("MlpLstmPolicy")


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


def test_a_training_leaves_a_model_metrics_and_events_and_no_checkpoint(trained):
    assert [path.name for path in (trained / "models").iterdir()] == ["swarm_1.zip"]
    assert os.listdir(trained / "checkpoints") == [".lock"]
    assert [line["step"] for line in lines(trained)] == list(range(32, 257, 32))
    assert any(path.name.startswith("events.out.tfevents") for path in (trained / "runs" / "swarm_1").iterdir())
    written = json.loads((trained / "runs" / "swarm_1" / "metrics.jsonl").read_text().splitlines()[-1])
    table = {"fps", "episode_return", "episode_length", "std", "learning_rate"}
    losses = {"total", "policy", "value", "explained_variance", "entropy", "approx_kl", "clip_fraction"}
    expected = {f"train/{name}" for name in table} | {f"loss/{name}" for name in losses} | TIMED
    assert written.keys() == expected | {"step", "env/goal_reached_rate", "env/difficulty"}
    assert written["loss/entropy"] == pytest.approx(2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(written["train/std"])), rel=0.01)  # fmt: skip


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


def test_models_go_under_the_number_after_the_highest(tmp_path):
    with open_workspace(tmp_path) as workspace:
        assert workspace.next_name() == "swarm_1"
        for name in (
            "swarm_2.zip",
            "swarm_10.zip",
            "swarm_11.zip.bak",
            "my_swarm_12.zip",
            "swarm_13.json",
            "swarm_x.zip",
        ):
            (workspace.models / name).write_bytes(b"mine")
        assert workspace.next_name() == "swarm_11"
        assert workspace.save_model(b"new", "swarm_10", "me").name == "swarm_11.zip"
        assert (workspace.models / "swarm_10.zip").read_bytes() == b"mine"


def test_steps_are_rounded_up_to_whole_rollouts(tmp_path, capsys):
    path = train(dataclasses.replace(TINY, folder=tmp_path, total_steps=33))
    assert unpack(path).about["step"] == 64
    assert "Trained 64 agent steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config",
    [LONG, NORMALISED, RISING, V2, ENTROPY],
    ids=["plain", "normalised", "curriculum", "v2", "entropy"],
)
def test_a_training_cut_anywhere_and_resumed_ends_as_one_left_alone(config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    whole, parts = (dataclasses.replace(config, folder=tmp_path / name) for name in ("whole", "parts"))
    train(whole)
    capsys.readouterr()
    cuts = [
        (KeyboardInterrupt(), SwarmVecEnv, "step_wait", rng.integers(8, 40)),
        (KilledError(), SwarmVecEnv, "step_wait", rng.integers(20, 40)),
        (KeyboardInterrupt(), th.optim.Adam, "step", rng.integers(5, 9)),
        (KilledError(), th.optim.Adam, "step", rng.integers(5, 9)),
        (KeyboardInterrupt(), Workspace, "save_checkpoint", 1),
        (KilledError(), os, "replace", 3),
        (KilledError(), os, "fsync", 4),
    ]
    for error, owner, method, calls in cuts:
        with failing_after(int(calls), error, owner, method), pytest.raises(type(error)):
            train(parts)
    before = unpack(tmp_path / "parts" / "checkpoints" / "checkpoint.zip").about["step"]
    printed = capsys.readouterr().out
    train(parts)
    assert f"Resuming from checkpoint at {before:,} steps" in capsys.readouterr().out
    assert printed.count("Resuming from checkpoint at") >= 4
    assert 0 < before < config.total_steps
    assert_same(whole.folder, parts.folder)
    if config.curriculum:
        levels = [line["env/difficulty"] for line in lines(parts.folder)]
        assert set(levels) == {1, 2, 3, 4}
        assert levels == sorted(levels)


@pytest.mark.slow
def test_a_training_cut_and_resumed_evaluates_and_keeps_the_best_as_one_left_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainers.sb3_lstm.report", lambda *_: None)
    whole, parts = (dataclasses.replace(WATCHED, folder=tmp_path / name) for name in ("whole", "parts"))
    train(whole)
    assert "and stopped: 2 evaluations without a better one: " in capsys.readouterr().out
    with failing_after(100, KilledError()), pytest.raises(KilledError):
        train(parts)
    train(parts)
    assert_same(whole.folder, parts.folder)
    best = [unpack(folder / "models" / "swarm_1-best.zip") for folder in (whole.folder, parts.folder)]
    assert best[0].about["step"] == best[1].about["step"] < best[1].about["config"]["total_steps"]
    assert load_policy(parts.folder / "models" / "swarm_1.zip", best=True).step == best[0].about["step"]
    assert [line["step"] for line in lines(parts.folder) if "eval/success" in line][:3] == [96, 192, 288]


def test_a_target_ends_a_training_which_is_then_a_whole_model(tmp_path, capsys):
    config = dataclasses.replace(RISING, curriculum=False, folder=tmp_path, target_success=0.9)
    path = train(config)
    assert "and stopped: the target success 0.9 is reached, with 1: " in capsys.readouterr().out
    assert 100 <= unpack(path).about["step"] < config.total_steps
    summary = json.loads((tmp_path / "runs" / "swarm_1" / "summary.json").read_text())
    assert summary["step"] == unpack(path).about["step"] == lines(tmp_path)[-1]["step"]
    assert summary["stopped"].startswith("the target success")
    assert load_policy(path).step == summary["step"]


def test_hooks_of_a_user_add_figures_stop_and_fail_after_the_training_is_saved(tmp_path):
    config = dataclasses.replace(TINY, folder=tmp_path)

    def mark(moment):
        moment.metrics["mine/steps"] = moment.state.num_timesteps
        if moment.step == 160:
            moment.stop("enough")

    def fail(moment):
        if moment.step == 96:
            raise ZeroDivisionError("my mistake")

    with pytest.raises(ZeroDivisionError, match="my mistake"):
        train(config, hooks=[mark, fail])
    assert unpack(tmp_path / "checkpoints" / "checkpoint.zip").about["step"] == 96
    path = train(config, hooks=[mark])
    assert [line["mine/steps"] for line in lines(tmp_path)] == [32, 64, 96, 128, 160]
    assert unpack(path).about["step"] == 160


def test_a_kill_while_a_checkpoint_is_written_leaves_nothing_behind(half_way):
    config, before = dataclasses.replace(TINY, folder=half_way), content(half_way / "checkpoints" / "checkpoint.zip")
    with open_workspace(half_way) as workspace:
        with (
            failing_after(0, KilledError(), os, "fsync"),
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(KilledError),
        ):
            patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # nor does a killed process tidy up
            workspace.save_checkpoint(b"half")
        assert any(path.suffix == ".tmp" for path in (half_way / "checkpoints").iterdir())
    for name, array in content(half_way / "checkpoints" / "checkpoint.zip").items():
        np.testing.assert_array_equal(array, before[name])
    open_workspace(half_way).close()
    assert {path.name for path in (half_way / "checkpoints").iterdir()} == {".lock", "checkpoint.zip", "previous.zip"}
    train(config)
    assert os.listdir(half_way / "checkpoints") == [".lock"]


NURSERY = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from trainers.sb3.checkpoint import unpack
from trainers.sb3_lstm import main

folder, *flags = sys.argv[1:]
checkpoint, random = Path(folder, "checkpoints", "checkpoint.zip"), random.Random(0)
Path(folder).mkdir()
for attempt in range(11):
    steps = unpack(checkpoint).about["step"] if checkpoint.exists() else None
    written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    log = Path(folder, f"log_{attempt}")
    log.touch()
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
        os._exit(main(["--folder", folder, *flags]))
    if attempt < 10:
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == written:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(steps, status, flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_always_resumes_and_ends_as_one_left_alone(tmp_path):
    steps = ["--total-steps", "4800", "--checkpoint-interval", "32", "--normalize-obs"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, tmp_path / "parts", *FLAGS, *steps],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    attempts = [line.split() for line in done.stdout.splitlines()]
    assert [status for _, status in attempts] == ["9"] * 10 + ["0"]
    resumed = [int(steps) for steps, _ in attempts[1:]]
    assert resumed == sorted(set(resumed)), "each goes further"
    for attempt, (resumed_at, _) in enumerate(attempts):
        log = (tmp_path / "parts" / f"log_{attempt}").read_text()
        assert "warning" not in log
        assert "error" not in log
        if attempt:
            assert f"Resuming from checkpoint at {int(resumed_at):,} steps" in log
    train(dataclasses.replace(TINY, folder=tmp_path / "whole", total_steps=4800, normalize_obs=True))
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(tmp_path, capsys):
    def press(signal_number, after):
        original, calls = SwarmVecEnv.step_wait, iter(range(after))

        def step_wait(env):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal_number)
            return original(env)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SwarmVecEnv, "step_wait", step_wait)
            status = main([*FLAGS, "--folder", str(tmp_path)])
        return status, capsys.readouterr()

    status, printed = press(signal.SIGINT, 20)
    assert status == 130
    assert "Stopped and saved at 64 steps. The same command goes on from there." in printed.out
    assert not printed.err
    status, printed = press(signal.SIGTERM, 4)
    assert status == 130
    assert "Resuming from checkpoint at 64 steps" in printed.out
    assert "Stopped and saved at 64 steps" in printed.out
    assert main([*FLAGS, "--folder", str(tmp_path)]) == 0


def test_stopped_before_it_has_learnt_anything_it_begins_there(tmp_path, trained, capsys):
    config = dataclasses.replace(TINY, folder=tmp_path)
    stop(config, after=0.5)
    train(config)
    assert "Resuming from checkpoint at 0 steps" in capsys.readouterr().out
    assert_same(tmp_path, trained)


def test_fewer_steps_than_a_checkpoint_has_finish_it_at_once(half_way, capsys):
    path = train(dataclasses.replace(TINY, folder=half_way, total_steps=32))
    assert unpack(path).about["step"] == 224
    assert "Trained 224 agent steps" in capsys.readouterr().out
    assert os.listdir(half_way / "checkpoints") == [".lock"]


def test_killed_between_the_model_and_its_checkpoint_it_leaves_the_model_once(half_way, trained, capsys):
    config = dataclasses.replace(TINY, folder=half_way)
    with failing_after(0, KilledError(), Workspace, "drop_checkpoints"), pytest.raises(KilledError):
        train(config)
    assert (half_way / "models" / "swarm_1.zip").exists()
    train(config)
    assert os.listdir(half_way / "models") == ["swarm_1.zip"]
    assert_same(half_way, trained)


def test_options_that_do_not_matter_may_change(half_way):
    single = dataclasses.replace(TINY, folder=half_way, preset="single", total_steps=300, checkpoint_interval=100)
    assert unpack(train(single)).about["step"] == 320


def damaged_copies(data):
    """Truncated and with one bit flipped, all over."""
    rng = np.random.default_rng(0)
    end = data.rfind(b"PK\x05\x06")
    directory = int.from_bytes(data[end + 16 : end + 20], "little")
    yield from (data[:size] for size in (0, 10, len(data) // 2, len(data) - 1))
    for place in [*rng.integers(0, directory, 50), *range(directory, len(data))]:
        copy = bytearray(data)
        copy[place] ^= 1 << int(rng.integers(8))
        yield bytes(copy)


def test_damage_anywhere_is_noticed_or_harmless(stopped, tmp_path):
    data, messages = (stopped / "checkpoints" / "checkpoint.zip").read_bytes(), []
    expected = content(stopped / "checkpoints" / "checkpoint.zip")
    with open_workspace(tmp_path) as workspace:
        for copy in damaged_copies(data):
            workspace.checkpoint.write_bytes(copy)
            try:
                found = content_of(workspace.find_checkpoint())
            except CheckpointError as error:
                messages.append(str(error))
                continue
            assert found.keys() == expected.keys()  # the bit was in a time stamp or the like
            assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert len(messages) > 200
    assert all(str(workspace.checkpoint) in message for message in messages)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_is_kept(half_way, trained, capsys):
    newest, older = half_way / "checkpoints" / "checkpoint.zip", half_way / "checkpoints" / "previous.zip"
    steps = unpack(older).about["step"]
    newest.write_bytes(newest.read_bytes()[:-100])
    with failing_after(0, KilledError()), pytest.raises(KilledError), pytest.warns(UserWarning) as caught:
        train(dataclasses.replace(TINY, folder=half_way))
    assert str(newest) in str(caught[0].message)
    assert str(older) in str(caught[0].message)
    assert f"Resuming from checkpoint at {steps} steps" in capsys.readouterr().out
    with open_workspace(half_way) as workspace, failing_after(2, KilledError(), os, "replace"):
        with contextlib.suppress(KilledError):  # while the next one is written: the whole one must still be there
            workspace.save_checkpoint(newest.read_bytes() if newest.exists() else b"half")
        assert unpack(older).about["step"] == steps
    newest.unlink(missing_ok=True)
    train(dataclasses.replace(TINY, folder=half_way))
    assert_same(half_way, trained)


def test_with_nothing_whole_left_it_says_what_to_do(half_way, capsys):
    for name in ("checkpoint", "previous"):
        (half_way / "checkpoints" / f"{name}.zip").write_bytes(b"PK")
    assert main([*FLAGS, "--folder", str(half_way)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"{half_way}/checkpoints/checkpoint.zip" in error
    assert f"Delete {half_way}/checkpoints to begin anew" in error
    assert "Traceback" not in error


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2, "version": "9.9"}, ["9.9", "format 2", "upgrade"]),
        ({"format": "two"}, ["cannot be read"]),
        ({"name": "../../elsewhere"}, ["../../elsewhere"]),
        ({"curriculum": {"levels": 3}}, ["does not hold what a training goes on from"]),
    ],
)
def test_a_checkpoint_of_another_version_or_hand_is_refused(changes, words, stopped, tmp_path, capsys):
    checkpoint = tmp_path / "checkpoints" / "checkpoint.zip"
    checkpoint.parent.mkdir()
    edited(stopped / "checkpoints" / "checkpoint.zip", checkpoint, **changes)
    error = refused(tmp_path, capsys)
    assert all(word in error for word in [str(checkpoint), *words])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-worlds", "3"], ["num_worlds=3", "4 lanes", "2"]),
        (["--num-agents", "3", "--batch-size", "24"], ["num_agents=3"]),
        (["--scenario", "circle"], ["scenario='circle'", "'open'"]),
        (["--normalize-obs"], ["normalize_obs=True"]),
        (["--seed", "1"], ["seed=1"]),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(flags, words, half_way, capsys):
    error = refused(half_way, capsys, *flags)
    assert all(word in error for word in [*words, "checkpoint.zip", "--folder"])
    assert (half_way / "checkpoints" / "checkpoint.zip").exists()


def test_a_model_is_no_checkpoint(trained, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained / "models" / "swarm_1.zip", tmp_path / "checkpoints" / "checkpoint.zip")
    assert "--base-model" in refused(tmp_path, capsys)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_no_pickle_of_a_zip_is_run(stopped, tmp_path, capsys):
    trace, source = tmp_path / "trace", stopped / "checkpoints" / "checkpoint.zip"
    (tmp_path / "checkpoints").mkdir()

    def in_data(members):
        data = json.loads(members["data"])
        trap = {":type:": "dict", ":serialized:": __import__("base64").b64encode(pickle.dumps(Trap(trace))).decode()}
        members["data"] = json.dumps(data | dict.fromkeys(data, trap)).encode()

    def in_weights(name, **kwargs):
        def change(members):
            buffer = io.BytesIO()
            th.save({"lstm_actor.weight_ih_l0": th.zeros(32, 36), "x": Trap(trace)}, buffer, **kwargs)
            members[name] = buffer.getvalue()

        return change

    def plain_pickle(members):
        members["policy.pth"] = pickle.dumps(Trap(trace))

    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.exists(), "the trap does not work"
    trace.rmdir()
    harmless = rewritten(source, tmp_path / "data.zip", in_data)
    load_policy(harmless)
    shutil.copy(harmless, tmp_path / "checkpoints" / "checkpoint.zip")
    assert main([*FLAGS, "--folder", str(tmp_path)]) == 0
    for change in (
        in_weights("policy.pth"),
        in_weights("policy.optimizer.pth"),
        in_weights("policy.pth", _use_new_zipfile_serialization=False),
        plain_pickle,
    ):
        path = rewritten(source, tmp_path / "weights.zip", change)
        with pytest.raises(CheckpointError, match="refused"):
            load_policy(path)
        assert "weights_only" not in refused(tmp_path / "other", capsys, "--base-model", str(path))
    assert not trace.exists()


def test_a_full_disk_costs_no_checkpoint_and_one_warning(half_way, trained, tmp_path, capsys):
    before = content(half_way / "checkpoints" / "checkpoint.zip")
    flags = [*FLAGS, "--folder", str(half_way), "--total-steps", "512"]
    with full_disk(20_000):
        assert main(flags) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert error[0].startswith("warning: the checkpoint at 256 steps could not be written ([Errno")
    assert error[1].startswith("error: swarm_1 is trained but could not be saved ([Errno")
    assert {path.name for path in (half_way / "checkpoints").iterdir()} == {".lock", "checkpoint.zip", "previous.zip"}
    for name, array in content(half_way / "checkpoints" / "checkpoint.zip").items():
        np.testing.assert_array_equal(array, before[name])
    assert main(flags) == 0
    train(dataclasses.replace(TINY, folder=tmp_path / "whole", total_steps=512))
    assert_same(half_way, tmp_path / "whole")


def test_ctrl_c_with_a_full_disk_says_that_nothing_was_saved(half_way, capsys):
    with full_disk(20_000), failing_after(10, KeyboardInterrupt()):
        assert main([*FLAGS, "--folder", str(half_way), "--total-steps", "512"]) == 130
    printed = capsys.readouterr()
    assert "stopped, but not saved" in printed.err
    assert "Stopped and saved" not in printed.out


def test_once_there_is_room_again_the_checkpoint_is_written(tmp_path, monkeypatch):
    original, calls = Workspace.save_checkpoint, iter(range(100))

    def save(workspace, data):
        if next(calls) in (1, 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(workspace, data)

    monkeypatch.setattr(Workspace, "save_checkpoint", save)
    with (
        failing_after(7 * 8 - 1, KilledError()),
        pytest.raises(KilledError),
        warnings.catch_warnings(record=True) as caught,
    ):
        train(dataclasses.replace(TINY, folder=tmp_path))
    assert len(caught) == 1
    assert "the checkpoint at 128 steps could not be written" in str(caught[0].message)
    assert unpack(tmp_path / "checkpoints" / "checkpoint.zip").about["step"] == 192


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


def test_the_weight_of_the_entropy_moves_linearly_to_its_final_value(tmp_path, monkeypatch):
    used, original = [], RecurrentPPO.train
    monkeypatch.setattr(RecurrentPPO, "train", lambda model: (used.append(model.ent_coef), original(model)))
    config = dataclasses.replace(TINY, folder=tmp_path, ent_coef=0.25, ent_coef_final=0.05)
    stop(config, after=3.5)
    train(config)
    expected = [0.25 - 0.2 * update / 8 for update in range(1, 9)]
    assert used == pytest.approx(expected)
    assert [line["train/ent_coef"] for line in lines(tmp_path)] == pytest.approx(expected)


def test_numbers_of_numpy_are_numbers(tmp_path):
    plain = dataclasses.replace(TINY, folder=tmp_path, total_steps=33)
    given = dataclasses.replace(
        plain, num_worlds=np.int64(2), total_steps=np.int64(33), learning_rate=np.float64(3e-4), folder=str(tmp_path),
        env_params={"max_steps": np.float32(12)}, clip_range=np.float32(0.5), seed=np.uint32(0),
    )  # fmt: skip
    assert repr(given) == repr(dataclasses.replace(plain, clip_range=0.5))
    train(given)


@pytest.mark.parametrize("name", ["café", "caf\udce9"])
def test_a_folder_that_the_terminal_cannot_show_is_trained_in(name, tmp_path, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    flags = [*FLAGS, "--folder", str(tmp_path / name)]
    assert main([*flags, "--videos"]) == 0
    assert b"Trained 256 agent steps: " in sys.stdout.buffer.getvalue()
    assert len(os.listdir(tmp_path / name / "videos")) == 3
    assert main([*flags, "--base-model", str(tmp_path / name / "no")]) == 2
    assert b"no base model" in sys.stderr.buffer.getvalue()


def test_a_training_that_cannot_begin_leaves_no_folder(tmp_path, trained, capsys):
    (tmp_path / "bad.zip").write_bytes(b"nothing")
    for folder in (tmp_path / "new" / "folder", tmp_path):
        assert main([*FLAGS, "--folder", str(folder), "--base-model", str(tmp_path / "bad.zip")]) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]
    assert "bad.zip cannot be read" in capsys.readouterr().err


def test_the_presets_are_those_of_v2():
    single, multi = LstmConfig(preset="single"), LstmConfig()
    assert (single.num_worlds, single.num_agents, single.n_steps, single.batch_size) == (1, 10, 2048, 256)
    assert (multi.num_worlds, multi.num_agents, multi.n_steps, multi.batch_size) == (8, 10, 512, 4096)
    for config in (single, multi):
        assert (config.learning_rate, config.total_steps, config.lstm_hidden_size) == (3e-4, 1_000_000, 256)
        assert config.checkpoint_interval == 50_000
    assert LstmConfig(preset="single", n_steps=64).n_steps == 64


def test_the_model_is_made_as_the_options_say():
    config = dataclasses.replace(TINY, learning_rate=1e-3, gamma=0.9, gae_lambda=0.8, clip_range=0.1, ent_coef=0.2,
                                 vf_coef=0.3, max_grad_norm=0.4, n_epochs=3)  # fmt: skip
    model = make_model(config)
    for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "n_epochs", "n_steps", "batch_size"):
        assert getattr(model, name) == getattr(config, name), name
    assert (model.lr_schedule(1.0), model.clip_range(1.0)) == (1e-3, 0.1)
    assert model.policy.lstm_actor.hidden_size == model.policy.lstm_critic.hidden_size == 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ent-coef", "-1"], ["ent_coef=-1"]),
        (["--ent-coef-final", "-1"], ["ent_coef_final=-1"]),
        (["--clip-range", "nan"], ["clip_range=nan", "finite"]),
        (["--n-steps", "0"], ["n_steps=0"]),
        (["--batch-size", "100000"], ["batch_size=100000", "40960"]),
        (["--batch-size", "1"], ["batch_size=1"]),
        (["--batch-size", "13653"], ["batch_size=13653", "40960", "one step"]),
        (["--preset", "double"], ["double", "multi"]),
    ],
)
def test_a_wrong_option_is_named(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    printed = capsys.readouterr()
    assert all(word in printed.err + printed.out for word in words)


def test_options_come_from_a_file_and_flags_override_it(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text(
        f"preset: single\nnum_worlds: 2\nnum_agents: 2\nn_steps: 8\nbatch_size: 16\nlstm_hidden_size: 8\nvideos: false\n"
        f"total_steps: 32\neval_episodes: 0\nlearning_rate: 1e-3\nfolder: {tmp_path}\nenv_params: {{max_steps: 12}}\n"
    )
    assert main(["--config", str(file), "--n-epochs", "1"]) == 0
    config = unpack(tmp_path / "models" / "swarm_1.zip").about["config"]
    assert (config["learning_rate"], config["n_epochs"], config["num_worlds"]) == (1e-3, 1, 2)
    file.write_text("learning_rat: 1")
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(file)])
    assert "learning_rate" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(half_way, capsys):
    with open_workspace(half_way):
        error = refused(half_way, capsys)
    assert f"in use by process {os.getpid()}" in error


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


@pytest.mark.parametrize("rate", ["1e30", "1e3"])
def test_a_training_that_diverges_stops_and_keeps_its_checkpoint(rate, tmp_path, capsys):
    flags = [*FLAGS, "--folder", str(tmp_path), "--learning-rate", rate, "--max-grad-norm", rate]
    with failing_after(4, KeyboardInterrupt()):
        main(flags)
    before = content(tmp_path / "checkpoints" / "checkpoint.zip")
    assert main([*flags, "--total-steps", "10000"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "--learning-rate" in error
    after = content(tmp_path / "checkpoints" / "checkpoint.zip")
    assert all(np.isfinite(array).all() for name, array in after.items() if name.startswith("weights/"))
    assert rate != "1e30" or all(np.array_equal(after[name], array) for name, array in before.items())


WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("torch", ["trainers.sb3_lstm", "--help"]),
        ("sb3_contrib", ["trainers.sb3_lstm", "--help"]),
        ("stable_baselines3", ["trainers.evaluate", "x.zip"]),
    ],
)
def test_without_torch_or_sb3_the_extra_is_named(missing, command):
    done = subprocess.run([sys.executable, "-c", WITHOUT, missing, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "pip install 'entropy-env[sb3]'" in done.stderr
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


def test_w_and_b_without_a_key_keeps_the_run_on_disk_and_disturbs_nothing(trained, tmp_path, capsys, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = dataclasses.replace(TINY, folder=tmp_path, wandb=True)
    stop(config, after=3.5)
    train(config)
    assert capsys.readouterr().out.count(f"W&B: offline, in {tmp_path}/runs/swarm_1/wandb") == 2
    assert len(list(tmp_path.glob("runs/swarm_1/wandb/offline-run-*/*.wandb"))) == 2
    assert_same(tmp_path, trained)


def test_without_wandb_the_extra_is_named_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "entropy-env[wandb]" in refused(tmp_path, capsys, "--wandb")
    assert not (tmp_path / "runs" / "swarm_1").exists()


def test_the_curriculum_rises_by_a_level_when_enough_of_enough_episodes_succeed():
    curriculum = Curriculum(threshold=0.5, episodes=4)

    def advance(*successes):
        for success in successes:
            curriculum.note(success)
        return curriculum.advance()

    assert not advance(True, True, True)
    assert advance(False)
    assert curriculum.level == 2
    assert not advance(False, False, False, True, False)
    assert (curriculum.level, curriculum.rate) == (2, 0)
    assert [advance(*[True] * 4) for _ in range(4)] == [True, True, False, False]
    assert curriculum.level == 4


def test_without_a_curriculum_the_difficulty_stays(trained):
    assert {line["env/difficulty"] for line in lines(trained)} == {1}


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


def test_weights_that_are_not_those_of_the_description_are_refused(trained, tmp_path):
    about = unpack(trained / "models" / "swarm_1.zip").about["env"]
    path = edited(trained / "models" / "swarm_1.zip", tmp_path / "a.zip", env=about | {"num_rays": 8})
    with pytest.raises(CheckpointError, match="has shape"):
        load_policy(path)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    train(dataclasses.replace(TINY, folder=tmp_path / "folder", total_steps=32))
    assert not list((tmp_path / "tmp").iterdir())


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


def test_a_model_trained_here_is_not_taken_for_one_of_v2(trained, tmp_path, capsys):
    base = str(trained / "models" / "swarm_1.zip")
    flags = ["--base-model", base, "--base-from-v2", "--physics", "v2", "--folder", str(tmp_path)]
    assert main([*FLAGS, *flags]) == 2
    assert "was trained here, not by Entropy V2" in capsys.readouterr().err


def test_a_checkpoint_of_a_newer_version_is_left_where_it_is(half_way, capsys):
    path = half_way / "checkpoints" / "checkpoint.zip"
    rewrite(path, lambda about: about | {"format": 99})
    before = path.read_bytes()
    assert main([*FLAGS, "--folder", str(half_way)]) == 2
    assert "in format 99" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"config": [1]}, {"env": {"params": [1]}}, {"config": {"normalize_obs": True}}, {"step": "x"}]
)
def test_a_description_of_nonsense_is_one_line(change, trained, tmp_path, capsys):
    path = tmp_path / "odd.zip"
    shutil.copy(trained / "models" / "swarm_1.zip", path)
    rewrite(path, lambda about: about | change)
    assert evaluate_main([str(path), "--episodes", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def rewrite(path, change):
    """A zip with another description."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[ABOUT] = json.dumps(change(json.loads(members[ABOUT])))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
