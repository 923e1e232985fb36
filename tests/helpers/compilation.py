"""Compile quickly, where the arithmetic of the simulator is not what a test is about."""

from __future__ import annotations

import contextlib
import functools
import os

import jax
import pytest
from jax._src import compiler

OLDER_EMITTERS = {"xla_cpu_use_fusion_emitters": False}  # compile in a third of the time


@functools.cache
def quick_options():
    """Options for XLA, without those that it does not know. Starts JAX's backend, which reads XLA_FLAGS only then."""
    try:
        jax.jit(lambda x: x).lower(0).compile(OLDER_EMITTERS)
    except jax.errors.JaxRuntimeError:
        return {}
    return OLDER_EMITTERS


def quick_environment():
    """Environment variables with which a process compiles quickly."""
    flags = [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={value}" for name, value in quick_options().items())]
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join(flags).strip()}


def quick_jit(function):
    """Compile quickly. Layouts keep their bits, as a test of the scenarios shows."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0} | quick_options())


@contextlib.contextmanager
def quick_compilation():
    """Let this process and those that it starts compile with few optimisations, in a quarter of the time."""
    get_options = getattr(compiler, "get_compile_options", None)  # JAX has no setting for the options of all functions

    def get_quick_options(*args, env_options_overrides=None, **keywords):
        return get_options(*args, env_options_overrides=quick_options() | (env_options_overrides or {}), **keywords)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in quick_environment().items():
            patch.setenv(name, value)
        patch.setattr(compiler, "get_compile_options", get_quick_options, raising=False)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
