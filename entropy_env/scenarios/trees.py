"""Random spanning trees of a grid: which neighbouring cells to join, so that every cell can be reached."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Purpose, Shapes, shuffle


def grid_borders(columns: int, rows: int) -> np.ndarray:
    """Return the two cells, as (column, row), on the sides of every border between neighbours, (E, 2, 2) int.

    First come the (columns - 1) * rows upright borders, line by line from left to right, then the
    (rows - 1) * columns flat ones, line by line from the bottom up.
    """
    upright = [[(c, r), (c + 1, r)] for c in range(columns - 1) for r in range(rows)]
    flat = [[(c, r), (c, r + 1)] for r in range(rows - 1) for c in range(columns)]
    return np.array(upright + flat, np.int32)


def border_shapes(grid: tuple[int, int], uses: int) -> Shapes:
    """Return the shapes of the random numbers of all borders. grid: columns, rows. uses: numbers per border."""
    columns, rows = grid
    return {Purpose.UPRIGHT_BORDERS: (columns - 1, rows, uses), Purpose.FLAT_BORDERS: (rows - 1, columns, uses)}


def border_draws(u: Draws, columns: int, rows: int) -> jax.Array:
    """Return the numbers (E, uses) in [0, 1) in the order of `grid_borders`. u: of the shapes `border_shapes` or larger."""
    upright = u[Purpose.UPRIGHT_BORDERS][: columns - 1, :rows]
    flat = u[Purpose.FLAT_BORDERS][: rows - 1, :columns]
    return jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in (upright, flat)])


def spanning_tree(score: jax.Array, borders: np.ndarray, present: jax.Array) -> jax.Array:
    """Return the borders to open, (E,) bool, so that exactly one way leads from each cell to any other (Kruskal 1956).

    score: (E,) in [0, 1), the order in which borders are tried. borders: (E, 2, 2) int. present: (E,) bool.
    """
    rows = int(borders[..., 1].max()) + 1
    nodes = jnp.asarray(borders[..., 0] * rows + borders[..., 1], jnp.int32)
    order = shuffle(score, present)

    def join(component, border):
        a, b = component[border[0]], component[border[1]]
        return jnp.where(component == b, a, component), a != b

    components = jnp.arange((int(borders[..., 0].max()) + 1) * rows, dtype=jnp.int32)
    _, joined = jax.lax.scan(join, components, nodes[order])
    return jnp.zeros_like(present).at[order].set(joined) & present
