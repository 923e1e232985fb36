"""Keep compiled functions on disk from one process to the next."""

from __future__ import annotations

import warnings

import jax

from entropy_env.cache import make_writable, user_cache


def cache_compilations() -> None:
    """Turn on JAX's persistent compilation cache, in the user's cache folder unless JAX has been given another.

    If the folder cannot be written, warn and go on without a cache.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            jax.config.update("jax_compilation_cache_dir", str(make_writable(user_cache("jax"))))
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home folder
            warnings.warn(
                f"compiled code cannot be kept ({error}), so every process compiles anew: set "
                "JAX_COMPILATION_CACHE_DIR to a folder that can be written",
                stacklevel=2,
            )
