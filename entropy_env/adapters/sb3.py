"""Many worlds as a Stable-Baselines3 `VecEnv`. Every robot is a lane of it, so all robots share one policy.

from entropy_env.adapters.sb3 import SwarmVecEnv
model = PPO("MlpPolicy", SwarmVecEnv(num_worlds=8, num_agents=10), seed=0)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"SwarmVecEnv needs Stable-Baselines3 ({error}): pip install 'entropy-env[sb3]'", name=error.name
    ) from error

from entropy_env.adapters.world import RENDER_MODES, Adapter, Worlds, check_action, check_keywords, take
from entropy_env.engines import EngineName
from entropy_env.engines.interface import Transition
from entropy_env.scenarios import Scenario
from entropy_env.spaces import action_space, observation_space
from entropy_env.task import lasting_on_goal
from entropy_env.types import OnGoal


class SwarmVecEnv(Adapter, VecEnv):
    """`num_worlds` worlds of `num_agents` robots. The robot `agent` of `world` is lane `world * num_agents + agent`.

    The episodes of a lane follow one another without a break. An episode ends (`dones`) when the robot arrives, which is
    termination, or at the world's time limit, which is truncation. `infos` then hold `terminal_observation`,
    `TimeLimit.truncated` and `episode` (return `r`, length `l`, time `t`), as Monitor does. The returned observation is
    already that of the next episode. `on_goal` says what follows an arrival:

    - `respawn`: the robot starts again elsewhere, on its way to its next goal, while its world goes on. If no place is
      clear it waits. A lane that waits observes zeros and has reward 0, and its actions are ignored.
    - `terminate`: the robot leaves, and the lane waits until its world is over, when all have arrived or the time is up.
      About half of the collected steps are then waiting: prefer `respawn` to train.
    - `next_goal`: the episode goes on, and the robot turns to its next goal, until the time limit.

    Steps of waiting belong to the episode that follows, but do not count in its length. If the time is up while a lane
    waits, no episode of it ends.

    `is_success` in `infos` says whether the robot arrived. With `respawn` it is about the robot's first goal, and is
    reported once per robot when the time of its world is up, also for lanes that wait. Reporting on arrival would
    overcount successes, because they come before failures. Later goals would bias the rate too, because they have less
    time left.
    """

    def __init__(
        self,
        num_worlds: int = 8,
        num_agents: int = 10,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal | None = None,
        render_mode: str | None = None,
        max_steps: int | Literal["never"] | None = None,
        engine: EngineName = "auto",
        seed: int | None = None,
        num_threads: int | None = None,
        **settings: Any,
    ) -> None:
        """Take the keywords of `swarm_v0.parallel_env`, without `layout`.

        on_goal: see above. None: `respawn`, or `terminate` in a scenario that cannot have it, such as `lookout`.
        seed: decides the layouts; None for new ones each time.
        """
        if "layout" in settings:
            raise ValueError("layout: give a Scenario of your own, since all worlds are drawn from one")
        check_keywords(SwarmVecEnv, settings)
        on_goal = lasting_on_goal(scenario) if on_goal is None else on_goal
        self._worlds = self._simulator = Worlds(
            num_worlds, num_agents, scenario=scenario, difficulty=difficulty, on_goal=on_goal,
            render_mode=render_mode, max_steps=max_steps, engine=engine, num_threads=num_threads, **settings,
        )  # fmt: skip
        spec = self._worlds.swarm.spec
        self.num_worlds, self.num_agents = self._worlds.engine.num_envs, spec.num_agents
        self.render_mode = render_mode
        super().__init__(self.num_worlds * self.num_agents, observation_space(spec), action_space(spec))
        self.metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": self._worlds.render_fps}
        self._rng = np.random.default_rng(seed)
        self._actions = np.zeros((self.num_worlds, self.num_agents, spec.action_dim), np.float32)
        self._respawns = spec.on_goal == "respawn"
        self._level_changed = False
        self._born = time.time()

    def set_difficulty(self, difficulty: int) -> None:
        """Draw layouts of this level (1 to 4) from now on. The next step truncates all episodes and begins new ones.

        Lanes that wait are truncated too. The episodes cut here are not reported: their infos have neither `episode` nor
        `is_success`. Raises ValueError if the agents do not fit at this level.
        """
        before = self.difficulty
        super().set_difficulty(difficulty)
        self._level_changed |= self.difficulty != before

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the layouts from the next reset on; None for any.

        Returns one seed per lane, as SB3 expects. Only the first has an effect.
        """
        seeds = super().seed(seed)
        self._rng = np.random.default_rng(seeds[0])
        return seeds

    def reset(self) -> np.ndarray:
        """Begin new episodes everywhere. Returns observations (lanes, obs_dim).

        A `difficulty` given to `set_options` holds until the next call. Raises ValueError if lanes were given different
        options.
        """
        options = self._options[0]
        if any(others != options for others in self._options):
            raise ValueError("lanes share their worlds, so give set_options one dict for all of them")
        obs = self._worlds.reset(self._rng, self._worlds.plan(options))
        self._level_changed = False
        self._reset_seeds()
        self._reset_options()
        return self._in_lanes(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions (lanes, 2) for `step_wait`: left and right motor, clipped to [-1, 1].

        Where robots talk they are (lanes, 38), see `SwarmParallelEnv`.

        Raises ValueError if they are not finite or have another shape.
        """
        flat = check_action("the array of actions", actions, (self.num_envs, self._actions.shape[-1]))
        self._actions = flat.reshape(self._actions.shape)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step by one control period. Returns observations (lanes, obs_dim), rewards (lanes,), dones (lanes,) bool, infos."""
        transition = self._worlds.step(self._actions)
        obs, rewards = self._in_lanes(transition.obs).copy(), self._in_lanes(transition.reward).copy()
        dones = self._in_lanes(transition.terminated | transition.truncated)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for lane in dones.nonzero()[0].tolist():
            infos[lane] = self._describe_end(transition, divmod(lane, self.num_agents))
        if self._respawns and transition.over.any():
            for world, agent in np.argwhere(
                transition.over[:, None] & ~transition.terminated & ~transition.truncated
            ).tolist():
                infos[world * self.num_agents + agent] = {"is_success": transition.goals_reached.item(world, agent) > 0}
        if self._level_changed:
            return self._at_new_level(obs, infos), rewards, np.ones_like(dones), infos
        return obs, rewards, dones, infos

    def _describe_end(self, transition: Transition, at: tuple[int, int]) -> dict[str, Any]:
        """Return the info of a lane whose episode ends. at: (world, agent) of the lane."""
        age = round(time.time() - self._born, 6)
        info = {
            "terminal_observation": transition.final_obs[at].copy(),
            "TimeLimit.truncated": transition.truncated.item(at),
            "episode": {
                "r": round(transition.episode_return.item(at), 6),
                "l": transition.episode_length.item(at),
                "t": age,
            },
        }
        if self._respawns and not transition.over.item(at[0]):
            return info
        return info | {"is_success": transition.goals_reached.item(at) > 0}

    def _at_new_level(self, obs: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """Truncate all running episodes and begin new ones at the new difficulty. Returns the new observations.

        obs: (lanes, obs_dim), the last observations of the episodes that are cut. infos: changed in place.
        """
        for lane, info in enumerate(infos):
            if "terminal_observation" not in info:
                info["terminal_observation"], info["TimeLimit.truncated"] = obs[lane], True
        self._level_changed = False
        return self._in_lanes(self._worlds.reset(self._rng, self._worlds.plan()))

    def _in_lanes(self, rows: np.ndarray) -> np.ndarray:
        """Reshape (worlds, agents, ...) to (lanes, ...)."""
        return rows.reshape(self.num_envs, *rows.shape[2:])

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return copies, by name, of all arrays that decide what happens next. `restore` goes on exactly from there."""
        rng = np.frombuffer(json.dumps(self._rng.bit_generator.state).encode(), np.uint8)
        return self._worlds.snapshot() | {"rng": rng.copy(), "level_changed": np.array(self._level_changed)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot. Raises ValueError if it is of an environment with other settings."""
        rest = dict(snapshot)
        rng, level_changed = take(rest, "rng"), take(rest, "level_changed")
        self._worlds.restore(rest)
        self._rng.bit_generator.state = json.loads(rng.tobytes())
        self._level_changed = bool(level_changed)

    def get_images(self) -> list[np.ndarray]:
        """Return one frame (H, W, 3) uint8 per world; none without `render_mode="rgb_array"`."""
        return list(self._worlds.frames() or ())

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """Return all worlds in one picture (H, W, 3) uint8 in mode `rgb_array`.

        In mode `human` show the first world in a window and return None.
        """
        if self.render_mode == "human" and mode in (None, "human"):
            self._worlds.frames()
            return None
        return super().render(mode)

    def close(self) -> None:
        """Close the window."""
        self._worlds.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of this object once for every lane of `indices`. It is the same for all."""
        return [getattr(self, attr_name)] * len(self._lanes(indices))

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute for all lanes, which share it. Raises ValueError if `indices` are only some of them."""
        self._check_all(f"set_attr({attr_name!r})", indices)
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once, because lanes share their worlds. Returns its result once for every lane of `indices`.

        Raises ValueError for a method that sets something, if `indices` are only some lanes.
        """
        lanes = self._lanes(indices)
        if method_name.startswith("set_"):
            self._check_all(f"env_method({method_name!r})", indices)
        return [getattr(self, method_name)(*method_args, **method_kwargs)] * len(lanes)

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Whether each lane is wrapped. True only for Monitor: lanes report what Monitor would."""
        return [wrapper_class is Monitor] * len(self._lanes(indices))

    def _lanes(self, indices: int | Iterable[int] | None) -> list[int]:
        lanes = list(self._get_indices(indices))
        if any(not -self.num_envs <= lane < self.num_envs for lane in lanes):
            raise IndexError(f"{indices=} must be lanes from 0 to {self.num_envs - 1}")
        return lanes

    def _check_all(self, what: str, indices: int | Iterable[int] | None) -> None:
        if len(set(self._lanes(indices))) < self.num_envs:
            raise ValueError(f"{what} for some lanes: lanes share their worlds, so leave indices out")
