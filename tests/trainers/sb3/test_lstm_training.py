"""A training of recurrent PPO: what it leaves, how its options work, and what it says is wrong."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from helpers.commands import ROOT
from helpers.killed import TIMED
from helpers.lstm import FLAGS, RISING, TINY, assert_same, content, failing_after, lines, refused, stop
from sb3_contrib import RecurrentPPO

from trainers.policies import load_policy
from trainers.run.curriculum import Curriculum
from trainers.sb3.checkpoint import unpack
from trainers.sb3.options import LstmConfig
from trainers.sb3.workspace import open_workspace
from trainers.sb3_lstm import main, train


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


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    train(dataclasses.replace(TINY, folder=tmp_path / "folder", total_steps=32))
    assert not list((tmp_path / "tmp").iterdir())
