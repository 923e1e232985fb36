"""Worlds and their mirror images: the image of a step is the step of the image, whatever engine steps them.

A `step` here takes a batched state and motors, and returns observations, the state, rewards and collision flags.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from helpers import reference
from helpers.worlds import RADIUS, SLOTS, make_world, stack, wrapped

from entropy_env.types import SwarmSpec

WORLDS = 8
SPEC = SwarmSpec(num_agents=10, num_rays=16, on_goal="next_goal", num_goals=2, **SLOTS)  # of all steps
SQUARE = {
    "size": (4.0, 4.0),
    "walls": [[[1, 1], [1, 2]], [[2.5, 3], [3.5, 2.5]]],
    "boxes": [[3, 1, 0.4, 0.2]],
    "discs": [[1.75, 3.25, 0.25]],
}
GRID = 2.0**-18  # m, positions and headings on it survive a mirror without rounding
SCATTERED, CRUSH, BOTH = slice(None, WORLDS // 2), slice(WORLDS // 2, None), slice(None)


def common_states(env, seed, crush):
    """A batch of worlds, the first half scattered, the rest in a crush, with motors for each, (WORLDS, 10, 2).

    crush: drives the agents of a batch to a point of each world, (WORLDS, 2) over the arena's size.
    """
    rng = np.random.default_rng(seed)
    world = reference.world(make_world(env, np.zeros((10, 2)), **SQUARE).layout)
    states = []
    while len(states) < WORLDS:
        position = rng.uniform(0.2, 3.8, (10, 2))
        gaps = reference.fixed_gap(position, world, RADIUS), reference.agent_gap(position, np.ones(10, bool), RADIUS)
        if np.min(gaps) > 0.005:
            goal = rng.uniform(0.5, 3.5, (10, 2, 2))
            states.append(make_world(env, position, rng.uniform(-3, 3, 10), goal=goal, **SQUARE))
    state = stack(states)
    crushed = crush(state, rng.uniform(0, 1, (WORLDS, 2)))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[SCATTERED], b[CRUSH]]), state, crushed)
    on_grid = {name: jnp.round(getattr(mixed, name) / GRID) * GRID for name in ("position", "heading")}
    if env.spec.drive == "force":
        on_grid["velocity"] = jnp.asarray(rng.normal(0, 1, (WORLDS, 10, 2)), jnp.float32)
        on_grid["angular_velocity"] = jnp.asarray(rng.normal(0, 10, (WORLDS, 10)), jnp.float32)
    return mixed.replace(
        **on_grid, rounding=jnp.zeros_like(mixed.rounding), penetration=jnp.zeros_like(mixed.penetration)
    ), jnp.asarray(rng.uniform(-1, 1, (WORLDS, 10, 2)), jnp.float32)


def compare(step, common, transform, order=tuple(range(10)), mirrored=False, crush_tolerance=1e-3):
    """Step a world and its image: the image of the step is the step of the image, but for rays that graze something.

    To 1e-5; in a crush the 8th digit decides how several contacts share a step.
    common: what `common_states` made. order: which of the world's agents is the image's k-th. mirrored: motors, rays,
    turn rate and sideways offset are. Returns how many agents of the crush are off by more than 1e-5 m.
    """
    state, action = common
    order = np.array(order)
    obs, end, reward, collision = step(state, action)
    lidar, rays, sign, moved = SPEC.slice("lidar"), np.arange(SPEC.num_rays), 1, action[:, order]
    if mirrored:
        rays, sign, moved = -rays % SPEC.num_rays, -1, moved[..., ::-1]
    obs_image, end_image, reward_image, collision_image = step(transform(state), moved)
    expected, obs = transform(end), np.asarray(obs)[:, order]

    def far(found, wanted, tolerance, half):
        return np.sum(np.abs(np.asarray(found)[half] - np.asarray(wanted)[half]) > tolerance)

    np.testing.assert_allclose(end_image.wheel_speed, expected.wheel_speed, atol=1e-5)
    turned = wrapped(end_image.heading - expected.heading)
    if np.any(end.velocity):
        # which contact comes first in a crush decides who is fast
        assert far(turned, 0 * turned, 1e-5, SCATTERED) == 0
        assert far(end_image.velocity, expected.velocity, 1e-4, SCATTERED) == 0
        assert far(end_image.angular_velocity, expected.angular_velocity, 2e-3, SCATTERED) == 0
        assert far(end_image.velocity, expected.velocity, 1e-2, CRUSH) <= 4
        assert far(end_image.angular_velocity, expected.angular_velocity, 0.2, CRUSH) <= 4
    else:
        assert far(turned, 0 * turned, 1e-5, BOTH) == 0
    for tolerance, half in ((1e-5, SCATTERED), (crush_tolerance, CRUSH)):
        assert far(end_image.position, expected.position, tolerance, half) == 0
        assert far(reward_image, reward[:, order], tolerance, half) == 0
        for part in map(SPEC.slice, ("velocity", "goal")):
            assert far(obs_image[..., part], obs[..., part] * [1, sign], tolerance, half) == 0
        assert far(obs_image[..., lidar], obs[..., lidar][..., rays], tolerance, half) <= 4
    np.testing.assert_array_equal(collision_image, collision[:, order])
    assert np.any(collision)
    assert not np.all(collision)
    return np.sum(np.any(np.abs(end_image.position - expected.position)[CRUSH] > 1e-5, axis=-1))


def compare_with_inactive(step, common, seed):
    """Wherever the inactive stand, they stay, and nothing changes for the others."""
    state, action = common
    gone = np.random.default_rng(seed).random((WORLDS, 10)) < 0.3
    present = state.replace(active=jnp.asarray(~gone))
    elsewhere = np.where(gone[..., None], state.position[:, ::-1], state.position).astype(np.float32)
    moved = present.replace(position=jnp.asarray(elsewhere))
    obs, end, reward, collision = step(present, action)
    obs_moved, end_moved, reward_moved, collision_moved = step(moved, action)
    for name in ("position", "heading", "wheel_speed", "velocity", "angular_velocity"):
        before, after = np.asarray(getattr(moved, name)), np.asarray(getattr(end_moved, name))
        np.testing.assert_array_equal(after[gone], before[gone])
        np.testing.assert_array_equal(after[~gone], np.asarray(getattr(end, name))[~gone])
    np.testing.assert_array_equal(obs_moved, obs)
    np.testing.assert_array_equal(reward_moved, reward)
    np.testing.assert_array_equal(collision_moved, collision)
    assert not np.any(np.asarray(obs)[gone])
    assert not np.any(np.asarray(reward)[gone])
    assert not np.any(np.asarray(collision)[gone])
    assert np.any(collision)


def reordered(order):
    """The same world with its agents in another order."""

    def transform(state):
        per_agent = (
            "position", "heading", "wheel_speed", "velocity", "angular_velocity", "active", "goal_index", "goals_reached",
            "collided",
        )  # fmt: skip
        layout = state.layout.replace(spawns=state.layout.spawns[:, order], goals=state.layout.goals[:, order])
        return state.replace(layout=layout, **{name: getattr(state, name)[:, order] for name in per_agent})

    return transform


def place(state, point, heading, box, wheel_speed, spin):
    """A state seen otherwise: `point` maps (..., 2), `heading` (...), `box` half sizes, `wheel_speed` (..., 2) and
    `spin` turn rates (...).
    """
    layout = state.layout
    spawns = jnp.concatenate([point(layout.spawns[..., :2]), heading(layout.spawns[..., 2:])], axis=-1)
    layout = layout.replace(
        walls=point(layout.walls),
        boxes=jnp.concatenate([point(layout.boxes[..., :2]), box(layout.boxes[..., 2:])], axis=-1),
        discs=jnp.concatenate([point(layout.discs[..., :2]), layout.discs[..., 2:]], axis=-1),
        spawns=spawns,
        goals=point(layout.goals),
    )
    return state.replace(
        layout=layout,
        position=point(state.position),
        heading=heading(state.heading),
        wheel_speed=wheel_speed(state.wheel_speed),
        velocity=point(state.velocity) - point(jnp.zeros_like(state.velocity)),
        angular_velocity=spin(state.angular_velocity),
    )


def mirror(state):
    return place(
        state,
        point=lambda p: jnp.stack([p[..., 0], 4 - p[..., 1]], axis=-1),
        heading=lambda h: -h,
        box=lambda half: half,
        wheel_speed=lambda wheels: wheels[..., ::-1],
        spin=lambda rate: -rate,
    )


def rotate(state):
    return place(
        state,
        point=lambda p: jnp.stack([4 - p[..., 1], p[..., 0]], axis=-1),
        heading=lambda h: wrapped(h + np.float32(np.pi / 2)),
        box=lambda half: half[..., ::-1],
        wheel_speed=lambda wheels: wheels,
        spin=lambda rate: rate,
    )
