"""What a robot's range finder reads: the analytic first hit of every ray."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import ray_border, ray_box, ray_disc, ray_segment
from entropy_env.types import Layout, SwarmParams

PARKED = -1e6  # m, where discs that nobody can see stand


def ray_directions(heading: jax.Array, num_rays: int) -> jax.Array:
    """(N, num_rays, 2) unit vectors; ray k points at heading + 2 pi k / num_rays. heading: (N,) rad."""
    angle = 2 * np.pi * np.arange(num_rays) / num_rays
    cos_ray, sin_ray = np.cos(angle).astype(np.float32)[None], np.sin(angle).astype(np.float32)[None]
    cos, sin = jnp.cos(heading)[:, None], jnp.sin(heading)[:, None]
    return jnp.stack([cos * cos_ray - sin * sin_ray, sin * cos_ray + cos * sin_ray], axis=-1)


def first_hits(kernel: Callable, origin: jax.Array, direction: jax.Array, *bodies: jax.Array) -> jax.Array:
    """(N, R) m: the nearest hit of every ray on any of the bodies.

    origin: (N, 2) m. direction: (N, R, 2). bodies: the kernel's further arguments, (M, ...) each.
    """
    rays = jax.vmap(kernel, (None, 0, *(None for _ in bodies)))
    agents = jax.vmap(rays, (0, 0, *(None for _ in bodies)))
    return jnp.min(jax.vmap(agents, (None, None, *(0 for _ in bodies)))(origin, direction, *bodies), axis=0)


def scan(
    position: jax.Array, heading: jax.Array, visible: jax.Array, layout: Layout, params: SwarmParams, num_rays: int
) -> jax.Array:
    """(N, num_rays) in [0, 1]: 0 touching, 1 nothing within `lidar_range` of the surface.

    position: (N, 2) m. heading: (N,) rad. visible: (N,) bool, agents that others see.
    """
    direction = ray_directions(heading, num_rays)
    rays = jax.vmap(ray_border, (None, 0, None))
    hit = jax.vmap(rays, (0, 0, None))(position, direction, layout.size)
    if position.shape[0] > 1:
        hit = jnp.minimum(hit, _hits_on_agents(position, direction, visible, params.agent_radius))
    if layout.walls.shape[0]:
        thickness = jnp.broadcast_to(params.wall_half_thickness, layout.wall_mask.shape)
        walls = jnp.where(layout.wall_mask[:, None, None], layout.walls, PARKED)
        hit = jnp.minimum(hit, first_hits(ray_segment, position, direction, walls[:, 0], walls[:, 1], thickness))
    if layout.boxes.shape[0]:
        boxes = jnp.where(layout.box_mask[:, None], layout.boxes, jnp.array([PARKED, PARKED, 0.0, 0.0], jnp.float32))
        hit = jnp.minimum(hit, first_hits(ray_box, position, direction, boxes[:, :2], boxes[:, 2:]))
    if layout.discs.shape[0]:
        discs = jnp.where(layout.disc_mask[:, None], layout.discs, jnp.array([PARKED, PARKED, 0.0], jnp.float32))
        hit = jnp.minimum(hit, first_hits(ray_disc, position, direction, discs[:, :2], discs[:, 2]))
    return jnp.clip((hit - params.agent_radius) / params.lidar_range, 0.0, 1.0)


def _hits_on_agents(position: jax.Array, direction: jax.Array, visible: jax.Array, radius: jax.Array) -> jax.Array:
    """(N, R) m: the nearest hit on another agent."""
    num_agents = position.shape[0]
    seen = visible[:, None] & ~jnp.eye(num_agents, dtype=bool)  # [seen, seeing]
    centre = jnp.where(seen[..., None], position[:, None], PARKED)
    rays = jax.vmap(ray_disc, (None, 0, None, None))
    agents = jax.vmap(rays, (0, 0, 0, None))
    return jnp.min(jax.vmap(agents, (None, None, 0, None))(position, direction, centre, radius), axis=0)
