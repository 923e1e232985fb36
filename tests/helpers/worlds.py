"""Worlds built by hand, and a scenario that makes things happen soon."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from helpers.compilation import quick_jit

from entropy_env import engines
from entropy_env.env import Swarm
from entropy_env.scenarios import LEVELS, SCENARIOS
from entropy_env.scenarios.base import Scenario, empty_layout
from entropy_env.types import Layout

ENGINES = tuple(engines.ENGINES)
# Both engines, JAX as a slow test, where it compiles for long. With the force drive that is some 10 s. Conformance holds
# each of its steps to Numba's in the fast tests.
SLOW_JAX = tuple(pytest.param(name, marks=pytest.mark.slow) if name == "jax" else name for name in ENGINES)
KEY = jax.random.PRNGKey
RADIUS, DEPTH = float(np.float32(0.1)), 0.0  # m, m that bodies may overlap
SLOTS = {
    name: max(family(max(LEVELS)).slots().get(name, 0) for family in SCENARIOS.values())
    for name in ("num_walls", "num_boxes", "num_discs")
}  # room for any scenario


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
        key=jnp.zeros(2, jnp.uint32),
    )
    state = _start(env, layout)
    return state.replace(**{name: jnp.asarray(value, getattr(state, name).dtype) for name, value in fields.items()})


@functools.partial(jax.jit, static_argnums=0)
def _start(env, layout):
    return env.start(layout)


def stack(states):
    """One batched state of several."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)  # NumPy has nothing to compile


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
        x = 0.3 + 0.9 * (index % 2) + 0.4 * jax.random.uniform(k_spawn, shape, jnp.float32)
        y = jnp.broadcast_to(0.5 + 0.6 * (index // 2), shape)
        heading = jax.random.uniform(k_heading, shape, jnp.float32, minval=-0.3, maxval=0.3)
        goal_x = x + jax.random.uniform(k_trip, shape, jnp.float32, minval=0.3, maxval=1.0)
        layout = empty_layout(jnp.stack([3.0 + params.difficulty.astype(jnp.float32), jnp.float32(4)]), spec)
        return layout.replace(spawns=jnp.stack([x, y, heading], -1), goals=jnp.stack([goal_x, y], -1))


@functools.cache
def generator(spec, name, num_envs):
    """Starts of worlds of a scenario, of all difficulties; where `spec` has SLOTS, one compiled step serves them
    all. Unless `spec` says so, nobody talks and there are no teams.
    """
    quiet = {"comm_neighbours": spec.comm_neighbours or 0, "team_rewards": bool(spec.team_rewards)}
    if spec.on_goal not in SCENARIOS[name].endings:
        quiet["on_goal"] = SCENARIOS[name].endings[0]  # which no layout depends on
    env = Swarm(dataclasses.replace(spec, **quiet), name, difficulty=max(LEVELS))
    levels = jnp.asarray(np.resize(LEVELS, num_envs), jnp.int32)

    def start(key, level):
        return env.start(env.generate(key, env.make_params(difficulty=level)))

    return quick_jit(lambda seed: jax.vmap(start)(jax.random.split(KEY(seed), num_envs), levels))


def random_world(env, rng):
    """12 agents anywhere, also in walls, some inactive, among bodies of all kinds."""
    angle = rng.uniform(-np.pi, np.pi, 4)
    middle, half = rng.uniform(1, 5, (4, 2)), rng.uniform(0, 2, (4, 1)) * np.stack([np.cos(angle), np.sin(angle)], -1)
    walls = np.stack([middle - half, middle + half], axis=1)[: rng.integers(2, 5)]
    walls[0, :, 0] = walls[0, 0, 0]
    boxes = np.concatenate([rng.uniform(1, 5, (2, 2)), rng.uniform(0.1, 0.6, (2, 2))], axis=1)
    discs = np.concatenate([rng.uniform(1, 5, (2, 2)), rng.uniform(0.1, 0.6, (2, 1))], axis=1)
    return make_world(
        env,
        rng.uniform(0.1, 5.9, (12, 2)),
        np.where(rng.random(12) < 0.3, rng.choice([0, np.pi / 2, np.pi], 12), rng.uniform(-np.pi, np.pi, 12)),
        walls=walls,
        boxes=boxes,
        discs=discs,
        active=rng.random(12) < 0.8,
    )


def crowded_world(env, rng):
    """A valid state of 12 agents in 2.4 x 1.8 m among bodies, no two closer than 2 mm; some inactive anywhere."""
    walls = [[[0.6, 0.5], [1.0, 0.9]], [[1.8, 1.8], [1.8, 1.3]], [[0.0, 1.4], [0.3, 1.4]]]
    boxes, discs = [[1.7, 0.2, 0.3, 0.1]], [[1.2, 1.3, 0.15], [2.3, 0.9, 0.1]]
    active = rng.random(12) < 0.9
    state = make_world(
        env, np.zeros((12, 2)), rng.uniform(-np.pi, np.pi, 12), size=(2.4, 1.8), walls=walls, boxes=boxes, discs=discs,
        active=active,
    )  # fmt: skip
    world = reference.world(state.layout)
    position = np.zeros((0, 2))
    while len(position) < 12:
        candidate = rng.uniform(0.1, [2.3, 1.7])
        distance = np.linalg.norm(position - candidate, axis=-1)
        if reference.fixed_gap(candidate, world, RADIUS) > 2e-3 and np.all(distance > 2 * RADIUS + 2e-3):
            position = np.concatenate([position, candidate[None]])
    return state.replace(position=jnp.asarray(position, jnp.float32))


def hundred(env, rng):
    """100 agents in a grid, with bodies to be crushed against on the right."""
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * [0.35, 0.5] + [0.4, 0.6]
    bodies = {
        "walls": [[[4.5, 0], [4.5, 2]], [[4.5, 2.8], [6, 6]], [[7, 3], [7, 3]]],
        "boxes": [[5.5, 1.5, 0.4, 0.2]],
        "discs": [[4.3, 5.0, 0.3]],
    }
    return make_world(env, grid, rng.uniform(-np.pi, np.pi, 100), **bodies)


def piles(env, rng):
    """States of 10 agents that overlap one another and fixed bodies."""
    held = 0.25 + 0.2 * np.array([0, 1, 2, *range(10, 17)])  # m from a disc's centre: two others hold the first inside
    heaps = [
        np.tile([[4.0, 3.0]], (10, 1)),
        np.stack([np.linspace(3, 4, 10), np.full(10, 1.0)], axis=-1),
        np.stack([3.2 + held, np.full(10, 3.0)], axis=-1),
        rng.uniform([2.7, 2.7], [3.3, 3.3], (10, 2)),
        rng.uniform([4.9, 0.9], [5.1, 1.1], (10, 2)),
        rng.uniform([1.7, 3.7], [2.3, 4.3], (10, 2)),
        rng.uniform([0, 0], [0.3, 5.9], (10, 2)),
        rng.uniform([7.9, 5.9], [8, 6], (10, 2)),
    ]
    bodies = {"walls": [[[2, 2], [2, 5]]], "boxes": [[5.0, 1.0, 0.3, 0.2]], "discs": [[3.2, 3.0, 0.3]]}
    return [make_world(env, heap, **bodies) for heap in heaps]


def check_valid(layout, history, depth=DEPTH):
    """No overlap deeper than `depth` m, nobody outside, nobody through a wall, in any world at any time.

    history: (T, E, N, 2) m.
    """
    for i in range(history.shape[1]):
        world, path = reference.world(take(layout, i)), history[:, i]
        everyone = np.ones(path.shape[:2], bool)
        assert reference.fixed_gap(path, world, RADIUS).min() >= -depth
        assert reference.agent_gap(path, everyone, RADIUS).min() >= -depth
        assert np.all((path > 0) & (path < world.size))
        assert not reference.crossings(path[:-1], path[1:], world.walls).any()


def check_nobody_passed_a_wall(layout, history, margin):
    """Nor the border, wherever agents began; but for the last `margin` m of a wall. history: (T, E, N, 2) m."""
    lengths = np.zeros(0)
    for i in range(history.shape[1]):
        world, path = reference.world(take(layout, i)), history[:, i]
        lengths = np.append(lengths, np.linalg.norm(world.walls[:, 1] - world.walls[:, 0], axis=-1))
        assert not reference.crossings(path[:-1], path[1:], world.walls, margin=margin).any()
        assert np.all((path >= 0) & (path <= world.size))
    assert np.maximum(lengths - 2 * margin, 0).sum() >= 0.6 * lengths.sum(), "hardly any wall has been looked at"


def brute_force(state, grown=0.0, num_rays=32, lidar_range=3.0):
    """Readings (N, num_rays) of the slow ray caster, where every obstacle is `grown` m larger."""
    return reference.scan(
        np.asarray(state.position, np.float64),
        np.asarray(state.heading, np.float64),
        np.asarray(state.active),
        reference.world(state.layout, grown=grown),
        RADIUS,
        lidar_range,
        num_rays,
        seen_radius=RADIUS + grown,
        inset=grown,
    )


def check_readings(found, states):
    """Lidar readings (len(states), N, 32) against the slow ray caster; a grazing ray may see either side.

    Rows that are NaN are left out.
    """
    exact = np.stack([brute_force(state) for state in states])
    assert (exact == 0).any()
    assert (exact == 1).any()
    assert ((exact > 0) & (exact < 1)).any()
    off = np.abs(found - exact) > 1e-5
    for i in np.flatnonzero(off.any(axis=(1, 2))):
        grazing = (brute_force(states[i], 1e-5) <= found[i]) & (found[i] <= brute_force(states[i], -1e-5))
        assert np.all(grazing | ~off[i]), f"off by {np.max(np.abs(found[i] - exact[i])[~grazing])}"
    assert off.mean() < 1e-3


def check_contacts(states, motors, position, collided, wheel_base=0.2, h=0.1):
    """One substep of `h` s, long against the gaps, from every state, as the written rule has it.

    Where 1e-6 m in the start decides, the rule itself is not sharp. The simulator stops a little short of contact, for
    rounding. motors, position: (B, N, 2), collided: (B, N).
    """
    compared, blunt = 0, 0
    for i, state in enumerate(states):
        start, heading = np.asarray(state.position, np.float64), np.asarray(state.heading, np.float64)
        active, world = np.asarray(state.active), reference.world(state.layout)
        ends = [reference.arc((0, 0, a), *m, wheel_base, h)[:2] for a, m in zip(heading, motors[i], strict=True)]

        def move(radius):
            return reference.contact_substep(start, np.array(ends), active, world, radius, h)  # noqa: B023

        (expected, overlapped), nudges = move(RADIUS), [move(RADIUS + 1e-6), move(RADIUS - 1e-6)]
        spread = np.max([np.linalg.norm(nudged - expected, axis=-1) for nudged, _ in nudges], axis=0)
        sharp = spread < 1e-5
        np.testing.assert_allclose(position[i][sharp], expected[sharp], atol=5e-5)
        clear = (nudges[0][1] == overlapped) & (nudges[1][1] == overlapped)
        np.testing.assert_array_equal(collided[i][clear], overlapped[clear])
        compared, blunt = compared + np.sum(sharp & overlapped), blunt + np.sum(~sharp)
    assert compared > 80
    assert blunt < 10
