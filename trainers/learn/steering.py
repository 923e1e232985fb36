"""Inputs that also set options of a learner, so that these may change between updates without a recompile."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, TypeVar

import jax
from flax import struct

Learner = TypeVar("Learner")


class Steered(struct.PyTreeNode):
    """The parameters of the environment, and options of the learner by name, () float32 each."""

    env_params: Any
    options: dict[str, jax.Array]


def steer(learner: Learner, inputs: Any) -> tuple[Learner, Any]:
    """Return a learner with the options that its inputs set, if they do, and the parameters of the environment.

    learner: a dataclass with the field `config`.
    """
    if not isinstance(inputs, Steered):
        return learner, inputs
    config = copy.copy(learner.config)  # type: ignore[attr-defined]
    for name, value in inputs.options.items():
        object.__setattr__(config, name, value)  # traced, so the checks of the options cannot run again
    return dataclasses.replace(learner, config=config), inputs.env_params  # type: ignore[type-var]
