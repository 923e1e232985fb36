"""Lidar readings: the first hit of every ray, computed analytically."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import ray_border, ray_box, ray_disc, ray_segment
from entropy_env.neighbours import find_neighbours
from entropy_env.types import Layout, SwarmParams, SwarmSpec


def ray_directions(heading: jax.Array, num_rays: int) -> tuple[jax.Array, jax.Array]:
    """Return x and y (N, num_rays) of unit vectors. Ray k points at heading + 2 pi k / num_rays. heading: (N,) rad."""
    angle = 2 * np.pi * np.arange(num_rays) / num_rays
    cos_ray, sin_ray = np.cos(angle).astype(np.float32)[None], np.sin(angle).astype(np.float32)[None]
    cos, sin = jnp.cos(heading)[:, None], jnp.sin(heading)[:, None]
    return cos * cos_ray - sin * sin_ray, sin * cos_ray + cos * sin_ray


def scan(
    position: jax.Array, heading: jax.Array, visible: jax.Array, layout: Layout, params: SwarmParams, spec: SwarmSpec
) -> jax.Array:
    """Return readings (N, num_rays) in [0, 1]: 0 touching, 1 nothing within `lidar_range` of the agent's surface.

    position: (N, 2) m. heading: (N,) rad. visible: (N,) bool, the agents that others see.
    """
    direction = ray_directions(heading, spec.num_rays)
    origin = position[:, :1], position[:, 1:]
    x, y, index = position[:, 0], position[:, 1], jnp.arange(position.shape[0], dtype=jnp.int32)
    reach = params.lidar_range + 2 * params.agent_radius
    near = find_neighbours(spec, (x, y), (x, y), visible, layout.size, reach)

    def agent(nearest: jax.Array, i: jax.Array, there: jax.Array | bool) -> jax.Array:
        centre = jnp.reshape(x[i], (-1, 1)), jnp.reshape(y[i], (-1, 1))
        hit = ray_disc(origin, direction, centre, params.agent_radius)
        return jnp.minimum(nearest, jnp.where((visible[i] & there & (index != i))[:, None], hit, jnp.inf))

    def wall(i: jax.Array) -> jax.Array:
        hit = ray_segment(origin, direction, layout.walls[i, 0], layout.walls[i, 1], params.wall_half_thickness)
        return jnp.where(layout.wall_mask[i], hit, jnp.inf)

    def box(i: jax.Array) -> jax.Array:
        hit = ray_box(origin, direction, layout.boxes[i, :2], layout.boxes[i, 2:])
        return jnp.where(layout.box_mask[i], hit, jnp.inf)

    def disc(i: jax.Array) -> jax.Array:
        hit = ray_disc(origin, direction, layout.discs[i, :2], layout.discs[i, 2])
        return jnp.where(layout.disc_mask[i], hit, jnp.inf)

    hit = near.visit(agent, ray_border(origin, direction, layout.size))
    counts = layout.walls.shape[0], layout.boxes.shape[0], layout.discs.shape[0]
    for count, hits in zip(counts, (wall, box, disc), strict=True):
        if not count:
            continue
        hit = jax.lax.fori_loop(0, count, lambda i, nearest, hits=hits: jnp.minimum(nearest, hits(i)), hit)
    return jnp.clip((hit - params.agent_radius) / params.lidar_range, 0.0, 1.0)
