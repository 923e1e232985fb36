"""Trained policies: their common protocol, and loading one from a file or a folder."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Protocol

import jax

from entropy_env.task import Task

Memory = Any  # a pytree, () for a policy without memory
LOADERS = {  # suffix of the path, "" for a run folder, to module and function
    "": ("trainers.policies.load", "load_run"),
    ".zip": ("trainers.sb3.policy", "load_zip"),
}


class Policy(Protocol):
    """A policy that can be evaluated, filmed and watched. A pytree, so it can be an argument of jitted functions."""

    task: Task  # the worlds it was trained in
    step: int  # agent steps it was trained for

    @property
    def obs_dim(self) -> int:
        """The size of an observation."""

    def begin(self, num_agents: int) -> Memory:
        """Return the memory of as many agents at the beginning of an episode."""

    def act(self, obs: jax.Array, memory: Memory, key: jax.Array | None = None) -> tuple[jax.Array, Memory]:
        """Map obs (N, obs_dim) to actions (N, action_dim) in [-1, 1] and the new memory.

        Without a key the mean actions, with a key sampled ones.
        """


def load_policy(path: str | os.PathLike[str], *, best: bool = False) -> Any:
    """Load the policy of the newest undamaged checkpoint in a run folder, or of a zip of `trainers.sb3_lstm`.

    best: load that of the best evaluation in the training instead, `checkpoints/best` or `NAME-best.zip`.
    Warns of damaged checkpoints and skips them. Raises FileNotFoundError if there is no file or checkpoint,
    CheckpointError if it holds no such policy, ModuleNotFoundError naming the extra to install if a library is missing.
    """
    suffix = "" if Path(path).is_dir() else Path(path).suffix
    module, function = LOADERS.get(suffix, LOADERS[""])
    return getattr(importlib.import_module(module), function)(path, best)
