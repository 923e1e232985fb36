"""Maps given by hand."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from entropy_env.geometry import fixed_bodies
from entropy_env.scenarios.base import Scenario
from entropy_env.types import Layout, SwarmParams, SwarmSpec

TOLERANCE = 1e-5  # m, an overlap this deep passes as contact
BODIES = (("walls", "wall_mask"), ("boxes", "box_mask"), ("discs", "disc_mask"))


class Custom(Scenario):
    """No generator: every episode's map is given by hand, so any number of robots may fit."""

    name = "custom"

    def capacity(self, level: int, params: SwarmParams) -> int:
        return sys.maxsize

    def generate(self, key: jax.Array, spec: SwarmSpec, params: SwarmParams) -> Layout:
        raise RuntimeError("maps given by hand are not drawn: reset with a layout")


def make_layout(
    size: ArrayLike,
    *,
    spawns: ArrayLike,
    goals: ArrayLike,
    walls: ArrayLike = (),
    boxes: ArrayLike = (),
    discs: ArrayLike = (),
) -> Layout:
    """A map from plain numbers, in metres and radians.

    size: (2,) width and height. walls: (W, 2, 2) end points. boxes: (B, 4) centre x, y, half width, half height.
    discs: (D, 3) centre x, y, radius. spawns: (N, 3) poses, or (N, 2) positions heading along x; goals: (N, 2); or
    (N, G, ...) with G of them for each agent to use in turn, where a single one serves for all.
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
    for name, lengths in (("size", size), ("boxes", bodies["boxes"][:, 2:]), ("discs", bodies["discs"][:, 2])):
        if np.any(lengths <= 0):
            raise ValueError(f"{name}: every length must be above 0, got {lengths.tolist()}")
    fields: dict[str, Any] = {
        "size": size,
        **bodies,
        **{mask: np.ones(len(bodies[name]), bool) for name, mask in BODIES},
        "spawns": np.repeat(spawns, rows // spawns.shape[1], axis=1),
        "goals": np.repeat(goals, rows // goals.shape[1], axis=1),
        "valid": np.array(True),
    }
    return Layout(**fields)


def spec_for(layout: Layout, spec: SwarmSpec) -> SwarmSpec:
    """A resolved specification with as many slots as the layout needs or it had, and the layout's goals per agent.

    Raises ValueError where the layout is for another number of agents.
    """
    num_agents, num_goals = layout.goals.shape[:2]
    if spec.on_goal == "next_goal" and num_goals < 2:
        raise ValueError("on_goal='next_goal' needs at least 2 goals for each agent of a layout, (N, G, 2)")
    if num_agents != spec.num_agents:
        raise ValueError(f"the layout has spawns for {num_agents} agents, the environment has {spec.num_agents}")
    slots = {f"num_{name}": max(getattr(spec, f"num_{name}"), len(getattr(layout, name))) for name, _ in BODIES}
    return dataclasses.replace(spec, num_goals=num_goals, **slots)


def pad_layout(layout: Layout, spec: SwarmSpec) -> Layout:
    """The same map with as many slots as the specification has."""
    padded: dict[str, Any] = {}
    for name, mask in BODIES:
        bodies = np.asarray(getattr(layout, name), np.float32)
        free = getattr(spec, f"num_{name}") - len(bodies)
        padded[name] = np.concatenate([bodies, np.zeros((free, *bodies.shape[1:]), np.float32)])
        padded[mask] = np.concatenate([np.asarray(getattr(layout, mask)), np.zeros(free, bool)])
    return dataclasses.replace(layout, **padded)


def check_layout(layout: Layout, params: SwarmParams) -> None:
    """Raise ValueError naming an agent that would start in a wall or another agent, or whose goal is out of reach."""
    spawns, goals = np.asarray(layout.spawns), np.asarray(layout.goals)
    num_goals = goals.shape[1]
    points = spawns[..., :2].reshape(-1, 2)
    gap = np.asarray(_gaps(points, layout, params))
    nearest = gap.argmin(axis=0)
    for row in np.flatnonzero(gap.min(axis=0) < -TOLERANCE):
        pose = f"agent_{row // num_goals}: its spawn {points[row].tolist()}"
        if nearest[row] < 4:
            raise ValueError(f"{pose} is not inside the arena of {np.asarray(layout.size).tolist()} m")
        raise ValueError(f"{pose} overlaps {_body_name(layout, int(nearest[row]) - 4)}")

    starts = spawns[:, 0, :2]
    apart = np.linalg.norm(starts[:, None] - starts, axis=-1)
    close = np.argwhere(np.triu(apart < 2 * float(params.agent_radius) - TOLERANCE, 1))
    for one, other in close:
        raise ValueError(
            f"agent_{other}: its spawn {starts[other].tolist()} overlaps agent_{one}'s at {starts[one].tolist()}"
        )
    outside = np.argwhere(np.any((goals < 0) | (goals > np.asarray(layout.size)), axis=-1))
    for agent, turn in outside:
        raise ValueError(f"agent_{agent}: its goal {goals[agent, turn].tolist()} is not inside the arena")
    solid = np.asarray(_gaps(goals.reshape(-1, 2), layout, params))[4:]
    for row in np.flatnonzero(np.any(solid < -float(params.reach), axis=0)):
        goal, body = goals.reshape(-1, 2)[row].tolist(), _body_name(layout, int(solid[:, row].argmin()))
        raise ValueError(f"agent_{row // num_goals}: its goal {goal} is too deep in {body} to be reached")


@jax.jit
def _gaps(points: jax.Array, layout: Layout, params: SwarmParams) -> jax.Array:
    """(F, P) m, from robots at points (P, 2) to the border's four sides, the walls, boxes and discs."""
    point = points[:, 0], points[:, 1]
    kinds = fixed_bodies(layout, params.wall_half_thickness)
    gaps = [jax.vmap(separation, (0, None))(jnp.arange(count), point)[0] for count, separation in kinds]
    return jnp.concatenate(gaps) - params.agent_radius


def _body_name(layout: Layout, index: int) -> str:
    """Of a fixed body, counted through the walls, boxes and discs."""
    for name, _ in BODIES:
        count = len(getattr(layout, name))
        if index < count:
            return f"{name}[{index}]"
        index -= count
    raise IndexError(index)


def _numbers(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """A float32 array of that shape, None standing for any length."""
    array = _array(name, values)
    if array.size == 0 and shape[0] is None:
        array = array.reshape(0, *shape[1:])
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected ({expected})")
    return array


def _per_agent(name: str, values: Any, widths: tuple[int, ...]) -> np.ndarray:
    """(N, G, width) float32 from (N, width) or (N, G, width)."""
    array = _array(name, values)
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[-1] not in widths:
        width = " or ".join(map(str, widths))
        raise ValueError(f"{name} has shape {array.shape}, expected (agents, {width}) or (agents, goals, {width})")
    return array[:, None] if array.ndim == 2 else array


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.array(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {values!r}") from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {values!r}")
    return array
