"""Compile this engine's functions, and keep the machine code on disk.

Numba keeps the machine code of a function under the name and date of that function's file. It would go on using it
after a change in another file, whose functions it calls. So the cache folder is named after the text of all these files.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

from entropy_env.cache import make_writable, user_cache

config: Any = numba_config
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "_nrt": False,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp"},
}
# `_nrt`: without Numba's runtime a kernel cannot allocate, and does not count references, which took most of its time

# Other files of the package that machine code depends on: numbers, formulas, the order of a table.
COMPILED = (
    "physics/contacts.py",
    "physics/force.py",
    "types.py",
    "checks.py",
    "observations.py",
    "rewards.py",
    "geodesic.py",
    "comms.py",
)
NOT_COMPILED = {"__init__.py", "engine.py", "kernels.py", "threads.py"}


def inlined(function: Callable) -> Any:
    """Compile a function that kernels call."""
    return numba.njit(forceinline=True, **OPTIONS)(function)


def spliced(function: Callable) -> Any:
    """Compile a function as lines of its caller, not by itself.

    The machine code is the same. It is made sooner if one place alone calls the function, with many arrays.
    """
    return numba.njit(inline="always", **OPTIONS)(function)


def called(function: Callable) -> Any:
    """Compile a function once for all who call it: a long one that most engines never call."""
    return numba.njit(**OPTIONS)(function)


def kernel(function: Callable) -> Any:
    """Compile a function that Python calls, and keep it on disk."""
    folder, _ = cache_folder()
    if folder is None:
        return numba.njit(**OPTIONS)(function)
    before, config.CACHE_DIR = config.CACHE_DIR, folder  # the decorator reads it once
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    finally:
        config.CACHE_DIR = before


@functools.cache
def cache_folder() -> tuple[str | None, str]:
    """Return the folder for compiled code: in NUMBA_CACHE_DIR if that is set, else in the user's cache folder.

    If nothing can be written there, returns None and the reason.
    """
    here = Path(__file__).parent
    package = here.parents[1]
    text = hashlib.sha256()
    files = [path for path in sorted(here.rglob("*.py")) if path.name not in NOT_COMPILED]
    for path in [*files, *(package / name for name in COMPILED)]:
        text.update(path.read_bytes())
    name = f"entropy_env-{text.hexdigest()[:12]}"
    try:
        folder = make_writable(Path(config.CACHE_DIR or user_cache("numba"), name))
    except (OSError, RuntimeError) as error:  # the latter for a user without a home
        return None, (
            f"compiled code cannot be kept ({error}), so every process compiles for some seconds: set NUMBA_CACHE_DIR to "
            "a folder that can be written"
        )
    return str(folder), ""
