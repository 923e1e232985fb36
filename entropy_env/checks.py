"""A table of the allowed range of every number that the simulator takes, and checks that name what is out of range."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

NEVER = 2**31 - 1  # for `max_steps`: no time limit
PLAIN = int | float | np.integer | np.floating  # types that are always a single number


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included. Unless `whole`, a number is rounded to float32 first."""

    least: float
    most: float
    unit: str = ""
    whole: bool = False
    below: bool = False  # `most` itself is not allowed

    @functools.cached_property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number allowed."""
        if self.whole:
            return self.least, self.most
        most = np.float32(self.most)
        return float(np.float32(self.least)), float(np.nextafter(most, np.float32(0)) if self.below else most)

    def holds(self, numbers: np.ndarray) -> np.ndarray:
        """Return which numbers are in the range, a bool array of their shape. numbers: float64."""
        least, most = self.limits
        if self.whole:
            return (numbers >= least) & (numbers <= most) & (numbers == np.rint(numbers))
        used = _as_float32(numbers)
        return (used >= least) & (used <= most)

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.least} to {self.most}"
        span = f"at least {self.least:g} and below" if self.below else f"from {self.least:g} to"
        return f"{span} {self.most:g} {self.unit}".rstrip()


ARENA = Range(0.001, 1000, "m")  # at 1,000 m float32 still resolves a tenth of a millimetre
TOP_SPEED = Range(1e-9, 100, "m/s")
PLACE = Range(-2000, 2000, "m")  # coordinates on a map; bodies may extend beyond the arena
LENGTH = Range(1e-6, 2000, "m")  # size of a body
HEADING = Range(-1e6, 1e6, "rad")
COUNT = Range(0, 2**31 - 1, whole=True)  # an int32
SHARE = Range(0, 1)
WEIGHT = Range(-1e6, 1e6)
PRICE = Range(0, 1e6)  # of a word

SPEC = {
    "num_agents": Range(1, 1_000_000, whole=True),
    "num_rays": Range(1, 4096, whole=True),
    "substeps": Range(1, 1000, whole=True),
    "num_goals": Range(1, 10_000, whole=True),
    "num_walls": Range(0, 1_000_000, whole=True),
    "num_boxes": Range(0, 1_000_000, whole=True),
    "num_discs": Range(0, 1_000_000, whole=True),
    "num_corners": Range(0, 1_000_000, whole=True),
    "disc_corners": Range(8, 10_000, whole=True),
    "comm_neighbours": Range(0, 1000, whole=True),
    "comm_history": Range(0, 1000, whole=True),
}
BATCH = {"num_envs": Range(1, 1_000_000, whole=True), "num_threads": Range(1, 4096, whole=True)}
DIFFICULTY = Range(1, 4, whole=True)
PARAMS = {
    "dt": Range(1e-4, 10, "s"),
    "max_steps": Range(1, NEVER, whole=True),
    "difficulty": DIFFICULTY,
    "agent_radius": Range(0.001, 10, "m"),
    "goal_radius": Range(1e-6, 1000, "m"),
    "wall_half_thickness": Range(0, 10, "m"),
    "max_wheel_speed": TOP_SPEED,
    "wheel_base": Range(0.001, 100, "m"),
    "motor_tau": Range(0, 1000, "s"),
    "motor_force": Range(1e-9, 1e6, "N"),
    "mass": Range(1e-6, 1e6, "kg"),
    "damping": Range(1e-30, 1, below=True),  # at 1 the speed would have no limit
    "restitution": SHARE,
    "wall_restitution": SHARE,
    "friction": Range(0, 100),
    "wall_friction": Range(0, 100),
    "lidar_range": Range(0.001, 10_000, "m"),
    "goal_scale": Range(0.001, 1e6, "m"),
    "comm_range": Range(0.001, 10_000, "m"),
    "comm_drop": SHARE,
    "comm_noise": Range(0, 1000),
    "comm_delay": Range(0, 1000, "steps", whole=True),
    "comm_rate": Range(0, 1e6, "words/s"),
    "reward_team": SHARE,
}
LAYOUT = {  # one range for each column of the last axis, or a single range for all columns
    "size": (ARENA,),
    "walls": (PLACE,),
    "boxes": (PLACE, PLACE, LENGTH, LENGTH),
    "discs": (PLACE, PLACE, LENGTH),
    "spawns": (PLACE, PLACE, HEADING),
    "goals": (PLACE,),
}
MASKS = {"walls": "wall_mask", "boxes": "box_mask", "discs": "disc_mask"}
STATE = {
    "position": PLACE,
    "heading": HEADING,
    "wheel_speed": Range(-1000, 1000, "m/s"),
    "velocity": Range(-10_000, 10_000, "m/s"),
    "angular_velocity": Range(-1e6, 1e6, "rad/s"),
    "penetration": Range(-10, 10, "m"),
    "goals_reached": COUNT,
    "step": COUNT,
}
WORDS = {
    "token": (Range(0, 31, whole=True),),
    "payload": (Range(-1, 1),),
    "pose": (PLACE, PLACE, HEADING),
    "to": (Range(-1, 1_000_000, whole=True),),
    "credit": (SHARE,),
}


def check_number(name: str, value: Any, *allowed: Range, where: np.ndarray | bool = True) -> None:
    """Check that a number, or every number of an array, is in its range.

    allowed: one range, or one for each column of the last axis. where: the elements to check, broadcast to the shape of
    the value. Raises ValueError naming the number and the range, TypeError if the value is not numeric.
    """
    given = _as_numbers(value)
    if given is None:
        raise TypeError(f"{name}={value!r} must be a number")
    columns = given if len(allowed) == 1 else np.moveaxis(given, -1, 0)
    held = allowed[0].holds(given) if len(allowed) == 1 else np.stack(
        [each.holds(column) for each, column in zip(allowed, columns, strict=True)], axis=-1
    )  # fmt: skip
    wrong = np.argwhere(~held & where)
    if len(wrong):
        place = tuple(wrong[0].tolist())
        which = allowed[0 if len(allowed) == 1 else place[-1]]
        shown = f"{name}{list(place)}={given[place]:.10g}" if place else f"{name}={value!r}"
        raise ValueError(f"{shown} must be {which}")


def as_time_limit(value: str) -> int:
    """Return NEVER for "never". Raises ValueError for any other text."""
    if value != "never":
        raise ValueError(f"max_steps={value!r} must be {PARAMS['max_steps']}, or 'never'")
    return NEVER


def check_params(values: Mapping[str, Any]) -> None:
    """Check parameters, given by name, as `check_number` does. Traced values are not checked."""
    if all(isinstance(value, PLAIN) and type(value) is not bool for value in values.values()):
        least, most, whole = _limits(tuple(values))
        try:
            given = np.array(list(values.values()), np.float64)
        except OverflowError:  # an integer beyond all floats
            given = np.full(len(least), np.nan)
        used = np.where(whole, given, _as_float32(given))
        if np.all((used >= least) & (used <= most) & ~(whole & (given != np.rint(given)))):
            return
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer):
            check_number(name, value, range_of(name))


def range_of(param: str) -> Range:
    """Of a parameter by name. Most weights of reward terms, built-in or not, share one."""
    return PRICE if param == "reward_bandwidth" else PARAMS.get(param, WEIGHT)


def top_speed(params: Mapping[str, Any], drive: str, substeps: int) -> np.ndarray | np.floating:
    """Compute the top speed of a robot, m/s, in NumPy.

    params: all parameters by name, none traced. Raises ValueError if force, mass and damping together allow more than
    `TOP_SPEED`.
    """
    if drive == "kinematic":
        return np.asarray(params["max_wheel_speed"], np.float64)
    used = {name: params[name] for name in ("motor_force", "mass", "damping", "dt")}
    force, mass, damping, dt = (np.asarray(value, np.float32).astype(np.float64) for value in used.values())
    speeds = 2 * force / mass * dt / substeps / -np.expm1(dt * np.log(damping))
    speed = np.max(speeds)
    if speed > TOP_SPEED.most:
        given = ", ".join(f"{name}={value!r}" for name, value in used.items())
        raise ValueError(
            f"robots would get as fast as {speed:g} m/s with {given}: the top speed must be at most {TOP_SPEED.most:g} "
            f"{TOP_SPEED.unit}"
        )
    return speeds


def check_layout_numbers(layout: Any, named: str = "layout.") -> None:
    """Check that all numbers of a Layout, or of several, are in range. Empty slots are not checked.

    Raises ValueError naming the number. named: what to put before the name of its field.
    """
    for name, allowed in LAYOUT.items():
        array, mask = np.asarray(getattr(layout, name)), MASKS.get(name)
        if mask is None:
            check_number(f"{named}{name}", array, *allowed)
            continue
        present = np.asarray(getattr(layout, mask), bool)
        where = present.reshape(*present.shape, *(1,) * (array.ndim - present.ndim))
        check_number(f"{named}{name}", array, *allowed, where=where)
        _check_beside(f"{named}{name}", np.asarray(layout.size, np.float64), array, where)
        if name == "walls":  # a wall of length 0 is allowed: a round post
            length = np.hypot(*np.moveaxis(np.diff(array.astype(np.float64), axis=-2)[..., 0, :], -1, 0))
            check_number(f"the length of {named}{name}", length, LENGTH, where=present & (length > 0))


def _check_beside(name: str, size: np.ndarray, array: np.ndarray, where: np.ndarray | bool) -> None:
    """Raise ValueError if a body is larger than its arena's longer side, or further than that from the arena's middle.

    The physics bounds its rounding errors by that side. size: (..., 2) m. array: (..., bodies, 2, 2) walls,
    (..., bodies, 4) boxes or (..., bodies, 3) discs. where: as in `check_number`, with as many axes as `array`.
    """
    size = size.reshape(*size.shape[:-1], *(1,) * (array.ndim - size.ndim), 2)
    side, middle = size.max(axis=-1, keepdims=True), size / 2
    points, lengths = array[..., :2], array[..., 2:] if array.shape[-1] > 2 else np.zeros(1)
    wrong = np.any(np.abs(points - middle) > side, axis=-1) | np.any(lengths > side, axis=-1)
    for place in np.argwhere(wrong & np.all(where, axis=-1))[:1].tolist():
        body, longer = array[tuple(place)].tolist(), np.broadcast_to(side[..., 0], wrong.shape)[tuple(place)]
        raise ValueError(
            f"{name}{place}={body} must be no further from the middle of the arena, and no larger, than the arena's longer "
            f"side, {longer:g} m"
        )


def check_inside(name: str, position: np.ndarray, size: np.ndarray, where: np.ndarray | bool = True) -> None:
    """Raise ValueError if a position is outside its arena.

    position: (..., 2) m. size: m, broadcast to it. where: (...) bool, the positions to check.
    """
    outside = np.any((position < 0) | (position > size), axis=-1) & where
    for place in np.argwhere(outside)[:1].tolist():
        arena = np.broadcast_to(size, position.shape)[tuple(place)].tolist()
        raise ValueError(f"{name}{place}={position[tuple(place)].tolist()} is not inside the arena of {arena} m")


def as_count(name: str, value: Any, allowed: Range) -> int:
    """Convert an integer of any type, also NumPy's, to `int`. Raises ValueError if it is no integer or out of range."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool) or not allowed.least <= count <= allowed.most:
        raise ValueError(f"{name}={value!r} must be {allowed}")
    return count


def as_seed(seed: Any) -> Any:
    """Convert a NumPy integer, which Gymnasium refuses, to `int`. Return anything else unchanged."""
    return int(seed) if isinstance(seed, np.integer) else seed


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, or the list of all."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f": choose from {', '.join(known)}"


def as_action(what: str, action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert an action to float32. May return the same array.

    Raises ValueError, which begins with `what`, if it is not an array of numbers or has another shape.
    """
    try:
        array = np.asarray(action)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.array(None)
    usual = array.dtype == np.float32
    if not usual and not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise ValueError(f"{what} is no array of numbers: {action!r}, expected shape {shape}")
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")
    if usual:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _as_numbers(value: Any) -> np.ndarray | None:
    """Convert to float64. Return None if the value is not numeric."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        return None
    if array.dtype.kind == "b":
        return None
    if np.can_cast(array.dtype, np.float64, "same_kind"):
        return array.astype(np.float64)
    return np.array(np.inf if value > 0 else -np.inf) if isinstance(value, int) else None  # beyond 64 bits


def _as_float32(numbers: np.ndarray) -> np.ndarray:
    """Round to float32, as the simulator does, and return float64."""
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(np.float32).astype(np.float64)


@functools.cache
def _limits(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the smallest and the largest allowed values of parameters, and which of them are whole numbers."""
    rows = [(*range_of(name).limits, range_of(name).whole) for name in names]
    least, most, whole = (np.array(column) for column in zip(*rows, strict=True))
    return least, most, whole
