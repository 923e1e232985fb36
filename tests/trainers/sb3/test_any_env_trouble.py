"""Runs of other environments through Stable-Baselines3: what goes wrong is told so that one can act on it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")

from trainers import train_policy
from trainers.policies import load_policy

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (8,), "episodes": 0}


class Blind(gymnasium.Env):
    """Sees nothing from the 20th step on."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    clock = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple:
        self.clock += 1
        return np.float32([0, np.nan if self.clock == 20 else 0]), 1.0, False, self.clock % 8 == 0, {}


def test_an_observation_that_is_not_finite_is_shown_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Blind.*nan.*step 23"):
        train_policy(Blind, run_dir=tmp_path / "run", **TINY | {"num_steps": 8})
    assert load_policy(tmp_path / "run").step == 0, "what was learnt from is kept, and here that is the beginning"


def test_a_run_that_fails_before_its_first_update_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        train_policy(Blind, run_dir=tmp_path / "runs" / "run", **TINY | {"num_steps": 32})
    assert not (tmp_path / "runs").exists()


def test_a_folder_in_use_is_not_told_to_be_resumed(tmp_path: Path) -> None:
    options = TINY | {"num_iterations": None, "total_steps": 32, "run_dir": tmp_path / "run"}
    train_policy("gymnasium:CartPole-v1", **options)
    with pytest.raises(FileExistsError, match="cannot be resumed, so choose another --run-dir, or delete") as caught:
        train_policy("gymnasium:CartPole-v1", **options)
    assert "continue it with" not in str(caught.value)


def test_a_run_that_is_terminated_is_saved_as_after_ctrl_c(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_policy("gymnasium:CartPole-v1", hooks=[lambda moment: os.kill(os.getpid(), signal.SIGTERM)],
                     run_dir=tmp_path / "run", **TINY)  # fmt: skip
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"]
    assert load_policy(tmp_path / "run").step > 0
    assert signal.getsignal(signal.SIGTERM) is before
