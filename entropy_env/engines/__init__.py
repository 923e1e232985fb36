"""The engines that step many worlds from Python, by name, and the choice between them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from entropy_env import checks

if TYPE_CHECKING:
    from entropy_env.engines.interface import Engine
    from entropy_env.env import Swarm
    from entropy_env.types import SwarmParams, SwarmSpec

EngineName = str  # a key of ENGINES, or "auto"
ENGINES: dict[str, str | Callable[..., Engine]] = {  # a class, or "module:class" to be imported when asked for
    "numba": "entropy_env.engines.numba_engine.engine:NumbaEngine",
    "jax": "entropy_env.engines.jax_engine:JaxEngine",
}


def make_engine(
    env: Swarm,
    num_envs: int,
    params: SwarmParams | None = None,
    engine: EngineName = "auto",
    autoreset: bool = True,
    num_threads: int | None = None,
) -> Engine:
    """Make worlds of a simulator that are stepped from Python.

    params: from `env.make_params()`, which is also the default.
    engine: a key of ENGINES, to which you may add your own. `auto` takes Numba's on a CPU, if Numba works there, and JAX's
    on an accelerator.
    num_threads: threads of the Numba engine. None: NUMBA_NUM_THREADS, or else OMP_NUM_THREADS, or else all cores.
    Raises ValueError for an unknown engine or a number below 1, RuntimeError if Numba is asked for and does not work.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"{engine=} must be one of {', '.join(('auto', *ENGINES))}")
    num_envs = checks.as_count("num_envs", num_envs, checks.BATCH["num_envs"])
    if num_threads is not None:
        num_threads = checks.as_count("num_threads", num_threads, checks.BATCH["num_threads"])
    params = env.resolve_params() if params is None else params
    if engine == "auto":
        engine = "numba" if on_cpu() and _numba_works(env.spec, required=False) else "jax"
    elif engine == "numba":
        _numba_works(env.spec, required=True)
    return _find(ENGINES[engine])(env, num_envs, params, autoreset, num_threads)


def _find(engine: str | Callable[..., Engine]) -> Callable[..., Engine]:
    if not isinstance(engine, str):
        return engine
    module, name = engine.split(":")
    return getattr(importlib.import_module(module), name)


def on_cpu() -> bool:
    """Whether JAX computes on a CPU, found out without starting a device where none but the CPU can be meant."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        return True
    return jax.default_backend() == "cpu"


def _numba_works(spec: SwarmSpec, required: bool) -> bool:
    """Load the compiled step, compiling it the first time. Where that fails, a warning, or RuntimeError if required."""
    try:
        from entropy_env.engines.numba_engine.arrays import is_social
        from entropy_env.engines.numba_engine.kernels import load_kernels

        load_kernels(is_social(spec))
    except Warning:  # where warnings are errors
        raise
    except Exception as error:  # whatever an installation of Numba and LLVM can do wrong
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not work here ({error!r})"
        advice = "pip install --upgrade numba, or choose engine='jax'"
        if required:
            raise RuntimeError(f"engine='numba', but Numba {reason}: {advice}") from error
        warnings.warn(f"Numba {reason}, so the slower JAX engine steps the worlds: {advice}", stacklevel=3)
        return False
    return True
