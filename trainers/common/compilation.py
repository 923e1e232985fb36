"""Compiled functions kept on disk from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_compilations() -> None:
    """Turn on JAX's persistent compilation cache, in the user's cache folder unless JAX is told of another."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "entropy_env" / "jax"))
