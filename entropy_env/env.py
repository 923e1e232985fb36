"""The simulator of one world: pure functions of state, action and parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from entropy_env import checks, comms, geodesic, observations
from entropy_env.geometry import Point, partners
from entropy_env.neighbours import Neighbours, find_neighbours
from entropy_env.physics import advance, apart, as_motors
from entropy_env.rewards import TERMS, Outcome, Term, check_weights, shared_in_team, weighted_terms
from entropy_env.scenarios import Scenario, make_scenario
from entropy_env.settings import check_capacity, check_together, fill_spec, resolve_params
from entropy_env.types import (
    FAR_AWAY,
    LASTING,
    NO_KEY,
    Layout,
    SwarmParams,
    SwarmSpec,
    SwarmState,
    cast_params,
    narrow,
)

ROUNDING = 1e-3  # m; two compilations of a generator differ by less
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
        object.__setattr__(self, "spec", fill_spec(spec, family))
        object.__setattr__(self, "scenario", family)
        check_capacity(self.spec, family, family.difficulty, SwarmParams())

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
        return resolve_params(self.spec, self.scenario, reward, values)

    def check_together(self, params: SwarmParams) -> None:
        """Check parameters that are fine one by one, but perhaps not together. Raises ValueError if

        - the weights are not those of the reward's terms,
        - words take longer than they are kept,
        - robots can get too fast,
        - robots can get so far in a substep that float32 could not tell on which side of a thin wall they are.
        """
        check_together(self.spec, params)

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
        first_goals = jnp.zeros(self.spec.num_agents, jnp.int32)
        return SwarmState.at_rest(layout, layout.spawns[:, 0], first_goals, self.spec)

    def step(
        self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, SwarmState, jax.Array, jax.Array, jax.Array, Info]:
        """Step by one control period, without any reset or respawn.

        key: unused: what a step draws follows from the layout's key and the clock, so that both engines draw the same.
        action: (N, action_dim) in [-1, 1], left and right motor, and where robots talk what they say: see `comms`.
        Raises ValueError for an action of another shape.
        Returns, in this order:

        - obs (N, obs_dim), after the physics, of all agents that took part;
        - the state;
        - reward (N,);
        - terminated and truncated, (N,) bool each, true only in the step that ends an episode;
        - info: `collision` and `reached` (N,) bool, and `reward_terms`, a dict of (N,) weighted terms. Their sum is the
          reward, before any share of the team's.
        """
        expected = (self.spec.num_agents, self.spec.action_dim)
        if not isinstance(action, jax.Array):
            action = checks.as_action("action", action, expected)
        elif action.shape != expected:
            raise ValueError(f"action has shape {action.shape}, expected {expected}")
        check_weights(self.spec.own_terms, params.own_weights)
        params, action = cast_params(params), jnp.asarray(action, jnp.float32)
        moving, motors, spoken = state.active, as_motors(action[:, :2]), jnp.zeros(self.spec.num_agents, jnp.float32)
        if self.spec.talks:
            words, spoken = comms.speak(state, action[:, 2:], params, self.spec)
            state = state.replace(words=words)
        before, distance_before = state.position, self._distance(state)
        state = advance(state, motors, params, self.spec)
        distance = self._distance(state)
        reached = moving & (distance < params.reach)
        if self.spec.paired:
            reached &= partners(reached)
        if self.spec.num_scouts:
            reached &= ~self.spec.is_scout
        way_before, way = distance_before, distance
        if self.spec.geodesic:
            way_before, way = self._ways_left(state, jnp.stack([before, state.position]), params)[0]
            way = jnp.where(jnp.maximum(way_before, way) < FAR_AWAY, way, way_before)
            if self.spec.num_scouts:
                way_before, way = (jnp.where(self.spec.is_scout, 0.0, each) for each in (way_before, way))
        outcome = Outcome(
            distance_before=distance_before,
            distance=distance,
            way_before=way_before,
            way=way,
            reached=reached.astype(jnp.float32),
            collision=state.collided.astype(jnp.float32),
            left=motors[:, 0],
            right=motors[:, 1],
            spoken=spoken,
        )
        terms = weighted_terms(outcome, params, self.terms.items())
        terms = {name: jnp.where(moving, value, 0.0) for name, value in terms.items()}
        reward = sum(terms.values(), jnp.float32(0))
        if self.spec.team_rewards:
            reward = shared_in_team(reward, moving, state.layout.team, jnp.asarray(params.reward_team))

        state, terminated, truncated = self._end(state, reached, params)
        obs = self._observe(state, params, moving)
        info = {"collision": state.collided, "reached": reached, "reward_terms": terms}
        return obs, state, reward, terminated, truncated, info

    def _end(
        self, state: SwarmState, reached: jax.Array, params: SwarmParams
    ) -> tuple[SwarmState, jax.Array, jax.Array]:
        """Count goals and the clock. Returns the state, and who is terminated by a goal or truncated by the clock."""
        terminated, goal_index = reached, state.goal_index
        if self.spec.on_goal == "next_goal":
            terminated = jnp.zeros_like(reached)
            goal_index = (goal_index + reached.astype(jnp.int32)) % self.spec.num_goals
        active = state.active & ~terminated
        if self.spec.num_scouts:  # they leave with the last of the others
            alone = self.spec.is_scout & active & ~jnp.any(active & ~self.spec.is_scout)
            terminated, active = terminated | alone, active & ~alone
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

    def _distance(self, state: SwarmState) -> jax.Array:
        """Return the distances (N,) m to the goals, 0 for scouts, who have none."""
        distance = jnp.sqrt(jnp.sum(jnp.square(state.goal - state.position), axis=-1))
        return jnp.where(self.spec.is_scout, 0.0, distance) if self.spec.num_scouts else distance

    def heard(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return whom each agent hears, (N, comm_neighbours) int32 by slot of its inbox, -1 where a slot is empty.

        Raises ValueError where nobody talks.
        """
        if not self.spec.talks:
            raise ValueError("comm_neighbours=0: nobody talks here, so nobody is heard")
        return comms.heard(state, cast_params(params), self.spec)

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
        if self.spec.paired:
            asking &= partners(asking)

        def give_way_to(placed: jax.Array, i: jax.Array, there: jax.Array | bool) -> jax.Array:
            near = jnp.square(x - x[i]) + jnp.square(y - y[i]) < jnp.square(least)
            return placed & ~(near & asking[i] & there & (i < index))

        placed = neighbours((x, y), (x, y), asking).visit(give_way_to, asking)
        if self.spec.paired:
            placed &= partners(placed)
        fresh = vars(SwarmState.at_rest(state.layout, pose, next_goal, self.spec))
        own = {name: (new, getattr(state, name)) for name, new in fresh.items() if name not in LASTING}
        keep = functools.partial(_where, placed)
        return state.replace(**{name: jax.tree.map(keep, new, old) for name, (new, old) in own.items()})


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
