"""Where spawns and goals may stand: a grid of cells, and a random pick among the free ones.

Cells are `PITCH` apart and a pick is jittered within its cell, so that two picks of different cells are
always clear of each other. Nothing is rejected and drawn again: one random order of the cells serves all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.dynamics import fixed_separation
from entropy_env.types import Layout, SwarmParams

PITCH = 0.5  # m between neighbouring cells
CLEARANCE = 0.05  # m at least between two spawns, and between a spawn and a fixed body


def jitter(params: SwarmParams, pitch: float = PITCH) -> jax.Array | float:
    """m, how far a pick may lie from its cell's centre along each axis."""
    return (pitch - 2 * params.agent_radius - CLEARANCE) / 2


def cells_across(length: float) -> int:
    """How many cells fit along a length in metres."""
    return int(np.floor(length / PITCH + 1e-6))


def cell_grid(size: jax.Array, largest: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    """Centres (C, 2) m of the cells of the largest arena, and which (C,) lie in an arena of this size (2,) m."""
    columns, rows = cells_across(largest[0]), cells_across(largest[1])
    index = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)
    count = jnp.floor(size / PITCH + 1e-6)
    corner = (size - count * PITCH) / 2
    centres = corner[None] + (index + 0.5).astype(np.float32) * PITCH
    return centres, jnp.all(index.astype(np.float32) < count[None], axis=-1)


def clear_of_bodies(centres: jax.Array, layout: Layout, params: SwarmParams) -> jax.Array:
    """(C,) bool: cells in which an agent is clear of every fixed body, wherever the jitter puts it. centres: (C, 2) m."""
    gap, _, _ = fixed_separation(centres[:, 0], centres[:, 1], layout, params)
    return jnp.min(gap, axis=0) >= jitter(params) * np.float32(np.sqrt(2)) + CLEARANCE


def place(
    key: jax.Array, centres: jax.Array, spawn_cells: jax.Array, goal_cells: jax.Array, num_agents: int, num_goals: int,
    params: SwarmParams,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Spawns (N, G, 3), goals (N, G, 2) and whether everyone found room, () bool.

    centres: (C, 2) m. spawn_cells, goal_cells: (K, C) bool: agent i belongs to group i mod K and starts and ends in
    its group's cells. Within a column all spawns are clear of each other, and all goals, as long as no two groups
    share a cell; a goal never lies in its own spawn's cell while a group has two free cells for each of its agents.
    """
    num_groups = spawn_cells.shape[0]
    group, rank = np.arange(num_agents) % num_groups, np.arange(num_agents) // num_groups
    group_size = np.bincount(group, minlength=num_groups)
    turn = 2 * np.arange(num_goals) * group_size[group][:, None] + rank[:, None]
    k_order, k_spawn, k_goal, k_heading = jax.random.split(key, 4)
    score = jax.random.uniform(k_order, centres.shape[:1])

    def pick(cells, turn):
        order = jnp.argsort(jnp.where(cells, score[None], 2.0), axis=-1)
        count = jnp.sum(cells, axis=-1)
        return centres[order[group[:, None], turn % jnp.maximum(count, 1)[group][:, None]]], count

    reach = jnp.maximum(jitter(params), 0.0)
    starts, spawn_count = pick(spawn_cells, turn)
    goals, goal_count = pick(goal_cells, turn + group_size[group][:, None])
    starts = starts + jax.random.uniform(k_spawn, starts.shape, minval=-reach, maxval=reach)
    goals = goals + jax.random.uniform(k_goal, goals.shape, minval=-reach, maxval=reach)
    heading = jax.random.uniform(k_heading, (*starts.shape[:2], 1), minval=-jnp.pi, maxval=jnp.pi)
    valid = jnp.all(jnp.minimum(spawn_count, goal_count) >= group_size) & (jitter(params) >= 0)
    return jnp.concatenate([starts, heading], axis=-1), goals, valid
