"""Several trainings in one process, and accumulated updates, in the smallest environment."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.guess import Guess

from trainers import train_policy
from trainers.run.checkpoint import load_arrays

TINY: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (16,), "episodes": 4}


def train(run: Path, **options: Any) -> Path:
    return train_policy(Guess, num_iterations=None, total_steps=512, run_dir=run, **TINY | options)


def held() -> dict[str, Any]:
    """What this process holds."""
    gc.collect()
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "files": sorted(filter(None, map(named, Path("/proc/self/fd").iterdir()))),
        "arrays": len(jax.live_arrays()),
        "handlers": [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)],
        "variables": dict(os.environ),
        "double precision": jax.config.jax_enable_x64,  # type: ignore[attr-defined]
    }


def named(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # of the listing itself
        return ""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_training_leaves_nothing_behind_in_its_process(tmp_path: Path) -> None:
    options = {"eval_interval": 256, "eval_episodes": 8, "target_return": 9.0, "devices": 1}
    train(tmp_path / "first", **options)
    before = held()
    for number in range(2):
        train(tmp_path / str(number), **options)
    assert held() == before


def test_an_accumulated_update_is_the_whole_one(tmp_path: Path) -> None:
    runs = train(tmp_path / "whole"), train(tmp_path / "parts", accumulate=4)
    (whole, _), (parts, _) = (load_arrays(max((run / "checkpoints").glob("*.safetensors"))) for run in runs)
    assert whole.keys() == parts.keys()
    for name in whole:
        if name.startswith(("params", "moments")):
            np.testing.assert_allclose(parts[name], whole[name], atol=1e-5, err_msg=name)
