"""Who may be near whom: all agents (dense), or those that the sorted order of a grid holds near by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entropy_env.geometry import Point
from entropy_env.types import SwarmSpec

GRID_FROM = 80  # agents in a world from which the grid is no slower on a CPU, even where all are in one 8 x 6 m arena
COLUMNS = 2**15  # of a row, as fine as a 32-bit key of row and column allows; also the most rows
NOWHERE = 2**31 - 1  # the key of who is not there
ROUNDING = 1e-6  # of the arena's size, by which float32 may misplace an agent over the substeps that a grid serves


class Neighbours(NamedTuple):
    """For every query point the candidates, a superset of the agents within reach of it, each of them once.

    `candidate(k)` gives the index of the k-th, and whether there is one; both have the points' shape, or are scalars
    where the candidates are the same for all points.
    """

    rounds: int | jax.Array  # () most candidates that a point has
    candidate: Callable[[jax.Array], tuple[jax.Array, jax.Array | bool]]

    def visit(self, fold: Callable[[Any, jax.Array, jax.Array | bool], Any], carry: Any) -> Any:
        """Fold `fold(carry, index, there)` over all candidates, one of every point at a time."""
        return jax.lax.fori_loop(0, self.rounds, lambda k, carry: fold(carry, *self.candidate(k)), carry)


def uses_grid(spec: SwarmSpec, grid_from: int = GRID_FROM) -> bool:
    """What `auto` means: the grid from a number of agents in a world."""
    return spec.neighbour_search == "grid" or (spec.neighbour_search == "auto" and spec.num_agents >= grid_from)


def find_neighbours(
    spec: SwarmSpec, points: Point, position: Point, present: jax.Array, size: jax.Array, reach: jax.Array | float
) -> Neighbours:
    """Neighbours of `points`, two (...) m, among agents at `position`, two (P,) m, where `present` (P,) bool.

    Dense candidates are the first `spec.num_agents`, present or not. size: (2,) m, of the arena; places outside it are
    allowed. reach: () m.
    """
    if uses_grid(spec):
        return _grid(points, position, present, size, reach)
    return Neighbours(spec.num_agents, lambda k: (k, True))


def _grid(points: Point, position: Point, present: jax.Array, size: jax.Array, reach: jax.Array | float) -> Neighbours:
    """Agents sorted by rows of the arena as high as the reach, and by x within a row: the candidates are a range of each
    of the three rows around a point. Nothing has a capacity that agents could exceed.

    Places outside the arena count as the nearest inside, which brings no two of them further apart.
    """
    height = jnp.maximum(reach + ROUNDING * size[1], size[1] / COLUMNS)
    scale = (COLUMNS - 1) / size[0]

    def row_of(y):
        return jnp.floor(jnp.clip(y, 0.0, size[1]) / height).astype(jnp.int32)

    def column_of(x):
        return jnp.floor(jnp.clip(x, 0.0, size[0]) * scale).astype(jnp.int32)

    key = jnp.where(present, row_of(position[1]) * COLUMNS + column_of(position[0]), NOWHERE)
    key, order = jax.lax.sort_key_val(key, jnp.arange(key.shape[0], dtype=jnp.int32))

    wide = reach + ROUNDING * size[0]
    row = row_of(points[1])
    left, right = column_of(points[0] - wide), column_of(points[0] + wide) + 1
    rows = [(row + offset) * COLUMNS for offset in (-1, 0, 1)]
    ends = jnp.stack([base + column for column in (left, right) for base in rows])
    first, beyond = jnp.split(jnp.searchsorted(key, ends).astype(jnp.int32), 2)
    counts = jnp.cumsum(beyond - first, axis=0, dtype=jnp.int32)
    first = first.at[1:].add(-counts[:-1])  # so that adding k gives the slot

    def candidate(k):
        slot = jnp.where(k < counts[0], first[0], jnp.where(k < counts[1], first[1], first[2]))
        return order.at[slot + k].get(mode="clip"), k < counts[-1]

    return Neighbours(_most(counts[-1]), candidate)


@jax.custom_batching.custom_vmap
def _most(count: jax.Array) -> jax.Array:
    """() the largest of all counts, of all worlds: a loop over as many rounds needs no mask for worlds that have had
    theirs."""
    return jnp.max(count)


@_most.def_vmap
def _(axis_size, in_batched, count):
    return _most(count), False
