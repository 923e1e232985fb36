"""Find the length of the shortest way of a robot to its goal, with which SPL compares its path.

A disc among fixed bodies moves like a point among those bodies grown by its radius. Walls, boxes and discs all grow
into capsules, so the shortest way is made of straight lines and of arcs around the capsules' ends. The tangent graph
(Liu & Arimoto 1992, "Path planning using a tangent graph for mobile robots among polygonal and curved obstacles")
holds all of these, and Dijkstra's algorithm finds the shortest way in it. Points of the plane are complex numbers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from entropy_env.types import Layout, SwarmParams

TOLERANCE = 1e-4  # m, how deep a way may cut into a body, because layouts are float32
RIM_POINTS = 64  # points on each circle that are tested to be free


def shortest_paths(layout: Layout, params: SwarmParams) -> np.ndarray:
    """Return the lengths (N,) m from each agent's first spawn to where its first goal counts as reached.

    Without any way it is inf. layout, params: of one world, NumPy leaves. Other agents are no obstacles. The last `reach`
    metres of a way are assumed to lead straight to the goal.
    """
    starts, goals = _complex(layout.spawns[:, 0, :2]), _complex(layout.goals[:, 0])
    reach, space = float(params.reach), _FreeSpace.of(layout, params)
    direct = space.sees(starts, _towards(goals, starts, reach))
    lengths = np.abs(goals - starts)
    if not direct.all():
        lengths[~direct] = _around(space, starts[~direct], goals[~direct], reach)
    return np.maximum(lengths - reach, 0.0)


def spl(reached: ArrayLike, shortest: ArrayLike, path: ArrayLike) -> np.ndarray:
    """Return the success weighted by path length (Anderson et al. 2018, "On evaluation of embodied navigation agents").

    reached: bool. shortest: m, the shortest way. path: m, the way travelled. All have the shape of the result.
    """
    longer = np.maximum(path, shortest)
    comparable = (longer > 0) & np.isfinite(longer)
    efficiency = np.divide(shortest, longer, out=np.where(longer > 0, 0.0, 1.0), where=comparable)
    return np.where(reached, efficiency, 0.0)


@dataclasses.dataclass(frozen=True)
class _FreeSpace:
    """The free space of a robot's centre: a rectangle without M capsules."""

    low: complex  # m, lower left corner of the rectangle
    high: complex  # m, upper right corner
    one: np.ndarray  # (M,) complex m, one end of each capsule's axis
    other: np.ndarray  # (M,) complex m, the other end
    radius: np.ndarray  # (M,) m, of the capsules

    @classmethod
    def of(cls, layout: Layout, params: SwarmParams) -> _FreeSpace:
        robot, width = float(params.agent_radius), float(params.wall_half_thickness)
        walls = _complex(layout.walls[layout.wall_mask])
        boxes, discs = layout.boxes[layout.box_mask], layout.discs[layout.disc_mask]
        corners = _complex(boxes[:, None, :2] + boxes[:, None, 2:] * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]))
        middles = _complex(discs[:, :2])
        return cls(
            low=robot * (1 + 1j),
            high=complex(*np.asarray(layout.size, float)) - robot * (1 + 1j),
            one=np.concatenate([walls[:, 0], corners.ravel(), middles]),
            other=np.concatenate([walls[:, 1], np.roll(corners, -1, axis=1).ravel(), middles]),
            radius=robot + np.concatenate([np.full(len(walls), width), np.zeros(corners.size), discs[:, 2]]),
        )

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Return which points (K,) are free, (K,) bool.

        The inside of a box counts as free too. No way leads there, because the sides of the box are capsules.
        """
        inside = np.ones(len(points), bool)
        for offset in (points - self.low, self.high - points):
            inside &= (offset.real >= -TOLERANCE) & (offset.imag >= -TOLERANCE)
        free = np.flatnonzero(inside)
        for one, other, radius in zip(self.one, self.other, self.radius - TOLERANCE, strict=True):
            free = free[_distance(points[free], one, other) >= radius]
        return _mask(free, len(points))

    def sees(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return which straight lines from starts (K,) to stops (K,) are free, (K,) bool."""
        clear = np.flatnonzero(self.holds(starts))
        clear = clear[self.holds(stops[clear])]
        for one, other, radius in zip(self.one, self.other, self.radius - TOLERANCE, strict=True):
            start, stop = starts[clear], stops[clear]
            apart = np.minimum(_distance(one, start, stop), _distance(other, start, stop)) >= radius
            crossed = _parted(one, other, start, stop) & _parted(start, stop, one, other)
            clear = clear[apart & ~crossed]
        return _mask(clear, len(starts))


def _around(space: _FreeSpace, starts: np.ndarray, goals: np.ndarray, reach: float) -> np.ndarray:
    """Return the lengths (K,) m of the shortest ways from starts (K,) to the centres of goals (K,) that they do not see."""
    count = len(starts)
    centres, radii, blocked = _circles(space)
    one, one_point, other, other_point = _tangents(
        np.concatenate([goals, starts, centres]), np.concatenate([np.zeros(2 * count), radii]), 2 * count
    )
    from_goal = one < count
    clear = space.sees(np.where(from_goal, _towards(one_point, other_point, reach), one_point), other_point)
    item = np.concatenate([one[clear], other[clear]])
    point = np.concatenate([one_point[clear], other_point[clear]])

    # The nodes of the graph are the goals, the starts and all points where a line touches a circle.
    node = np.where(item < 2 * count, item, 2 * count + np.arange(len(item)))
    on_circle = item >= 2 * count
    arc_tail, arc_head, arc_length = _arcs(item[on_circle] - 2 * count, point[on_circle], centres, radii, blocked)
    line_tail, line_head = np.split(node, 2)
    tail = np.concatenate([line_tail, node[on_circle][arc_tail]])
    head = np.concatenate([line_head, node[on_circle][arc_head]])
    length = np.concatenate([np.abs(np.subtract(*np.split(point, 2))), arc_length])
    return _distances(tail, head, length, count)


def _distances(tail: np.ndarray, head: np.ndarray, length: np.ndarray, count: int) -> np.ndarray:
    """Return the distances (count,) m from node k to node count + k.

    Edges lead both ways, except that none leads back into the first `count` nodes.
    """
    back = tail >= count
    tail, head = np.concatenate([tail, head[back]]), np.concatenate([head, tail[back]])
    length = np.concatenate([length, length[back]])
    size = max(2 * count, head.max(initial=0) + 1)
    shortest_first = np.argsort(length)  # keep only the shortest of equal edges; a sparse array would add them up
    _, kept = np.unique((tail * size + head)[shortest_first], return_index=True)
    kept = shortest_first[kept]
    graph = csr_array((length[kept], (tail[kept], head[kept])), shape=(size, size))
    goals = np.arange(count)
    return dijkstra(graph, indices=goals)[goals, count + goals]


def _circles(space: _FreeSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the circles that a way may bend around: centres (C,), radii (C,), blocked rim points (C, RIM_POINTS) bool."""
    circles = np.unique(np.column_stack([np.append(space.one, space.other), np.tile(space.radius, 2)]), axis=0)
    centres, radii = circles[:, 0], circles[:, 1].real
    rims = centres[:, None] + radii[:, None] * np.exp(2j * np.pi * np.arange(RIM_POINTS) / RIM_POINTS)
    blocked = ~space.holds(rims.ravel()).reshape(rims.shape)
    used = ~blocked.all(axis=1)
    return centres[used], radii[used], blocked[used]


def _tangents(middle: np.ndarray, extent: np.ndarray, num_points: int) -> tuple[np.ndarray, ...]:
    """Return all lines that touch two circles: the index and touching point on one, then on the other, (K,) each.

    middle: (I,) complex m, centres. extent: (I,) m, radii. The first `num_points` circles are points, with radius 0. No
    line joins two of them.
    """
    one, other = np.triu_indices(len(middle), 1)
    one, other = one[other >= num_points], other[other >= num_points]
    both = one >= num_points  # circles have inner tangents too
    sign = np.repeat([1.0, -1.0], [len(one), both.sum()])
    one, other = np.append(one, one[both]), np.append(other, other[both])
    apart = middle[other] - middle[one]
    overlap = extent[one] - sign * extent[other]
    exists = (np.abs(apart) > TOLERANCE) & (np.abs(overlap) <= np.abs(apart) + TOLERANCE)
    one, other, sign, apart, overlap = (x[exists] for x in (one, other, sign, apart, overlap))
    cos = np.clip(overlap / np.abs(apart), -1.0, 1.0)
    sin = np.sqrt(1 - cos * cos)
    normal = np.concatenate([cos + 1j * sin, cos - 1j * sin]) * np.tile(apart / np.abs(apart), 2)
    one, other, sign = np.tile(one, 2), np.tile(other, 2), np.tile(sign, 2)
    return one, middle[one] + extent[one] * normal, other, middle[other] + sign * extent[other] * normal


def _arcs(
    circle: np.ndarray, point: np.ndarray, centres: np.ndarray, radii: np.ndarray, blocked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the free arcs between neighbouring points on circles: indices of both points, (K,) each, and lengths (K,) m.

    circle: (P,) int, the circle that each point (P,) is on.
    """
    turn = np.angle(point - centres[circle]) / (2 * np.pi) % 1.0
    tail = np.lexsort((turn, circle))
    sorted_circle = circle[tail]
    first = np.searchsorted(sorted_circle, sorted_circle)
    last = np.searchsorted(sorted_circle, sorted_circle, side="right") - 1
    here = np.arange(len(tail))
    wraps = here == last
    head = tail[np.where(wraps, first, here + 1)]
    passed = np.cumsum(blocked, axis=1)[circle, np.minimum((turn * RIM_POINTS).astype(int), RIM_POINTS - 1)]
    between = passed[head] - passed[tail] + wraps * blocked.sum(axis=1)[sorted_circle]
    length = 2 * np.pi * radii[sorted_circle] * (turn[head] - turn[tail] + wraps)
    free = between == 0
    return tail[free], head[free], length[free]


def _complex(points: ArrayLike) -> np.ndarray:
    """Convert points (..., 2) to complex numbers (...)."""
    xy = np.asarray(points, float)
    return xy[..., 0] + 1j * xy[..., 1]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.real * b.real + a.imag * b.imag


def _parted(one: np.ndarray, other: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether points a and b lie on different sides of the line through one and other."""
    axis = 1j * (other - one)
    return _dot(axis, a - one) * _dot(axis, b - one) < 0


def _distance(point: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances, m, from points to the segments from one to other."""
    axis, offset = other - one, point - one
    square = _dot(axis, axis)
    along = np.clip(_dot(axis, offset) / np.where(square > 0, square, 1.0), 0.0, 1.0)
    return np.abs(offset - along * axis)


def _towards(start: np.ndarray, stop: np.ndarray, length: float) -> np.ndarray:
    """Return the points `length` m from start towards stop, but not beyond stop."""
    distance = np.abs(stop - start)
    return start + (stop - start) * np.minimum(length / np.where(distance > 0, distance, 1.0), 1.0)


def _mask(index: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[index] = True
    return mask
