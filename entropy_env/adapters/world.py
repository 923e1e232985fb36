"""What the PettingZoo and Gymnasium adapters share: settings, episodes and pictures around an engine."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from entropy_env import checks
from entropy_env.adapters.presets import with_preset
from entropy_env.engines import make_engine
from entropy_env.engines.interface import Engine, EngineName, Transition, check_draws, check_start
from entropy_env.env import Swarm
from entropy_env.rewards import as_terms
from entropy_env.scenarios import Scenario
from entropy_env.scenarios.custom import Custom, check_layout, make_layout, pad_layout, spec_for
from entropy_env.types import PARAM_NAMES, Layout, SwarmParams, SwarmSpec, SwarmState

RENDER_MODES = ("human", "rgb_array")
NO_RENDER_MODE = "nothing is drawn: the environment was made without a render_mode"
TILE = (480, 360)  # px, the most that each of several worlds takes of a picture
SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(SwarmSpec))
SIZES = frozenset({"num_envs", "autoreset", "num_agents"})  # which each adapter decides, or asks for, in its own way
PARAM_FIELDS = frozenset(PARAM_NAMES)


class Plan(NamedTuple):
    """What a reset is to begin."""

    swarm: Swarm
    params: SwarmParams
    layout: Layout | None = None  # (1, ...), None for one that is drawn


class _Simulator:
    """What one world and many have in common: an engine with its parameters, and a picture."""

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
        """preset: see `presets`. settings: further fields of SwarmSpec and SwarmParams, and the name of a `reward` preset;
        each overrides the preset's, and None leaves it, or the default."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"{render_mode=} must be None or one of {', '.join(RENDER_MODES)}")
        self.render_mode = render_mode
        self._renderer: Any = None
        self._spec, self._settings = split_settings(num_agents, preset, settings)
        self._scenario = scenario
        self._largest = 1
        level = _as_level(difficulty)
        self.difficulty = scenario.difficulty if isinstance(scenario, Scenario) else level
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
        """Of the current episode."""
        return self.engine.params

    def set_difficulty(self, difficulty: int) -> None:
        """From the next reset on. ValueError where the scenario cannot be had at this level."""
        difficulty = _as_level(difficulty)
        self._at(difficulty)
        self.difficulty = difficulty

    def _at(self, difficulty: int) -> tuple[Swarm, SwarmParams]:
        """The simulator and its parameters at a level, which `_use` then takes. It keeps the size of the hardest level
        played so far, so that a curriculum that goes back compiles nothing."""
        swarm = Swarm(self._spec, self._scenario, max(self._largest, difficulty))
        return swarm, swarm.resolve_params(difficulty=difficulty, **self._settings)

    def _use(self, swarm: Swarm, params: SwarmParams) -> None:
        """Have the engine run this simulator from now on; another one where the sizes differ."""
        if swarm == self.engine.env:
            self.engine.params = params
        else:
            num_envs, autoreset = self.engine.num_envs, self.engine.autoreset
            self.engine = make_engine(swarm, num_envs, params, self._engine_name, autoreset, self._num_threads)
        self._largest = swarm.scenario.difficulty

    def check_begun(self) -> None:
        """RuntimeError before the first reset, and after one that failed."""
        if not self._begun:
            raise RuntimeError("no episode has begun: call reset()")

    def _check_valid(self) -> None:
        """RuntimeError where a generator could not fit everyone into a layout."""
        if not self.engine.valid.all():
            self._begun = False
            raise RuntimeError(
                f"scenario {self.swarm.scenario.name!r} at difficulty {int(self.params.difficulty)} found no room for "
                f"{self.swarm.spec.num_agents} agents of radius {float(self.params.agent_radius):g} m"
            )

    @property
    def state(self) -> SwarmState:
        """A copy, (E, ...) with NumPy leaves. RuntimeError before the first reset."""
        self.check_begun()
        return self.engine.state

    @property
    def render_fps(self) -> int:
        """Frames a second of simulated time."""
        return round(1 / float(self.params.dt))

    def frames(self) -> tuple[np.ndarray, ...] | None:
        """One (H, W, 3) uint8 of every world; None without a render mode, and in mode `human`, which puts the first world
        on the screen."""
        worlds = self.state
        if self.render_mode is None:
            warnings.warn(NO_RENDER_MODE, stacklevel=4)
            return None
        on_screen = self.render_mode == "human"
        shown = 1 if on_screen else self.engine.num_envs
        draw = self._get_renderer().draw
        frames = [draw(jax.tree.map(lambda x, e=e: x[e], worlds), self.params) for e in range(shown)]
        return None if on_screen else tuple(frames)

    def _get_renderer(self) -> Any:
        """RuntimeError where a window is wanted and there is no display."""
        if self._renderer is None:
            from entropy_env.render import Renderer

            several = self.render_mode != "human" and self.engine.num_envs > 1
            size: dict[str, Any] = {"max_size": TILE} if several else {}
            self._renderer = Renderer("human" if self.render_mode == "human" else "rgb_array", **size)
        return self._renderer

    def close(self) -> None:
        """Take the window down; a later frame opens another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_renderer": None}


class Adapter:
    """What every adapter offers of the simulator behind it."""

    _simulator: _Simulator

    @property
    def difficulty(self) -> int:
        """1 to 4, of the layouts that are drawn from the next reset on."""
        return self._simulator.difficulty

    @difficulty.setter
    def difficulty(self, difficulty: int) -> None:
        self.set_difficulty(difficulty)

    def set_difficulty(self, difficulty: int) -> None:
        """Draw layouts of this level (1 to 4) from the next reset on. A level above all before compiles once more."""
        self._simulator.set_difficulty(difficulty)


class World(_Simulator):
    """One world, which starts again when told to."""

    def __init__(self, num_agents: int, layout: Layout | Mapping[str, Any] | None = None, **settings: Any) -> None:
        if layout is not None and settings.get("scenario", "open") == "open":
            settings["scenario"] = Custom()
        super().__init__(1, False, num_agents, **settings)
        self._layout = layout
        if layout is not None:
            fit_layout(layout, self.swarm, self.params)
        self._running = False
        self._warned = False  # that drawing failed

    def plan(self, options: Mapping[str, Any] | None = None) -> Plan:
        """What `reset` is to begin. options: `difficulty` and `layout`, for that episode alone. All that can be wrong
        with them is found here, before anything changes."""
        options = known_options(options, "difficulty", "layout")
        swarm, params = self._at(_as_level(options.get("difficulty", self.difficulty)))
        layout = options.get("layout", self._layout)
        if layout is None:
            check_draws(swarm)
            return Plan(swarm, params)
        return Plan(*fit_layout(layout, swarm, params))

    def reset(self, rng: np.random.Generator, plan: Plan) -> np.ndarray:
        """A new episode, observations (N, obs_dim)."""
        if self.render_mode == "human":
            self._get_renderer()  # before anything changes
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
        """One control period, at the end of which robots that wait to respawn do so. action: (N, 2) finite.

        What it tells are views of the engine's arrays.
        """
        told = self.engine.step(action[None])
        self._running = not told.done[0]
        self._show()
        return told

    def check_running(self) -> None:
        """RuntimeError before the first reset and once an episode is over."""
        if not self._running:
            raise RuntimeError("no episode is running: call reset() before step()")

    def global_state(self) -> np.ndarray:
        """(N * spec.state_dim,) float32, see `Swarm.global_state`."""
        self.check_begun()
        return self.engine.global_state()[0]

    def render(self) -> np.ndarray | None:
        """A frame (H, W, 3) uint8 in mode `rgb_array`, else None."""
        frames = self.frames()
        return None if frames is None else frames[0]

    def _show(self) -> None:
        """Draw in mode `human`. A picture that fails costs no step: it is a warning, the first time."""
        if self.render_mode != "human":
            return
        try:
            self.render()
        except Exception as error:  # noqa: BLE001 - the episode goes on
            if not self._warned:
                self._warned = True
                warnings.warn(f"the window shows nothing, the episode goes on: {error}", stacklevel=4)


class Worlds(_Simulator):
    """Many worlds, which start again in the step that ends them, or with `restart` alone."""

    def __init__(self, num_envs: int, num_agents: int, autoreset: bool = True, **settings: Any) -> None:
        super().__init__(num_envs, autoreset, num_agents, **settings)

    def plan(self, options: Mapping[str, Any] | None = None) -> Plan:
        """What `reset` is to begin, see `World.plan`. options: `difficulty`, until the next call."""
        options = known_options(options, "difficulty")
        plan = Plan(*self._at(_as_level(options.get("difficulty", self.difficulty))))
        check_draws(plan.swarm)
        return plan

    def reset(self, rng: np.random.Generator, plan: Plan) -> np.ndarray:
        """New episodes, observations (E, N, obs_dim)."""
        self._use(plan.swarm, plan.params)
        obs = self.engine.reset(draw_seed(rng))
        self._check_valid()
        self._begun = True
        return obs.copy()

    def restart(self, which: np.ndarray, seed: np.ndarray | None = None) -> np.ndarray:
        """New episodes in the worlds of `which` (E,) bool, at the level of the others. Observations (E, N, obs_dim).

        seed: see `draw_seed`; None goes on with the layouts of the reset before.
        """
        self.check_begun()
        obs = self.engine.reset(seed, which)
        self._check_valid()
        return obs.copy()

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of all that decides what comes next, by name: the engine's, and the difficulty of the next reset, that of
        the current episodes, and the one that sizes are for."""
        self.check_begun()
        levels = self.difficulty, int(self.params.difficulty), self.swarm.scenario.difficulty
        return self.engine.snapshot() | {"levels": np.array(levels)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from the snapshot of such worlds. ValueError for one of others."""
        engine = dict(snapshot)
        difficulty, current, self._largest = take(engine, "levels").tolist()
        self._use(*self._at(current))
        self.engine.restore(engine)
        self.set_difficulty(difficulty)
        self._begun = True

    def step(self, action: np.ndarray) -> Transition:
        """One control period. action: (E, N, 2) finite. What it tells are views of the engine's arrays."""
        self.check_begun()
        told = self.engine.step(action)
        if told.done.any():
            self._check_valid()
        return told


def split_settings(
    num_agents: int, preset: str | None, settings: Mapping[str, Any]
) -> tuple[SwarmSpec, dict[str, Any]]:
    """The specification, and what else is set, of an adapter's settings over those of a preset."""
    settings = with_preset(preset, settings)
    return SwarmSpec(num_agents, **{name: settings.pop(name) for name in SPEC_FIELDS & settings.keys()}), settings


def check_keywords(adapter: type, settings: Mapping[str, Any], simulator: Callable[..., Any] = _Simulator) -> None:
    """ValueError for a keyword among the `settings` of an adapter, which go to its `simulator`, that neither knows, with the
    nearest one they do."""
    own = inspect.signature(adapter).parameters.keys() | inspect.signature(simulator).parameters.keys() - SIZES
    weights = {f"reward_{name}" for name, _ in as_terms(settings.get("reward_terms") or ())}
    known = own - {"settings"} | SPEC_FIELDS - SIZES | PARAM_FIELDS | weights | {"reward"}
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown keyword {name!r}{checks.suggest(name, sorted(known))}")


def check_single(on_goal: str, settings: Mapping[str, Any]) -> None:
    """ValueError for what an adapter of one robot cannot have."""
    if "num_agents" in settings:
        raise ValueError(
            f"num_agents={settings['num_agents']!r}: there is one robot here, swarm_v0.parallel_env has many"
        )
    if on_goal == "respawn":
        raise ValueError("on_goal='respawn' is for swarms, whose world runs on: a single robot resets, use 'terminate'")


def check_action(whose: str, action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 copy of that shape. ValueError naming whose action it is where that cannot be, or is not finite."""
    array = checks.as_action(whose, action, shape).copy()
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{whose} is not finite: {array[tuple(where)]} at {where.tolist()}")
    return array


def known_options(options: Mapping[str, Any] | None, *known: str) -> dict[str, Any]:
    """The options of a reset that mean something here; a warning for each that does not."""
    options = dict(options or {})
    for name in options.keys() - set(known):
        warnings.warn(f"unknown reset option {name!r} is ignored: known are {', '.join(known)}", stacklevel=4)
    return {name: options[name] for name in known if name in options}


def _as_level(difficulty: Any) -> int:
    return checks.as_count("difficulty", difficulty, checks.DIFFICULTY)


def fit_layout(layout: Layout | Mapping[str, Any], swarm: Swarm, params: SwarmParams) -> Plan:
    """The simulator with room for a map given by hand, and the map, as of one world, with as many slots. ValueError if
    it cannot be."""
    if isinstance(layout, Mapping):
        layout = make_layout(**layout)
    if not isinstance(layout, Layout):
        raise ValueError(f"{layout=} must be a Layout, or a mapping of what make_layout takes")  # noqa: TRY004
    swarm = Swarm(spec_for(layout, swarm.spec), swarm.scenario)
    padded = pad_layout(layout, swarm.spec)
    check_layout(padded, params)
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[None], padded)
    check_start(start, swarm, 1)
    return Plan(swarm, params, start)


def take(snapshot: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Take it out of there. ValueError where there is none."""
    if name not in snapshot:
        raise ValueError(f"snapshot has no {name!r}")
    return np.asarray(snapshot.pop(name))


def draw_seed(rng: np.random.Generator) -> np.ndarray:
    """(2,) uint32, the key of an episode."""
    return rng.integers(0, 2**32, size=2, dtype=np.uint32)
