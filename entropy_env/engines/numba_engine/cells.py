"""Find who is near whom. Active agents are sorted into square cells; all neighbours of one are in the 3 x 3 around it.

With a single cell everybody is near everybody, which is fastest for small swarms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from entropy_env.engines.numba_engine.compilation import inlined, spliced

GROWTH = np.float32(1.1)
ROOMY = np.float32(
    1.001
)  # cells are wider than the reach by this factor, because rounding may shift an agent by a cell


@inlined
def lay_grid(w, e, reach):
    """Choose the cells of world e, each more than `reach` m wide, and at most as many as `cell_end` has room for."""
    world, width, height, most = w.worlds[e], w.maps.size[e, 0], w.maps.size[e, 1], w.cell_end.shape[1]
    world.columns, world.rows, world.side = 1, 1, reach
    if most == 1:
        return
    side = max(reach * ROOMY, np.float32(math.sqrt(width * height / np.float32(most))))
    while True:
        columns, rows = max(math.ceil(width / side), 1), max(math.ceil(height / side), 1)
        if columns * rows <= most:
            world.columns, world.rows, world.side = columns, rows, side
            return
        side *= GROWTH


@inlined
def line_of(value, side, count):
    """Find the column or row, of `count`, that a coordinate is in. The outermost ones also take what is outside."""
    return min(max(int(value / side), 0), count - 1)


def sorting(counts: Callable[..., Any]) -> Any:
    """Return a compiled function (w, e, reach, old) that sorts agents of world e by cell (counting sort, stable).

    Cells are more than `reach` m wide. counts: compiled, (w, e, i, old), whether an agent is to be found there.
    """

    @spliced
    def sort(w, e, reach, old):
        lay_grid(w, e, reach)
        columns, rows, side = w.worlds[e].columns, w.worlds[e].rows, w.worlds[e].side
        ends, num_agents = w.cell_end[e], w.agents.shape[1]
        for cell in range(columns * rows):
            ends[cell] = 0
        for i in range(num_agents):
            me = w.agents[e, i]
            if counts(w, e, i, old):
                column, row = line_of(me.position[0], side, columns), line_of(me.position[1], side, rows)
                me.cell = row * columns + column
                ends[me.cell] += 1
        total = 0
        for cell in range(columns * rows):
            start, total = total, total + ends[cell]
            ends[cell] = start
        for i in range(num_agents):
            me = w.agents[e, i]
            if counts(w, e, i, old):
                k = ends[me.cell]
                w.sorted_agent[e, k], w.sorted_x[e, k], w.sorted_y[e, k] = i, me.position[0], me.position[1]
                ends[me.cell] = k + 1

    return sort


@spliced
def is_active(w, e, i, old):
    """Whether an agent is in the world."""
    return w.agents[e, i].active


@inlined
def rows_around(w, e, y):
    """Return the first row of cells that may hold neighbours, and the one after the last."""
    rows = w.worlds[e].rows
    row = line_of(y, w.worlds[e].side, rows)
    return max(row - 1, 0), min(row + 1, rows - 1) + 1


@inlined
def run_in_row(w, e, row, x):
    """Return the start and end, in the sorted order, of the agents of a row that may be neighbours."""
    columns = w.worlds[e].columns
    column = line_of(x, w.worlds[e].side, columns)
    first, last = row * columns + max(column - 1, 0), row * columns + min(column + 1, columns - 1)
    return (w.cell_end[e, first - 1] if first > 0 else np.int32(0)), w.cell_end[e, last]
