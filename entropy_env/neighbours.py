"""Find which agents may be near a point: all of them (dense), or those in the rows of a grid around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entropy_env.geometry import Point
from entropy_env.types import SwarmSpec

GRID_FROM = 80  # agents per world from which the grid is no slower on a CPU, even in an arena of only 8 x 6 m
COLUMNS = 2**15  # columns per row, as many as a 32-bit key of row and column allows; also the largest number of rows
NOWHERE = 2**31 - 1  # the key of an agent that is not present, which sorts behind all others
ROUNDING = 1e-6  # share of the arena's size that an agent may be off by float32 rounding while one grid is in use


class Neighbours(NamedTuple):
    """The candidates of every query point: each agent within reach once, and perhaps others.

    `candidate(k)` returns the index of each point's k-th candidate, and whether it has that many. Both have the shape of
    the points, or are scalars if the candidates are the same for all points.
    """

    rounds: int | jax.Array  # () the largest number of candidates that any point has
    candidate: Callable[[jax.Array], tuple[jax.Array, jax.Array | bool]]

    def visit(self, fold: Callable[[Any, jax.Array, jax.Array | bool], Any], carry: Any) -> Any:
        """Call `carry = fold(carry, index, there)` for k = 0, 1, ... with the k-th candidates of all points."""
        return jax.lax.fori_loop(0, self.rounds, lambda k, carry: fold(carry, *self.candidate(k)), carry)


def uses_grid(spec: SwarmSpec, grid_from: int = GRID_FROM) -> bool:
    """Whether the grid is used: always with `grid`, and with `auto` from `grid_from` agents per world."""
    return spec.neighbour_search == "grid" or (spec.neighbour_search == "auto" and spec.num_agents >= grid_from)


def find_neighbours(
    spec: SwarmSpec, points: Point, position: Point, present: jax.Array, size: jax.Array, reach: jax.Array | float
) -> Neighbours:
    """Find the neighbours of points among the agents that are present.

    points: x and y, each (...) m. position: x and y of the agents, each (P,) m. present: (P,) bool. size: (2,) m of the
    arena; points and agents may lie outside it. reach: () m.
    The dense search returns the first `spec.num_agents` agents, present or not.
    """
    if uses_grid(spec):
        return _grid(points, position, present, size, reach)
    return Neighbours(spec.num_agents, lambda k: (k, True))


def _grid(points: Point, position: Point, present: jax.Array, size: jax.Array, reach: jax.Array | float) -> Neighbours:
    """Sort the agents by row, and by x within a row. Rows are as high as the reach.

    The candidates of a point are one range of agents in each of the three rows around it. No table has a fixed
    capacity that a crowd could exceed. Points outside the arena count as the nearest inside, which brings no two of
    them further apart.
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
    first = first.at[1:].add(-counts[:-1])  # now first[r] + k is the slot of candidate k, which lies in range r

    def candidate(k):
        slot = jnp.where(k < counts[0], first[0], jnp.where(k < counts[1], first[1], first[2]))
        return order.at[slot + k].get(mode="clip"), k < counts[-1]

    return Neighbours(most(counts[-1]), candidate)


@jax.custom_batching.custom_vmap
def most(count: jax.Array) -> jax.Array:
    """Return the largest count, () int32. Under `vmap` it is the largest of all worlds: with a bound per world, `vmap`
    would mask every iteration of the loop."""
    return jnp.max(count)


@most.def_vmap
def _(axis_size, in_batched, count):
    return most(count), False
