"""Random discs and boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Purpose, Shapes, fill_slots, rounded, shuffle
from entropy_env.scenarios.placement import PITCH, margin
from entropy_env.scenarios.roaming import Roaming
from entropy_env.types import Layout, SwarmParams, SwarmSpec

GAP = 0.6  # m, least gap between two obstacles, and between an obstacle and the border
SMALLEST, LARGEST = 0.2, 0.5  # m, radius of a disc and half side of a box
PLOTS = ((4, 3), (4, 3), (5, 4), (6, 5))  # columns and rows of plots; a plot holds at most one obstacle
SHIFT = 0.2  # share of a plot by which the lines between plots are moved; a smallest obstacle still fits
COUNTS = (6, 10, 16, 24)  # obstacles; every other one is a box


class Obstacles(Roaming):
    """Random discs and boxes, 0.4 to 1 m across. They are at least 0.6 m apart, so a robot can pass between them.

    Difficulty 1: 6 in 8 x 6 m. 2: 10 in 8 x 6 m. 3: 16 in 10 x 8 m. 4: 24 in 12 x 10 m.
    """

    name = "obstacles"
    largest_disc = LARGEST
    sizes = ((8.0, 6.0), (8.0, 6.0), (10.0, 8.0), (12.0, 10.0))
    max_steps = (200, 200, 250, 300)

    def slots(self) -> dict[str, int]:
        return {"num_boxes": self.largest(COUNTS) // 2, "num_discs": self.largest(COUNTS) // 2}

    def capacity(self, level: int, params: SwarmParams) -> int:
        lost_across = int((LARGEST + margin(params)) * 2 / PITCH + 1e-6) + 1
        return max(super().capacity(level, params) - COUNTS[level - 1] * lost_across**2, 0)

    def arena_shapes(self) -> Shapes:
        columns, rows = self.largest(PLOTS)
        return {
            Purpose.PLOTS: (columns, rows, 5),
            Purpose.UPRIGHT_LINES: (columns + 1, rows),
            Purpose.FLAT_LINES: (rows + 1,),
        }

    def arena(self, u: Draws, spec: SwarmSpec, params: SwarmParams) -> Layout:
        """Draw rows of random height, cut each into plots of random width, and place obstacles within some plots.

        An obstacle stays half a gap away from the border of its plot.
        """
        layout = super().arena(u, spec, params)
        columns, rows = self.largest(PLOTS)
        count = self.largest(COUNTS)
        plots = self.row(PLOTS, params)
        u_plot = u[Purpose.PLOTS][:columns, :rows].reshape(columns * rows, -1)
        u_x, u_y = u[Purpose.UPRIGHT_LINES][: columns + 1, :rows], u[Purpose.FLAT_LINES][: rows + 1, None]
        pitch = self.row((np.array(self.sizes) - GAP) / np.array(PLOTS), params)
        x, y = rounded(_lines(u_x, plots[0]) * pitch[0]), rounded(_lines(u_y, plots[1])[:, 0] * pitch[1])

        plot = np.stack(np.divmod(np.arange(columns * rows, dtype=np.int32), rows), axis=-1)
        chosen = shuffle(u_plot[:, 0], jnp.all(plot < plots[None], axis=-1))[:count]
        u_half, u_place = u_plot[chosen, 1:3], u_plot[chosen, 3:5]
        column, row = chosen // rows, chosen % rows
        low = jnp.stack([x[column, row], y[row]], axis=-1)
        high = jnp.stack([x[column + 1, row], y[row + 1]], axis=-1)
        half = SMALLEST + rounded((jnp.minimum((high - low - GAP) / 2, LARGEST) - SMALLEST) * u_half)
        box = np.arange(count) % 2 == 0
        half = jnp.where(box[:, None], half, jnp.min(half, axis=-1, keepdims=True))
        centre = GAP / 2 + (low + high) / 2 + rounded((2 * u_place - 1) * ((high - low - GAP) / 2 - half))
        present = jnp.arange(count, dtype=jnp.int32) < self.row(COUNTS, params)

        bodies = jnp.concatenate([centre, half], axis=-1)
        boxes, box_mask = fill_slots(layout.boxes, layout.box_mask, bodies[::2], present[::2])
        discs, disc_mask = fill_slots(layout.discs, layout.disc_mask, bodies[1::2, :3], present[1::2])
        return layout.replace(boxes=boxes, box_mask=box_mask, discs=discs, disc_mask=disc_mask)


def _lines(u: jax.Array, count: jax.Array) -> jax.Array:
    """Return where the lines between plots lie, (L, M), in plots. Lines 0 and `count` stay in place. u: (L, M) in [0, 1)."""
    index = jnp.arange(len(u), dtype=jnp.int32)[:, None]
    inner = (index > 0) & (index < count)
    return index.astype(jnp.float32) + jnp.where(inner, rounded(SHIFT * (2 * u - 1)), 0.0)
