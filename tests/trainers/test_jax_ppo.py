"""The command that trains a swarm with PPO: runs, their folders, and what is wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.disk import full_disk

from trainers import jax_ppo
from trainers.algorithms.ppo import PPO
from trainers.jax_ppo import PPOConfig, main, make_ppo, train
from trainers.run.checkpoint import load_arrays
from trainers.run.config import load_config, parse_config
from trainers.run.devices import update_memory
from trainers.run.hooks import Moment
from trainers.run.loop import TrainingDivergedError

TINY = PPOConfig(
    num_envs=4, num_agents=2, num_steps=4, num_minibatches=2, hidden_sizes=(8,), total_steps=4 * 2 * 4 * 6,
    anneal_learning_rate=False,  # so that runs of any length are one program
)  # fmt: skip
FLAGS = [
    "--num-envs", "4", "--num-agents", "2", "--num-steps", "4", "--num-minibatches", "2", "--hidden-sizes", "8",
    "--no-anneal-learning-rate", "--total-steps",
]  # fmt: skip


@pytest.mark.slow  # `largest_batch` has its own tests
def test_auto_batch_takes_the_worlds_that_fit(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(jax_ppo, "update_memory", lambda ppo, params: 1000 * ppo.config.num_envs)
    monkeypatch.setattr(jax_ppo, "free_memory", lambda: 4500)
    config = dataclasses.replace(TINY, num_envs=2, auto_batch=True, run_dir=tmp_path / "run")
    train(dataclasses.replace(config, total_steps=96))
    assert "4 worlds, as many as fit" in capsys.readouterr().out
    assert load_config(PPOConfig, tmp_path / "run" / "config.yaml").num_envs == 4
    assert main(["--resume", "--run-dir", str(tmp_path / "run"), "--total-steps", "97"]) == 0


@pytest.mark.slow
def test_the_memory_of_an_update_is_what_the_compiler_says(monkeypatch: Any) -> None:
    def need(num_envs: int) -> int:
        ppo, env_params, _ = make_ppo(dataclasses.replace(TINY, num_envs=num_envs))
        return update_memory(ppo, env_params)

    assert need(16) < need(64) < 5 * need(16)
    monkeypatch.setattr(jax_ppo, "free_memory", lambda: need(64))
    found = jax_ppo.fill_memory(dataclasses.replace(TINY, total_steps=10**6)).num_envs
    assert 48 <= found <= 80
    assert need(found) <= need(64)


def test_the_second_update_compiles_nothing() -> None:
    ppo, env_params, _ = make_ppo(TINY)
    runner = ppo.init(jax.random.key(0), env_params)
    before = PPO.update._cache_size()
    for _ in range(3):
        runner, _ = ppo.update(runner, env_params)
    assert PPO.update._cache_size() == before + 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a checkpoint of each update, which tests must not change."""
    return train(dataclasses.replace(TINY, run_dir=tmp_path_factory.mktemp("whole") / "run", checkpoint_interval=1))


@pytest.fixture(scope="module")
def one_update(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(dataclasses.replace(TINY, run_dir=tmp_path_factory.mktemp("short") / "run", total_steps=1))


@pytest.fixture
def short(one_update: Path, tmp_path: Path) -> Path:
    """The folder of a run of one update, to change."""
    return shutil.copytree(one_update, tmp_path / "run")


def newest(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))


def lines(run: Path) -> list[dict[str, float]]:
    timed = {"train/fps", "train/sps", "system/cpu_memory", "system/gpu_memory"}
    text = (run / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in text.splitlines()]


def assert_same(one: Path, other: Path) -> None:
    (expected, _), (arrays, _) = newest(one), newest(other)
    assert expected.keys() == arrays.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(jax.random.key_data(array) if name == "key" else array,
                                      jax.random.key_data(arrays[name]) if name == "key" else arrays[name])  # fmt: skip
    assert lines(one) == lines(other)


def test_a_run_stopped_and_resumed_ends_as_one_left_alone(tmp_path: Path) -> None:
    whole = dataclasses.replace(TINY, run_dir=tmp_path / "whole", checkpoint_interval=1, anneal_learning_rate=True)
    train(whole)
    shutil.copytree(whole.run_dir, tmp_path / "parts")
    for file in sorted((tmp_path / "parts" / "checkpoints").iterdir())[1:]:
        file.unlink()
    train(dataclasses.replace(whole, run_dir=tmp_path / "parts", resume=True))
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_numbers_of_numpy_and_jax_are_numbers(tmp_path: Path) -> None:
    given = PPOConfig(
        num_envs=np.int64(4), num_agents=np.int32(2), num_steps=jnp.int32(4), num_minibatches=np.uint8(2),
        hidden_sizes=np.array([8]), total_steps=np.int64(1), learning_rate=np.float64(1e-3),
        value_coefficient=np.float32(0.5), anneal_learning_rate=np.False_, env_params={"max_wheel_speed": np.float32(0.75)}, normalize_obs=np.True_, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    train(given)
    kept = load_config(PPOConfig, tmp_path / "run" / "config.yaml")
    assert kept == given
    assert repr(kept) == repr(given)
    train(dataclasses.replace(given, resume=True, num_envs=np.int64(4)))


def test_v3_has_the_settings_of_its_blueprint_unless_others_are_given(tmp_path: Path) -> None:
    v3 = PPOConfig(preset="v3")
    assert v3.num_envs * v3.num_steps == 2048
    assert (v3.activation, v3.hidden_sizes, v3.shared_trunk) == ("relu", (256, 256), True)
    assert (v3.num_minibatches, v3.num_epochs, v3.learning_rate) == (32, 10, 3e-4)
    assert (v3.gamma, v3.gae_lambda, v3.clip) == (0.99, 0.95, 0.2)
    assert (v3.entropy_coefficient, v3.value_coefficient) == (0.01, 0.5)
    assert PPOConfig(preset="v3", gamma=PPOConfig.gamma).gamma == PPOConfig.gamma, "given, though it is the default"
    run = tmp_path / "run"
    flags = [
        "--num-agents",
        "2",
        "--num-epochs",
        "1",
        "--hidden-sizes",
        "8",
        "--total-steps",
        "1",
        "--run-dir",
        str(run),
    ]
    assert main(["--preset", "v3", *flags]) == 0
    kept = load_config(PPOConfig, run / "config.yaml")
    assert (kept.preset, kept.num_minibatches, kept.num_epochs, kept.hidden_sizes) == ("v3", 32, 1, (8,))
    assert main(["--resume", "--run-dir", str(run), "--total-steps", "2"]) == 0
    file = tmp_path / "options.yaml"
    file.write_text("preset: v3\nclip: 0.1\n")
    parsed = parse_config(PPOConfig, ["--config", str(file), "--gamma", "0.9"])
    assert (parsed.activation, parsed.clip, parsed.gamma) == ("relu", 0.1, 0.9)


def test_the_preset_for_detours_remembers_and_is_told_the_way() -> None:
    config = PPOConfig(preset="memory", num_envs=8)
    ppo, params, _ = make_ppo(config)
    assert ppo.networks.body.remembers
    assert ppo.networks.critic_kind == "privileged"
    assert (float(params.weight("geodesic")), float(params.weight("progress"))) == (1.0, 0.0)
    first, last = (ppo.at(jnp.int32(update)).config.entropy_coefficient for update in (0, ppo.num_updates))
    assert float(first) == pytest.approx(0.03)
    assert float(last) == 0.0


def test_parameters_of_the_world_are_added_to_those_of_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("preset: memory\nenv_params: {max_wheel_speed: 0.8}\n")
    wanted = {"reward_geodesic": 1.0, "reward_progress": 0.5, "max_wheel_speed": 0.8}
    flags = ["--env-params", "reward_progress", "0.5"]
    own = {"reward_progress": 0.5, "max_wheel_speed": 0.8}
    assert PPOConfig(preset="memory", env_params=own).env_params == wanted
    assert parse_config(PPOConfig, ["--config", str(file), *flags]).env_params == wanted
    command = ["--preset", "memory", *flags, "max_wheel_speed", "0.8"]
    assert parse_config(PPOConfig, command).env_params == wanted


def test_robots_are_trained_with_as_many_rays_as_one_likes() -> None:
    few, usual = (make_ppo(PPOConfig(num_rays=rays))[0].obs_dim for rays in (8, 32))
    assert usual - few == 24
    with pytest.raises(ValueError, match="num_rays=0 must be above 0"):
        PPOConfig(num_rays=0)


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with full_disk(100):
        assert main([*FLAGS, "192", "--run-dir", str(tmp_path / "runs" / "a")]) == 2
    assert f"'{tmp_path / 'runs' / 'a' / 'config.yaml'}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 40])
def test_a_config_that_was_emptied_is_refused_on_resume(keep: int, short: Path, capsys: Any) -> None:
    (short / "config.yaml").write_text((short / "config.yaml").read_text()[:keep].rpartition("\n")[0])
    assert main(["--resume", "--run-dir", str(short)]) == 2
    assert "config.yaml does not set " in capsys.readouterr().err


def test_a_full_disk_costs_no_checkpoint_and_says_which_file(whole: Path, tmp_path: Path, capsys: Any) -> None:
    parts = shutil.copytree(whole, tmp_path / "parts")
    for file in sorted((parts / "checkpoints").iterdir())[1:]:
        file.unlink()
    before = list((parts / "checkpoints").iterdir())
    flags = [
        *FLAGS,
        "192",
        "--resume",
        "--run-dir",
        str(parts),
        "--checkpoint-interval",
        "1",
        "--track",
    ]  # no events, which hold the options, too
    capsys.readouterr()
    room = sum(map(len, (parts / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:4])) + 10
    assert room < before[0].stat().st_size
    with full_disk(room):
        assert main(flags) == 2
    transition = capsys.readouterr()
    error = transition.err.splitlines()
    assert [line.split(" could not be written ")[0] for line in error[:2]] == [
        "warning: figures", "warning: the checkpoint at 160 steps",
    ]  # fmt: skip
    assert "step_000000000160.safetensors'" in error[1]
    assert error[2].startswith("warning: the figures of the last 2 updates could not be written")
    assert error[3].startswith("error: [Errno")
    assert error[3].endswith("step_000000000192.safetensors': not saved; --resume goes on from step 128")
    assert len(error) == 4
    assert "Stopped and saved" not in transition.out
    assert list((parts / "checkpoints").iterdir()) == before
    assert main(flags) == 0
    assert_same(whole, parts)


@pytest.mark.parametrize("name", ["café", "caf\udce9"])
def test_a_folder_that_the_terminal_cannot_show_is_trained_in(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    flags = [*FLAGS, "192", "--run-dir", str(tmp_path / name)]
    assert main(flags) == 0
    assert main([*flags, "--resume"]) == 0
    assert main(flags) == 2
    assert sys.stdout.buffer.getvalue().count(b"\nTrained 192 agent steps") == 1
    assert b"already holds a run" in sys.stderr.buffer.getvalue()


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, run_dir=tmp_path / "run", env_params={"max_steps": 12.0})  # so that episodes end
    run = train(config)
    assert load_config(PPOConfig, run / "config.yaml") == config
    assert {"checkpoints", "videos", "config.yaml", "metrics.jsonl"} <= set(os.listdir(run))
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(run))
    named = {"train/reward_mean", "train/reward_std", "train/episode_length", "train/fps", "train/sps", "loss/policy",
             "loss/value", "loss/entropy", "loss/approx_kl", "loss/clip_fraction", "loss/explained_variance",
             "env/goal_reached_rate", "env/collision_rate", "system/gpu_memory", "system/cpu_memory"}  # fmt: skip
    assert named <= set().union(*map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


def test_a_run_of_before_an_option_goes_on_without_it(short: Path) -> None:
    kept = short / "config.yaml"
    text = re.sub("^(reward_terms|num_rays).*\n", "", kept.read_text(), flags=re.MULTILINE)
    assert len(text.splitlines()) == len(kept.read_text().splitlines()) - 2
    kept.write_text(text)
    assert main(["--resume", "--run-dir", str(short), "--total-steps", "64"]) == 0
    assert newest(short)[1]["step"] == 64


def test_a_hook_sees_every_update_adds_figures_and_may_stop_the_run(tmp_path: Path, capsys: Any) -> None:
    seen = []

    def watch(moment: Moment) -> None:
        seen.append((moment.step, moment.metrics.get("env/goal_reached_rate")))
        moment.metrics["mine/updates"] = len(seen)
        if len(seen) == 3:
            moment.stop("three are enough")

    train(dataclasses.replace(TINY, run_dir=tmp_path / "run"), hooks=[watch])
    assert [step for step, _ in seen] == [32, 64, 96]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["mine/updates"] for line in lines] == [1, 2, 3]
    assert newest(tmp_path / "run")[1]["step"] == 96
    assert "stopped: three are enough" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match="at update"):
        train(dataclasses.replace(TINY, run_dir=run, learning_rate=1e38, max_grad_norm=1e38, checkpoint_interval=1))
    arrays, _ = newest(run)
    assert all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("params/"))


def test_an_existing_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--run-dir", str(tmp_path), "--total-steps", "1"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_resuming_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--run-dir", str(tmp_path), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-envs", "6", "--num-minibatches", "4"], ["num_envs=6", "multiple", "num_minibatches=4"]),
        (["--num-envs", "8", "--accumulate", "3"], ["num_envs=8", "num_minibatches=8 x accumulate=3 = 24"]),
        (["--devices", "0"], ["devices=0", "above 0"]),
        (["--preset", "v4"], ["'v4'", "v3", "cartpole"]),
        (["--resume"], ["run_dir"]),
    ],
)
def test_a_wrong_option_is_named(flags: list[str], words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    printed = capsys.readouterr()
    assert all(word in printed.err + printed.out for word in words)


@pytest.mark.parametrize("change", [{"num_steps": 8}, {"scenario": "circle"}, {"learning_rate": 1.0}])
def test_a_resumed_run_keeps_its_options(change: dict[str, Any], short: Path) -> None:
    config = dataclasses.replace(TINY, run_dir=short, total_steps=1, resume=True)
    with pytest.raises(ValueError, match=f"{next(iter(change))}=.* is not what"):
        train(dataclasses.replace(config, **change))


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(short: Path) -> None:
    config = dataclasses.replace(TINY, run_dir=short, total_steps=1, resume=True)
    before = newest(short)[1]["step"]
    train(config)
    assert newest(short)[1]["step"] == before
    train(dataclasses.replace(config, total_steps=2 * before))
    assert newest(short)[1]["step"] == 2 * before


@pytest.mark.parametrize(
    "change",
    [
        {"initial_log_std": np.nan},
        {"num_envs": 4.0},
        {"num_envs": np.True_},
        {"num_steps": np.float64(4.5)},
        {"activation": "step"},
    ],
)
def test_a_value_that_could_never_train_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PPOConfig(**change)


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers.jax_ppo", "--run-dir", str(tmp_path / "run"), *FLAGS, "99999999"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if "success" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"--resume --run-dir {tmp_path / 'run'}" in out
    assert "Traceback" not in err
    _, metadata = newest(tmp_path / "run")
    assert metadata["step"] == lines(tmp_path / "run")[-1]["step"]
