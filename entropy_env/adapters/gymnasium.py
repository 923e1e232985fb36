"""One robot as a Gymnasium environment, alone and vectorised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from entropy_env.adapters.world import RENDER_MODES, World, Worlds, check_action
from entropy_env.engines import EngineName, Transition
from entropy_env.rewards import TERMS
from entropy_env.scenarios import Scenario
from entropy_env.spaces import action_space, observation_space
from entropy_env.types import Layout, OnGoal

METADATA = {"render_modes": list(RENDER_MODES), "render_fps": 10}


def _check_on_goal(on_goal: str) -> None:
    if on_goal == "respawn":
        raise ValueError("on_goal='respawn' is for swarms, whose world runs on: a single robot resets, use 'terminate'")


class SwarmEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One robot on its way to its goal, `gymnasium.make("entropy_env/Swarm-v0")`.

    Reaching the goal terminates; with `on_goal="next_goal"` it turns to the next one instead. The time limit is the
    world's own and truncates. `info` says what the step did: `reached`, `collision`, `goals_reached` since the reset,
    `reward_terms` and whether the robot is still `active`.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal = "terminate",
        render_mode: str | None = None,
        max_steps: int | None = None,
        reward: str | None = None,
        layout: Layout | Mapping[str, Any] | None = None,
        engine: EngineName = "auto",
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        """The keywords are those of `swarm_v0.parallel_env`, but a preset leaves `on_goal` as it is: one robot resets."""
        _check_on_goal(on_goal)
        self._world = World(
            1, layout, scenario=scenario, difficulty=difficulty, on_goal=on_goal, render_mode=render_mode,
            max_steps=max_steps, reward=reward, engine=engine, preset=preset, **settings,
        )  # fmt: skip
        self.metadata = self.metadata | {"render_fps": self._world.render_fps}
        self.render_mode = render_mode
        self.observation_space = observation_space(self._world.swarm.spec)
        self.action_space = action_space(self._world.swarm.spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode. options, for it alone: `difficulty` (1 to 4), and `layout`, as for the constructor."""
        plan = self._world.plan(options)
        super().reset(seed=seed)
        obs = self._world.reset(self.np_random, plan)
        return obs[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control period. action: (2,) left and right motor, clipped to [-1, 1].

        Raises ValueError for another shape or a value that is not finite, RuntimeError outside an episode.
        """
        self._world.check_running()
        told = self._world.step(check_action("the action", action, (2,))[None])
        terminated, truncated = bool(told.terminated[0, 0]), bool(told.truncated[0, 0])
        obs = (told.final_obs if terminated or truncated else told.obs)[0, 0].copy()
        info = {name: value[0].item() for name, value in _told(told).items() if name != "reward_terms"}
        info["reward_terms"] = dict(zip(TERMS, told.reward_terms[0, 0].tolist(), strict=True))
        return obs, float(told.reward[0, 0]), terminated, truncated, info

    def set_difficulty(self, difficulty: int) -> None:
        """Draw layouts of this level (1 to 4) from the next reset on. A level above all before compiles once more."""
        self._world.set_difficulty(difficulty)

    def render(self) -> np.ndarray | None:
        """A frame (H, W, 3) uint8 in mode `rgb_array`, None in `human`, which draws by itself at every step."""
        return self._world.render()

    def close(self) -> None:
        """Close the window."""
        self._world.close()


class SwarmVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many worlds of one robot each, in one compiled step; `gymnasium.make_vec("entropy_env/Swarm-v0", num_envs=256)`.

    A world that ends is reset in the same step (`AutoresetMode.SAME_STEP`): its last observation and info are in
    `infos["final_obs"]` and `infos["final_info"]`, as `SyncVectorEnv` gives them.
    """

    metadata: dict[str, Any] = METADATA | {
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self, num_envs: int = 1, on_goal: OnGoal = "terminate", render_mode: str | None = None, **settings: Any
    ) -> None:
        """settings: as for `SwarmEnv`, without `layout`."""
        _check_on_goal(on_goal)
        if "layout" in settings:
            raise ValueError("layout: a map of one's own needs make_vec(..., vectorization_mode='sync')")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{render_mode=} must be None or rgb_array, which wrappers.vector.HumanRendering can show")
        self._worlds = Worlds(num_envs, 1, on_goal=on_goal, render_mode=render_mode, **settings)
        self.metadata = self.metadata | {"render_fps": self._worlds.render_fps}
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space(self._worlds.swarm.spec)
        self.single_action_space = action_space(self._worlds.swarm.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all worlds. options: `difficulty` (1 to 4), until the next call."""
        plan = self._worlds.plan(options)
        super().reset(seed=seed)
        return self._worlds.reset(self.np_random, plan)[:, 0], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control period of every world. actions: (num_envs, 2) left and right motors, clipped to [-1, 1]."""
        actions = check_action("the array of actions", actions, (self.num_envs, 2))
        told = self._worlds.step(actions[:, None])
        terminated, truncated = told.terminated[:, 0].copy(), told.truncated[:, 0].copy()
        ended, info = terminated | truncated, _told(told)
        infos = _vector_info(info, ~ended)
        if ended.any():
            final_obs = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final_obs[i] = told.final_obs[i, 0].copy()
            infos |= {
                "final_obs": final_obs,
                "_final_obs": ended.copy(),
                "final_info": _vector_info(info, ended),
                "_final_info": ended.copy(),
            }
        return told.obs[:, 0].copy(), told.reward[:, 0].astype(np.float64), terminated, truncated, infos

    def set_difficulty(self, difficulty: int) -> None:
        """Draw layouts of this level (1 to 4) from the next call of `reset` on."""
        self._worlds.set_difficulty(difficulty)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A frame (H, W, 3) uint8 of every world in mode `rgb_array`, else None."""
        return self._worlds.frames()

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing but the renderer to let go of."""
        self._worlds.close()


def _told(told: Transition) -> dict[str, Any]:
    """What a step did to the only robot of each world, (E,) arrays."""
    return {
        "active": told.active[:, 0],
        "reached": told.reached[:, 0],
        "collision": told.collision[:, 0],
        "goals_reached": told.goals_reached[:, 0],
        "reward_terms": {name: told.reward_terms[:, 0, i] for i, name in enumerate(TERMS)},
    }


def _vector_info(info: Mapping[str, Any], holds: np.ndarray) -> dict[str, Any]:
    """Gymnasium's form: beside each array of values a mask of the worlds they hold for, zero elsewhere.

    info: (E,) each, or a dict of such. holds: (E,) bool.
    """
    infos: dict[str, Any] = {}
    for name, value in info.items():
        infos[name] = _vector_info(value, holds) if isinstance(value, dict) else value * holds
        infos[f"_{name}"] = holds.copy()
    return infos
