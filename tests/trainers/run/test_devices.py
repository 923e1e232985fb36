"""Training on several devices and processes, which a CPU can play, and the number of worlds that fit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import spread
from helpers.commands import ROOT

from trainers.jax_ppo import PPOConfig
from trainers.learn.distributions import Categorical, Distribution, Gaussian
from trainers.run.checkpoint import load_arrays
from trainers.run.devices import largest_batch, make_mesh

FLAGS = ["--num-envs", "8", "--num-agents", "2", "--num-steps", "4", "--num-minibatches", "2", "--hidden-sizes", "8",
         "--num-epochs", "2", "--no-anneal-learning-rate", "--checkpoint-interval", "1", "--total-steps", "192"]  # fmt: skip


def start(*arguments: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths} | environment
    return subprocess.Popen(
        [sys.executable, *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def result(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out + err


def newest(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    (expected, _), (arrays, _) = newest(one), newest(other)
    names = [name for name in expected if name.startswith(("params", "moments"))]
    assert expected.keys() == arrays.keys()
    for name in names:
        np.testing.assert_allclose(arrays[name], expected[name], atol=tolerance, err_msg=name)


def test_gradients_of_one_batch_are_the_same_on_any_number_of_devices() -> None:
    found = json.loads(result(start("-m", "helpers.spread", devices=4)))
    assert len(found) == 9
    for name, (gradients, metrics) in found.items():
        assert gradients < 1e-5, name
        assert metrics < 1e-5, name


@pytest.mark.parametrize("actions", [Gaussian(2), Categorical(3)])
def test_an_update_in_parts_equals_the_whole(actions: Distribution) -> None:
    gradients, metrics = spread.distance(spread.gradients(actions, 1), spread.gradients(actions, 1, accumulate=4))
    assert gradients < 1e-5
    assert metrics < 1e-5


@pytest.mark.slow
def test_a_run_on_two_devices_resumes_exactly_and_on_one_with_a_note(tmp_path: Path) -> None:
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    train = "-m", "trainers.jax_ppo", *FLAGS, "--devices", "2", "--run-dir"
    result(start(*train, whole, devices=2))
    result(start(*train, parts, "--total-steps", "64", devices=2))
    resume = "-m", "trainers.jax_ppo", "--resume", "--run-dir", parts, "--total-steps"
    result(start(*resume, "192", devices=2))
    assert_close(Path(whole), Path(parts), 0.0)
    assert newest(Path(parts))[1]["devices"] == 2
    told = result(start(*resume, "256", "--devices", "1"))
    assert "saved on 2 devices and goes on on 1: its worlds begin anew" in told
    assert newest(Path(parts))[1]["step"] == 256


@pytest.mark.slow
def test_two_processes_train_as_two_devices_of_one_and_the_first_alone_writes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    runs = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(
            "-m",
            "trainers.jax_ppo",
            *FLAGS,
            "--distributed",
            "--run-dir",
            str(run),
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index, run in enumerate(runs)
    ]
    for process in processes:
        result(process)
    assert not runs[1].exists()
    result(start("-m", "trainers.jax_ppo", *FLAGS, "--devices", "2", "--run-dir", str(tmp_path / "one"), devices=2))
    assert_close(tmp_path / "one", runs[0], 1e-6)


@pytest.mark.parametrize(
    ("options", "devices", "words"),
    [
        ({"num_envs": 6, "num_minibatches": 3}, 4, ["num_envs=6", "devices=4 x num_minibatches=3 = 12"]),
        ({"num_envs": 8, "num_minibatches": 2, "accumulate": 2}, 4, ["num_envs=8", "accumulate=2 = 16"]),
    ],
)
def test_worlds_that_do_not_divide_are_named(options: dict[str, int], devices: int, words: list[str]) -> None:
    config = PPOConfig(**options)
    with pytest.raises(ValueError) as caught:
        config.worlds_on(devices)
    assert all(word in str(caught.value) for word in words)


def test_more_devices_than_there_are_is_an_error_that_says_how_many() -> None:
    with pytest.raises(ValueError, match=r"devices=64 are more than the \d+ of this machine, cpu"):
        make_mesh(64)


@pytest.mark.parametrize("limit", [150, 1_000, 12_345, 10**9])
def test_the_largest_batch_that_fits_is_found_in_a_few_tries(limit: int) -> None:
    asked: list[int] = []

    def memory_of(count: int) -> int:
        asked.append(count)
        return 100 + 3 * count + count // 7

    found = largest_batch(memory_of, limit, unit=4, most=50_000)
    assert found % 4 == 0
    assert memory_of(found) <= limit
    assert found == 50_000 or memory_of(found + 4) > limit
    assert len(asked) < 14


def test_a_memory_too_small_for_any_world_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"4 worlds need .* GiB"):
        largest_batch(lambda count: 2**30 * count, 2**30, unit=4, most=100)
