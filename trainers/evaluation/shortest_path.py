"""The shortest way to a goal that a robot's body allows, which SPL compares its path with.

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

TOLERANCE = 1e-4  # m that a way may cut into a body: layouts are float32
RIM_POINTS = 64  # of each circle, to tell where it is free


def shortest_paths(layout: Layout, params: SwarmParams) -> np.ndarray:
    """(N,) m, from each agent's first spawn until its first goal counts as reached; inf where there is no way.

    layout, params: of one world, NumPy leaves. Other agents are no obstacle. The last `reach` of a way is taken to lead
    straight to the goal.
    """
    starts, goals = _complex(layout.spawns[:, 0, :2]), _complex(layout.goals[:, 0])
    reach, space = float(params.reach), _FreeSpace.of(layout, params)
    direct = space.sees(starts, _towards(goals, starts, reach))
    lengths = np.abs(goals - starts)
    if not direct.all():
        lengths[~direct] = _around(space, starts[~direct], goals[~direct], reach)
    return np.maximum(lengths - reach, 0.0)


def spl(reached: ArrayLike, shortest: ArrayLike, path: ArrayLike) -> np.ndarray:
    """Success weighted by path length (Anderson et al. 2018, "On evaluation of embodied navigation agents"), of each.

    reached: bool. shortest, path: m, what was possible and what was travelled. All of one shape.
    """
    longer = np.maximum(path, shortest)
    comparable = (longer > 0) & np.isfinite(longer)
    efficiency = np.divide(shortest, longer, out=np.where(longer > 0, 0.0, 1.0), where=comparable)
    return np.where(reached, efficiency, 0.0)


@dataclasses.dataclass(frozen=True)
class _FreeSpace:
    """Where a robot's centre may be."""

    low: complex  # m, corners of what the border leaves
    high: complex
    one: np.ndarray  # (M,) complex m, the ends of the capsules' axes
    other: np.ndarray
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
        """(K,) bool: whether points (K,) touch nothing. The inside of a box counts as free: its sides close it."""
        inside = np.ones(len(points), bool)
        for offset in (points - self.low, self.high - points):
            inside &= (offset.real >= -TOLERANCE) & (offset.imag >= -TOLERANCE)
        free = np.flatnonzero(inside)
        for one, other, radius in zip(self.one, self.other, self.radius - TOLERANCE, strict=True):
            free = free[_distance(points[free], one, other) >= radius]
        return _mask(free, len(points))

    def sees(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """(K,) bool: whether the straight lines between points (K,) touch nothing."""
        clear = np.flatnonzero(self.holds(starts))
        clear = clear[self.holds(stops[clear])]
        for one, other, radius in zip(self.one, self.other, self.radius - TOLERANCE, strict=True):
            start, stop = starts[clear], stops[clear]
            apart = np.minimum(_distance(one, start, stop), _distance(other, start, stop)) >= radius
            crossed = _parted(one, other, start, stop) & _parted(start, stop, one, other)
            clear = clear[apart & ~crossed]
        return _mask(clear, len(starts))


def _around(space: _FreeSpace, starts: np.ndarray, goals: np.ndarray, reach: float) -> np.ndarray:
    """(K,) m, the ways from starts (K,) to the centres of goals (K,) that are out of sight."""
    count = len(starts)
    centres, radii, blocked = _circles(space)
    one, one_point, other, other_point = _tangents(
        np.concatenate([goals, starts, centres]), np.concatenate([np.zeros(2 * count), radii]), 2 * count
    )
    from_goal = one < count
    clear = space.sees(np.where(from_goal, _towards(one_point, other_point, reach), one_point), other_point)
    item = np.concatenate([one[clear], other[clear]])
    point = np.concatenate([one_point[clear], other_point[clear]])

    # Nodes are the goals, the starts and wherever a line touches a circle.
    node = np.where(item < 2 * count, item, 2 * count + np.arange(len(item)))
    on_circle = item >= 2 * count
    arc_tail, arc_head, arc_length = _arcs(item[on_circle] - 2 * count, point[on_circle], centres, radii, blocked)
    line_tail, line_head = np.split(node, 2)
    tail = np.concatenate([line_tail, node[on_circle][arc_tail]])
    head = np.concatenate([line_head, node[on_circle][arc_head]])
    length = np.concatenate([np.abs(np.subtract(*np.split(point, 2))), arc_length])
    return _distances(tail, head, length, count)


def _distances(tail: np.ndarray, head: np.ndarray, length: np.ndarray, count: int) -> np.ndarray:
    """(count,) m from node k to node count + k, over edges that lead both ways, but not into the first `count`."""
    back = tail >= count
    tail, head = np.concatenate([tail, head[back]]), np.concatenate([head, tail[back]])
    length = np.concatenate([length, length[back]])
    size = max(2 * count, head.max(initial=0) + 1)
    shortest_first = np.argsort(length)  # of edges between the same nodes, which a sparse array would add up
    _, kept = np.unique((tail * size + head)[shortest_first], return_index=True)
    kept = shortest_first[kept]
    graph = csr_array((length[kept], (tail[kept], head[kept])), shape=(size, size))
    goals = np.arange(count)
    return dijkstra(graph, indices=goals)[goals, count + goals]


def _circles(space: _FreeSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (C,) and radii (C,) of what a way may bend around, and where their rims are blocked, (C, RIM_POINTS)."""
    circles = np.unique(np.column_stack([np.append(space.one, space.other), np.tile(space.radius, 2)]), axis=0)
    centres, radii = circles[:, 0], circles[:, 1].real
    rims = centres[:, None] + radii[:, None] * np.exp(2j * np.pi * np.arange(RIM_POINTS) / RIM_POINTS)
    blocked = ~space.holds(rims.ravel()).reshape(rims.shape)
    used = ~blocked.all(axis=1)
    return centres[used], radii[used], blocked[used]


def _tangents(middle: np.ndarray, extent: np.ndarray, num_points: int) -> tuple[np.ndarray, ...]:
    """The lines that touch two circles, as the index and the touching point on one and on the other, (K,) each.

    middle: (I,) complex. extent: (I,) m, 0 for the first `num_points`, of which no two are joined.
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
    """The free arcs between neighbouring points on circles: indices of the points, (K,) each, and lengths (K,) m.

    circle: (P,) int, which circle a point (P,) is on.
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
    """(..., 2) as (...) complex."""
    xy = np.asarray(points, float)
    return xy[..., 0] + 1j * xy[..., 1]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.real * b.real + a.imag * b.imag


def _parted(one: np.ndarray, other: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether points a and b lie on different sides of the line through one and other."""
    axis = 1j * (other - one)
    return _dot(axis, a - one) * _dot(axis, b - one) < 0


def _distance(point: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """m from points to the segments from one to other."""
    axis, offset = other - one, point - one
    square = _dot(axis, axis)
    along = np.clip(_dot(axis, offset) / np.where(square > 0, square, 1.0), 0.0, 1.0)
    return np.abs(offset - along * axis)


def _towards(start: np.ndarray, stop: np.ndarray, length: float) -> np.ndarray:
    """The points `length` along the way from start to stop, not beyond stop."""
    distance = np.abs(stop - start)
    return start + (stop - start) * np.minimum(length / np.where(distance > 0, distance, 1.0), 1.0)


def _mask(index: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[index] = True
    return mask
