"""The machine code of a step: compiled, or read from the cache on disk."""

from __future__ import annotations

import functools
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from entropy_env.engines.numba_engine import step
from entropy_env.engines.numba_engine.arrays import empty_swarms, pack_params
from entropy_env.engines.numba_engine.compilation import OPTIONS, cache_folder, config
from entropy_env.engines.numba_engine.step import make_choices
from entropy_env.env import Swarm
from entropy_env.types import SwarmParams, SwarmSpec


class Kernels(NamedTuple):
    """The machine code of `step.run`, `step.start` and `step.copy_rows`, or of `step.run_social` and `step.start_social`.

    Calling them skips Numba's check of the types of forty arrays, which took longer than the step of a small world. So
    arguments must be contiguous, and of exactly the types that `load_kernels` compiles for.
    """

    run: Callable[..., int]
    start: Callable[..., None]
    copy_rows: Callable[..., None]
    types: tuple  # of the first arguments of `run`: Swarms, parameters, actions and Choices


PLAIN = step.run, step.start, step.copy_rows
SOCIAL = step.run_social, step.start_social, step.copy_rows


@functools.cache
def load_kernels(social: bool = False) -> Kernels:
    """Compile the step, or read it from the cache on disk, by running it over no world.

    social: whether robots talk, come in pairs or teams, or are scouts: `arrays.is_social`. The others need less.
    If the cache is damaged or the disk is full, the step is compiled without a cache. A damaged cache is deleted.
    Raises RuntimeError if NUMBA_DISABLE_JIT is set.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    folder, reason = cache_folder()
    kernels = SOCIAL if social else PLAIN
    if folder is None:
        warnings.warn(reason, stacklevel=2)
    elif not any(Path(folder).rglob(f"*.{kernels[0].__name__}-*.nbc")) and sys.stderr.isatty():
        print(f"entropy-env compiles its CPU engine, once: some {30 if social else 15} seconds", file=sys.stderr)
    try:
        return _compile(social, *kernels)
    except Exception as error:
        if folder is None:
            raise
        compiled = _compile(social, *(numba.njit(**OPTIONS)(kernel.py_func) for kernel in kernels))
        if not isinstance(error, OSError):
            shutil.rmtree(folder, ignore_errors=True)
        return compiled


def _compile(social: bool, run: Any, start: Any, copy_rows: Any) -> Kernels:
    spec = Swarm(SwarmSpec(comm_neighbours=1 if social else 0)).spec
    w, nowhere, row = empty_swarms(spec, 1, 1, 1), np.zeros(1, bool), np.zeros((1, 1), np.uint8)
    action = np.zeros((1, spec.num_agents, spec.action_dim), np.float32)
    given = w, pack_params(SwarmParams(), 1), action, make_choices(spec, False)
    run(*given, 0, nowhere, (0, 0), (0, 0), (0, 0))
    start(w, nowhere)
    copy_rows(row, row, nowhere)
    codes = [next(iter(kernel.overloads.values())).entry_point for kernel in (run, start, copy_rows)]
    return Kernels(codes[0], codes[1], codes[2], tuple(map(numba.typeof, given)))
