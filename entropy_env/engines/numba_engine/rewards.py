"""Reward terms (`entropy_env.rewards`) as machine code.

The built-in ones are part of the kernel that is kept on disk. A user's own are compiled by themselves, and the kernel
calls them at their address. That costs some 0.3 s in every process, where another kernel would cost 15 s. They are not kept
on disk, so an edit of their source, or of a function that they call, always takes effect.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from entropy_env.engines.numba_engine.arrays import PARAMS
from entropy_env.engines.numba_engine.compilation import OPTIONS, inlined, spliced
from entropy_env.rewards import BUILT_IN, TERMS, NamedTerms, Outcome, Term, place_of

OUTCOME = types.NamedUniTuple(types.float32, len(Outcome._fields), Outcome)
ROW = types.Array(types.float32, 1, "C")
GIVEN = OUTCOME, numba.from_dtype(PARAMS), ROW, ROW  # arguments of the functions that `weighing` makes


def weighing(terms: Iterable[Any], first: int = 0) -> Any:
    """Return a compiled function (outcome, params, weights, values) that writes each term's value, times its weight.

    terms: compiled. first: column of the first one.
    """

    @spliced
    def weigh(outcome, p, weights, values):
        pass

    for column, term in enumerate(terms, first):
        weigh = _then(weigh, term, column)
    return weigh


def _then(before: Any, term: Any, column: int) -> Any:
    """Return a compiled function that calls `before`, then writes one more term."""

    @spliced
    def weigh(outcome, p, weights, values):
        before(outcome, p, weights, values)
        values[column] = weights[column] * np.float32(term(outcome, p))  # literals make a float64 of it

    return weigh


weigh_built_in = weighing(inlined(term) for _, term in BUILT_IN)


def check_built_in() -> None:
    """Raise ValueError if TERMS has changed since it was imported: the kernel on disk has the terms of its file."""
    if tuple(TERMS.items()) != BUILT_IN:
        raise ValueError(
            "rewards.TERMS has other terms than those that the Numba engine compiles: hand in your own as "
            "reward_terms={name: function}, edit rewards.py instead of the table, or choose engine='jax'"
        )


@functools.lru_cache(maxsize=64)
def compile_terms(terms: NamedTerms) -> Any:
    """Compile a C function that weighs a user's own terms.

    Raises ValueError, with file and line, for a term that Numba cannot compile.
    """
    weigh = weighing((_compile(name, term) for name, term in terms), len(BUILT_IN))
    return numba.cfunc(types.void(*GIVEN), **OPTIONS)(weigh.py_func)


def _compile(name: str, term: Term) -> Any:
    compiled = inlined(term)
    try:
        compiled.compile(GIVEN[:2])
        result = compiled.overloads[GIVEN[:2]].signature.return_type
        if not isinstance(result, types.Number | types.Boolean):
            raise TypeError(f"it must give one number, not {result}")
    except Exception as error:
        place, lines = getattr(error, "loc", None), str(error).split("\n")
        where = f"{place.filename}:{place.line}" if place else place_of(term)
        reason = next((line for line in lines if line and not line.startswith("Failed in")), "")
        raise ValueError(
            f"reward term {name!r} ({where}) cannot be compiled by Numba: {type(error).__name__}: {reason}; engine='jax' "
            "takes it"
        ) from error
    return compiled


@intrinsic
def call_at(typingctx, address, outcome, p, weights, values):
    """Call the function that `compile_terms` made, at its address."""

    def generate(context, builder, signature, given):
        kinds = [context.get_value_type(kind) for kind in signature.args[1:]]
        function = ir.FunctionType(context.get_value_type(types.void), kinds)
        builder.call(builder.inttoptr(given[0], function.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(address, outcome, p, weights, values), generate
