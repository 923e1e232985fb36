"""The components of an observation, and of the global state, in two tables.

To add an observation, write its reader and its row in OBSERVATION. `SwarmSpec.obs_dim`, slices such as
`obs[..., spec.slice("goal")]`, spaces and the JAX engine follow. The Numba engine needs a function of the same name in
`engines/numba_engine/observations.py`, and refuses to start without it.

Known limit: add components before the first Swarm is used. Compiled functions are kept by specification, so later ones
would be missing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from entropy_env.checks import NEVER
from entropy_env.comms import inbox
from entropy_env.geometry import in_own_frame, partners
from entropy_env.lidar import scan
from entropy_env.types import GLOBAL_STATE, HEARD, OBSERVATION, Component, SwarmParams, SwarmSpec, SwarmState

NEAREST = 4  # other agents that a critic is told of
LONGEST = 10.0  # `goal_scale`; what a critic is told of a longer way, or of none


def lidar(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Range readings: 0 touching, 1 nothing in range. Ray k points at heading + 2 pi k / num_rays."""
    return scan(state.position, state.heading, state.active, state.layout, params, spec)


def velocity(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Forward speed and turn rate, each over its maximum. With `velocity_frame="world"`, vx and vy (m/s)."""
    cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
    if spec.drive == "force":
        vx, vy, turn_rate = state.velocity[:, 0], state.velocity[:, 1], state.angular_velocity
        speed = vx * cos + vy * sin
    else:
        speed, turn_rate = state.speed, state.turn_rate(params)
        vx, vy = speed * cos, speed * sin
    if spec.velocity_frame == "world":
        return jnp.stack([vx, vy], axis=-1)
    return jnp.stack([speed / params.max_wheel_speed, turn_rate / params.max_turn_rate], axis=-1)


def goal(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Offset to the agent's goal over `goal_scale`: how far it is ahead, and how far to the left.

    Of agents in pairs it is the partner's goal, of scouts zero.
    """
    goals = partners(state.goal) if spec.paired else state.goal
    offset = in_own_frame((goals - state.position) / params.goal_scale, state.heading)
    return jnp.where(spec.is_scout[:, None], 0.0, offset) if spec.num_scouts else offset


def partner(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Offset to the agent's partner over `goal_scale`, in the agent's frame."""
    return in_own_frame((partners(state.position) - state.position) / params.goal_scale, state.heading)


def role(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """1 for a scout, 0 for a carrier."""
    return jnp.asarray(spec.is_scout, jnp.float32)[:, None]


def motion(state: SwarmState, spec: SwarmSpec) -> jax.Array:
    """Forward speed and right minus left wheel speed (m/s); with the force drive vx, vy (m/s) and turn rate (rad/s)."""
    if spec.drive == "force":
        return jnp.concatenate([state.velocity, state.angular_velocity[:, None]], axis=-1)
    return jnp.stack([state.speed, state.wheel_speed[:, 1] - state.wheel_speed[:, 0]], axis=-1)


OBSERVATION.update(
    lidar=Component(lambda spec: spec.num_rays, lidar, low=0.0, high=1.0),
    velocity=Component(2, velocity),
    goal=Component(2, goal),
    inbox=Component(lambda spec: HEARD * (spec.comm_neighbours or 0), inbox, low=-1.0, high=1.0),
    partner=Component(lambda spec: 2 if spec.paired else 0, partner),
    role=Component(lambda spec: 1 if "role" in (spec.components or ()) else 0, role, low=0.0, high=1.0),
)
GLOBAL_STATE.update(
    position=Component(2, lambda state, spec: state.position),  # m
    direction=Component(2, lambda state, spec: jnp.stack([jnp.cos(state.heading), jnp.sin(state.heading)], axis=-1)),
    velocity=Component(lambda spec: 3 if spec.drive == "force" else 2, motion),
    goal=Component(2, lambda state, spec: state.goal),  # m
)

BUILT_IN = tuple(OBSERVATION.items()), tuple(GLOBAL_STATE.items())  # what the Numba engine mirrors


def observe(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Return the observations of all agents, active or not, (N, obs_dim) float32."""
    return _side_by_side(OBSERVATION, spec, state, params, spec)


def describe(state: SwarmState, spec: SwarmSpec) -> jax.Array:
    """Return what the global state says of each agent, (N, state_dim) float32."""
    return _side_by_side(GLOBAL_STATE, spec, state, spec)


def privileged(state: SwarmState, params: SwarmParams, left: jax.Array, bend: jax.Array) -> jax.Array:
    """Return what a critic may know besides the observation, (N, 4 + 4 NEAREST) float32.

    left: (N,) m, the length of each agent's shortest way to its goal. bend: (N, 2) m, where it first bends, or ends.
    In this order, lengths over `goal_scale`, offsets and headings in the agent's frame:

    - the length of the shortest way, at most LONGEST, and the offset to where it first bends, or ends (3);
    - the share of the time limit that is left, 1 without a limit (1);
    - of the NEAREST other active agents, nearest first: offset, cosine and sine of the heading (4 each), zero where there
      are fewer.
    """
    num_agents, max_steps = len(state.heading), jnp.asarray(params.max_steps)
    cos, sin = jnp.cos(state.heading)[:, None], jnp.sin(state.heading)[:, None]

    def in_frame(x: jax.Array, y: jax.Array) -> list[jax.Array]:
        return [x * cos + y * sin, y * cos - x * sin]

    ahead = in_frame(*jnp.split((bend - state.position) / params.goal_scale, 2, axis=-1))
    clock = jnp.where(max_steps == NEVER, 1.0, 1 - state.step.astype(jnp.float32) / max_steps.astype(jnp.float32))
    own = [jnp.minimum(left / params.goal_scale, LONGEST)[:, None], *ahead, jnp.broadcast_to(clock, (num_agents, 1))]

    x, y = ((place[None] - place[:, None]) / params.goal_scale for place in state.position.T)
    there = state.active[None] & ~jnp.eye(num_agents, dtype=bool)
    count = min(NEAREST, num_agents)
    near = jax.lax.top_k(jnp.where(there, -(x * x + y * y), -jnp.inf), count)[1]
    x, y, there = (jnp.take_along_axis(each, near, axis=1) for each in (x, y, there))
    facing = in_frame(jnp.cos(state.heading)[near], jnp.sin(state.heading)[near])
    others = jnp.where(there[..., None], jnp.stack([*in_frame(x, y), *facing], axis=-1), 0.0)
    others = jnp.pad(others, ((0, 0), (0, NEAREST - count), (0, 0)))
    return jnp.concatenate([*own, others.reshape(num_agents, -1)], axis=-1)


def _side_by_side(table: dict[str, Component], spec: SwarmSpec, *seen: Any) -> jax.Array:
    """Read each component of a table from `seen`, and put them side by side, (N, width of all) float32.

    Raises ValueError if a reader gives another shape than its component says.
    """
    columns = []
    for name, component in table.items():
        expected = spec.num_agents, component.width_in(spec)
        if expected[1]:
            columns.append(component.read(*seen))
            if columns[-1].shape != expected:
                raise ValueError(
                    f"the reader of {name!r} gives shape {columns[-1].shape}, its component says {expected}"
                )
    return jnp.concatenate(columns, axis=-1)
