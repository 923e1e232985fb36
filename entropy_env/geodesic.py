"""The shortest ways of robots to their goals, around everything that stands still. Other robots are no obstacles.

A robot's centre moves like a point among bodies grown by the robot's radius. Grown bodies are round at their corners. Here
each round corner is a piece of a regular polygon as long as the circle: an octagon, and around discs one with more corners
the larger they are. So a shortest way is a line from corner to corner, and a body hides what lies in its shadow, which
three half-planes bound. `chart` solves the ways from every corner to every goal once for a layout (Floyd 1962). The way from
anywhere else leads straight to some corner in sight, or to the goal.

Lengths are those of the true shortest way within 2 %, or 2 cm for ways of less than 1 m. Known limits: bodies hide a little
less than they are, so a gap may be a little narrower than a robot and still count as open. Each body beside it adds to that
5.4 % of the robot's radius, a wall 5.4 % of its half thickness too, a disc at most DISC_SLACK. The cost of a chart grows with
the third power of the number of corners.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import fixed_bodies, polygon_sight
from entropy_env.types import FAR_AWAY, Layout, SwarmParams, SwarmSpec, Ways

OCTAGON = 8
SIGHT = (
    math.pi / 8 / math.tan(math.pi / 8) - 0.002
)  # of walls and boxes: a line along a side is free whatever is rounded
SAME = 0.01  # radii of a robot between corners that count as one
AHEAD = 0.005  # m, by which a robot may go on to the next bend before it has reached this one
ROUNDS = 8  # steps in which a goal is moved out of the bodies that it is too near to
TINY = 1e-9


class _Kind(NamedTuple):
    """K grown bodies of one kind: each is the hull of C circles."""

    present: jax.Array  # (K,) bool
    circles: jax.Array  # (K, C, 2) m, centres
    radius: jax.Array  # (K,) m
    hiding: jax.Array  # (K,) m, radius of the circles whose hull hides what is behind the body


def _kinds(layout: Layout, params: SwarmParams, disc_corners: int) -> tuple[_Kind, _Kind, _Kind]:
    """Return the walls, boxes and discs, grown by the robot's radius."""
    robot = jnp.asarray(params.agent_radius, jnp.float32)
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    corners = layout.boxes[:, None, :2] + layout.boxes[:, None, 2:] * signs[None]
    wall = jnp.broadcast_to(robot + params.wall_half_thickness, layout.wall_mask.shape)
    box = jnp.broadcast_to(robot, layout.box_mask.shape)
    disc = robot + layout.discs[:, 2]
    return (
        _Kind(layout.wall_mask, layout.walls, wall, SIGHT * wall),
        _Kind(layout.box_mask, corners, box, SIGHT * box),
        _Kind(layout.disc_mask, layout.discs[:, None, :2], disc, polygon_sight(disc_corners) * disc),
    )


def _as_charted(layout: Layout, params: SwarmParams) -> tuple[_Kind, _Kind, _Kind]:
    """Return the bodies, which hide as they did when the layout's ways were found."""
    assert layout.ways is not None, "the layout has no ways: see `chart`"
    kinds = _kinds(layout, params, OCTAGON)
    hiding = jnp.split(layout.ways.hiding, np.cumsum([len(kind.radius) for kind in kinds])[:-1].tolist())
    walls, boxes, discs = (kind._replace(hiding=part) for kind, part in zip(kinds, hiding, strict=True))
    return walls, boxes, discs


def _around(circles: jax.Array, outward: jax.Array, radius: jax.Array, turns: tuple[int, ...], count: int) -> jax.Array:
    """Return corners (..., len(turns), 2) m of polygons with `count` corners, as long as the circles (..., 2) they are around.

    turns: in half the angle between two corners, from the unit vector `outward` (..., 2).
    """
    half_turn = math.pi / count
    angle, corner = half_turn * np.array(turns), half_turn / math.sin(half_turn)
    cos, sin = (
        np.reshape(part(angle), (1,) * (outward.ndim - 1) + (-1,)).astype(np.float32) for part in (np.cos, np.sin)
    )
    x, y = outward[..., :1], outward[..., 1:]
    return circles[..., None, :] + corner * radius * jnp.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)


def _all_corners(kinds: tuple[_Kind, _Kind, _Kind], disc_corners: int) -> tuple[jax.Array, jax.Array]:
    """Return every corner that a way could bend around, (P, 2) m, and the number of its body, (P,) int."""
    walls, boxes, discs = kinds
    along = walls.circles[:, 1] - walls.circles[:, 0]
    length = jnp.sqrt(jnp.sum(along * along, axis=-1, keepdims=True))
    along = jnp.where(length > 0, along / jnp.where(length > 0, length, 1.0), jnp.array([[1.0, 0.0]], jnp.float32))
    diagonal = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * np.float32(math.sqrt(0.5))
    outward = (
        jnp.stack([-along, along], axis=1),
        jnp.broadcast_to(diagonal[None], boxes.circles.shape),
        jnp.broadcast_to(np.array([[[1, 0]]], np.float32), discs.circles.shape),
    )
    turns = ((-3, -1, 1, 3), OCTAGON), ((-1, 1), OCTAGON), (tuple(range(1, 2 * disc_corners, 2)), disc_corners)
    points, own, first = [], [], 0
    for kind, out, several in zip(kinds, outward, turns, strict=True):
        corners = _around(kind.circles, out, kind.radius[:, None, None, None], *several)
        points.append(corners.reshape(-1, 2))
        own.append(first + np.repeat(np.arange(len(kind.radius)), corners.shape[1] * corners.shape[2]))
        first += len(kind.radius)
    return jnp.concatenate(points), jnp.asarray(np.concatenate(own), jnp.int32)


def _gaps(point: jax.Array, layout: Layout, params: SwarmParams) -> tuple[jax.Array, jax.Array]:
    """Return the gaps (4 + M,) m from a point (2,) to the border and all bodies, and the unit vectors (4 + M, 2) there."""
    gaps, normals = [], []
    for count, separation in fixed_bodies(layout, params.wall_half_thickness):
        gap, x, y = jax.vmap(separation, (0, None))(jnp.arange(count, dtype=jnp.int32), point)
        gaps.append(gap)
        normals.append(jnp.stack([x, y], axis=-1))
    return jnp.concatenate(gaps), jnp.concatenate(normals)


def _find_corners(
    kinds: tuple[_Kind, _Kind, _Kind], layout: Layout, params: SwarmParams, spec: SwarmSpec
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return corners (V, 2) m with V = `spec.num_corners`, which are in use, (V,) bool, and if all found room, () bool."""
    most = spec.num_corners
    points, own = _all_corners(kinds, spec.disc_corners)
    if not len(points):
        return jnp.zeros((most, 2), jnp.float32), jnp.zeros(most, bool), jnp.array(True)
    present = jnp.concatenate([kind.present for kind in kinds])
    border = jnp.full(4, (1 - SIGHT) * params.agent_radius, jnp.float32)
    slack = jnp.concatenate([border, *(kind.radius - kind.hiding for kind in kinds)])
    gap = jax.vmap(lambda point: _gaps(point, layout, params)[0])(points)
    free = gap >= params.agent_radius - slack[None]
    others = jnp.arange(free.shape[1], dtype=jnp.int32)[None] != own[:, None] + 4
    free = present[own] & jnp.all(free | ~others, axis=-1)
    apart = jnp.sum(jnp.square(points[:, None] - points[None]), axis=-1)
    same = (apart < jnp.square(SAME * params.agent_radius)) & free[None]
    index = jnp.arange(len(points), dtype=jnp.int32)
    free &= ~jnp.any(same & (index[None] < index[:, None]), axis=-1)
    chosen = jnp.argsort(~free, stable=True)[:most]
    lacking = max(most - len(points), 0)
    corners, used = jnp.pad(points[chosen], ((0, lacking), (0, 0))), jnp.pad(free[chosen], (0, lacking))
    return jnp.where(used[:, None], corners, 0.0), used, jnp.sum(free, dtype=jnp.int32) <= most


def _clear_place(point: jax.Array, layout: Layout, params: SwarmParams) -> jax.Array:
    """Return a point (2,) m at which a robot touches nothing, near a point that may be too near to bodies."""

    def leave(_: jax.Array, point: jax.Array) -> jax.Array:
        gap, normal = _gaps(point, layout, params)
        nearest = jnp.argmin(gap)
        return point - jnp.maximum(params.agent_radius - gap[nearest], 0.0) * normal[nearest]

    return jax.lax.fori_loop(0, ROUNDS, leave, point)


def _shadows(points: jax.Array, kinds: tuple[_Kind, _Kind, _Kind]) -> jax.Array:
    """Return the shadows that M bodies cast from P points (P, 2), (M, 3, 2, P).

    A shadow is what lies beyond both tangents from the point to the body, and beyond the line through the places they touch.
    An offset d from the point is in shadow if v . d > 0, v . d > 0 and v . d > 1, with the three vectors v of the body.
    """
    none = jnp.zeros((0, 3, 2, len(points)), jnp.float32)
    return jnp.concatenate([none, *(jax.vmap(_shadow, (None, 0))(points, kind) for kind in kinds if len(kind.radius))])


def _shadow(points: jax.Array, body: _Kind) -> jax.Array:
    """Return the shadow of one body, (3, 2, P)."""
    radius = body.hiding
    x, y = body.circles[:, 0, None] - points[None, :, 0], body.circles[:, 1, None] - points[None, :, 1]
    distance = jnp.maximum(jnp.sqrt(x * x + y * y), radius)
    sin = radius / distance
    cos = jnp.sqrt(jnp.maximum(1 - sin * sin, 0.0))
    x, y, length = x / distance, y / distance, distance * cos
    lefts = jnp.stack([x * cos - y * sin, x * sin + y * cos, length], axis=1)
    rights = jnp.stack([x * cos + y * sin, y * cos - x * sin, length], axis=1)
    left, right = lefts[0], rights[0]
    for one, other in zip(lefts[1:], rights[1:], strict=True):  # the outermost of the tangents to the circles
        left = jnp.where((_cross(left, one) > 0)[None], one, left)
        right = jnp.where((_cross(right, other) < 0)[None], other, right)
    touch_left, touch_right = left[:2] * left[2:], right[:2] * right[2:]
    chord = touch_left - touch_right
    beyond = jnp.stack([chord[1], -chord[0]]) / jnp.maximum(_cross(touch_right, touch_left), TINY)[None]
    shadow = jnp.stack([jnp.stack([-right[1], right[0]]), jnp.stack([left[1], -left[0]]), beyond])
    return jnp.where(body.present, shadow, 0.0)


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[0] * b[1] - a[1] * b[0]


def _seen_from(origins: jax.Array, shadows: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the distances (K, P) m from origins to points, and which (K, P) are hidden.

    origins: (P, 2) m. shadows: (M, 3, 2, P), cast from the origins. points: (K, P, 2), or (K, 1, 2) for all origins.
    """
    x, y = points[..., 0] - origins[None, :, 0], points[..., 1] - origins[None, :, 1]

    def hide(i: jax.Array, hidden: jax.Array) -> jax.Array:
        beyond = shadows[i, :, 0][:, None] * x[None] + shadows[i, :, 1][:, None] * y[None]
        return hidden | ((beyond[0] > 0) & (beyond[1] > 0) & (beyond[2] > 1))

    hidden = jnp.zeros(x.shape, bool)
    if len(shadows):
        hidden = jax.lax.fori_loop(0, len(shadows), hide, hidden)
    return jnp.sqrt(x * x + y * y), hidden


def chart(layout: Layout, params: SwarmParams, spec: SwarmSpec) -> Layout:
    """Return the layout with its `ways`. It is not valid if an agent cannot reach one of its goals."""
    kinds = _kinds(layout, params, spec.disc_corners)
    corners, used, fits = _find_corners(kinds, layout, params, spec)
    shadows = _shadows(corners, kinds)
    ends = jax.vmap(lambda point: _clear_place(point, layout, params))(layout.goals.reshape(-1, 2))
    apart, left = (_in_sight(corners, used, shadows, points) for points in (corners, ends))
    if spec.num_corners:
        left = _shortest(jnp.where(used[:, None], jnp.minimum(apart, apart.T), FAR_AWAY), left)
    shape = layout.goals.shape
    hiding = jnp.concatenate([kind.hiding for kind in kinds])
    ways = Ways(corners, shadows, ends.reshape(shape), left.reshape(*shape[:2], -1), hiding)
    layout = layout.replace(ways=ways)
    return layout.replace(valid=layout.valid & fits & jnp.all(arrives(layout, params)))


def _in_sight(corners: jax.Array, used: jax.Array, shadows: jax.Array, points: jax.Array) -> jax.Array:
    """Return the distances (K, V) m from points (K, 2) to corners, FAR_AWAY to those out of sight."""
    distance, hidden = _seen_from(corners, shadows, points[:, None])
    return jnp.where(hidden | ~used[None], FAR_AWAY, distance)


def _shortest(apart: jax.Array, first: jax.Array) -> jax.Array:
    """Return the lengths (K, V) m of ways from points to corners. apart: (V, V) m. first: (K, V) m, to those in sight."""

    def join(k: jax.Array, apart: jax.Array) -> jax.Array:
        to_k, from_k = jax.lax.dynamic_slice_in_dim(apart, k, 1, axis=1), jax.lax.dynamic_slice_in_dim(apart, k, 1)
        return jnp.minimum(apart, to_k + from_k)

    apart = jax.lax.fori_loop(0, len(apart), join, apart)

    def go_on(k: jax.Array, length: jax.Array) -> jax.Array:
        to_k, from_k = jax.lax.dynamic_slice_in_dim(first, k, 1, axis=1), jax.lax.dynamic_slice_in_dim(apart, k, 1)
        return jnp.minimum(length, to_k + from_k)

    return jnp.minimum(jax.lax.fori_loop(0, len(apart), go_on, first), FAR_AWAY)


def arrives(layout: Layout, params: SwarmParams) -> jax.Array:
    """Return which goals agents can reach from their first spawn, and from the spawn of the same column, (N, G) bool."""

    def column(goal: jax.Array) -> jax.Array:
        starts = jnp.stack([layout.spawns[:, 0, :2], layout.spawns[:, goal, :2]])
        index = jnp.full(len(layout.goals), goal, jnp.int32)
        return jnp.all(reach(layout, params, index, starts)[0] < FAR_AWAY, axis=0)

    return jax.vmap(column, out_axes=1)(jnp.arange(layout.goals.shape[1], dtype=jnp.int32))


def reach(layout: Layout, params: SwarmParams, goal_index: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the lengths (T, N) m of the shortest ways of N agents from points (T, N, 2) m to one of their goals each.

    FAR_AWAY if there is no way. Also returns where each way first bends, or else ends, (T, N, 2) m: of the places in sight
    to which a way leads that is no more than AHEAD longer than the shortest, the one furthest on.
    """
    ways, column = layout.ways, goal_index[:, None, None]
    assert ways is not None, "the layout has no ways: see `chart`"
    left, end = (jnp.take_along_axis(rows, column, axis=1)[:, 0] for rows in (ways.left, ways.ends))
    length, hidden = _seen_from(end, _shadows(end, _as_charted(layout, params)), points)
    length, place = jnp.where(hidden, FAR_AWAY, length), jnp.broadcast_to(end[None], points.shape)
    if not len(ways.corners):
        return length, place
    first, hidden = _seen_from(ways.corners, ways.shadows, points.reshape(-1, 1, 2))
    around = jnp.where(hidden, FAR_AWAY, first).reshape(*points.shape[:2], -1) + left[None]
    shortest = jnp.minimum(length, jnp.min(around, axis=-1))
    furthest = jnp.argmin(jnp.where(around <= shortest[..., None] + AHEAD, left[None], jnp.inf), axis=-1)
    place = jnp.where((length <= shortest + AHEAD)[..., None], place, ways.corners[furthest])
    return jnp.minimum(shortest, FAR_AWAY), place
