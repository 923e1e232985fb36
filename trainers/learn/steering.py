"""Inputs that also set options of a learner, so that these may change between updates without a recompile."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct


class Steered(struct.PyTreeNode):
    """The parameters of the environment, and options of the learner by name, () float32 each."""

    env_params: Any
    options: dict[str, jax.Array]
