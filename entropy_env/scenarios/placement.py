"""Place spawns and goals on a grid of cells.

Cells are `PITCH` apart, and a place is jittered within its cell, so places in different cells are always clear of
each other. Nothing is rejected and drawn again: one random order of the free cells serves all agents.

The `room` of a cell, in metres, is how far a place may lie from the cell's centre along each axis and still be clear of
every fixed body. A cell with negative room is not free.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Draws, Purpose, Shapes, rounded, shuffle
from entropy_env.types import Layout, SwarmParams, SwarmSpec

PITCH = 0.5  # m between neighbouring cells
CLEARANCE = 0.05  # m, least gap between two spawns, and between a spawn and a fixed body
TOLERANCE = 5e-6  # m, room that float32 may lose on a cell that fits exactly


def jitter(params: SwarmParams, pitch: float = PITCH) -> jax.Array | float:
    """Return how far, m, a place may lie from its cell's centre along each axis. Negative if robots are too large."""
    return (pitch - 2 * params.agent_radius - CLEARANCE) / 2


def margin(params: SwarmParams) -> jax.Array | float:
    """Return the least distance, m, from an agent's centre to a fixed body."""
    return params.agent_radius + CLEARANCE


def cells_across(length: float) -> int:
    """Return how many cells fit along a length, m."""
    return int(np.floor(length / PITCH + 1e-6))


def free_across(length: float, spacing: float, params: SwarmParams) -> int:
    """Return how many cells along a length, m, are free between walls `spacing` m apart.

    There are no walls if the spacing is the length.
    """
    if jitter(params) < 0:
        return 0
    count = cells_across(length)
    centres = (length - count * PITCH) / 2 + (np.arange(count) + 0.5) * PITCH
    beyond = np.mod(centres, spacing)
    thickness = params.wall_half_thickness if spacing < length else 0.0
    return int(np.sum(np.minimum(beyond, spacing - beyond) >= thickness + margin(params)))


def cell_grid(size: jax.Array, largest: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    """Return centres (C, 2) m of as many cells as the largest arena has, and which (C,) lie within the size (2,) m."""
    columns, rows = cells_across(largest[0]), cells_across(largest[1])
    index = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)
    # Hide a constant size from XLA. It would compute the cells while it compiles, which takes seconds if there are many.
    size = jax.lax.optimization_barrier(size)
    count = jnp.floor(size / PITCH + 1e-6)
    corner = (size - count * PITCH) / 2
    centres = corner[None] + (index + 0.5).astype(np.float32) * PITCH
    return centres, jnp.all(index.astype(np.float32) < count[None], axis=-1)


def room_between(centres: jax.Array, low: jax.Array, high: jax.Array, params: SwarmParams) -> jax.Array:
    """Return the room (C,) m of cells in a free rectangle. centres: (C, 2) m. low, high: (C, 2) or (1, 2) m, corners."""
    return jnp.min(jnp.minimum(centres - low, high - centres), axis=-1) - margin(params)


def room_between_lines(centres: jax.Array, size: jax.Array, spacing: jax.Array, params: SwarmParams) -> jax.Array:
    """Return the room (C,) m of cells between walls along lines `spacing` (2,) m apart.

    Along an axis on which the spacing is the size there are no walls. centres: (C, 2) m. size: (2,) m.
    """
    low = jnp.floor(centres / spacing[None]) * spacing[None]
    thickness = jnp.where(spacing < size, params.wall_half_thickness, 0.0)[None]
    return room_between(centres, low + thickness, low + spacing[None] - thickness, params)


def room_near_islands(centres: jax.Array, layout: Layout, params: SwarmParams) -> jax.Array:
    """Return the room (C,) m of cells among boxes and discs. centres: (C, 2) m."""
    box, disc = layout.boxes[:, None], layout.discs[:, None]
    beyond = jnp.maximum(jnp.abs(centres[None] - box[..., :2]) - box[..., 2:], 0.0)
    apart = [_length(beyond), _length(centres[None] - disc[..., :2]) - disc[..., 2]]
    mask = jnp.concatenate([layout.box_mask, layout.disc_mask])[:, None]
    nearest = jnp.min(jnp.where(mask, jnp.concatenate(apart), jnp.inf), axis=0)
    return (nearest - margin(params)) * math.sqrt(0.5)


def _length(vector: jax.Array) -> jax.Array:
    """Return the lengths (...,) of vectors (..., 2)."""
    square = rounded(vector * vector)
    return jnp.sqrt(square[..., 0] + square[..., 1])


def place_shapes(largest: tuple[float, float], spec: SwarmSpec) -> Shapes:
    """Return the shapes of the random numbers that `place` takes. largest: m, size of the largest arena."""
    columns, rows = map(cells_across, largest)
    agents = spec.num_goals, spec.num_agents
    return {
        Purpose.CELLS: (columns, rows),
        Purpose.SPAWNS: (*agents, 2),
        Purpose.GOALS: (*agents, 2),
        Purpose.HEADINGS: agents,
    }


def van_der_corput(count: int) -> np.ndarray:
    """Return the sequence 0, 1/2, 1/4, 3/4, 1/8, ..., (count,) float32. Any first part of it is spread evenly in [0, 1)."""
    index, share, weight = np.arange(count), np.zeros(count, np.float32), 0.5
    while index.any():
        share += weight * (index & 1).astype(np.float32)
        index, weight = index >> 1, weight / 2
    return share


def place(
    u: Draws, centres: jax.Array, room: jax.Array, streams: jax.Array | np.ndarray, num_streams: jax.Array | int,
    spec: SwarmSpec, params: SwarmParams,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Place everyone. Returns spawns (N, G, 3), goals (N, G, 2) and whether there was room for all, () bool.

    u: in [0, 1), of the shapes `place_shapes`. centres: (C, 2) m. room: (K, C) m, of the cells in each of K zones. Zones
    share no free cell. streams: (S, 2) int, the zones where each stream starts and ends.

    Agent i belongs to stream i mod `num_streams`. In every second column it goes the other way, so agents that reach
    one goal after another go back and forth. Within a column, all spawns are clear of each other, and so are all goals.
    A spawn and the goal of its column stand in different cells. All spawns and goals of an agent do if the zone has at
    least 2 G free cells, with 2 G rounded up to a power of two. A larger G does not move the first spawns and goals.
    """
    num_agents, num_goals = spec.num_agents, spec.num_goals
    agent = jnp.arange(num_agents, dtype=jnp.int32)
    stream, rank = agent % num_streams, agent // num_streams
    back = np.arange(num_goals) % 2
    ends = jnp.asarray(streams, jnp.int32)[stream]
    free = room >= -TOLERANCE
    order = shuffle(jnp.broadcast_to(u[Purpose.CELLS].reshape(-1), free.shape), free)
    count = jnp.sum(free, axis=-1, dtype=jnp.int32)
    shares = van_der_corput(2 * num_goals)[None]

    def pick(zone, turn, u):
        ahead = rank[:, None] + (count[zone].astype(jnp.float32) * shares[:, turn]).astype(jnp.int32)
        cell = order[zone, ahead % jnp.maximum(count[zone], 1)]
        reach = jnp.clip(room[zone, cell], 0.0, jnp.maximum(jitter(params), 0.0))
        return centres[cell] + rounded((2 * u - 1) * reach[..., None]), jnp.all(rank[:, None] < count[zone])

    turn = 2 * np.arange(num_goals)
    starts, start_found = pick(ends[:, back], turn, u[Purpose.SPAWNS].swapaxes(0, 1))
    goals, goal_found = pick(ends[:, 1 - back], turn + 1, u[Purpose.GOALS].swapaxes(0, 1))
    heading = (2 * u[Purpose.HEADINGS].T - 1) * np.pi
    spawns = jnp.concatenate([starts, heading[..., None]], axis=-1)
    return spawns, goals, start_found & goal_found & (jitter(params) >= -TOLERANCE)
