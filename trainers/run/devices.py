"""Get JAX ready for a training."""

from __future__ import annotations

import os

from trainers.run.compilation import cache_compilations
from trainers.run.options import RunOptions


def prepare_jax(options: RunOptions) -> None:
    """Do what must come before the first computation: set flags, and turn on the persistent compilation cache."""
    if options.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    cache_compilations()
