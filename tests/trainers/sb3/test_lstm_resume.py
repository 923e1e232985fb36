"""A training of recurrent PPO goes on exactly where it was cut, and keeps what it has."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers.commands import ROOT
from helpers.disk import full_disk
from helpers.lstm import FLAGS, LONG, RISING, TINY, KilledError, assert_same, content, failing_after, lines, stop

from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.policies import load_policy
from trainers.sb3.checkpoint import unpack
from trainers.sb3.workspace import Workspace, open_workspace
from trainers.sb3_lstm import main, train

PLAIN = dataclasses.replace(LONG, physics="v2", ent_coef=0.5, ent_coef_final=0.0)  # without what RISING has
WATCHED = dataclasses.replace(LONG, eval_interval=96, eval_episodes=3, early_stop=2, target_success=1.0)


@pytest.mark.parametrize("config", [PLAIN, RISING], ids=["v2 and entropy", "curriculum and normaliser"])
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
