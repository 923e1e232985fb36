"""The types of the simulator's data: specification (static), parameters (traced), layout and state.

Shapes use N agents, G goals per agent, W walls, B boxes and D discs. Units are SI. The world frame has
its origin at the bottom left of the arena, x to the right, y up, and angles counter-clockwise from x.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env import checks
from entropy_env.rewards import NamedTerms, Weights, as_terms, bandwidth, geodesic

Drive = Literal["kinematic", "force"]
OnGoal = Literal["terminate", "respawn", "next_goal"]
VelocityFrame = Literal["body", "world"]
NeighbourSearch = Literal["dense", "grid", "auto"]
Channel = Literal["broadcast", "targeted", "team"]
FROM_SCENARIO = frozenset(  # where it has None
    {"num_goals", "num_walls", "num_boxes", "num_discs", "num_corners", "disc_corners", "comm_neighbours"}
)
TOKENS = 32  # words of the vocabulary; the first is silence
PAYLOAD = 4  # numbers that are told with a word
HEARD = 9  # numbers of a slot of the inbox: offset (2), cosine and sine of the heading (2), token (1), payload (4)
FAR_AWAY = 1e6  # m, the length of a way that does not exist
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class SwarmSpec:
    """Array sizes and choices of algorithm. Hashable: a new value recompiles.

    `None` lets the scenario choose: as many walls, boxes, discs and corners as its layouts need, and as many goals per
    agent as `on_goal` has a use for. In the `spec` of a Swarm nothing is None.
    """

    num_agents: int = 10
    num_rays: int = 32
    substeps: int = 4
    drive: Drive = "kinematic"
    on_goal: OnGoal = "terminate"
    velocity_frame: VelocityFrame = "body"
    neighbour_search: NeighbourSearch = "auto"
    reward_terms: NamedTerms = ()  # a user's own by name; a dict or import paths are also taken: `rewards.as_terms`
    comm_neighbours: int = None  # type: ignore[assignment]  # speakers that a robot hears at most; 0: nobody speaks
    comm_channel: Channel = "broadcast"  # who hears a word: see `comms`
    comm_history: int = 0  # longest `comm_delay`, in steps
    components: tuple[str, ...] = None  # type: ignore[assignment]  # of the observation, that only some scenarios have
    team_rewards: bool = None  # type: ignore[assignment]  # whether `reward_team` may be above 0; None: as the scenario says
    geodesic: bool = None  # type: ignore[assignment]  # whether layouts carry the shortest ways to all goals; None: no
    num_goals: int = None  # type: ignore[assignment]
    num_walls: int = None  # type: ignore[assignment]
    num_boxes: int = None  # type: ignore[assignment]
    num_discs: int = None  # type: ignore[assignment]
    num_corners: int = None  # type: ignore[assignment]  # that shortest ways may bend around
    disc_corners: int = None  # type: ignore[assignment]  # around each disc

    def __post_init__(self) -> None:
        for name, allowed in checks.SPEC.items():
            if name not in FROM_SCENARIO or getattr(self, name) is not None:
                object.__setattr__(self, name, checks.as_count(name, getattr(self, name), allowed))
        for name, kind in (
            ("drive", Drive),
            ("on_goal", OnGoal),
            ("velocity_frame", VelocityFrame),
            ("neighbour_search", NeighbourSearch),
            ("comm_channel", Channel),
        ):
            choices = get_args(kind)
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        for name in ("geodesic", "team_rewards"):
            if getattr(self, name) not in (True, False, None):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True, False or None")
        if self.components is not None:
            components = (self.components,) if isinstance(self.components, str) else self.components
            object.__setattr__(self, "components", tuple(components))
        object.__setattr__(self, "reward_terms", as_terms(self.reward_terms))

    @property
    def own_terms(self) -> NamedTerms:
        """The reward terms that not every simulator has: a user's own, with `geodesic` the one of that name, and with words
        `bandwidth`."""
        built_in = (self.geodesic, geodesic), (self.talks, bandwidth)
        return self.reward_terms + tuple((term.__name__, term) for wanted, term in built_in if wanted)

    @property
    def talks(self) -> bool:
        """Whether robots speak and hear."""
        return bool(self.comm_neighbours)

    @property
    def action_dim(self) -> int:
        """Left and right motor, and where robots talk, a score for each token and the payload."""
        return 2 + (TOKENS + PAYLOAD if self.talks else 0)

    @property
    def paired(self) -> bool:
        """Whether robots 0 and 1, 2 and 3, ... are partners, who see each other's goal and arrive together: `relay`."""
        return "partner" in (self.components or ())

    @property
    def num_scouts(self) -> int:
        """How many robots, the first ones, are scouts, who have no goal: `lookout`."""
        return self.num_agents // 2 if "role" in (self.components or ()) else 0

    @property
    def is_scout(self) -> np.ndarray:
        """Who is a scout, (N,) bool."""
        return np.arange(self.num_agents) < self.num_scouts

    @property
    def teams(self) -> bool:
        """Whether layouts say who is in which team."""
        return bool(self.team_rewards) or (self.talks and self.comm_channel == "team")

    @property
    def obs_dim(self) -> int:
        """Numbers in the observation of one agent."""
        return sum(component.width_in(self) for component in _listed(OBSERVATION).values())

    @property
    def state_dim(self) -> int:
        """Numbers for each agent in `Swarm.global_state`."""
        return sum(component.width_in(self) for component in _listed(GLOBAL_STATE).values())

    def slice(self, name: str) -> builtins.slice:
        """Return the columns of a component of the observation: `obs[..., spec.slice("goal")]`.

        Raises ValueError for an unknown name.
        """
        return _columns(self, OBSERVATION, name)

    def state_slice(self, name: str) -> builtins.slice:
        """Do as `slice`, for the numbers of one agent in `Swarm.global_state`."""
        return _columns(self, GLOBAL_STATE, name)


@dataclasses.dataclass(frozen=True)
class Component:
    """Columns that belong together, of an observation or of the global state.

    read: returns (N, width) float32, from (state, params, spec) for an observation, (state, spec) for the global state.
    low, high: the bounds of all its numbers.
    """

    width: int | Callable[[SwarmSpec], int]
    read: Callable[..., jax.Array]
    low: float = -math.inf
    high: float = math.inf

    def width_in(self, spec: SwarmSpec) -> int:
        """Return the number of columns."""
        return self.width if isinstance(self.width, int) else self.width(spec)


# Components by name, in the order of their columns. `entropy_env.observations` fills these tables, because readers need
# the types of this file.
OBSERVATION: dict[str, Component] = {}
GLOBAL_STATE: dict[str, Component] = {}


def _listed(table: dict[str, Component]) -> dict[str, Component]:
    if not table:
        importlib.import_module("entropy_env.observations")  # fills it
    return table


def _columns(spec: SwarmSpec, table: dict[str, Component], name: str) -> slice:
    start = 0
    for each, component in _listed(table).items():
        stop = start + component.width_in(spec)
        if each == name:
            return slice(start, stop)
        start = stop
    raise ValueError(f"no component {name!r}{checks.suggest(name, table)}")


class WorldParams(struct.PyTreeNode):
    """The parameters of the world itself."""

    dt: jax.Array | float = 0.1  # s, one control period
    max_steps: jax.Array | int = 200  # control periods until the world's time limit; checks.NEVER for none
    difficulty: jax.Array | int = 1  # 1 to 4, read by the layout generators
    agent_radius: jax.Array | float = 0.10  # m
    goal_radius: jax.Array | float = 0.15  # m
    wall_half_thickness: jax.Array | float = 0.05  # m, walls are capsules
    max_wheel_speed: jax.Array | float = 1.0  # m/s, at full motor command
    wheel_base: jax.Array | float = 0.20  # m, between the wheels
    motor_tau: jax.Array | float = 0.0  # s, first-order motor lag, 0 for none
    motor_force: jax.Array | float = 10.0  # N, of each motor at full command; force drive only, as the next six
    mass: jax.Array | float = 1.0  # kg, of a disc
    damping: jax.Array | float = 0.5  # fraction of its velocity that a free agent keeps for 1 s
    restitution: jax.Array | float = 0.04  # separation speed over approach speed, of two agents
    wall_restitution: jax.Array | float = 0.1  # of an agent and a fixed body
    friction: jax.Array | float = 0.49  # Coulomb's, of two agents
    wall_friction: jax.Array | float = 0.35  # of an agent and a fixed body
    lidar_range: jax.Array | float = 3.0  # m, from the agent's surface
    goal_scale: jax.Array | float = 10.0  # m, the goal offset is observed over this
    comm_range: jax.Array | float = 5.0  # m, how far a word is heard; this and the next four matter where robots talk
    comm_drop: jax.Array | float = 0.0  # probability that one listener misses a word
    comm_noise: jax.Array | float = 0.0  # standard deviation of what the way adds to each number of a payload
    comm_delay: jax.Array | int = 0  # steps that a word takes beyond the next one
    comm_rate: jax.Array | float = 0.0  # words a second that a robot may say; 0 for no limit
    reward_team: jax.Array | float = 0.0  # share of a reward that is the mean of its team's; needs `team_rewards`

    @property
    def max_turn_rate(self) -> jax.Array | float:
        """rad/s, with the wheels at full speed in opposite directions."""
        return 2 * self.max_wheel_speed / self.wheel_base

    @property
    def reach(self) -> jax.Array | float:
        """m, the centre distance under which a goal counts as reached."""
        return self.agent_radius + self.goal_radius


class SwarmParams(Weights, WorldParams):  # type: ignore[misc]
    """Every number that may change without a recompile, and may differ per world under `vmap`.

    Build it with `Swarm.make_params`, which checks the values and casts them to strong types.
    """

    own_weights: dict[str, jax.Array | float] = struct.field(default_factory=dict, hash=False)  # of a user's own terms

    def weight(self, term: str) -> jax.Array | float:
        """Return the weight of a reward term, built-in or a user's own."""
        return self.own_weights[term] if term in self.own_weights else getattr(self, f"reward_{term}")

    def by_keyword(self) -> dict[str, Any]:
        """Return every number, by the keyword of `Swarm.make_params` that sets it."""
        own = {f"reward_{name}": weight for name, weight in self.own_weights.items()}
        return {name: getattr(self, name) for name in PARAM_NAMES} | own


def replace_params(params: Any, **values: Any) -> Any:
    """Return a copy with other values, by the keywords of `Swarm.make_params`.

    Known limit: values are not checked, as `Swarm.make_params` would. For example, a difficulty must not be above the
    one that the simulator was made with.
    Raises ValueError for an unknown name.
    """
    known = params.by_keyword()
    for name in values:
        if name not in known and name != "own_weights":
            raise ValueError(f"unknown parameter {name!r}{checks.suggest(name, known)}")
    own = dict(values.pop("own_weights", params.own_weights))
    own |= {name: values.pop(f"reward_{name}") for name in params.own_weights if f"reward_{name}" in values}
    return dataclasses.replace(params, **values, own_weights=own)


SwarmParams.replace = replace_params  # type: ignore[assignment]  # flax would overwrite a `replace` defined in the class


NO_KEY = 2**32 - 1  # both words of the key of a layout that was not drawn
INT_PARAMS = frozenset({"max_steps", "difficulty", "comm_delay"})
PARAM_NAMES = tuple(field.name for field in dataclasses.fields(SwarmParams) if field.name != "own_weights")


def cast_params(params: SwarmParams, as_array: Callable[..., Any] = jnp.asarray) -> SwarmParams:
    """Cast every number to a float32 or int32 array of a strong type, so that no kind of number retraces."""
    numbers = {
        name: as_array(getattr(params, name), np.int32 if name in INT_PARAMS else np.float32) for name in PARAM_NAMES
    }
    own = {name: as_array(weight, np.float32) for name, weight in params.own_weights.items()}
    return SwarmParams(**numbers, own_weights=own)


def narrow(tree: Tree) -> Tree:
    """Cast every float in a tree of arrays to float32, every int to int32.

    JAX does so itself, unless JAX_ENABLE_X64 is set.
    """
    kinds = {"f": jnp.float32, "i": jnp.int32}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, kinds.get(jnp.result_type(leaf).kind)), tree)


def old_name(old: str, new: str) -> Any:
    """Return a property that reads the attribute `new` by its `old` name, with a FutureWarning."""

    def read(self: Any) -> Any:
        warnings.warn(f"{type(self).__name__}.{old} is now called {new}", FutureWarning, stacklevel=2)
        return getattr(self, new)

    return property(read)


class Ways(struct.PyTreeNode):
    """The shortest ways to all goals of a layout, with V corners to bend around and M bodies: see `geodesic`."""

    corners: jax.Array  # (V, 2) m
    shadows: jax.Array  # (M, 3, 2, V), what each body hides from each corner
    ends: jax.Array  # (N, G, 2) m, where ways end: the goal, or if a robot does not fit there, a place beside it
    left: jax.Array  # (N, G, V) m, from each corner; FAR_AWAY without a way
    hiding: jax.Array  # (M,) m, radius of the circles whose hull hides what is behind a body

    @classmethod
    def empty(cls, spec: SwarmSpec) -> Ways:
        """Return zeros."""
        num_bodies, rows = spec.num_walls + spec.num_boxes + spec.num_discs, (spec.num_agents, spec.num_goals)
        return cls(
            corners=jnp.zeros((spec.num_corners, 2), jnp.float32),
            shadows=jnp.zeros((num_bodies, 3, 2, spec.num_corners), jnp.float32),
            ends=jnp.zeros((*rows, 2), jnp.float32),
            left=jnp.zeros((*rows, spec.num_corners), jnp.float32),
            hiding=jnp.zeros(num_bodies, jnp.float32),
        )


class Layout(struct.PyTreeNode):
    """One map with its spawns and goals, fixed for an episode. Unused slots are masked out."""

    size: jax.Array  # (2,) m, width and height of the arena
    walls: jax.Array  # (W, 2, 2) m, end points of capsules
    wall_mask: jax.Array  # (W,) bool
    boxes: jax.Array  # (B, 4) m, centre x, centre y, half width, half height; axis-aligned, solid
    box_mask: jax.Array  # (B,) bool
    discs: jax.Array  # (D, 3) m, centre x, centre y, radius
    disc_mask: jax.Array  # (D,) bool
    spawns: jax.Array  # (N, G, 3) m, m, rad: poses an agent may start from
    goals: jax.Array  # (N, G, 2) m
    valid: jax.Array  # () bool; False where the generator could not fit everything
    key: jax.Array  # (2,) uint32, what it was drawn from; NO_KEY for a map given by hand
    ways: Ways | None = None  # with the option `geodesic`
    team: jax.Array | None = None  # (N,) int32, where the team matters; None: all are in one


N = -1  # in the shape of a field: the number of agents


class Rest(NamedTuple):
    """What a field of SwarmState holds when an agent, or the world, starts anew."""

    shape: tuple[int, ...]  # (N, ...) of the agents, () of the world
    value: float | int | bool  # also gives the type: float32, int32 or bool
    lasting: bool = False  # whether an agent that respawns keeps what it has

    def array(self, num_agents: int) -> jax.Array:
        """Return the field of a new world."""
        kind = {float: jnp.float32, int: jnp.int32, bool: jnp.bool_}[type(self.value)]
        if not self.shape:
            return jnp.array(self.value, kind)
        return jnp.full((num_agents, *self.shape[1:]), self.value, kind)


def _rest(*rest: Any, **options: Any) -> Any:
    return struct.field(metadata={"rest": Rest(*rest, **options)})


class Words(struct.PyTreeNode):
    """What robots have said, the newest word first. H is `comm_history` + 1."""

    token: jax.Array  # (N, H) int32, 0 for silence
    payload: jax.Array  # (N, H, 4) in [-1, 1]
    pose: jax.Array  # (N, H, 3) m, m, rad: where the speaker stood as it spoke
    to: jax.Array | None  # (N, H) int32, who alone may hear it, -1 for nobody; on the channel `targeted`
    credit: jax.Array  # (N,) words that it may say now, at most 1

    @classmethod
    def silence(cls, spec: SwarmSpec) -> Words | None:
        """Return words of robots that have said nothing, None where nobody talks."""
        if not spec.talks:
            return None
        said = spec.num_agents, spec.comm_history + 1
        return cls(
            token=jnp.zeros(said, jnp.int32),
            payload=jnp.zeros((*said, PAYLOAD), jnp.float32),
            pose=jnp.zeros((*said, 3), jnp.float32),
            to=jnp.full(said, -1, jnp.int32) if spec.comm_channel == "targeted" else None,
            credit=jnp.ones(spec.num_agents, jnp.float32),
        )


class SwarmState(struct.PyTreeNode):
    """One world. A new field is a line here: `at_rest` and the records of the Numba engine follow."""

    layout: Layout
    position: jax.Array  # (N, 2) m, world frame
    heading: jax.Array  # (N,) rad in (-pi, pi]
    wheel_speed: jax.Array = _rest((N, 2), 0.0)  # m/s, left and right, after the motor lag; zero with the force drive
    velocity: jax.Array = _rest(
        (N, 2), 0.0
    )  # m/s, world frame; this and the next two are zero with the kinematic drive
    angular_velocity: jax.Array = _rest((N,), 0.0)  # rad/s, counter-clockwise
    rounding: jax.Array = _rest((N, 6), 0.0)  # what float32 omits of position, heading, velocity, angular velocity
    penetration: jax.Array = _rest((N, 2), 0.0)  # m, from the position to where the force drive wants it; up to r / 2
    active: jax.Array = _rest((N,), True)  # False once terminated or while waiting for a clear spawn
    goal_index: jax.Array  # type: ignore[misc]  # (N,) int32, column of layout.goals
    goals_reached: jax.Array = _rest((N,), 0, lasting=True)  # since the world's reset
    collided: jax.Array = _rest((N,), False)  # in contact during the last step
    step: jax.Array = _rest((), 0)  # control periods since the reset
    over: jax.Array = _rest((), False)  # whether the world is over
    words: Words | None = None  # where robots talk

    done = old_name("done", "over")

    @classmethod
    def at_rest(cls, layout: Layout, pose: jax.Array, goal_index: jax.Array, spec: SwarmSpec) -> SwarmState:
        """Return a new world.

        All agents are at rest at a pose (N, 3) m, m, rad and bound for the goal `goal_index` (N,) int32.
        """
        position, heading, words = pose[:, :2], pose[:, 2], Words.silence(spec)
        rest = {name: rest.array(len(pose)) for name, rest in AT_REST.items()}
        return cls(layout=layout, position=position, heading=heading, goal_index=goal_index, words=words, **rest)

    @property
    def goal(self) -> jax.Array:
        """Each agent's current goal, (N, 2) m, world frame."""
        return jnp.take_along_axis(self.layout.goals, self.goal_index[:, None, None], axis=1)[:, 0]

    @property
    def speed(self) -> jax.Array:
        """Forward speed from wheel odometry, (N,) m/s; kinematic drive only."""
        return (self.wheel_speed[:, 0] + self.wheel_speed[:, 1]) / 2

    def turn_rate(self, params: SwarmParams) -> jax.Array:
        """Return the turn rate from wheel odometry, (N,) rad/s counter-clockwise; kinematic drive only."""
        return (self.wheel_speed[:, 1] - self.wheel_speed[:, 0]) / params.wheel_base


OLD_FIELDS = {"penetration": "sunk", "over": "done"}  # fields of SwarmState, with their names in older files
AT_REST: dict[str, Rest] = {
    field.name: field.metadata["rest"] for field in dataclasses.fields(SwarmState) if "rest" in field.metadata
}
LASTING = frozenset(
    {"layout", *(name for name, rest in AT_REST.items() if rest.lasting or not rest.shape)}
)  # at a respawn
