"""`entropy_env.lidar` for compiled loops: a body is tested against the rays that it can touch, not against all.

Everything is turned into the robot's frame, where ray k always points at 2 pi k / num_rays.
"""

from __future__ import annotations

import math

import numpy as np

from entropy_env.engines.numba_engine.cells import rows_around, run_in_row
from entropy_env.engines.numba_engine.compilation import inlined
from entropy_env.engines.numba_engine.geometry import (
    ATAN_ERROR,
    INFINITE,
    ONE,
    TINY,
    TURN,
    ZERO,
    at_least_asin,
    nearest_on_segment,
    nearly_atan2,
    ray_box,
    ray_disc,
    ray_segment,
    towards,
    wrap_angle,
)

SPARE_ANGLE = ATAN_ERROR + np.float32(1e-4)  # rad
SPARE = np.float32(1e-4)  # m
HALF_TURN = np.float32(math.pi - 0.05)  # rad, less what two angles may be off


@inlined
def seen_from(ox, oy, radius):
    """Direction (rad) and half the angle, rather too large, under which a disc at an offset appears."""
    distance = math.sqrt(ox * ox + oy * oy)
    if distance <= radius + SPARE:
        return ZERO, TURN
    return nearly_atan2(oy, ox), at_least_asin(radius / distance) + SPARE_ANGLE


@inlined
def rays_between(low, high, num_rays):
    """The first of the rays at angles from low to high (rad), and how many there are, round the full turn.

    low: above -3 pi.
    """
    if high - low >= TURN:
        return 0, num_rays
    rays_per_rad = np.float32(num_rays) / TURN
    ahead = np.float32(2 * num_rays)  # keeps the numbers positive, which a conversion rounds down
    before, last = int(low * rays_per_rad + ahead), int(high * rays_per_rad + ahead)
    first = before + 1
    while first >= num_rays:
        first -= num_rays
    return first, min(last - before, num_rays)


@inlined
def scan_half_plane(row, rays, gap, reach, ahead, left):
    """The border at a distance, whose outward normal is (ahead, left) in the robot's frame."""
    if gap < reach:
        for k in range(rays.shape[1]):
            closing = rays[0, k] * ahead + rays[1, k] * left
            hit = gap / closing if closing > ZERO else INFINITE
            row[k] = min(row[k], hit)


@inlined
def find_rays(xs, ys, x, y, cos, sin, radius, far, num_rays, first_ray, ray_count):
    """Which rays may touch each of many discs: `seen_from` and `rays_between` without a branch, a vector at a time.

    xs, ys: (K,) m, their centres. Beyond `far` m there are none.
    """
    rays, rays_per_rad, ahead = np.int32(num_rays), np.float32(num_rays) / TURN, np.float32(2 * num_rays)
    inside = (radius + SPARE) * (radius + SPARE)
    for k in range(len(xs)):
        dx, dy = xs[k] - x, ys[k] - y
        ox, oy, square = cos * dx + sin * dy, cos * dy - sin * dx, dx * dx + dy * dy
        half = at_least_asin(min(radius / np.float32(math.sqrt(max(square, TINY))), ONE)) + SPARE_ANGLE
        angle = nearly_atan2(oy, ox)
        before = np.int32((angle - half) * rays_per_rad + ahead)
        count = np.int32((angle + half) * rays_per_rad + ahead) - before
        first = before + np.int32(1) - rays
        first = first - rays if first >= rays else first
        count = rays if square <= inside else min(count, rays)
        first_ray[k] = first if count < rays else np.int32(0)  # of a single ray, `first` may be the one after it
        ray_count[k] = count if square < far * far else np.int32(0)


@inlined
def scan_disc(row, rays, ox, oy, radius, k, count):
    """A disc at an offset in the robot's frame, by `count` rays from the k-th on."""
    num_rays = rays.shape[1]
    for _ in range(count):
        row[k] = min(row[k], ray_disc(ox, oy, rays[0, k], rays[1, k], radius))
        k = k + 1 if k + 1 < num_rays else 0


@inlined
def scan_wall(row, rays, x, y, cos, sin, reach, ends, half_thickness):
    """A wall, by the angles of its two round ends."""
    num_rays = rays.shape[1]
    dx, dy = nearest_on_segment(x, y, ends)
    square, limit, close = dx * dx + dy * dy, reach + half_thickness, half_thickness + SPARE
    if square > limit * limit:
        return
    sx, sy, ex, ey = ends[0, 0] - x, ends[0, 1] - y, ends[1, 0] - x, ends[1, 1] - y
    sx, sy, ex, ey = cos * sx + sin * sy, cos * sy - sin * sx, cos * ex + sin * ey, cos * ey - sin * ex
    length, ahead, left = towards(ex - sx, ey - sy, ONE, ZERO)
    along, across = -sx * ahead - sy * left, sx * left - sy * ahead
    k, count = 0, num_rays
    if square > close * close:
        start_angle, start_half = seen_from(sx, sy, half_thickness)
        end_angle, end_half = seen_from(ex, ey, half_thickness)
        turn = wrap_angle(end_angle - start_angle)
        if abs(turn) < HALF_TURN:  # else it is too near to tell on which side it lies
            low, high = min(-start_half, turn - end_half), max(start_half, turn + end_half)
            k, count = rays_between(start_angle + low, start_angle + high, num_rays)
    for _ in range(count):
        hit = ray_segment(along, across, length, ahead, left, rays[0, k], rays[1, k], half_thickness)
        row[k] = min(row[k], hit)
        k = k + 1 if k + 1 < num_rays else 0


@inlined
def scan_box(row, rays, x, y, cos, sin, reach, box):
    """A box, by the circle around it."""
    num_rays = rays.shape[1]
    dx, dy, around = box[0] - x, box[1] - y, np.float32(math.sqrt(box[2] * box[2] + box[3] * box[3]))
    limit = reach + around
    if dx * dx + dy * dy > limit * limit:
        return
    angle, half = seen_from(cos * dx + sin * dy, cos * dy - sin * dx, around)
    k, count = rays_between(angle - half, angle + half, num_rays)
    for _ in range(count):
        ray_cos, ray_sin = cos * rays[0, k] - sin * rays[1, k], sin * rays[0, k] + cos * rays[1, k]
        row[k] = min(row[k], ray_box(x, y, ray_cos, ray_sin, box))
        k = k + 1 if k + 1 < num_rays else 0


@inlined
def scan(w, p, row, cos, sin, slot, e, i):
    """Readings of agent i of world e into the first num_rays numbers of row: 0 touching, 1 nothing in range.

    cos, sin: of its heading.
    """
    me, maps, rays = w.agents[e, i], w.maps, w.rays
    num_rays, x, y = rays.shape[1], me.position[0], me.position[1]
    reach = p.lidar_range + p.agent_radius
    for k in range(num_rays):
        row[k] = reach

    width, height = maps.size[e, 0], maps.size[e, 1]
    scan_half_plane(row, rays, x, reach, -cos, sin)
    scan_half_plane(row, rays, width - x, reach, cos, -sin)
    scan_half_plane(row, rays, y, reach, -sin, -cos)
    scan_half_plane(row, rays, height - y, reach, sin, cos)

    far = reach + p.agent_radius
    for cell_row in range(*rows_around(w, e, y)):
        start, end = run_in_row(w, e, cell_row, x)
        xs, ys, agents = w.sorted_x[e, start:end], w.sorted_y[e, start:end], w.sorted_agent[e, start:end]
        first_ray, ray_count = w.first_ray[slot], w.ray_count[slot]
        find_rays(xs, ys, x, y, cos, sin, p.agent_radius, far, num_rays, first_ray, ray_count)
        for k in range(end - start):
            if ray_count[k] > 0 and agents[k] != i:
                dx, dy = xs[k] - x, ys[k] - y
                ox, oy = cos * dx + sin * dy, cos * dy - sin * dx
                scan_disc(row, rays, ox, oy, p.agent_radius, first_ray[k], ray_count[k])

    for disc in range(maps.discs.shape[1]):
        if maps.disc_mask[e, disc]:
            dx, dy, radius = maps.discs[e, disc, 0] - x, maps.discs[e, disc, 1] - y, maps.discs[e, disc, 2]
            if dx * dx + dy * dy < (reach + radius) * (reach + radius):
                ox, oy = cos * dx + sin * dy, cos * dy - sin * dx
                angle, half = seen_from(ox, oy, radius)
                k, count = rays_between(angle - half, angle + half, num_rays)
                scan_disc(row, rays, ox, oy, radius, k, count)

    for wall in range(maps.walls.shape[1]):
        if maps.wall_mask[e, wall]:
            scan_wall(row, rays, x, y, cos, sin, reach, maps.walls[e, wall], p.wall_half_thickness)

    for box in range(maps.boxes.shape[1]):
        if maps.box_mask[e, box]:
            scan_box(row, rays, x, y, cos, sin, reach, maps.boxes[e, box])

    for k in range(num_rays):
        row[k] = min(max((row[k] - p.agent_radius) / p.lidar_range, ZERO), ONE)
