"""Worlds built by hand, and a scenario that makes things happen soon."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.scenarios.base import Scenario, empty_layout
from entropy_env.types import Layout

KEY = jax.random.PRNGKey


def padded(items, slots, shape):
    """Items in the first of `slots` slots, and their mask; a body left behind in an empty slot must not matter."""
    items = np.asarray(items, np.float32).reshape(-1, *shape)
    filled = np.full((slots, *shape), 1.0, np.float32)
    filled[: len(items)] = items
    return jnp.asarray(filled), jnp.asarray(np.arange(slots) < len(items))


def make_world(env, position, heading=0.0, *, goal=None, size=(8.0, 6.0), walls=(), boxes=(), discs=(), **fields):
    """A state of `env` on a hand-made layout; goals are out of reach, at the far corner, unless given.

    position: (N, 2) m. heading: (N,) or () rad. goal: (N, 2) or (N, G, 2) m. fields: of SwarmState, NumPy values.
    """
    spec = env.spec
    position = np.asarray(position, np.float32)
    heading = np.broadcast_to(np.asarray(heading, np.float32), spec.num_agents)
    spawns = np.concatenate([position, heading[:, None]], axis=1)
    goal = np.asarray(size, np.float32) - 0.01 if goal is None else np.asarray(goal, np.float32)
    goal = goal[:, None] if goal.ndim == 2 else goal
    walls, wall_mask = padded(walls, spec.num_walls, (2, 2))
    boxes, box_mask = padded(boxes, spec.num_boxes, (4,))
    discs, disc_mask = padded(discs, spec.num_discs, (3,))
    layout = Layout(
        size=jnp.asarray(size, jnp.float32),
        walls=walls,
        wall_mask=wall_mask,
        boxes=boxes,
        box_mask=box_mask,
        discs=discs,
        disc_mask=disc_mask,
        spawns=jnp.asarray(np.repeat(spawns[:, None], spec.num_goals, axis=1)),
        goals=jnp.asarray(np.broadcast_to(goal, (spec.num_agents, spec.num_goals, 2))),
        valid=jnp.array(True),
    )
    state = env.start(layout)
    return state.replace(**{name: jnp.asarray(value, getattr(state, name).dtype) for name, value in fields.items()})


def stack(states):
    """One batched state of several."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def numpy_tree(tree):
    return jax.tree.map(np.asarray, tree)


def take(tree, index):
    """World `index` of a batched state or layout, or several."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def wrapped(angle):
    """To [-pi, pi]."""
    return jnp.arctan2(jnp.sin(angle), jnp.cos(angle))


@dataclasses.dataclass(frozen=True)
class Lanes(Scenario):
    """Short trips along x, two agents a lane, so that goals are reached and spawns blocked within a few steps.

    The arena is 3 m wide and longer for each difficulty.
    """

    name = "lanes"
    max_steps = (9, 9, 9, 9)

    def capacity(self, level, params):
        return 100

    def generate(self, key, spec, params):
        index = np.arange(spec.num_agents, dtype=np.float32)[:, None]
        k_spawn, k_heading, k_trip = jax.random.split(key, 3)
        shape = spec.num_agents, spec.num_goals
        x = 0.3 + 0.9 * (index % 2) + 0.4 * jax.random.uniform(k_spawn, shape)
        y = jnp.broadcast_to(0.5 + 0.6 * (index // 2), shape)
        heading = jax.random.uniform(k_heading, shape, minval=-0.3, maxval=0.3)
        goal_x = x + jax.random.uniform(k_trip, shape, minval=0.3, maxval=1.0)
        layout = empty_layout(jnp.stack([3.0 + params.difficulty.astype(jnp.float32), jnp.float32(4)]), spec)
        return layout.replace(spawns=jnp.stack([x, y, heading], -1), goals=jnp.stack([goal_x, y], -1))
