"""A curriculum on several devices: worlds of all of them move on together, and a run resumes exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.commands import ROOT
from helpers.killed import TIMED

from trainers.run.checkpoint import load_arrays

STAGES = {  # every robot stands on its goal, so each stage is left as soon as it may be
    "episodes": 8,
    "replay": 0.5,
    "stages": [
        {"scenario": "open", "max_steps": 4, "goal_radius": 20},
        {"scenario": "circle", "max_steps": 6, "goal_radius": 20, "max_wheel_speed": 0.5, "entropy_coefficient": 0.01},
        {"scenario": "open", "max_steps": 8, "goal_radius": 20},
    ],
}
UPDATE = 64  # agent steps


def train(*flags: Any) -> None:
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trainers.jax_ppo", *map(str, flags)]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr


def lines(run: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name not in TIMED} for record in records]


def newest(run: Path) -> dict[str, Any]:
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))[0]


@pytest.mark.slow
def test_a_curriculum_on_two_devices_runs_to_its_last_stage_and_resumes_exactly(tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(STAGES))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["--curriculum", tmp_path / "stages.yaml", "--devices", 2, "--num-envs", 8, "--num-agents", 2, "--num-steps", 4,
             "--num-minibatches", 2, "--hidden-sizes", 8, "--checkpoint-interval", UPDATE, "--eval-interval", 4 * UPDATE,
             "--eval-episodes", 2, "--no-anneal-learning-rate"]  # fmt: skip
    train(*flags, "--run-dir", whole, "--total-steps", 10 * UPDATE)
    train(*flags, "--run-dir", parts, "--total-steps", 5 * UPDATE)
    train("--resume", "--run-dir", parts, "--total-steps", 10 * UPDATE)
    stages = [line["env/stage"] for line in lines(whole)]
    assert stages == sorted(stages)
    assert {*stages} == {1, 2, 3}
    assert [line["step"] // UPDATE for line in lines(whole) if "eval/return" in line] == [4, 8]
    assert lines(parts) == lines(whole)
    arrays = newest(whole)
    played = arrays["inputs/env_params/swarm/difficulty"]
    np.testing.assert_array_equal(arrays["env_state/stage"].ravel(), played, "each device plays its own worlds' stages")
    for name, array in newest(parts).items():
        if name != "key":
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)
