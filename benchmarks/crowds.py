"""Check that crowds stay apart, in every step of long, adversarial runs, in float64.

    python -m benchmarks.crowds --json benchmarks/results/crowds.json

Robots drive into corners, wedges, gaps and each other, with noise on their motors. After every step the stored positions
are checked in float64: the gap between all pairs of robots, the gap between all robots and bodies, and whether a move
led through the middle line of a wall. A case passes if the smallest gap is not below zero and no robot passed a wall.
By default it does about a million world steps. The exit status is 1 if a case fails.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import jax
import numba
import numpy as np
import tyro

from benchmarks.measure import Row, progress
from benchmarks.report import save_rows
from benchmarks.rollouts import Engine
from entropy_env import Swarm, SwarmSpec, make_engine, make_layout
from entropy_env.engines import ENGINES
from entropy_env.physics import longest_move
from entropy_env.scenarios import Open
from entropy_env.scenarios.custom import Custom, pad_layout, spec_for
from entropy_env.types import SwarmState

Drive = Literal["kinematic", "force"]
NOISE = 0.3  # standard deviation of the noise on motors in [-1, 1]
ROAM = 40  # steps after which roaming robots choose another target
SLOTS = {"num_walls": 12, "num_boxes": 2, "num_discs": 2}  # the same for all handmade maps, so JAX compiles less often
FAR_FUTURE = 10**6  # steps, a time limit that no run reaches


@dataclasses.dataclass(frozen=True)
class Crowd:
    """A crowd, and the target of all its robots, as a share of the arena's size. With None each robot roams."""

    name: str
    num_agents: int
    target: tuple[float, float] | None
    scenario: str | Open = "open"
    difficulty: int = 1
    layout: Mapping[str, Any] | None = None  # `make_layout`'s arguments, instead of a scenario
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def corners() -> Iterator[Crowd]:
    """Yield crowds that press into the corner of `open` where float32 is coarsest."""
    for difficulty, most in ((1, 192), (4, 200)):
        for count in (24, 50, 100, most):
            for on_goal in ("next_goal", "respawn"):
                spec = {"on_goal": on_goal}
                yield Crowd(f"corner/{on_goal}/{difficulty}", count, (1.0, 1.0), difficulty=difficulty, spec=spec)


def handmade() -> Iterator[Crowd]:
    """Yield crowds with extreme arenas, obstacles, sizes and step lengths.

    Most have a hundred robots, so JAX compiles less often.
    """
    for side in (12, 30, 100, 200, 253, 1000):
        grid = side - 0.15 - 0.25 * _lattice(10, 10)
        yield Crowd(f"far corner/{side} m", 100, (1.0, 1.0), layout={"size": (side, side), "spawns": grid})
    field = {"size": (8, 6), "spawns": 0.4 + 0.5 * _lattice(14, 8)[:100]}
    yield Crowd("one goal", 100, (0.5, 0.5), layout=field)
    for substeps, dt in ((1, 0.1), (4, 1.0), (4, 3.0), (1, 3.0)):
        spec, params = {"substeps": substeps}, {"dt": dt}
        yield Crowd(f"dt/{dt}/{substeps}", 100, (1.0, 1.0), layout=field, spec=spec, params=params)
    angle = 2 * np.pi * np.arange(200) / 200
    ring = 8 + 7.5 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    yield Crowd("circle", 200, (0.5, 0.5), layout={"size": (16, 16), "spawns": ring})
    for wedge in (0.05, 0.1, 0.2, 0.4, 0.6):
        tip, long = np.array([7.5, 3.0]), 6.0
        sides = [tip - long * np.array([math.cos(wedge / 2), sign * math.sin(wedge / 2)]) for sign in (-1, 1)]
        layout = {"size": (8, 6), "walls": [[side, tip] for side in sides], "spawns": 0.2 + 0.22 * _lattice(5, 20)}
        yield Crowd(f"wedge/{wedge}", 100, (7.5 / 8, 0.5), layout=layout)
    crowd = 0.3 + 0.4 * _lattice(8, 13)[:100]
    gates = [[[4, 0], [4, 2.85]], [[4, 3.15], [4, 6]]]  # with a half-thickness of 0.05 m, a robot's diameter apart
    yield Crowd("gap of a diameter", 100, (1.0, 0.5), layout={"size": (8, 6), "walls": gates, "spawns": crowd})
    rocks = {"boxes": [[4, 1.4, 0.5, 1.4], [4, 4.6, 0.5, 1.4]], "discs": [[6, 3, 0.4], [6.5, 3.7, 0.3]]}
    yield Crowd("rocks", 100, (6.2 / 8, 0.55), layout={"size": (8, 6), "spawns": crowd} | rocks)
    for radius in (0.02, 0.05, 0.25, 0.5):
        room, wall = 32 * radius, [[[24 * radius, 26 * radius], [30 * radius, 29 * radius]]]
        layout = {"size": (room, room), "walls": wall, "spawns": 1.1 * radius + 2.2 * radius * _lattice(10, 10)}
        params = {"agent_radius": radius, "wall_half_thickness": radius / 2}
        yield Crowd(f"radius/{radius}", 100, (1.0, 1.0), layout=layout, params=params)
    for scenario in ("rooms", "maze", "obstacles"):
        yield Crowd(f"roam/{scenario}", 24, None, scenario)
    yield thin_walls()


def thin_walls() -> Crowd:
    """Return a crowd of robots of 1 mm among walls without thickness, with single substeps of 0.1 m."""
    rng = np.random.default_rng(0)
    middle, angle = rng.uniform(0.3, 1.8, (12, 2)), rng.uniform(0, np.pi, 12)
    half = 0.2 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    layout = {"size": (2, 2), "walls": np.stack([middle - half, middle + half], axis=1)}
    layout["spawns"] = 0.011 + 0.012 * _lattice(1, 100)
    params = {"agent_radius": 1e-3, "wall_half_thickness": 0.0}
    return Crowd("thin walls", 100, None, layout=layout, spec={"substeps": 1}, params=params)


def _lattice(columns: int, rows: int) -> np.ndarray:
    """Return the points of a grid, (columns * rows, 2) whole numbers."""
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)


def all_crowds() -> list[Crowd]:
    """Return every case."""
    return [*corners(), *handmade()]


class Run:
    """The worlds of a crowd in an engine, checked after every step."""

    def __init__(
        self,
        crowd: Crowd,
        engine: Engine,
        drive: Drive,
        num_worlds: int,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> None:
        spec = SwarmSpec(crowd.num_agents, **{"num_rays": 1, "drive": drive, "on_goal": "next_goal"} | dict(crowd.spec))
        self.rng, layout = np.random.default_rng(seed), None
        if crowd.layout is None:
            swarm = Swarm(spec, crowd.scenario, crowd.difficulty)
        else:
            spawns = np.concatenate([crowd.layout["spawns"], np.zeros((crowd.num_agents, 1))], axis=1)
            goals = np.tile(0.5 * np.asarray(crowd.layout["size"]), (crowd.num_agents, 2, 1))
            layout = make_layout(**dict(crowd.layout) | {"spawns": spawns, "goals": goals})
            swarm = Swarm(spec_for(layout, Swarm(dataclasses.replace(spec, **SLOTS), Custom()).spec), Custom())
            layout = pad_layout(layout, swarm.spec)
        settings = {"max_steps": FAR_FUTURE, "goal_radius": 1e-3} | dict(crowd.params)
        self.spec, self.params = swarm.spec, swarm.resolve_params(**settings)
        self.engine = make_engine(swarm, num_worlds, self.params, engine, layout is None, num_threads)
        if layout is None:
            self.engine.reset(seed)
        else:
            worlds = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], num_worlds, axis=0), layout)
            worlds.spawns[..., 2] = self.rng.uniform(-np.pi, np.pi, worlds.spawns.shape[:-1])
            self.engine.reset_to(worlds)
        self.state = self.engine.state
        self.size = np.asarray(self.state.layout.size, np.float64)
        self.roams = crowd.target is None
        self.target = self.size[:, None] * np.array(crowd.target or (0.0, 0.0))
        self.steps, self.worst_gap, self.passed = 0, float(least_gap(self.state, self.params).min()), 0
        longest = float(longest_move(np.float32(self.params.dt), self.params, self.spec))
        self.margin = 0.0 if self.spec.substeps == 1 else longest

    def motors(self, direction: float = 1.0) -> np.ndarray:
        """Return motors (E, N, 2) that drive at full speed with the front towards the target, and noise.

        direction: 1 drives forwards, -1 backwards.
        """
        state, rng = self.state, self.rng
        if self.roams and self.steps % ROAM == 0:
            self.target = self.size[:, None] * rng.uniform(size=state.position.shape)
        offset = self.target - state.position
        bearing = np.arctan2(offset[..., 1], offset[..., 0]) - state.heading
        turn = 3 * np.arctan2(np.sin(bearing), np.cos(bearing))
        if self.spec.drive == "force":  # its left motor turns the robot left, and it turns ever faster
            turn = (state.angular_velocity - turn) / 10
        motors = np.clip(direction + np.stack([-turn, turn], axis=-1), -1, 1)
        return motors + rng.normal(0, NOISE, motors.shape)

    def step(self, direction: float = 1.0) -> None:
        """Step all worlds once, and check the positions of all robots."""
        before, transition = self.state, self.engine.step(self.motors(direction))
        self.state = after = self.engine.state
        self.steps += 1
        self.worst_gap = min(self.worst_gap, float(least_gap(after, self.params).min()))
        moved = transition.acted & ~transition.terminated  # the others may have respawned elsewhere
        places, layout = (before.position.astype(np.float64), after.position.astype(np.float64)), after.layout
        for e in range(len(moved)):
            walls = layout.walls[e][layout.wall_mask[e]].astype(np.float64)
            self.passed += _passes(places[0][e], places[1][e], moved[e], walls, self.margin)


def least_gap(state: SwarmState, params: Any) -> np.ndarray:
    """Return the smallest gap in each world, (E,) m: between two active robots, or a robot and a body, in float64."""
    layout, radius = state.layout, float(np.float32(params.agent_radius))
    half = float(np.float32(params.wall_half_thickness))
    return np.array(
        [
            _least_gap(
                *(np.asarray(array[e], np.float64) for array in (state.position, layout.size)),
                *(np.asarray(array[e][mask[e]], np.float64) for array, mask in _bodies(layout)),
                state.active[e], radius, half,
            )
            for e in range(len(state.step))
        ]
    )  # fmt: skip


def _bodies(layout: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layout.walls, layout.wall_mask), (layout.boxes, layout.box_mask), (layout.discs, layout.disc_mask)]


@numba.njit(cache=False)
def _least_gap(position, size, walls, boxes, discs, active, radius, half):
    """Return the smallest gap in one world, m.

    position: (N, 2), size: (2,), walls: (W, 2, 2), boxes: (B, 4), discs: (D, 3), all float64. active: (N,) bool.
    """
    least_square, least = np.inf, np.inf
    for i in range(len(position)):
        if not active[i]:
            continue
        x, y = position[i]
        for j in range(i):
            if active[j]:
                dx, dy = position[j, 0] - x, position[j, 1] - y
                least_square = min(least_square, dx * dx + dy * dy)
        least = min(least, x - radius, y - radius, size[0] - x - radius, size[1] - y - radius)
        for wall in walls:
            ax, ay, px, py = wall[1, 0] - wall[0, 0], wall[1, 1] - wall[0, 1], x - wall[0, 0], y - wall[0, 1]
            along = min(max((px * ax + py * ay) / max(ax * ax + ay * ay, 1e-30), 0.0), 1.0)
            least = min(least, math.hypot(px - along * ax, py - along * ay) - half - radius)
        for box in boxes:
            over_x, over_y = abs(x - box[0]) - box[2], abs(y - box[1]) - box[3]
            outside = math.hypot(max(over_x, 0.0), max(over_y, 0.0))
            least = min(least, outside + min(max(over_x, over_y), 0.0) - radius)
        for disc in discs:
            least = min(least, math.hypot(x - disc[0], y - disc[1]) - disc[2] - radius)
    return min(least, math.sqrt(least_square) - 2 * radius)


@numba.njit(cache=False)
def _passes(before, after, moved, walls, margin):
    """Count the moves that led through the middle line of a wall.

    The last `margin` m at both ends of a wall do not count, because a move of several substeps may lead around an end.
    before, after: (N, 2) m. moved: (N,) bool. walls: (W, 2, 2) m. All float64.
    """
    count = 0
    for i in range(len(before)):
        if not moved[i]:
            continue
        (px, py), (qx, qy) = before[i], after[i]
        for wall in walls:
            ax, ay, dx, dy = wall[0, 0], wall[0, 1], wall[1, 0] - wall[0, 0], wall[1, 1] - wall[0, 1]
            length = math.hypot(dx, dy)
            side_p, side_q = dx * (py - ay) - dy * (px - ax), dx * (qy - ay) - dy * (qx - ax)
            if length <= 2 * margin or side_p * side_q >= 0:
                continue
            t = side_p / (side_p - side_q)
            along = ((px + t * (qx - px) - ax) * dx + (py + t * (qy - py) - ay) * dy) / length
            count += margin < along < length - margin
    return count


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    json: Path | None = None
    """File to write the rows to."""
    engines: tuple[Engine, ...] = tuple(ENGINES)
    """Engines to run."""
    drives: tuple[Drive, ...] = ("kinematic", "force")
    """Drives to run."""
    only: str = ""
    """Run only cases whose names begin with this."""
    numba_worlds: int = 12
    """Worlds per case with Numba. Each has other random numbers."""
    jax_worlds: int = 4
    """Worlds per case with JAX, which is slower here and compiles again for most cases."""
    steps: int = 750
    """Steps of each world."""
    seed: int = 0
    """Seed of the random numbers."""
    processes: int = os.cpu_count() or 1
    """Number of cases that run at a time."""


def run_case(crowd: Crowd, drive: Drive, engine: Engine, options: Options) -> Row:
    """Run a case, and return its row of results."""
    started = time.perf_counter()
    num_worlds = options.numba_worlds if engine == "numba" else options.jax_worlds
    run = Run(crowd, engine, drive, num_worlds, options.seed, num_threads=1)  # the other cores run other cases
    for _ in range(options.steps):
        run.step()
    return {
        "benchmark": "crowds",
        "engine": engine,
        "case": crowd.name,
        "drive": drive,
        "num_agents": crowd.num_agents,
        "num_envs": num_worlds,
        "steps": options.steps,
        "worst_gap_m": run.worst_gap,
        "passed_walls": run.passed,
        "seconds": round(time.perf_counter() - started, 1),
        "ok": run.worst_gap >= 0 and not run.passed,
    }


def main(options: Options) -> None:
    """Run all cases, and print the smallest gap of each."""
    crowds = [crowd for crowd in all_crowds() if crowd.name.startswith(options.only)]
    if not crowds:
        sys.exit(f"no case begins with {options.only!r}: choose from {sorted({crowd.name for crowd in all_crowds()})}")
    cases = [(crowd, drive, engine) for engine in options.engines for drive in options.drives for crowd in crowds]
    rows: list[Row] = []
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        running = pool.map(run_case, *zip(*cases, strict=True), itertools.repeat(options))
        for row in progress(running, "crowds", total=len(cases)):
            rows.append(row)
            print(
                f"{row['case']:24} {row['num_agents']:4} {row['drive']:9} {row['engine']:6} worst gap "
                f"{row['worst_gap_m']:10.2e} m, {row['passed_walls']} walls passed, {row['seconds']:6} s"
                f"{'' if row['ok'] else '  FAILS'}",
                flush=True,
            )
    world_steps = sum(row["num_envs"] * row["steps"] for row in rows)
    print(f"{world_steps:,} world steps, worst gap {min(row['worst_gap_m'] for row in rows):.2e} m")
    if options.json:
        save_rows(options.json, rows)
    if not all(row["ok"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
