"""What the PettingZoo, Gymnasium and SB3 adapters share: settings, episodes and pictures around an engine."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from entropy_env import checks
from entropy_env.engines import EngineName, make_engine
from entropy_env.engines.interface import Engine, Transition, check_arrivals, check_draws, check_start, with_ways
from entropy_env.env import Swarm
from entropy_env.rewards import as_terms
from entropy_env.scenarios import Scenario
from entropy_env.scenarios.custom import Custom, check_layout, make_layout, pad_layout, spec_for
from entropy_env.task import PARAM_FIELDS, SPEC_FIELDS, Task
from entropy_env.types import Layout, SwarmParams, SwarmState

RENDER_MODES = ("human", "rgb_array")
NO_RENDER_MODE = "nothing is drawn: the environment was made without a render_mode"
TILE = (480, 360)  # px, the largest frame of each world if several are drawn
SIZES = frozenset({"num_envs", "autoreset", "num_agents"})  # keywords that each adapter handles in its own way


class Plan(NamedTuple):
    """The simulator, parameters and layout that a reset begins with."""

    swarm: Swarm
    params: SwarmParams
    layout: Layout | None = None  # (1, ...); None to draw one


class _Simulator:
    """The base of `World` and `Worlds`: an engine with its parameters, and pictures."""

    def __init__(
        self,
        num_envs: int,
        autoreset: bool,
        num_agents: int,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        render_mode: str | None = None,
        engine: EngineName = "auto",
        preset: str | None = None,
        num_threads: int | None = None,
        **settings: Any,
    ) -> None:
        """Make the engine. preset, settings: see `Task.of`."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"{render_mode=} must be None or one of {', '.join(RENDER_MODES)}")
        self.render_mode = render_mode
        self._renderer: Any = None
        self._task = Task.of(scenario, _as_level(difficulty), preset, num_agents=num_agents, **settings)
        self.difficulty = self._task.difficulty
        self._largest = 1
        self._begun = False
        swarm, params = self._at(self.difficulty)
        self._engine_name, self._num_threads = engine, num_threads
        self.engine: Engine = make_engine(swarm, num_envs, params, engine, autoreset, num_threads)

    @property
    def swarm(self) -> Swarm:
        """The simulator of the current episode."""
        return self.engine.env

    @property
    def params(self) -> SwarmParams:
        """The parameters of the current episode."""
        return self.engine.params

    def set_difficulty(self, difficulty: int) -> None:
        """Set the difficulty from the next reset on. Raises ValueError if the agents do not fit at this level."""
        difficulty = _as_level(difficulty)
        self._at(difficulty)
        self.difficulty = difficulty

    def _at(self, difficulty: int) -> tuple[Swarm, SwarmParams]:
        """Return the simulator and its parameters at a level, for `_use`.

        Its arrays have room for the hardest level played so far, so going back to an easier level compiles nothing.
        """
        return dataclasses.replace(self._task, difficulty=difficulty).resolve(room_for=self._largest)

    def _use(self, swarm: Swarm, params: SwarmParams) -> None:
        """Run this simulator from now on. Makes a new engine if its spec or scenario differs from the current one."""
        if swarm == self.engine.env:
            self.engine.params = params
        else:
            num_envs, autoreset = self.engine.num_envs, self.engine.autoreset
            self.engine = make_engine(swarm, num_envs, params, self._engine_name, autoreset, self._num_threads)
        self._largest = swarm.scenario.difficulty

    def check_begun(self) -> None:
        """Raise RuntimeError before the first reset, and after a reset that failed."""
        if not self._begun:
            raise RuntimeError("no episode has begun: call reset()")

    def _check_valid(self) -> None:
        """Raise RuntimeError if the generator could not fit everyone into a layout."""
        if not self.engine.valid.all():
            self._begun = False
            raise RuntimeError(
                f"scenario {self.swarm.scenario.name!r} at difficulty {int(self.params.difficulty)} found no room for "
                f"{self.swarm.spec.num_agents} agents of radius {float(self.params.agent_radius):g} m"
            )

    @property
    def state(self) -> SwarmState:
        """A copy of the state, (E, ...) with NumPy leaves. Raises RuntimeError before the first reset."""
        self.check_begun()
        return self.engine.state

    @property
    def render_fps(self) -> int:
        """Frames per second of simulated time: one frame per control period."""
        return round(1 / float(self.params.dt))

    def frames(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame (H, W, 3) uint8 per world in mode `rgb_array`.

        In mode `human` show the first world on the screen and return None. Without a render mode warn and return None.
        """
        worlds = self.state
        if self.render_mode is None:
            warnings.warn(NO_RENDER_MODE, stacklevel=4)
            return None
        on_screen = self.render_mode == "human"
        shown = 1 if on_screen else self.engine.num_envs
        draw, spec = self._get_renderer().draw, self.swarm.spec
        frames = [draw(jax.tree.map(lambda x, e=e: x[e], worlds), self.params, spec=spec) for e in range(shown)]
        return None if on_screen else tuple(frames)

    def _get_renderer(self) -> Any:
        """Return the renderer, and make it if there is none yet. Raises RuntimeError if a window has no display."""
        if self._renderer is None:
            from entropy_env.render import Renderer

            several = self.render_mode != "human" and self.engine.num_envs > 1
            size: dict[str, Any] = {"max_size": TILE} if several else {}
            self._renderer = Renderer("human" if self.render_mode == "human" else "rgb_array", **size)
        return self._renderer

    def close(self) -> None:
        """Close the window. A later frame opens another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_renderer": None}


class Adapter:
    """What every adapter offers: its simulator, and the difficulty of that."""

    _simulator: _Simulator

    @property
    def swarm(self) -> Swarm:
        """The simulator of the current episode: `swarm.spec.slice("goal")` are the columns of a part of observations."""
        return self._simulator.swarm

    @property
    def difficulty(self) -> int:
        """The difficulty, 1 to 4, of the layouts drawn from the next reset on."""
        return self._simulator.difficulty

    @difficulty.setter
    def difficulty(self, difficulty: int) -> None:
        self.set_difficulty(difficulty)

    def set_difficulty(self, difficulty: int) -> None:
        """Draw layouts of this level (1 to 4) from the next reset on.

        A level above all earlier ones compiles once more. Raises ValueError if the agents do not fit at this level.
        """
        self._simulator.set_difficulty(difficulty)


class World(_Simulator):
    """One world, which is reset only by `reset`."""

    def __init__(self, num_agents: int, layout: Layout | Mapping[str, Any] | None = None, **settings: Any) -> None:
        if layout is not None and settings.get("scenario", "open") == "open":
            settings["scenario"] = Custom()
        super().__init__(1, False, num_agents, **settings)
        self._layout = layout
        if layout is not None:
            fit_layout(layout, self.swarm, self.params)
        self._running = False
        self._warned = False  # whether a warning has said that drawing failed

    def plan(self, options: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan of a reset, for `reset`. Raises the errors of bad options, before anything changes.

        options: `difficulty` and `layout`, for that episode only.
        """
        options = known_options(options, "difficulty", "layout")
        swarm, params = self._at(_as_level(options.get("difficulty", self.difficulty)))
        layout = options.get("layout", self._layout)
        if layout is None:
            check_draws(swarm)
            return Plan(swarm, params)
        return Plan(*fit_layout(layout, swarm, params))

    def reset(self, rng: np.random.Generator, plan: Plan) -> np.ndarray:
        """Begin a new episode. Returns observations (N, obs_dim)."""
        if self.render_mode == "human":
            self._get_renderer()  # raises if there is no display, before anything changes
        swarm, params, layout = plan
        seed = draw_seed(rng)
        self._use(swarm, params)
        self._running = False
        if layout is None:
            obs = self.engine.reset(seed)
            self._check_valid()
        else:
            obs = self.engine.reset_to(layout)
        self._begun = self._running = True
        self._show()
        return obs[0].copy()

    def step(self, action: np.ndarray) -> Transition:
        """Step by one control period. Robots that wait to respawn do so at its end. action: (N, action_dim), finite.

        The results are views of the engine's arrays.
        """
        transition = self.engine.step(action[None])
        self._running = not transition.over[0]
        self._show()
        return transition

    def check_running(self) -> None:
        """Raise RuntimeError before the first reset, and once an episode is over."""
        if not self._running:
            raise RuntimeError("no episode is running: call reset() before step()")

    def global_state(self) -> np.ndarray:
        """Return the global state (N * spec.state_dim,) float32, see `Swarm.global_state`."""
        self.check_begun()
        return self.engine.global_state()[0]

    def render(self) -> np.ndarray | None:
        """Return a frame (H, W, 3) uint8 in mode `rgb_array`, else None."""
        frames = self.frames()
        return None if frames is None else frames[0]

    def _show(self) -> None:
        """Draw in mode `human`. If that fails the episode goes on, with a warning the first time."""
        if self.render_mode != "human":
            return
        try:
            self.render()
        except Exception as error:  # noqa: BLE001 - the episode goes on
            if not self._warned:
                self._warned = True
                warnings.warn(f"the window shows nothing, the episode goes on: {error}", stacklevel=4)


class Worlds(_Simulator):
    """Many worlds. With `autoreset` each is reset in the step that ends it, without only by `restart` or `reset`."""

    def __init__(self, num_envs: int, num_agents: int, autoreset: bool = True, **settings: Any) -> None:
        super().__init__(num_envs, autoreset, num_agents, **settings)

    def plan(self, options: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan of a reset, see `World.plan`. options: `difficulty`, until the next call."""
        options = known_options(options, "difficulty")
        plan = Plan(*self._at(_as_level(options.get("difficulty", self.difficulty))))
        check_draws(plan.swarm)
        return plan

    def reset(self, rng: np.random.Generator, plan: Plan) -> np.ndarray:
        """Begin new episodes in all worlds. Returns observations (E, N, obs_dim)."""
        self._use(plan.swarm, plan.params)
        obs = self.engine.reset(draw_seed(rng))
        self._check_valid()
        self._begun = True
        return obs.copy()

    def restart(self, which: np.ndarray, seed: np.ndarray | None = None) -> np.ndarray:
        """Begin new episodes in the worlds of `which` (E,) bool, at the current level. Returns observations (E, N, obs_dim).

        seed: see `draw_seed`; with None the layouts go on from the seed of the last reset.
        """
        self.check_begun()
        obs = self.engine.reset(seed, which)
        self._check_valid()
        return obs.copy()

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return copies, by name, of all arrays that decide what happens next.

        These are the engine's arrays and three levels: of the next reset, of the current episodes, and the highest that
        the arrays have room for.
        """
        self.check_begun()
        levels = self.difficulty, int(self.params.difficulty), self.swarm.scenario.difficulty
        return self.engine.snapshot() | {"levels": np.array(levels)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot. Raises ValueError if it is of worlds with other settings."""
        engine = dict(snapshot)
        difficulty, current, self._largest = take(engine, "levels").tolist()
        self._use(*self._at(current))
        self.engine.restore(engine)
        self.set_difficulty(difficulty)
        self._begun = True

    def step(self, action: np.ndarray) -> Transition:
        """Step all worlds by one control period. action: (E, N, action_dim), finite.

        The results are views of the engine's arrays.
        """
        self.check_begun()
        transition = self.engine.step(action)
        if transition.over.any():
            self._check_valid()
        return transition


def check_keywords(adapter: type, settings: Mapping[str, Any], simulator: Callable[..., Any] = _Simulator) -> None:
    """Raise ValueError for an unknown keyword in `settings`, naming the nearest known one.

    adapter: the class that was given the settings. simulator: the callable that the settings are passed on to.
    """
    own = inspect.signature(adapter).parameters.keys() | inspect.signature(simulator).parameters.keys() - SIZES
    weights = {f"reward_{name}" for name, _ in as_terms(settings.get("reward_terms") or ())}
    known = own - {"settings"} | SPEC_FIELDS - SIZES | PARAM_FIELDS | weights | {"reward"}
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown keyword {name!r}{checks.suggest(name, sorted(known))}")


def check_single(on_goal: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that an adapter of a single robot cannot have."""
    if "num_agents" in settings:
        raise ValueError(
            f"num_agents={settings['num_agents']!r}: there is one robot here, swarm_v0.parallel_env has many"
        )
    if on_goal == "respawn":
        raise ValueError("on_goal='respawn' is for swarms, whose world runs on: a single robot resets, use 'terminate'")


def check_action(whose: str, action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return an action as a float32 copy. Raises ValueError if it has another shape or is not finite.

    whose: begins the message, for example "the action of agent_3".
    """
    array = checks.as_action(whose, action, shape).copy()
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{whose} is not finite: {array[tuple(where)]} at {where.tolist()}")
    return array


def known_options(options: Mapping[str, Any] | None, *known: str) -> dict[str, Any]:
    """Return the known options of a reset. Warns of each unknown one."""
    if not isinstance(options, Mapping | None):
        raise TypeError(f"{options=} must be a mapping of names to values, or None")
    options = dict(options or {})
    for name in options.keys() - set(known):
        warnings.warn(f"unknown reset option {name!r} is ignored: known are {', '.join(known)}", stacklevel=4)
    return {name: options[name] for name in known if name in options}


def _as_level(difficulty: Any) -> int:
    return checks.as_count("difficulty", difficulty, checks.DIFFICULTY)


def fit_layout(layout: Layout | Mapping[str, Any], swarm: Swarm, params: SwarmParams) -> Plan:
    """Return a simulator with room for a map given by hand, and the map with as many slots, (1, ...).

    Raises ValueError if the map is malformed, or if agents cannot start or reach their goals on it.
    """
    if isinstance(layout, Mapping):
        layout = make_layout(**layout)
    if not isinstance(layout, Layout):
        raise ValueError(f"{layout=} must be a Layout, or a mapping of what make_layout takes")  # noqa: TRY004
    swarm = Swarm(spec_for(layout, swarm.spec), swarm.scenario)
    padded = pad_layout(layout, swarm.spec)
    check_layout(padded, params)
    start = with_ways(jax.tree.map(lambda leaf: np.asarray(leaf)[None], padded), swarm, params)
    check_start(start, swarm, 1)
    check_arrivals(start, swarm, params)
    return Plan(swarm, params, start)


def take(snapshot: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Remove an array from a snapshot and return it. Raises ValueError if there is none of that name."""
    if name not in snapshot:
        raise ValueError(f"snapshot has no {name!r}")
    return np.asarray(snapshot.pop(name))


def draw_seed(rng: np.random.Generator) -> np.ndarray:
    """Draw the seed of an episode, (2,) uint32."""
    return rng.integers(0, 2**32, size=2, dtype=np.uint32)
