"""Reward terms. The reward is their sum, each times its weight, the parameter `reward_<name>`.

A term is a function of what a step did to one agent, an `Outcome`, and of the parameters. Both engines compile it, so
it may use only what both compilers take: arithmetic, comparisons and `abs`. Instead of `if`, `math` or `jnp` write
`(outcome.distance < 1) * 0.5` and `x**0.5`. Two comparisons may not be added, because JAX takes the sum for `or`.

Known limit: Numba compares with a literal in float64 and JAX in float32, so a command that equals a threshold such as
0.8 may fall on either side of it.

A new built-in term is a function, its name in TERMS and its default weight in `Weights`, all in this file. Users hand
in their own: `Swarm(reward_terms={"smooth": smooth})`, weighted by `make_params(reward_smooth=0.1)`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entropy_env import checks


class Outcome(NamedTuple):
    """What one step did to one agent. The goal is the one it had when the step began. Every field is a float32."""

    distance_before: Any  # m to the goal
    distance: Any  # m to the goal
    way_before: Any  # m to the goal along the shortest way around walls; without the option `geodesic` the distance
    way: Any  # m to the goal along that way; the same as before the step if there is no way
    reached: Any  # 1 if the goal is reached, else 0
    collision: Any  # 1 if the agent was in contact during the step, else 0
    left: Any  # command of the left motor, in [-1, 1]
    right: Any  # command of the right motor, in [-1, 1]
    spoken: Any  # 1 if the agent said a word, else 0


Term = Callable[[Outcome, Any], Any]
NamedTerms = tuple[tuple[str, Term], ...]


def distance(outcome: Outcome, params: Any) -> Any:
    """Minus the distance to the goal, in units of 10 m."""
    return -outcome.distance / 10


def progress(outcome: Outcome, params: Any) -> Any:
    """Metres gained towards the goal."""
    return outcome.distance_before - outcome.distance


def reached(outcome: Outcome, params: Any) -> Any:
    """1 for arriving."""
    return outcome.reached


def collision(outcome: Outcome, params: Any) -> Any:
    """Minus 1 for a step in contact."""
    return -outcome.collision


def time(outcome: Outcome, params: Any) -> Any:
    """Minus 1 for every step."""
    return -1.0


def geodesic(outcome: Outcome, params: Any) -> Any:
    """Metres gained along the shortest way to the goal. Not in TERMS: only simulators with `geodesic` have it."""
    return outcome.way_before - outcome.way


def bandwidth(outcome: Outcome, params: Any) -> Any:
    """Minus 1 for a spoken word. Not in TERMS: only simulators whose robots talk have it."""
    return -outcome.spoken


TERMS: dict[str, Term] = {
    "distance": distance,
    "progress": progress,
    "reached": reached,
    "collision": collision,
    "time": time,
}
BUILT_IN = tuple(TERMS.items())  # what the Numba engine compiles


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weight of every built-in term. The defaults are the preset `shaped`."""

    reward_distance: jax.Array | float = 0.0
    reward_progress: jax.Array | float = 1.0
    reward_reached: jax.Array | float = 1.0
    reward_collision: jax.Array | float = 0.05
    reward_time: jax.Array | float = 0.005


PRESETS: dict[str, dict[str, float]] = {  # the weights that are not 0
    "shaped": {name: getattr(Weights, f"reward_{name}") for name in TERMS},
    "v3": {"distance": 1.0, "reached": 10.0},
}
RENAMED = {"seed": "v3"}


def current_name(reward: str | None) -> str | None:
    """Return the present name of a preset, which may have another in older files."""
    return RENAMED.get(reward, reward) if reward else reward


def preset_weights(reward: str) -> dict[str, float]:
    """Return the weights of a preset, as parameters of every built-in term. Raises ValueError for an unknown preset."""
    if reward in RENAMED:
        warnings.warn(f"reward={reward!r} is now called {RENAMED[reward]!r}", FutureWarning, stacklevel=3)
        reward = RENAMED[reward]
    if reward not in PRESETS:
        raise ValueError(f"unknown reward {reward!r}: choose from {', '.join(PRESETS)}")
    return {f"reward_{name}": PRESETS[reward].get(name, 0.0) for name in TERMS}


def as_terms(given: Mapping[str, Term | str] | NamedTerms) -> NamedTerms:
    """Return a user's own terms with their names, sorted by name. given: functions, or their import paths, by name.

    Raises ValueError for a name that cannot be used and for a path that leads nowhere, TypeError for what is not a
    function. Both name the term.
    """
    pairs = isinstance(given, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)
    if not isinstance(given, Mapping) and not pairs:
        raise TypeError(f"reward_terms={given!r} must be a dict of functions by name")
    terms = dict(given)
    for name in terms:
        if not isinstance(name, str) or not name.isidentifier() or name == "terms":  # the keyword reward_terms
            raise ValueError(f"reward_terms: {name!r} must be a name that makes a keyword, reward_<name>")
        if name in (*TERMS, geodesic.__name__, bandwidth.__name__, "team"):
            raise ValueError(
                f"reward_terms: {name!r} is a built-in term, weighted by reward_{name}: choose another name"
            )
    return tuple(sorted((name, resolve_term(term, name)) for name, term in terms.items()))


def resolve_term(term: Term | str, name: str = "") -> Term:
    """Return the function at an import path "package.module:function", or the given function itself.

    name: the term's, for errors. Raises ValueError if the path leads nowhere, TypeError if what is there, or was given,
    is not a function.
    """
    found: Any = term
    called = f"reward term {name!r}" if name else "a reward term"
    if isinstance(term, str):
        module, _, qualname = term.partition(":")
        if not module or not qualname:
            raise ValueError(f'{called}: {term!r} is no import path, "package.module:function"')
        try:
            found = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            hint = "; is its folder on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
            raise ValueError(f"{called} is not at {term!r}: {error}{hint}") from error
    if not inspect.isfunction(found):
        raise TypeError(
            f"{called} must be a plain Python function (outcome, params), or its import path, not {found!r}"
        )
    if isinstance(term, str):
        _given_paths[found] = term
    return found


_given_paths: weakref.WeakKeyDictionary[Term, str] = weakref.WeakKeyDictionary()


def import_path(term: Term) -> str:
    """Return the import path of a term, "package.module:function", which configuration files and checkpoints keep.

    Raises ValueError if there is none: for a lambda, a function made in a function, or one of the main script.
    """
    path = _given_paths.get(term, f"{term.__module__}:{term.__qualname__}")
    try:
        found = None if term.__module__ == "__main__" else resolve_term(path)
    except (ValueError, TypeError):
        found = None
    if found is not term:
        raise ValueError(
            f"the reward term {term.__qualname__} ({place_of(term)}) has no import path, so it cannot be written down: "
            "define it at the top level of a module that can be imported"
        )
    return path


def place_of(term: Term, error: BaseException | None = None) -> str:
    """Return the file of a term, and its first line, or with an error the last line in that file that led to it."""
    code = term.__code__
    frames = traceback.extract_tb(error.__traceback__) if error else []
    lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
    return f"{code.co_filename}:{lines[-1] if lines else code.co_firstlineno}"


def check_weights(terms: NamedTerms, weights: Mapping[str, Any]) -> None:
    """Raise ValueError if one of a user's own terms has no weight, or a weight has no term."""
    names = [name for name, _ in terms]
    for name in weights:
        if name not in names:
            raise ValueError(f"the weight reward_{name} has no reward term{checks.suggest(name, names or TERMS)}")
    for name in names:
        if name not in weights:
            raise ValueError(f"reward term {name!r} has no weight: give reward_{name}=...")


class _ComparisonsAddedError(TypeError):
    """A term adds two comparisons: JAX would take that for `or`, Numba for a count."""


class _Operand:
    """Stands for a number, or for the result of a comparison, in a trial of a term."""

    def __init__(self, comparison: bool = False) -> None:
        self.comparison = comparison

    def _number(self, *others: Any) -> _Operand:
        return _Operand()

    def _compare(self, other: Any) -> _Operand:
        return _Operand(comparison=True)

    def _both(self, other: Any) -> _Operand:
        return _Operand(self.comparison and getattr(other, "comparison", isinstance(other, bool)))

    def _add(self, other: Any) -> _Operand:
        if self._both(other).comparison:
            raise _ComparisonsAddedError(
                "two comparisons are added, which JAX takes for `or`: write 1.0 * (a < b) for each"
            )
        return _Operand()

    __add__ = __radd__ = _add
    __lt__ = __le__ = __gt__ = __ge__ = _compare
    __eq__ = __ne__ = _compare  # type: ignore[assignment]
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _both
    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _number
    __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = _number
    __hash__ = None  # type: ignore[assignment]


class _Params:
    """Stands for the parameters."""

    def __getattr__(self, name: str) -> _Operand:
        return _Operand()


def _check_sums(name: str, term: Term) -> None:
    """Raise ValueError if a term adds comparisons. A term that cannot be tried so is left to the compilers."""
    try:
        term(Outcome(*(_Operand() for _ in Outcome._fields)), _Params())
    except _ComparisonsAddedError as error:
        raise ValueError(f"reward term {name!r} ({place_of(term, error)}): {error}") from error
    except Exception:  # noqa: BLE001, S110 - such as a function of JAX on an operand: the compilers judge it
        pass


def check_term(name: str, term: Term, params: Any) -> None:
    """Raise ValueError, with file and line, if JAX cannot compile a user's own term, if it adds comparisons, or if it does
    not give a number.

    params: SwarmParams of arrays, or of their shapes and types.
    """
    _check_sums(name, term)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    outcome = Outcome(**dict.fromkeys(Outcome._fields, number))
    try:
        result = jax.eval_shape(term, outcome, params)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"reward term {name!r} ({place_of(term, error)}) cannot be compiled by JAX: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(result, jax.ShapeDtypeStruct) or result.shape or result.dtype.kind not in "biuf":
        raise ValueError(f"reward term {name!r} ({place_of(term)}) must give one number, not {result!r}")


def shared_in_team(reward: jax.Array, acted: jax.Array, team: jax.Array | None, share: jax.Array) -> jax.Array:
    """Return rewards (N,) of which a share, () from 0 to 1, is the mean over all of the team (N,) int32 that acted.

    Without teams all are in one.
    """
    team = jnp.zeros(len(reward), jnp.int32) if team is None else team
    mates = ((team[:, None] == team[None]) & acted[None]).astype(jnp.float32)
    mean = jnp.sum(mates * reward[None], axis=1) / jnp.maximum(jnp.sum(mates, axis=1), 1.0)
    return jnp.where(acted, (1 - share) * reward + share * mean, 0.0)


def weighted_terms(outcome: Outcome, params: Any, terms: Iterable[tuple[str, Term]]) -> dict[str, jax.Array]:
    """Return what every term adds to the reward, (N,) each. outcome: of N agents. params: SwarmParams."""

    def value_of(term: Term, one: Outcome) -> jax.Array:
        return jnp.asarray(term(one, params), jnp.float32)

    return {name: params.weight(name) * jax.vmap(functools.partial(value_of, term))(outcome) for name, term in terms}
