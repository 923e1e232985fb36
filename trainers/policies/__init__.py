"""Trained policies: what all of them can do, and loading one from a file or a folder."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Protocol

import jax

from entropy_env.task import Task

Memory = Any  # a pytree, () where a policy remembers nothing
LOADERS = {  # by the suffix of the path, "" for a run folder: module and function
    "": ("trainers.policies.load", "load_run"),
    ".zip": ("trainers.sb3.policy", "load_zip"),
}


class Policy(Protocol):
    """What evaluation, films and windows take. A pytree, so it can be an argument of jitted functions."""

    task: Task  # it was trained in
    step: int  # of its checkpoint

    @property
    def obs_dim(self) -> int:
        """How many numbers it observes."""

    def begin(self, num_agents: int) -> Memory:
        """What each of so many agents remembers when its episode begins."""

    def act(self, obs: jax.Array, memory: Memory, key: jax.Array | None = None) -> tuple[jax.Array, Memory]:
        """obs (N, obs_dim) to actions (N, action_dim) in [-1, 1] and the new memory: the mean, or with a key a sample."""


def load_policy(path: str | os.PathLike[str]) -> Any:
    """The policy of the newest whole checkpoint in a run folder, or of a zip of `trainers.sb3_lstm`.

    Damaged checkpoints are passed over with a warning. Raises FileNotFoundError where there is nothing, CheckpointError
    where it holds no such policy, and ModuleNotFoundError, which names the extra, where a library is missing.
    """
    suffix = "" if Path(path).is_dir() else Path(path).suffix
    module, function = LOADERS.get(suffix, LOADERS[""])
    return getattr(importlib.import_module(module), function)(path)
