"""The old name of `trainers.policies.load_policy` and `entropy_env.task.Task`, for one more version."""

import warnings
from typing import Any

from entropy_env import task
from trainers.policies import load_policy

__all__ = ["Task", "load_policy"]

warnings.warn(
    "trainers.common.policy is now trainers.policies, and its Task entropy_env.task.Task.of",
    DeprecationWarning,
    stacklevel=2,
)


def Task(**values: Any) -> task.Task:
    """Make a task from the fields that the class of this name had."""
    return task.Task.load(values)
