"""One robot as a Gymnasium environment, single or vectorised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from entropy_env import checks
from entropy_env.adapters.world import (
    RENDER_MODES,
    Adapter,
    World,
    Worlds,
    check_action,
    check_keywords,
    check_single,
    draw_seed,
)
from entropy_env.engines import EngineName
from entropy_env.engines.interface import Transition
from entropy_env.scenarios import Scenario
from entropy_env.spaces import action_space, observation_space
from entropy_env.types import Layout, OnGoal

RESET_MODES = {mode.value.lower(): mode for mode in AutoresetMode}
PER_WORLD = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
METADATA = {"render_modes": list(RENDER_MODES), "render_fps": 10}


class SwarmEnv(Adapter, gymnasium.Env[np.ndarray, np.ndarray]):
    """One robot on its way to its goal, `gymnasium.make("entropy_env/Swarm-v0")`.

    Reaching the goal terminates the episode. With `on_goal="next_goal"` the robot goes on to its next goal instead. The
    world has its own time limit, which truncates. `info` reports the step: `reached`, `collision`, `goals_reached` since
    the reset, `reward_terms`, and whether the robot is still `active`.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal = "terminate",
        render_mode: str | None = None,
        max_steps: int | Literal["never"] | None = None,
        reward: str | None = None,
        layout: Layout | Mapping[str, Any] | None = None,
        engine: EngineName = "auto",
        preset: str | None = None,
        num_threads: int | None = None,
        **settings: Any,
    ) -> None:
        """Take the keywords of `swarm_v0.parallel_env`, except `num_agents`. A preset does not change `on_goal`."""
        check_single(on_goal, settings)
        check_keywords(SwarmEnv, settings)
        self._world = self._simulator = World(
            1, layout, scenario=scenario, difficulty=difficulty, on_goal=on_goal, render_mode=render_mode,
            max_steps=max_steps, reward=reward, engine=engine, preset=preset, num_threads=num_threads, **settings,
        )  # fmt: skip
        self.metadata = self.metadata | {"render_fps": self._world.render_fps}
        self.render_mode = render_mode
        self.observation_space = observation_space(self._world.swarm.spec)
        self.action_space = action_space(self._world.swarm.spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode. options, for this episode only: `difficulty` (1 to 4) and `layout`, as in the constructor."""
        plan = self._world.plan(options)
        super().reset(seed=checks.as_seed(seed))
        obs = self._world.reset(self.np_random, plan)
        return obs[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Step by one control period. action: (2,) left and right motor, clipped to [-1, 1]; (38,) with `comm_neighbours`,
        where nobody listens, see `SwarmParallelEnv`.

        Raises ValueError for another shape or a value that is not finite, RuntimeError if no episode is running.
        """
        self._world.check_running()
        transition = self._world.step(check_action("the action", action, (self._world.swarm.spec.action_dim,))[None])
        terms = self._world.swarm.terms
        terminated, truncated = bool(transition.terminated[0, 0]), bool(transition.truncated[0, 0])
        obs = (transition.final_obs if terminated or truncated else transition.obs)[0, 0].copy()
        info = {
            name: value[0].item() for name, value in _step_info(transition, terms).items() if name != "reward_terms"
        }
        info["reward_terms"] = dict(zip(terms, transition.reward_terms[0, 0].tolist(), strict=True))
        return obs, float(transition.reward[0, 0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Return a frame (H, W, 3) uint8 in mode `rgb_array`. Return None in `human`, which draws by itself in every step."""
        return self._world.render()

    def close(self) -> None:
        """Close the window."""
        self._world.close()


class SwarmVectorEnv(Adapter, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many worlds of one robot each, in one compiled step: `gymnasium.make_vec("entropy_env/Swarm-v0", num_envs=256)`.

    `autoreset_mode` says what happens to a world that ends. The results are those of `SyncVectorEnv`, see
    https://farama.org/Vector-Autoreset-Mode:

    - `SameStep`: it is reset in the same step. Its last observation and info are in `infos["final_obs"]` and
      `infos["final_info"]`.
    - `NextStep`: it is reset in the next step, which ignores its action and has reward 0. Gymnasium's vector wrappers
      that change observations need this mode.
    - `Disabled`: it waits for `reset(options={"reset_mask": worlds})`. A step before that raises RuntimeError.
    """

    metadata: dict[str, Any] = METADATA | {
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        on_goal: OnGoal = "terminate",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        **settings: Any,
    ) -> None:
        """Take `autoreset_mode`, see above, and the keywords of `SwarmEnv` without `layout`."""
        check_single(on_goal, settings)
        if "layout" in settings:
            raise ValueError("layout: a map of one's own needs make_vec(..., vectorization_mode='sync')")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{render_mode=} must be None or rgb_array, which wrappers.vector.HumanRendering can show")
        check_keywords(SwarmVectorEnv, settings)
        self.autoreset_mode = _as_mode(autoreset_mode)
        autoreset = self.autoreset_mode is AutoresetMode.SAME_STEP
        self._worlds = Worlds(num_envs, 1, autoreset, on_goal=on_goal, render_mode=render_mode, **settings)
        self._simulator = self._worlds
        self.metadata = self.metadata | {
            "render_fps": self._worlds.render_fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self.num_envs = num_envs = self._worlds.engine.num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space(self._worlds.swarm.spec)
        self.single_action_space = action_space(self._worlds.swarm.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._obs = np.zeros((num_envs, self._worlds.swarm.spec.obs_dim), np.float32)  # the latest
        self._over = np.zeros(num_envs, bool)  # worlds that have ended and have not been reset yet

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes in all worlds. Returns the observations of all worlds.

        options: `difficulty` (1 to 4), until the next call, or `reset_mask`, (num_envs,) bool, to reset only these worlds.
        """
        options = dict(options or {})
        which = self._as_mask(options.pop("reset_mask")) if "reset_mask" in options else None
        if which is not None and "difficulty" in options:
            raise ValueError("difficulty together with reset_mask: worlds share their level, so reset all of them")
        plan = self._worlds.plan(options)
        if which is not None:
            self._worlds.check_begun()
        super().reset(seed=checks.as_seed(seed))
        if which is None:
            self._obs = self._worlds.reset(self.np_random, plan)[:, 0]
            self._over[:] = False
        else:
            self._restart(which, None if seed is None else draw_seed(self.np_random))
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every world by one control period. actions: (num_envs, 2), as for `SwarmEnv`."""
        actions = check_action("the array of actions", actions, (self.num_envs, self._worlds.swarm.spec.action_dim))
        beginning, same_step = self._over, self.autoreset_mode is AutoresetMode.SAME_STEP
        if self.autoreset_mode is AutoresetMode.DISABLED and beginning.any():
            raise RuntimeError(
                f"worlds {np.flatnonzero(beginning).tolist()} have ended: reset(options={{'reset_mask': worlds}}) first"
            )
        transition = self._worlds.step(
            actions[:, None]
        )  # steps worlds that are reset below too; that step is overwritten
        terminated, truncated = transition.terminated[:, 0] & ~beginning, transition.truncated[:, 0] & ~beginning
        reward = np.where(beginning, 0.0, transition.reward[:, 0].astype(np.float64))
        ended, info = terminated | truncated, _step_info(transition, self._worlds.swarm.terms)
        if not same_step:
            self._obs = np.where(ended[:, None], transition.final_obs[:, 0], transition.obs[:, 0])
            infos = {} if beginning.all() else _vector_info(info, ~beginning)
            if beginning.any():
                self._restart(beginning)
            self._over = ended
            return self._obs.copy(), reward, terminated, truncated, infos
        infos = _vector_info(info, ~ended)
        if ended.any():
            final_obs = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final_obs[i] = transition.final_obs[i, 0].copy()
            infos |= {
                "final_obs": final_obs,
                "_final_obs": ended.copy(),
                "final_info": _vector_info(info, ended),
                "_final_info": ended.copy(),
            }
        self._obs = transition.obs[:, 0].copy()
        return self._obs.copy(), reward, terminated, truncated, infos

    def _restart(self, which: np.ndarray, seed: np.ndarray | None = None) -> None:
        """Reset the worlds of `which` (E,) bool."""
        self._obs[which] = self._worlds.restart(which, seed)[which, 0]
        self._over = self._over & ~which

    def _as_mask(self, which: Any) -> np.ndarray:
        mask = np.asarray(which)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask={which!r} must be an array of {self.num_envs} bools, at least one of them true"
            )
        return mask

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return an attribute, or a method's result, once for every world. Worlds share one object: it is called once."""
        if name in ("reset", "step"):
            raise ValueError(f"call({name!r}): worlds share their steps and resets, so call {name} itself")
        value = getattr(self, PER_WORLD.get(name, name))
        if callable(value):
            value = value(*args, **kwargs)
        return value if name == "render" and value is not None else (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute once for every world. It is the same for all."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of all worlds, which share it. values: one value, or a list or tuple of equal values."""
        if isinstance(values, list | tuple):
            if len(values) != self.num_envs or not all(np.array_equal(value, values[0]) for value in values):
                raise ValueError(
                    f"set_attr({name!r}): worlds share it, so give one value, or {self.num_envs} equal ones"
                )
            values = values[0]
        setattr(self, name, values)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame (H, W, 3) uint8 per world in mode `rgb_array`, else None."""
        return self._worlds.frames()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the renderer. There is nothing else to close."""
        self._worlds.close()


def _as_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return Gymnasium's mode of a name, in any of these spellings: `NextStep`, `NEXT_STEP`, `next-step`."""
    name = mode.value if isinstance(mode, AutoresetMode) else str(mode)
    plain = name.replace("_", "").replace("-", "").lower()
    if plain not in RESET_MODES:
        raise ValueError(f"autoreset_mode={mode!r} must be one of {', '.join(known.value for known in AutoresetMode)}")
    return RESET_MODES[plain]


def _step_info(transition: Transition, terms: Iterable[str]) -> dict[str, Any]:
    """Return the info of a step, for the only robot of each world, as arrays (E,). terms: names of the reward's terms."""
    return {
        "active": transition.active[:, 0],
        "reached": transition.reached[:, 0],
        "collision": transition.collision[:, 0],
        "goals_reached": transition.goals_reached[:, 0],
        "reward_terms": {name: transition.reward_terms[:, 0, i] for i, name in enumerate(terms)},
    }


def _vector_info(info: Mapping[str, Any], holds: np.ndarray) -> dict[str, Any]:
    """Convert to Gymnasium's form: each array has a mask of the worlds that it is valid for, and is zero elsewhere.

    info: arrays (E,), or dicts of them. holds: (E,) bool, the worlds they are valid for.
    """
    infos: dict[str, Any] = {}
    for name, value in info.items():
        infos[name] = _vector_info(value, holds) if isinstance(value, dict) else value * holds
        infos[f"_{name}"] = holds.copy()
    return infos
