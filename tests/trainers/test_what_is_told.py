"""Commands that are told can be pasted, and figures and errors make sense."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers.guess import Guess

from trainers import train_policy
from trainers.evaluation.episodes import evaluate_in
from trainers.run.hooks import Moment
from trainers.sb3.parallel import ParallelVecEnv

TINY: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (8,), "episodes": 0}


def test_a_factory_that_needs_arguments_is_told_how_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make must need no arguments.*'id'.*lambda: make\(\.\.\.\)"):
        train_policy(gymnasium.make, run_dir=tmp_path / "run", **TINY)


def test_a_path_in_a_command_is_quoted(tmp_path: Path, capsys: Any) -> None:

    def stop(moment: Moment) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_policy(Guess, hooks=[stop], run_dir=tmp_path / "my run", **TINY)
    assert f"--run-dir '{tmp_path / 'my run'}'" in capsys.readouterr().out


def test_an_interval_stays_within_what_was_seen() -> None:
    def play(policy: Any, count: int, sampled: bool) -> tuple:
        return np.array([0.0, 1.0, 1.0]), np.array([5, 10, 10]), np.ones(3, bool)

    figures = evaluate_in(play, type("Policy", (), {"step": 0})(), 3, 0)
    assert figures["return"]["high"] == 1.0 and figures["return"]["low"] == 0.0
    assert figures["episode_length"]["high"] == 10.0 and figures["episode_length"]["low"] >= 5.0


def test_worlds_without_agents_are_named() -> None:
    empty = SimpleNamespace(possible_agents=[])
    with pytest.raises(ValueError, match=r"namespace.* has no possible_agents: there must be at least one"):
        ParallelVecEnv([empty])  # type: ignore[list-item]
