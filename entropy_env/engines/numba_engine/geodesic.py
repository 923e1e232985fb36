"""`entropy_env.geodesic` in compiled loops: reads the ways of a layout, which the scenario's generator has solved."""

from __future__ import annotations

import math

import numpy as np

from entropy_env import geodesic
from entropy_env.engines.numba_engine.compilation import called, inlined
from entropy_env.engines.numba_engine.geometry import ONE, ZERO
from entropy_env.types import FAR_AWAY

TINY, FAR = np.float32(geodesic.TINY), np.float32(FAR_AWAY)


@inlined
def circle_of(maps, e, body, k):
    """Centre of the k-th of the four circles whose hull is a body; those of a wall come twice, that of a disc four times."""
    if body < maps.walls.shape[1]:
        end = maps.walls[e, body, k % 2]
        return end[0], end[1]
    body -= maps.walls.shape[1]
    if body < maps.boxes.shape[1]:
        box = maps.boxes[e, body]
        return box[0] + (box[2] if k % 2 else -box[2]), box[1] + (box[3] if k < 2 else -box[3])
    disc = maps.discs[e, body - maps.boxes.shape[1]]
    return disc[0], disc[1]


@inlined
def is_present(maps, e, body):
    """Whether a slot holds a body."""
    if body < maps.walls.shape[1]:
        return maps.wall_mask[e, body]
    body -= maps.walls.shape[1]
    if body < maps.boxes.shape[1]:
        return maps.box_mask[e, body]
    return maps.disc_mask[e, body - maps.boxes.shape[1]]


@inlined
def hides(ways, maps, e, body, origin, dx, dy):
    """Whether a body hides from the origin (2,) what lies at an offset from it. Tangents are as in `geodesic._shadow`."""
    radius = ways.hiding[e, body]
    if not is_present(maps, e, body):
        return False
    left_x, left_y, left, right_x, right_y, right = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for k in range(4):
        x, y = circle_of(maps, e, body, k)
        x, y = x - origin[0], y - origin[1]
        distance = max(np.float32(math.sqrt(x * x + y * y)), radius)
        sin = radius / distance
        cos = np.float32(math.sqrt(max(ONE - sin * sin, ZERO)))
        x, y, length = x / distance, y / distance, distance * cos
        one_x, one_y, other_x, other_y = x * cos - y * sin, x * sin + y * cos, x * cos + y * sin, y * cos - x * sin
        if k == 0 or left_x * one_y - left_y * one_x > ZERO:
            left_x, left_y, left = one_x, one_y, length
        if k == 0 or right_x * other_y - right_y * other_x < ZERO:
            right_x, right_y, right = other_x, other_y, length
    if right_x * dy - right_y * dx <= ZERO or dx * left_y - dy * left_x <= ZERO:
        return False
    left_x, left_y, right_x, right_y = left_x * left, left_y * left, right_x * right, right_y * right
    beyond = (left_y - right_y) * dx - (left_x - right_x) * dy
    return beyond > max(right_x * left_y - right_y * left_x, TINY)


@inlined
def in_shadow(ways, e, corner, dx, dy):
    """Whether what lies at an offset from a corner is hidden from it."""
    shadows = ways.shadows
    for body in range(shadows.shape[1]):
        if (
            shadows[e, body, 0, 0, corner] * dx + shadows[e, body, 0, 1, corner] * dy > ZERO
            and shadows[e, body, 1, 0, corner] * dx + shadows[e, body, 1, 1, corner] * dy > ZERO
            and shadows[e, body, 2, 0, corner] * dx + shadows[e, body, 2, 1, corner] * dy > ONE
        ):
            return True
    return False


@called
def way_left(ways, maps, place, e, i, goal_index):
    """Length (m) of the shortest way of an agent from a place (2,) to one of its goals. FAR without a way."""
    x, y = place[0], place[1]
    end, left, shortest = ways.ends[e, i, goal_index], ways.left[e, i, goal_index], FAR
    for corner in range(left.shape[0]):
        dx, dy = x - ways.corners[e, corner, 0], y - ways.corners[e, corner, 1]
        length = np.float32(math.sqrt(dx * dx + dy * dy)) + left[corner]
        if length < shortest and not in_shadow(ways, e, corner, dx, dy):
            shortest = length
    dx, dy = x - end[0], y - end[1]
    length = np.float32(math.sqrt(dx * dx + dy * dy))
    if length < shortest:
        hidden = False
        for body in range(ways.shadows.shape[1]):
            hidden |= hides(ways, maps, e, body, end, dx, dy)
        if not hidden:
            shortest = length
    return shortest
