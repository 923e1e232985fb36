"""The simulator of one world: pure functions of state, action and parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env import checks, geodesic, observations
from entropy_env.geometry import Point
from entropy_env.neighbours import Neighbours, find_neighbours
from entropy_env.physics import PARTING_SPEED, advance, apart, as_motors, clearance
from entropy_env.rewards import (
    TERMS,
    NamedTerms,
    Outcome,
    Term,
    check_term,
    check_weights,
    preset_weights,
    weighted_terms,
)
from entropy_env.scenarios import Scenario, make_scenario
from entropy_env.scenarios.base import corners_for
from entropy_env.types import (
    FAR_AWAY,
    LASTING,
    NO_KEY,
    PARAM_NAMES,
    Layout,
    SwarmParams,
    SwarmSpec,
    SwarmState,
    cast_params,
    narrow,
)

GEODESIC_WEIGHT = "reward_geodesic"
RESPAWN_GOALS = 8  # poses and goals per agent where an episode may use several
NO_CORNERS = {"num_corners": 0, "disc_corners": 8}  # for shortest ways, where there are none
ROUNDING = 1e-3  # m; two compilations of a generator differ by less
SIZE_PARAMS = frozenset({"agent_radius", "wall_half_thickness"})  # decide how many agents fit
Info = dict[str, Any]


@dataclasses.dataclass(frozen=True, init=False)
class Swarm:
    """N differential-drive robots with lidar, each on its way to its own goal.

    >>> env = Swarm(SwarmSpec(num_agents=10), scenario="rooms")
    >>> params = env.make_params(max_wheel_speed=0.8)
    >>> obs, state = env.reset(key, params)
    >>> obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)

    All arrays have one row per agent. Methods are pure and not jitted; `vector.batch` runs many worlds. A Swarm is
    hashable, and equal to any other of the same spec and scenario.
    """

    spec: SwarmSpec
    scenario: Scenario

    def __init__(
        self,
        spec: SwarmSpec | None = None,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        reward_terms: Mapping[str, Term | str] | None = None,
    ) -> None:
        """Make a simulator with room for layouts of up to `difficulty`.

        difficulty: 1 to 4, also the default of `make_params`. A Scenario brings its own.
        reward_terms: your own terms of the reward by name, each a function (outcome, params) or its import path, see
        `rewards`. The same as the field of SwarmSpec. Each needs a weight, `reward_<name>` of `make_params`.
        Raises ValueError for an unknown scenario, where more agents are asked for than are sure to fit, and for a term
        that cannot be compiled.
        """
        family = scenario if isinstance(scenario, Scenario) else make_scenario(scenario, difficulty)
        spec = SwarmSpec() if spec is None else spec
        if reward_terms is not None:
            spec = dataclasses.replace(spec, reward_terms=reward_terms)  # type: ignore[arg-type]
        _check_terms(spec.reward_terms)
        sizes = {"num_walls": 0, "num_boxes": 0, "num_discs": 0} | family.slots()
        sizes["num_goals"] = 1 if spec.on_goal == "terminate" else RESPAWN_GOALS
        for name, needed in sizes.items():
            given = getattr(spec, name)
            if given is not None and given < needed and name != "num_goals":
                raise ValueError(f"{name}={given} is too few: {family.name} layouts need {needed}")
        filled: dict[str, Any] = {name: needed for name, needed in sizes.items() if getattr(spec, name) is None}
        slots = {name: filled.get(name, getattr(spec, name)) for name in sizes}
        corners = NO_CORNERS
        if spec.geodesic:
            needed_corners = corners_for(slots, family.largest_disc, family.corners_per_wall)
            corners = {name: max(getattr(spec, name) or 0, count) for name, count in needed_corners.items()}
        filled |= {"geodesic": bool(spec.geodesic), **corners}
        object.__setattr__(self, "spec", dataclasses.replace(spec, **filled))
        object.__setattr__(self, "scenario", family)
        self._check_capacity(family.difficulty, SwarmParams())

    @functools.cached_property
    def terms(self) -> dict[str, Term]:
        """All reward terms by name: the built-in ones, then a user's own, then `geodesic` with that option."""
        return TERMS | dict(self.spec.own_terms)

    def make_params(self, reward: str = "shaped", **values: Any) -> SwarmParams:
        """Make parameters with strong types.

        reward: the name of a preset of weights. values: parameters by name, which override the preset and the defaults.
        `max_steps` defaults to what the scenario needs at the given difficulty; "never" means no time limit.
        Raises ValueError for an unknown name or an impossible value, TypeError for a value that is not a number. Traced
        values are not checked.
        """
        return cast_params(self.resolve_params(reward, **values))

    def resolve_params(self, reward: str = "shaped", **values: Any) -> SwarmParams:
        """Do as `make_params`, but keep numbers and NumPy arrays as they are given. Starts no device."""
        names = [*PARAM_NAMES, GEODESIC_WEIGHT, *(f"reward_{name}" for name, _ in self.spec.reward_terms)]
        for name in values:
            if name not in names:
                raise ValueError(f"unknown parameter {name!r}{checks.suggest(name, names)}")
        values = {"difficulty": self.scenario.difficulty} | preset_weights(reward) | values
        if isinstance(values.get("max_steps"), str):
            values["max_steps"] = checks.as_time_limit(values["max_steps"])
        concrete = {name: value for name, value in values.items() if not isinstance(value, jax.core.Tracer)}
        checks.check_params(concrete)
        if "difficulty" in concrete and np.any(np.asarray(concrete["difficulty"]) > self.scenario.difficulty):
            raise ValueError(
                f"difficulty={concrete['difficulty']} is above the difficulty={self.scenario.difficulty} that this "
                f"Swarm's layouts have room for: make it with Swarm(..., difficulty={np.max(concrete['difficulty'])})"
            )
        if "max_steps" not in values:
            table, level = np.array(self.scenario.max_steps, np.int32), values["difficulty"]
            if "difficulty" in concrete:
                values["max_steps"] = table[np.asarray(level, np.int32) - 1]
            else:
                values["max_steps"] = jnp.asarray(table)[jnp.asarray(level, jnp.int32) - 1]
        if self.spec.geodesic:
            values.setdefault(GEODESIC_WEIGHT, 0.0)
        elif GEODESIC_WEIGHT in values:
            _check_no_weight(values.pop(GEODESIC_WEIGHT))
        own = {name: values.pop(f"reward_{name}") for name, _ in self.spec.own_terms if f"reward_{name}" in values}
        params = SwarmParams(**values, own_weights=own)
        self.check_together(params)
        if "difficulty" in concrete:
            sizes: dict[str, Any] = {name: float(np.max(concrete[name])) for name in SIZE_PARAMS & concrete.keys()}
            for level in np.unique(np.asarray(concrete["difficulty"])):
                self._check_capacity(int(level), SwarmParams(**sizes))
        return params

    def check_together(self, params: SwarmParams) -> None:
        """Check parameters that are fine one by one, but perhaps not together. Raises ValueError if

        - the weights are not those of the reward's terms,
        - robots can get too fast,
        - robots can get so far in a substep that float32 could not tell on which side of a thin wall they are.
        """
        check_weights(self.spec.own_terms, params.own_weights)
        values, substeps = vars(params), self.spec.substeps
        if any(isinstance(value, jax.core.Tracer) for value in values.values()):
            return
        speed = checks.top_speed(values, self.spec.drive, substeps)
        longest = np.maximum(speed, PARTING_SPEED) * np.asarray(params.dt) / substeps
        thickness = np.asarray(params.agent_radius) + np.asarray(params.wall_half_thickness)
        least = clearance(checks.ARENA.most, longest, np.asarray(params.agent_radius))
        if np.any(thickness < least):
            raise ValueError(
                f"agent_radius={params.agent_radius!r} plus wall_half_thickness={params.wall_half_thickness!r} is "
                f"{np.min(thickness):.3g} m and must be at least {np.max(least):.3g} m, because a robot may move "
                f"{np.max(longest):.3g} m in a substep; or use a smaller dt, or more substeps"
            )

    def reset(self, key: jax.Array, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
        """Begin a new world. Returns observations (N, obs_dim) and the state."""
        return self.reset_to(self.generate(key, params), params)

    def generate(self, key: jax.Array, params: SwarmParams) -> Layout:
        """Draw a layout of this scenario. `layout.valid` tells whether everything fitted."""
        layout = self.scenario.generate(key, self.spec, cast_params(params))
        return self.chart(narrow(layout).replace(key=jax.random.key_data(key)[:2]), params)

    def chart(self, layout: Layout, params: SwarmParams) -> Layout:
        """Return the layout with its shortest ways, with the option `geodesic`, else as it is.

        It is then only valid if every agent can reach its goals.
        """
        return geodesic.chart(layout, cast_params(params), self.spec) if self.spec.geodesic else layout

    @property
    def rows_run_out(self) -> bool:
        """Whether agents may use up their rows of goals: they go on after a goal, on maps that are drawn."""
        return self.spec.on_goal != "terminate" and self.scenario.draws

    def uses_up_row(self, state: SwarmState, reached: jax.Array, params: SwarmParams) -> jax.Array:
        """Find who has no goal left in its row, (N,) bool, among those that `reached` (N,) one in the step just made.

        Call it only where `rows_run_out`. With a time limit the answer is nobody: rows are then used again from their
        first column.
        """
        last = state.goals_reached % self.spec.num_goals == 0
        return reached & last & (jnp.asarray(params.max_steps) == checks.NEVER)

    def fresh_row(
        self, layout: Layout, agent: jax.Array, goals_reached: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, jax.Array]:
        """Draw new spawns (G, 3) and goals (G, 2) for an agent that has used up its row, on the walls there are.

        agent, goals_reached: () int32. The draw follows from the layout's key, the agent and the number of rows it has
        used, so both engines draw the same. The row stays as it is on a map given by hand, and where the layout's key
        now draws other walls, as after a change of parameters. In `circle`, whose places are fixed, only headings change.
        """
        row = goals_reached // self.spec.num_goals
        again = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(layout.key, impl="threefry2x32"), row))
        key = jax.random.wrap_key_data(jnp.concatenate([layout.key, again]), impl="rbg")  # the kind of four words
        drawn = self.scenario.generate(key, self.spec, cast_params(params))
        same = drawn.valid & jnp.any(layout.key != jnp.uint32(NO_KEY)) & _same_bodies(drawn, layout)
        return (
            jnp.where(same, drawn.spawns[agent], layout.spawns[agent]),
            jnp.where(same, drawn.goals[agent], layout.goals[agent]),
        )

    def reset_to(self, layout: Layout, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
        """Start on a given layout, with every agent on its first spawn and bound for its first goal."""
        state = self.start(layout if layout.ways else self.chart(narrow(layout), params))
        return self.observe(state, params), state

    def start(self, layout: Layout) -> SwarmState:
        """Return the state at the beginning of an episode on this layout."""
        layout = narrow(layout)
        return SwarmState.at_rest(layout, layout.spawns[:, 0], jnp.zeros(self.spec.num_agents, jnp.int32))

    def step(
        self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, SwarmState, jax.Array, jax.Array, jax.Array, Info]:
        """Step by one control period, without any reset or respawn.

        key: unused, because a step draws nothing. action: (N, 2) left and right motor in [-1, 1].
        Raises ValueError for an action of another shape.
        Returns, in this order:

        - obs (N, obs_dim), after the physics, of all agents that took part;
        - the state;
        - reward (N,);
        - terminated and truncated, (N,) bool each, true only in the step that ends an episode;
        - info: `collision` and `reached` (N,) bool, and `reward_terms`, a dict of (N,) weighted terms.
        """
        expected = (self.spec.num_agents, self.spec.action_dim)
        if not isinstance(action, jax.Array):
            action = checks.as_action("action", action, expected)
        elif action.shape != expected:
            raise ValueError(f"action has shape {action.shape}, expected {expected}")
        check_weights(self.spec.own_terms, params.own_weights)
        params, action = cast_params(params), jnp.asarray(action, jnp.float32)
        moving, motors = state.active, as_motors(action)
        before, distance_before = state.position, _distance(state)
        state = advance(state, motors, params, self.spec)
        distance = _distance(state)
        reached = moving & (distance < params.reach)
        way_before, way = distance_before, distance
        if self.spec.geodesic:
            way_before, way = self._ways_left(state, jnp.stack([before, state.position]), params)[0]
            way = jnp.where(jnp.maximum(way_before, way) < FAR_AWAY, way, way_before)
        outcome = Outcome(
            distance_before=distance_before,
            distance=distance,
            way_before=way_before,
            way=way,
            reached=reached.astype(jnp.float32),
            collision=state.collided.astype(jnp.float32),
            left=motors[:, 0],
            right=motors[:, 1],
        )
        terms = weighted_terms(outcome, params, self.terms.items())
        terms = {name: jnp.where(moving, value, 0.0) for name, value in terms.items()}

        state, terminated, truncated = self._end(state, reached, params)
        obs = self._observe(state, params, moving)
        info = {"collision": state.collided, "reached": reached, "reward_terms": terms}
        return obs, state, sum(terms.values(), jnp.float32(0)), terminated, truncated, info

    def _end(
        self, state: SwarmState, reached: jax.Array, params: SwarmParams
    ) -> tuple[SwarmState, jax.Array, jax.Array]:
        """Count goals and the clock. Returns the state, and who is terminated by a goal or truncated by the clock."""
        terminated, goal_index = reached, state.goal_index
        if self.spec.on_goal == "next_goal":
            terminated = jnp.zeros_like(reached)
            goal_index = (goal_index + reached.astype(jnp.int32)) % self.spec.num_goals
        active = state.active & ~terminated
        step = jnp.minimum(state.step + 1, checks.NEVER - 1)  # where the clock of a world without a time limit stops
        time_up = step >= params.max_steps
        over = time_up | ~jnp.any(active) if self.spec.on_goal == "terminate" else time_up
        state = state.replace(
            active=active,
            goal_index=goal_index,
            goals_reached=state.goals_reached + reached.astype(jnp.int32),
            step=step,
            over=over,
        )
        return state, terminated, active & time_up

    def observe(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return observations (N, obs_dim) float32, zero for inactive agents: the components of `observations`."""
        return self._observe(state, cast_params(params), state.active)

    def _observe(self, state: SwarmState, params: SwarmParams, seeing: jax.Array) -> jax.Array:
        return jnp.where(seeing[:, None], observations.observe(state, params, self.spec), 0.0)

    def lidar(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return lidar readings (N, num_rays) in [0, 1], also of inactive agents, which nobody sees."""
        return observations.lidar(state, params, self.spec)

    def global_state(self, state: SwarmState) -> jax.Array:
        """Return the state of all agents, (N * spec.state_dim,) float32, one agent after the other.

        Each agent has: x, y (m); cos and sin of the heading; forward speed and right minus left wheel speed (m/s), or
        with the force drive vx, vy (m/s) and the turn rate (rad/s); goal x, y (m). Inactive agents are zero.
        """
        return jnp.where(state.active[:, None], observations.describe(state, self.spec), 0.0).ravel()

    def geodesic_distance(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return the length (N,) m of every agent's shortest way to its goal around all that stands still.

        Lengths are true to 2 %, or 2 cm. Without a way it is FAR_AWAY. Needs the option `geodesic`.
        """
        return self._ways_left(state, state.position[None], cast_params(params))[0][0]

    def privileged(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return what a critic may know besides the observation, (N, K) float32, zero for inactive agents.

        See `observations.privileged`. Needs the option `geodesic`.
        """
        params = cast_params(params)
        ways = self._ways_left(state, state.position[None], params)
        table = observations.privileged(state, params, *(found[0] for found in ways))
        return jnp.where(state.active[:, None], table, 0.0)

    def _ways_left(self, state: SwarmState, points: jax.Array, params: SwarmParams) -> tuple[jax.Array, jax.Array]:
        """Do as `geodesic.reach`, for the agents' present goals. points: (T, N, 2) m."""
        if not self.spec.geodesic:
            raise ValueError("shortest ways are not known here: make the simulator with SwarmSpec(geodesic=True)")
        return geodesic.reach(state.layout, params, state.goal_index, points)

    def respawn(self, state: SwarmState, params: SwarmParams) -> SwarmState:
        """Bring inactive agents back. Each takes the first clear pose of its row, starting at its next goal's index.

        It heads for that goal. A pose is clear if no active agent would be touched there, and if it is not at the goal.
        An agent waits if no pose is clear, or if an agent with a lower index has just been given a place too near.
        """
        index, least = jnp.arange(self.spec.num_agents, dtype=jnp.int32), jnp.asarray(apart(params.agent_radius))
        next_goal = (state.goal_index + 1) % self.spec.num_goals
        order = (next_goal[:, None] + jnp.arange(self.spec.num_goals, dtype=jnp.int32)[None]) % self.spec.num_goals
        poses = jnp.take_along_axis(state.layout.spawns, order[..., None], axis=1)

        def neighbours(points: Point, position: Point, present: jax.Array) -> Neighbours:
            return find_neighbours(self.spec, points, position, present, state.layout.size, least)

        def keep_clear_of(clear: jax.Array, i: jax.Array, there: jax.Array | bool) -> jax.Array:
            near = jnp.square(poses[..., 0] - taken[0][i]) + jnp.square(poses[..., 1] - taken[1][i]) < jnp.square(least)
            return clear & ~(near & state.active[i] & there)

        goal = _pick(state.layout.goals, next_goal)[:, None]
        away = jnp.sum(jnp.square(poses[..., :2] - goal), axis=-1) >= jnp.square(params.reach)
        taken = state.position[:, 0], state.position[:, 1]
        clear = neighbours((poses[..., 0], poses[..., 1]), taken, state.active).visit(keep_clear_of, away)
        pose = _pick(poses, jnp.argmax(clear, axis=1).astype(jnp.int32))
        x, y = pose[:, 0], pose[:, 1]
        asking = ~state.active & jnp.any(clear, axis=1)

        def give_way_to(placed: jax.Array, i: jax.Array, there: jax.Array | bool) -> jax.Array:
            near = jnp.square(x - x[i]) + jnp.square(y - y[i]) < jnp.square(least)
            return placed & ~(near & asking[i] & there & (i < index))

        placed = neighbours((x, y), (x, y), asking).visit(give_way_to, asking)
        fresh = vars(SwarmState.at_rest(state.layout, pose, next_goal))
        own = {name: (new, getattr(state, name)) for name, new in fresh.items() if name not in LASTING}
        return state.replace(**{name: _where(placed, new, old) for name, (new, old) in own.items()})

    def _check_capacity(self, level: int, params: SwarmParams) -> None:
        capacity = self.scenario.capacity(level, params)
        if self.spec.num_agents > capacity:
            raise ValueError(
                f"num_agents={self.spec.num_agents} is more than scenario {self.scenario.name!r} holds at "
                f"difficulty {level}: at most {capacity} fit{self.scenario.more_room if capacity else ''}"
            )


def _check_no_weight(weight: Any) -> None:
    """Raise ValueError for a weight of the term `geodesic` where layouts carry no ways. A weight of 0 is fine."""
    if isinstance(weight, jax.core.Tracer) or np.any(np.asarray(weight) != 0):
        raise ValueError(f"reward_geodesic={weight!r} needs geodesic=True, a field of SwarmSpec, and it is False here")


@functools.lru_cache(maxsize=64)
def _check_terms(terms: NamedTerms) -> None:
    """Raise ValueError if JAX cannot compile one of a user's own reward terms."""
    weights: dict[str, Any] = {name: 0.0 for name, _ in terms}
    params = jax.eval_shape(cast_params, SwarmParams(own_weights=weights)) if terms else None
    for name, term in terms:
        check_term(name, term, params)


def _same_bodies(one: Layout, other: Layout) -> jax.Array:
    """Return whether two layouts have the same bodies, () bool. Numbers may differ by ROUNDING."""
    same = jnp.array(True)
    for name in ("size", "walls", "wall_mask", "boxes", "box_mask", "discs", "disc_mask"):
        difference = getattr(one, name).astype(jnp.float32) - getattr(other, name).astype(jnp.float32)
        same &= jnp.all(jnp.abs(difference) <= ROUNDING)
    return same


def _pick(rows: jax.Array, column: jax.Array) -> jax.Array:
    """Pick one entry of each row (N, G, ...), at the given columns (N,). Returns (N, ...)."""
    return jnp.take_along_axis(rows, column[:, None, None], axis=1)[:, 0]


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Take the rows (N, ...) of `new` where `chosen` (N,), else those of `old`."""
    return jnp.where(chosen.reshape(-1, *(1,) * (old.ndim - 1)), new, old)


def _distance(state: SwarmState) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(state.goal - state.position), axis=-1))
