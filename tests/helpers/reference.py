"""The simulator's rules once more: slow and obvious, in float64 NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class World:
    """The fixed bodies of one layout, empty slots left out."""

    size: np.ndarray  # (2,) m
    walls: np.ndarray  # (W, 2, 2) m
    boxes: np.ndarray  # (B, 4) m, centre and half sizes
    discs: np.ndarray  # (D, 3) m, centre and radius
    half_thickness: float  # m, of the walls


def world(layout, half_thickness=0.05, grown=0.0):
    """The World of one unbatched Layout, every body `grown` m larger."""
    size, walls, wall_mask, boxes, box_mask, discs, disc_mask = (
        np.asarray(getattr(layout, name), None if name.endswith("mask") else np.float64)
        for name in ("size", "walls", "wall_mask", "boxes", "box_mask", "discs", "disc_mask")
    )
    return World(
        size=size,
        walls=walls[wall_mask],
        boxes=boxes[box_mask] + [0, 0, grown, grown],
        discs=discs[disc_mask] + [0, 0, grown],
        half_thickness=half_thickness + grown,
    )


def towards(offset, fallback=(1.0, 0.0)):
    """Lengths (...) and unit vectors (..., 2) of offsets (..., 2); the fallback where there is no direction."""
    length = np.linalg.norm(offset, axis=-1)
    vanishing = length < 1e-9
    return length, np.where(vanishing[..., None], fallback, offset / np.where(vanishing, 1, length)[..., None])


def separation_disc(points, centre, radius):
    """Gaps (...) and normals (..., 2) from points (..., 2), as all `separation_*`."""
    length, normal = towards(centre - points)
    return length - radius, normal


def separation_capsule(points, start, end, half_thickness):
    axis = end - start
    along = np.clip((points - start) @ axis / max(axis @ axis, 1e-18), 0, 1)
    length, normal = towards(start + along[..., None] * axis - points, towards(np.array([-axis[1], axis[0]]))[1])
    return length - half_thickness, normal


def separation_box(points, centre, half):
    nearest = np.clip(points, centre - half, centre + half)
    length, normal = towards(nearest - points)
    faces = np.stack([points - (centre - half), centre + half - points], axis=-2).reshape(*points.shape[:-1], 4)
    out = np.array([[-1, 0], [0, -1], [1, 0], [0, 1]])[np.argmin(faces, axis=-1)]
    inside = np.min(faces, axis=-1) >= 0
    return np.where(inside, -np.min(faces, axis=-1), length), np.where(inside[..., None], -out, normal)


def separations_border(points, size):
    """To the left, right, bottom and top edge."""
    for axis in (0, 1):
        for gap, sign in ((points[..., axis], -1.0), (size[axis] - points[..., axis], 1.0)):
            yield gap, np.broadcast_to(sign * np.eye(2)[axis], points.shape)


def separations_fixed(points, world):
    """Gaps and normals from points to every fixed body, one body at a time."""
    yield from separations_border(points, world.size)
    for start, end in world.walls:
        yield separation_capsule(points, start, end, world.half_thickness)
    for box in world.boxes:
        yield separation_box(points, box[:2], box[2:])
    for disc in world.discs:
        yield separation_disc(points, disc[:2], disc[2])


def fixed_gap(points, world, radius):
    """(...) m from agents at points (..., 2) to the nearest fixed body."""
    return np.min([gap for gap, _ in separations_fixed(points, world)], axis=0) - radius


def agent_gap(points, active, radius):
    """(..., N) m from every agent at points (..., N, 2) to the nearest other one; inf where either is inactive."""
    distance = np.linalg.norm(points[..., :, None, :] - points[..., None, :, :], axis=-1)
    apart = ~(active[..., :, None] & active[..., None, :]) | np.eye(points.shape[-2], dtype=bool)
    return np.min(np.where(apart, np.inf, distance), axis=-1) - 2 * radius


def ray_disc(origin, direction, centre, radius):
    """m along a unit ray to the first hit, inf on a miss, 0 from inside, as all `ray_*`."""
    to_centre = centre - origin
    if to_centre @ to_centre <= radius**2:
        return 0.0
    along = to_centre @ direction
    discriminant = along**2 - to_centre @ to_centre + radius**2
    return along - np.sqrt(discriminant) if discriminant >= 0 and along >= 0 else np.inf


def ray_edge(origin, direction, start, end):
    """To a line without thickness."""
    edge = end - start
    determinant = direction[1] * edge[0] - direction[0] * edge[1]
    if abs(determinant) < 1e-15:
        return np.inf
    offset = start - origin
    distance = (offset[1] * edge[0] - offset[0] * edge[1]) / determinant
    along = (direction[0] * offset[1] - direction[1] * offset[0]) / determinant
    return distance if distance >= 0 and 0 <= along <= 1 else np.inf


def ray_capsule(origin, direction, start, end, half_thickness):
    if separation_capsule(origin, start, end, half_thickness)[0] <= 0:
        return 0.0
    axis = towards(end - start)[1]
    side = half_thickness * np.array([-axis[1], axis[0]])
    hits = [ray_edge(origin, direction, start + offset, end + offset) for offset in (side, -side)]
    return min(*hits, *(ray_disc(origin, direction, centre, half_thickness) for centre in (start, end)))


def ray_box(origin, direction, centre, half):
    if np.all(np.abs(origin - centre) <= half):
        return 0.0
    return min(ray_edge(origin, direction, *edge) for edge in rectangle(centre - half, centre + half))


def ray_border(origin, direction, size):
    return min(ray_edge(origin, direction, *edge) for edge in rectangle(np.zeros(2), size))


def rectangle(low, high):
    corners = [np.array(corner) for corner in (low, (high[0], low[1]), high, (low[0], high[1]))]
    return zip(corners, corners[1:] + corners[:1], strict=True)


def scan(position, heading, active, world, radius, lidar_range, num_rays, seen_radius=None, inset=0.0, who=None):
    """(N, num_rays) in [0, 1], ray by ray, or the rows of `who`, a list of agents.

    Others look `seen_radius` large; the border lies `inset` m further in.
    """
    who = range(len(position)) if who is None else who
    readings = np.empty((len(who), num_rays))
    for row, k in np.ndindex(readings.shape):
        i = who[row]
        angle = heading[i] + 2 * np.pi * k / num_rays
        ray = position[i], np.array([np.cos(angle), np.sin(angle)])
        hits = [ray_border(ray[0] - inset, ray[1], world.size - 2 * inset)]
        hits += [ray_capsule(*ray, *wall, world.half_thickness) for wall in world.walls]
        hits += [ray_box(*ray, box[:2], box[2:]) for box in world.boxes]
        hits += [ray_disc(*ray, disc[:2], disc[2]) for disc in world.discs]
        others = [j for j in range(len(position)) if j != i and active[j]]
        hits += [ray_disc(*ray, position[j], radius if seen_radius is None else seen_radius) for j in others]
        readings[row, k] = np.clip((min(hits) - radius) / lidar_range, 0, 1)
    return readings


def arc(pose, left, right, wheel_base, time):
    """The pose (x, y, heading) after driving with constant wheel speeds, m/s, for a time, s."""
    x, y, heading = pose
    speed, turn = (left + right) / 2, (right - left) / wheel_base
    if abs(turn) < 1e-12:
        return np.array([x + speed * time * np.cos(heading), y + speed * time * np.sin(heading), heading])
    end, radius = heading + turn * time, speed / turn
    return np.array([x + radius * (np.sin(end) - np.sin(heading)), y - radius * (np.cos(end) - np.cos(heading)), end])


def random_arc(rng, wheel_base, dt):
    """Pose, motors and the poses after each of 100 steps of `dt` s, all within 8 x 8 m."""
    while True:
        pose = np.array([*rng.uniform(0.2, 7.8, 2), rng.uniform(-np.pi, np.pi)], np.float32).astype(np.float64)
        motors = (rng.uniform(0.3, 1) * rng.choice([[1, 1], [1, 0.95], [0.8, 1], [1, -1], [0, 1]])).astype(np.float32)
        left, right = rng.permuted(motors.astype(np.float64) * rng.choice([-1, 1]))
        path = np.array([arc(pose, left, right, wheel_base, dt * t) for t in range(1, 101)])
        if np.all((path[:, :2] > 0.15) & (path[:, :2] < 7.85)):
            return pose, (left, right), path


def contact_substep(position, displacement, active, world, radius, longest, by_want=False):
    """Move every active agent by what the contacts leave of its displacement.

    No displacement is longer than `longest` m at any stage. Two agents use half the gap between them each, or share it
    `by_want`. Returns the new positions (N, 2) and who overlapped something before correction, (N,) bool.
    """

    def shortened(d):
        return d * min(1, longest / max(np.linalg.norm(d), 1e-12))

    displacement = np.array([shortened(d) for d in np.where(active[:, None], displacement, 0)])
    wants = displacement if by_want else None
    start = [touching(i, position, active, world, radius, wants) for i in range(len(position))]
    wanted = position + displacement
    moved, collided = position.copy(), np.zeros(len(position), bool)
    for i in np.flatnonzero(active):
        overlaps = [body for body in touching(i, wanted, active, world, radius) if body[0] < 0]
        collided[i] = bool(overlaps)
        d = shortened(wanted[i] - position[i] + sum(share * gap * normal for gap, normal, share in overlaps))
        excess = [max(d @ normal - share * max(gap, 0), 0) * normal for gap, normal, share in start[i]]
        d = d - sum(excess)
        scales = [1.0, longest / max(np.linalg.norm(d), 1e-12)]
        for gap, normal, share in start[i]:
            if d @ normal > share * max(gap, 0) + 1e-9:
                scales.append(share * max(gap, 0) / (d @ normal))
        moved[i] = position[i] + min(scales) * d
    return moved, collided


def touching(i, position, active, world, radius, displacement=None):
    """Gap, normal and share of every body that agent i can meet."""
    bodies = [(gap - radius, normal, 1.0) for gap, normal in separations_fixed(position[i], world)]
    for j in np.flatnonzero(active):
        if j != i:
            length, normal = towards(position[j] - position[i])
            gap, share = length - 2 * radius, 0.5
            if displacement is not None and gap > 0:
                share = share_of_gap(gap, displacement[i] @ normal, -displacement[j] @ normal)
            bodies.append((gap, normal, share))
    return bodies


def share_of_gap(gap, mine, theirs):
    """What the other does not want of the gap one may have, and half of what nobody wants; at least half if wanted."""
    mine, theirs = max(mine, 0), max(theirs, 0)
    mine, theirs = min(mine, max(gap / 2, gap - theirs)), min(theirs, max(gap / 2, gap - mine))
    return (mine + (gap - mine - theirs) / 2) / gap


def crossings(before, after, walls, margin=0.0):
    """(...) bool: moves from `before` to `after`, (..., 2) each, through the middle line of a wall (W, 2, 2).

    A line is shortened by `margin` m at both ends, where one may turn round it within a step.
    """
    crossed = np.zeros(before.shape[:-1], bool)
    for start, end in walls:
        length, axis = towards(end - start)
        if length > 2 * margin:
            start, end = start + margin * axis, end - margin * axis
            sides = [np.sign(cross(end - start, point - start)) for point in (before, after)]
            ends = [np.sign(cross(after - before, point - before)) for point in (start, end)]
            crossed |= (sides[0] * sides[1] < 0) & (ends[0] * ends[1] < 0)
    return crossed


def cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@dataclasses.dataclass
class ForceDrive:
    """The numbers of the force drive, V2's."""

    dt: float = 0.05  # s
    substeps: int = 3
    radius: float = 0.1  # m
    motor_force: float = 10.0  # N
    mass: float = 1.0  # kg
    damping: float = 0.5  # share of the velocity left after 1 s
    restitution: tuple[float, float] = (0.04, 0.1)  # of two agents, of an agent and a fixed body
    friction: tuple[float, float] = (0.49, 0.35)
    slop: float = 1e-3  # m of overlap that Chipmunk leaves
    overlap_left: float = 0.9**60  # of any more, after 1 s
    rounds: int = 4  # of impulses in a substep

    @property
    def h(self):
        return self.dt / self.substeps

    @property
    def inertia(self):
        return self.mass * self.radius**2 / 2

    @property
    def top_speed(self):
        """m/s, where what the motors add in a control period is what damping takes."""
        gain = 2 * self.motor_force / self.mass * self.h
        return gain / (1 - self.damping**self.dt)


def force_substep(position, heading, velocity, spin, penetration, force, torque, active, world, p):
    """One substep in Chipmunk's order. All in and out: (N, ...), in world frame, force at the control period's start.

    penetration: from the positions to where Chipmunk would have the agents, inside each other. Returns position, heading,
    velocity, spin, penetration and who overlapped something before correction.
    """
    # positions advance with the old velocity, contacts are those found there
    longest = max(p.top_speed, 1.0) * p.h
    aim = np.where(active[:, None], shortened(velocity * p.h + penetration, longest), 0)
    moved, collided = contact_substep(position, aim, active, world, p.radius, longest, by_want=True)
    wanted = position + aim
    pushed = velocity * p.damping**p.h + force / p.mass * p.h
    turned = spin * p.damping**p.h + torque / p.inertia * p.h
    pushed, turned, apart = collide(wanted, velocity, pushed, turned, active, world, p)
    left = shortened(wanted - moved + apart, p.radius / 2)
    keep = ~active
    return (
        moved,
        np.where(keep, heading, heading + spin * p.h),
        np.where(keep[:, None], velocity, pushed),
        np.where(keep, spin, turned),
        np.where(keep[:, None], penetration, left),
        collided,
    )


def shortened(vectors, longest):
    """(N, 2), of no more than a length."""
    return vectors * np.minimum(1, longest / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def collide(position, before, velocity, spin, active, world, p):
    """Velocities and spins after the contacts at these positions, and by how much (N, 2) the overlaps move each agent;
    `before` is what approach speeds are measured in.

    All contacts at once, each with the share of an agent's mass that its number of contacts leaves (Tonge et al. 2012).
    """
    n, apart = len(position), np.zeros((len(position), 2))
    contacts = []  # agent, other agent or None, normal
    for i in np.flatnonzero(active):
        bodies = [(gap - p.radius, normal, None) for gap, normal in separations_fixed(position[i], world)]
        for j in np.flatnonzero(active):
            if j != i:
                length, normal = towards(position[j] - position[i], (1.0 if j > i else -1.0, 0.0))
                bodies.append((length - 2 * p.radius, normal, j))
        contacts += [(i, j, normal) for gap, normal, j in bodies if gap < 0]
        for gap, normal, j in bodies:
            share = 1.0 if j is None else 0.5
            apart[i] += share * (1 - p.overlap_left**p.h) * min(gap + p.slop, 0) * normal
    count = np.bincount([i for i, _, _ in contacts], minlength=n)
    for _ in range(p.rounds):
        change, change_spin = np.zeros((n, 2)), np.zeros(n)
        for i, j, normal in contacts:
            tangent = np.array([-normal[1], normal[0]])
            other = np.zeros(2) if j is None else velocity[j]
            other_before = np.zeros(2) if j is None else before[j]
            rim = p.radius * (spin[i] + (0 if j is None else spin[j]))
            split = count[i] + (0 if j is None else count[j])
            e, mu = p.restitution[j is None], p.friction[j is None]
            approach = (velocity[i] - other) @ normal + e * ((before[i] - other_before) @ normal)
            slip = (velocity[i] - other) @ tangent + rim
            push = max(approach, 0) / (split / p.mass)
            drag = np.clip(slip / (split * (1 / p.mass + p.radius**2 / p.inertia)), -mu * push, mu * push)
            change[i] -= (push * normal + drag * tangent) / p.mass
            change_spin[i] -= p.radius * drag / p.inertia
        velocity, spin = velocity + change, spin + change_spin
    return velocity, spin, apart


def force_step(position, heading, velocity, spin, penetration, motors, active, world, p):
    """One control period, float64. motors: (N, 2). Returns as `force_substep`."""
    force = p.motor_force * motors.sum(axis=1)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    torque = p.motor_force * p.radius * (motors[:, 0] - motors[:, 1])
    collided = np.zeros(len(position), bool)
    for _ in range(p.substeps):
        position, heading, velocity, spin, penetration, touched = force_substep(
            position, heading, velocity, spin, penetration, force, torque, active, world, p
        )
        force, torque, collided = 0 * force, 0 * torque, collided | touched
    return position, heading, velocity, spin, penetration, collided
