"""Commands that train and evaluate policies, and the parts that they are made of."""

import importlib
from typing import Any

__all__ = ["train_policy"]


def __getattr__(name: str) -> Any:
    if name == "train_policy":
        return importlib.import_module("trainers.any_env").train_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
