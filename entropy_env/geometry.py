"""Exact distances in the plane, one item each.

A `point`, `origin`, `direction` or `centre` is a pair of components in metres: a (2,) array, or two scalars, or two
arrays of one shape for many items at once, where the other arguments are one item. `separation_*` returns the signed
distance from a point to a body's surface, () m, and the unit vector from the point towards the body as two scalars:
`-normal` is the shortest way out. `ray_*` returns the distance along a unit ray to the first hit, () m, inf on a miss
and <= 0 from inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.types import Layout

FAR = 1e9
TINY = 1e-12
DISC_SLACK = 0.008  # m, by which a disc may hide less than it is
NEXT_BUT_ONE = 0.43  # times the square of half the angle between two corners: see `polygon_sight`

Point = jax.Array | Sequence[jax.Array]
Separation = tuple[jax.Array, jax.Array, jax.Array]


def wrap_angle(angle: jax.Array) -> jax.Array:
    """To (-pi, pi]."""
    wrapped = angle - 2 * jnp.pi * jnp.ceil((angle - jnp.pi) / (2 * jnp.pi))
    return jnp.where(wrapped <= -jnp.pi, jnp.pi, wrapped)


def polygon_sight(corners: int) -> float:
    """Return the radius of a circle, in that of the unit circle, over which one sees from corner to corner.

    The corners are those of a regular polygon as long as the unit circle. Who stands on that circle beside a corner sees
    both of the corner's neighbours.
    """
    return 1 - NEXT_BUT_ONE * (math.pi / corners) ** 2


def polygon_corners(radius: float) -> int:
    """Return the fewest corners, at least 8, for which `polygon_sight` takes no more than DISC_SLACK off a radius, m."""
    return max(8, math.ceil(math.pi * math.sqrt(NEXT_BUT_ONE * radius / DISC_SLACK)))


def _towards(dx: jax.Array, dy: jax.Array, fallback_x: jax.Array | float, fallback_y: jax.Array | float) -> Separation:
    """Length and direction of (dx, dy); the fallback is the direction of a vanishing vector."""
    square = dx * dx + dy * dy
    degenerate = square < TINY
    inverse = jax.lax.rsqrt(jnp.where(degenerate, 1.0, square))
    length = jnp.where(degenerate, 0.0, square * inverse)
    return length, jnp.where(degenerate, fallback_x, dx * inverse), jnp.where(degenerate, fallback_y, dy * inverse)


def separation_disc(point: Point, centre: Point, radius: jax.Array | float) -> Separation:
    """From a point to a disc. radius: () m."""
    length, nx, ny = _towards(centre[0] - point[0], centre[1] - point[1], 1.0, 0.0)
    return length - radius, nx, ny


def separation_capsule(point: Point, start: Point, end: Point, half_thickness: jax.Array | float) -> Separation:
    """From a point to a segment thickened by `half_thickness` () m. On the segment itself the way out is sideways.

    Beside the segment the normal is its own, and the distance a cross product: the difference between the point and the
    nearest one on the segment would tilt it where the two almost coincide.
    """
    _, tx, ty = _towards(end[0] - start[0], end[1] - start[1], 0.0, -1.0)
    sx, sy, ex, ey = point[0] - start[0], point[1] - start[1], point[0] - end[0], point[1] - end[1]
    beyond_start, beyond_end = -(sx * tx + sy * ty), ex * tx + ey * ty
    near_start = beyond_start > beyond_end
    px, py = jnp.where(near_start, sx, ex), jnp.where(near_start, sy, ey)  # from the nearer end, which rounds least
    across = tx * py - ty * px
    beside = jnp.maximum(beyond_start, beyond_end) < 0
    side = jnp.where(across > 0, 1.0, -1.0)
    distance, nx, ny = _towards(-px, -py, -ty, tx)
    distance = jnp.where(beside, across * side, distance)
    return distance - half_thickness, jnp.where(beside, ty * side, nx), jnp.where(beside, -tx * side, ny)


def separation_box(point: Point, centre: Point, half: Point) -> Separation:
    """From a point to a solid axis-aligned box; from inside, the way out is through the nearest face.

    half: (2,) m, half width and half height.
    """
    dx, dy = centre[0] - point[0], centre[1] - point[1]
    over_x, over_y = jnp.abs(dx) - half[0], jnp.abs(dy) - half[1]
    sign_x, sign_y = jnp.where(dx < 0, -1.0, 1.0), jnp.where(dy < 0, -1.0, 1.0)
    inside = jnp.maximum(over_x, over_y)
    sideways = over_x > over_y
    face_x, face_y = jnp.where(sideways, sign_x, 0.0), jnp.where(sideways, 0.0, sign_y)
    length, nx, ny = _towards(jnp.maximum(over_x, 0.0) * sign_x, jnp.maximum(over_y, 0.0) * sign_y, face_x, face_y)
    return jnp.where(inside <= 0, inside, length), nx, ny


def separation_half_plane(point: Point, normal: Point, offset: jax.Array | float) -> Separation:
    """From a point to the half-plane where `normal` . point > `offset`. normal: unit. offset: () m."""
    gap = offset - (point[0] * normal[0] + point[1] * normal[1])
    return gap, jnp.broadcast_to(normal[0], gap.shape), jnp.broadcast_to(normal[1], gap.shape)


def fixed_bodies(
    layout: Layout, half_thickness: jax.Array | float
) -> list[tuple[int, Callable[[jax.Array, Point], Separation]]]:
    """The arena's border and what stands in it: for every kind, how many, and the separation of a point from the i-th.

    half_thickness: () m, of walls. Empty slots are infinitely far away.
    """
    outward = jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]], jnp.float32)
    offset = jnp.stack([jnp.zeros_like(layout.size), layout.size], axis=1).ravel()

    def present(mask: jax.Array, separation: Separation) -> Separation:
        return jnp.where(mask, separation[0], jnp.inf), separation[1], separation[2]

    def wall(i: jax.Array, point: Point) -> Separation:
        ends = layout.walls[i]
        return present(layout.wall_mask[i], separation_capsule(point, ends[0], ends[1], half_thickness))

    def box(i: jax.Array, point: Point) -> Separation:
        centre_half = layout.boxes[i]
        return present(layout.box_mask[i], separation_box(point, centre_half[:2], centre_half[2:]))

    def disc(i: jax.Array, point: Point) -> Separation:
        centre_radius = layout.discs[i]
        return present(layout.disc_mask[i], separation_disc(point, centre_radius[:2], centre_radius[2]))

    kinds = [
        (4, lambda i, point: separation_half_plane(point, outward[i], offset[i])),
        (layout.walls.shape[0], wall),
        (layout.boxes.shape[0], box),
        (layout.discs.shape[0], disc),
    ]
    return [(count, separation) for count, separation in kinds if count]


def _inverse(component: jax.Array) -> jax.Array:
    """1 / component, finite: a parallel ray meets its slab very far away."""
    return 1.0 / jnp.where(jnp.abs(component) < 1 / FAR, jnp.copysign(1 / FAR, component), component)


def ray_disc(origin: Point, direction: Point, centre: Point, radius: jax.Array | float) -> jax.Array:
    """Along a unit ray to a disc. radius: () m."""
    rx, ry = centre[0] - origin[0], centre[1] - origin[1]
    along = direction[0] * rx + direction[1] * ry
    across = direction[0] * ry - direction[1] * rx
    square = radius * radius - across * across
    half_chord = jnp.sqrt(jnp.maximum(square, 0.0))
    return jnp.where((square >= 0) & (along + half_chord >= 0), along - half_chord, jnp.inf)


def ray_segment(
    origin: Point, direction: Point, start: Point, end: Point, half_thickness: jax.Array | float
) -> jax.Array:
    """Along a unit ray to a segment thickened by `half_thickness` () m: its two sides, then the nearer round end."""
    ax, ay = end[0] - start[0], end[1] - start[1]
    length, ax, ay = _towards(ax, ay, 1.0, 0.0)
    px, py = origin[0] - start[0], origin[1] - start[1]
    along, across = px * ax + py * ay, ax * py - ay * px
    step_along, step_across = direction[0] * ax + direction[1] * ay, ax * direction[1] - ay * direction[0]
    beyond = jnp.abs(across) - half_thickness  # the strip between the two sides
    closing = -jnp.copysign(step_across, across * step_across)
    reach = beyond / jnp.where(closing > 0, closing, 1.0)
    entry = along + reach * step_along
    side = jnp.where((beyond >= 0) & (closing > 0) & (entry >= 0) & (entry <= length), reach, jnp.inf)
    side = jnp.where((beyond < 0) & (along >= 0) & (along <= length), beyond, side)
    ends = jnp.minimum(
        ray_disc(origin, direction, start, half_thickness), ray_disc(origin, direction, end, half_thickness)
    )
    return jnp.minimum(side, ends)


def ray_box(origin: Point, direction: Point, centre: Point, half: Point) -> jax.Array:
    """Along a unit ray to a solid axis-aligned box (slab method, Kay & Kajiya 1986). half: (2,) m."""
    ix, iy = _inverse(direction[0]), _inverse(direction[1])
    mx, my = (centre[0] - origin[0]) * ix, (centre[1] - origin[1]) * iy
    hx, hy = half[0] * jnp.abs(ix), half[1] * jnp.abs(iy)
    enter, leave = jnp.maximum(mx - hx, my - hy), jnp.minimum(mx + hx, my + hy)
    return jnp.where((enter <= leave) & (leave >= 0), enter, jnp.inf)


def ray_border(origin: Point, direction: Point, size: Point) -> jax.Array:
    """Along a unit ray from inside the arena to its border. size: (2,) m."""
    ix, iy = _inverse(direction[0]), _inverse(direction[1])
    return jnp.minimum(
        jnp.maximum(-origin[0] * ix, (size[0] - origin[0]) * ix),
        jnp.maximum(-origin[1] * iy, (size[1] - origin[1]) * iy),
    )


def in_own_frame(offset: jax.Array, heading: jax.Array) -> jax.Array:
    """Turn offsets (N, 2) of the world's frame into those of robots with headings (N,) rad: how far ahead, and to the left."""
    cos, sin = jnp.cos(heading), jnp.sin(heading)
    return jnp.stack([offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin], axis=-1)


def partners(per_agent: jax.Array) -> jax.Array:
    """Return what the partner of each agent has, (N, ...). Robots 0 and 1, 2 and 3, ... are partners."""
    return per_agent[np.arange(len(per_agent)) ^ 1]
