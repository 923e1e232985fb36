"""Maps given by hand."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from entropy_env import checks
from entropy_env.scenarios.base import Scenario, corners_for
from entropy_env.types import NO_KEY, Layout, SwarmParams, SwarmSpec

PAIRS = 1_000_000  # pairs of a point and a body that are compared at once, which bounds the memory
MOST_TEAMS = 2**24  # up to which float32 tells whole numbers apart
BODIES = (("walls", "wall_mask"), ("boxes", "box_mask"), ("discs", "disc_mask"))


class Custom(Scenario):
    """Maps given by hand instead of drawn, for any number of robots. A world that resets by itself keeps its map."""

    name: ClassVar[str] = "custom"
    draws: ClassVar[bool] = False

    def capacity(self, level: int, params: SwarmParams) -> int:
        return sys.maxsize

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        raise RuntimeError("maps given by hand are not drawn: use reset_to with a layout")


def make_layout(
    size: ArrayLike,
    *,
    spawns: ArrayLike,
    goals: ArrayLike,
    walls: ArrayLike = (),
    boxes: ArrayLike = (),
    discs: ArrayLike = (),
    team: ArrayLike | None = None,
) -> Layout:
    """Make a map from plain numbers, in metres and radians.

    size: (2,) width and height. walls: (W, 2, 2) end points. boxes: (B, 4) centre x, y, half width, half height.
    discs: (D, 3) centre x, y, radius. spawns: (N, 3) poses, or (N, 2) positions heading along x. goals: (N, 2).
    Spawns and goals may also be (N, G, ...): each agent uses its G poses and goals in turn. If only one of the two has
    G entries, the other is repeated.
    team: (N,) whole numbers from 0, who belongs together where teams matter; by default all do.
    Raises ValueError naming the argument whose shape or values are wrong.
    """
    size = _numbers("size", size, (2,))
    spawns, goals = _per_agent("spawns", spawns, (2, 3)), _per_agent("goals", goals, (2,))
    if spawns.shape[-1] == 2:
        spawns = np.concatenate([spawns, np.zeros_like(spawns[..., :1])], axis=-1)
    if len(spawns) != len(goals):
        raise ValueError(f"spawns are for {len(spawns)} agents, goals for {len(goals)}")
    rows = max(spawns.shape[1], goals.shape[1])
    if {spawns.shape[1], goals.shape[1]} - {1, rows}:
        raise ValueError(f"spawns have {spawns.shape[1]} poses an agent, goals {goals.shape[1]}: give one or as many")
    bodies = {
        "walls": _numbers("walls", walls, (None, 2, 2)),
        "boxes": _numbers("boxes", boxes, (None, 4)),
        "discs": _numbers("discs", discs, (None, 3)),
    }
    fields: dict[str, Any] = {
        "size": size,
        **bodies,
        **{mask: np.ones(len(bodies[name]), bool) for name, mask in BODIES},
        "spawns": np.repeat(spawns, rows // spawns.shape[1], axis=1),
        "goals": np.repeat(goals, rows // goals.shape[1], axis=1),
        "valid": np.array(True),
        "key": np.full(2, NO_KEY, np.uint32),
        "team": None if team is None else _teams(team, len(spawns)),
    }
    layout = Layout(**fields)
    checks.check_layout_numbers(layout, "")
    return layout


def spec_for(layout: Layout, spec: SwarmSpec) -> SwarmSpec:
    """Return the specification with at least as many slots as the layout needs, and as many goals per agent as it has.

    spec: a resolved one, without None. Raises ValueError if the layout is for another number of agents, or if
    `next_goal` would have fewer than 2 goals per agent.
    """
    num_agents, num_goals = layout.goals.shape[:2]
    if spec.on_goal == "next_goal" and num_goals < 2:
        raise ValueError("on_goal='next_goal' needs at least 2 goals for each agent of a layout, (N, G, 2)")
    if num_agents != spec.num_agents:
        raise ValueError(f"the layout has spawns for {num_agents} agents, the environment has {spec.num_agents}")
    slots: dict[str, Any] = {
        f"num_{name}": max(getattr(spec, f"num_{name}"), len(getattr(layout, name))) for name, _ in BODIES
    }
    radius = np.max(np.asarray(layout.discs)[np.asarray(layout.disc_mask, bool), 2], initial=0.0)
    corners: dict[str, Any] = corners_for(slots, float(radius)) if spec.geodesic else {}
    return dataclasses.replace(spec, num_goals=num_goals, **slots, **corners)


def pad_layout(layout: Layout, spec: SwarmSpec) -> Layout:
    """Return the same map with as many slots as the specification has, and with teams if it has them."""
    padded: dict[str, Any] = {}
    for name, mask in BODIES:
        bodies = np.asarray(getattr(layout, name), np.float32)
        free = getattr(spec, f"num_{name}") - len(bodies)
        padded[name] = np.concatenate([bodies, np.zeros((free, *bodies.shape[1:]), np.float32)])
        padded[mask] = np.concatenate([np.asarray(getattr(layout, mask)), np.zeros(free, bool)])
    team = np.zeros(spec.num_agents, np.int32) if layout.team is None else np.asarray(layout.team)
    padded["team"] = team if spec.teams else None
    return dataclasses.replace(layout, **padded)


def check_layout(layout: Layout, params: SwarmParams) -> None:
    """Check that every agent of a layout can start, and can reach its goals.

    Raises ValueError naming a number that is out of range, an agent whose spawn overlaps a wall or another agent by any
    amount, or an agent whose goal cannot be reached. Touching is allowed. Gaps are computed in float64 from the float32
    numbers.
    """
    checks.check_layout_numbers(layout)
    spawns, goals, size = (np.asarray(each, np.float64) for each in (layout.spawns, layout.goals, layout.size))
    radius, num_goals = _exact(params.agent_radius), goals.shape[1]
    points = spawns[..., :2].reshape(-1, 2)
    border = np.min(np.minimum(points, size - points), axis=-1) - radius
    depth, body = _nearest_body(points, layout, params)
    for row in np.flatnonzero(np.minimum(border, depth) < 0):
        pose = f"agent_{row // num_goals}: its spawn {_shown(points[row])}"
        if border[row] < 0:
            raise ValueError(f"{pose} is not inside the arena of {_shown(size)} m: {-border[row]:.3g} m out")
        raise ValueError(f"{pose} overlaps {_body_name(layout, body[row])} by {-depth[row]:.3g} m")

    starts = spawns[:, 0, :2]
    for one, other, gap in sorted(_overlaps(starts, 2 * radius)):
        raise ValueError(
            f"agent_{other}: its spawn {_shown(starts[other])} overlaps agent_{one}'s at {_shown(starts[one])} by "
            f"{-gap:.3g} m"
        )
    outside = np.argwhere(np.any((goals < 0) | (goals > size), axis=-1))
    for agent, turn in outside:
        raise ValueError(f"agent_{agent}: its goal {_shown(goals[agent, turn])} is not inside the arena")
    depth, body = _nearest_body(goals.reshape(-1, 2), layout, params)
    for row in np.flatnonzero(depth < -(radius + _exact(params.goal_radius))):
        goal, name = _shown(goals.reshape(-1, 2)[row]), _body_name(layout, body[row])
        raise ValueError(f"agent_{row // num_goals}: its goal {goal} is too deep in {name} to be reached")


def _exact(value: Any) -> float:
    """Return a parameter rounded to float32, as the simulator uses it."""
    return float(np.float32(value))


def _shown(numbers: np.ndarray) -> list[float]:
    """Return numbers as a user would write them, without the digits that float32 adds."""
    return [float(f"{number:.7g}") for number in numbers]


def _nearest_body(points: np.ndarray, layout: Layout, params: SwarmParams) -> tuple[np.ndarray, np.ndarray]:
    """Return the gap (P,) m from robots at points (P, 2) to their nearest wall, box or disc, and its index (P,).

    A negative gap is an overlap. Empty slots are infinitely far away.
    """
    walls, boxes, discs = (np.asarray(getattr(layout, name), np.float64) for name, _ in BODIES)
    there = np.concatenate([np.asarray(getattr(layout, mask), bool) for _, mask in BODIES])
    if not there.any():
        return np.full(len(points), np.inf), np.zeros(len(points), int)
    thick, radius = _exact(params.wall_half_thickness), _exact(params.agent_radius)
    gaps = []
    for some in np.array_split(points[:, None], 1 + len(points) * len(there) // PAIRS):
        along = walls[:, 1] - walls[:, 0]
        square = np.maximum(np.sum(along * along, axis=-1), np.finfo(np.float64).tiny)
        share = np.clip(np.sum((some - walls[:, 0]) * along, axis=-1) / square, 0, 1)
        to_wall = _length(some - walls[:, 0] - share[..., None] * along) - thick
        over = np.abs(some - boxes[:, :2]) - boxes[:, 2:]
        to_box = _length(np.maximum(over, 0)) + np.minimum(np.max(over, axis=-1), 0)
        to_disc = _length(some - discs[:, :2]) - discs[:, 2]
        gaps.append(np.where(there, np.concatenate([to_wall, to_box, to_disc], axis=-1), np.inf))
    gap = np.concatenate(gaps) - radius
    return gap.min(axis=-1), gap.argmin(axis=-1)


def _overlaps(points: np.ndarray, apart: float) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of points (P, 2) that are less than `apart` m apart: the lower index, the higher one, the gap.

    The gap, m, is the distance minus `apart`, so it is negative.
    """
    order = np.argsort(points[:, 0])
    places = points[order]
    for k in range(1, len(places)):  # compare each point with the k-th after it along x, until none of these are close
        near = places[k:, 0] - places[:-k, 0] < apart
        if not near.any():
            return
        gap = _length(places[k:] - places[:-k]) - apart
        for i in np.flatnonzero(near & (gap < 0)):
            one, other = sorted((int(order[i]), int(order[i + k])))
            yield one, other, float(gap[i])


def _length(vector: np.ndarray) -> np.ndarray:
    return np.hypot(vector[..., 0], vector[..., 1])


def _body_name(layout: Layout, index: int) -> str:
    """Return the name of a fixed body, such as "boxes[3]". index: counts the walls, then the boxes, then the discs."""
    for name, _ in BODIES:
        count = len(getattr(layout, name))
        if index < count:
            return f"{name}[{index}]"
        index -= count
    raise IndexError(index)


def _numbers(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Convert to a float32 array of this shape, in which None allows any length. Raises ValueError for another shape."""
    array = _array(name, values)
    if array.size == 0 and shape[0] is None:
        array = array.reshape(0, *shape[1:])
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected ({expected})")
    return array


def _per_agent(name: str, values: Any, widths: tuple[int, ...]) -> np.ndarray:
    """Convert (N, width) or (N, G, width) to (N, G, width) float32. Raises ValueError for another shape."""
    array = _array(name, values)
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[-1] not in widths:
        width = " or ".join(map(str, widths))
        raise ValueError(f"{name} has shape {array.shape}, expected (agents, {width}) or (agents, goals, {width})")
    return array[:, None] if array.ndim == 2 else array


def _teams(team: Any, num_agents: int) -> np.ndarray:
    """Convert to (N,) int32. Raises ValueError for another shape, and for what is not a whole number from 0."""
    array = _array("team", team)
    if array.shape != (num_agents,):
        raise ValueError(f"team has shape {array.shape}, expected ({num_agents},), a number for each agent")
    for agent in np.flatnonzero(~((array >= 0) & (array < MOST_TEAMS) & (array == np.floor(array))))[:1]:
        raise ValueError(f"team[{agent}]={array[agent]:g} must be a whole number from 0 to {MOST_TEAMS - 1}")
    return array.astype(np.int32)


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.array(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {values!r}") from None
    return array
