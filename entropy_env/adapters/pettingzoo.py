"""The swarm as a PettingZoo environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from entropy_env import checks
from entropy_env.adapters.world import RENDER_MODES, Adapter, World, check_action, check_keywords
from entropy_env.engines.interface import EngineName, Transition
from entropy_env.scenarios import Scenario
from entropy_env.spaces import action_space, observation_space, state_space
from entropy_env.types import Layout, OnGoal

METADATA = {
    "name": "swarm_v0",
    "render_modes": list(RENDER_MODES),
    "render_fps": 10,
    "is_parallelizable": True,
}


class SwarmParallelEnv(Adapter, ParallelEnv[str, np.ndarray, np.ndarray]):
    """Robots `agent_0`, `agent_1`, ... move at once, each on its way to its own goal.

    An agent that reaches its goal is terminated and leaves with `on_goal="terminate"`. With `respawn` it starts again
    elsewhere, and with `next_goal` it turns to its next goal; there nobody ends before the time limit, which truncates
    all who are still going. One that waits for room to respawn observes zeros.

    As in all of PettingZoo, `num_agents` is how many are in `agents`, 0 before the first reset; `max_num_agents` is how
    many there are in all.

    `infos[agent]` says what the step did: `reached`, `collision`, `goals_reached` since the reset, `reward_terms` and
    whether the agent is still `active` in the world.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        num_agents: int = 10,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal | None = None,
        render_mode: str | None = None,
        max_steps: int | Literal["never"] | None = None,
        reward: str | None = None,
        layout: Layout | Mapping[str, Any] | None = None,
        engine: EngineName = "auto",
        preset: str | None = None,
        num_threads: int | None = None,
        **settings: Any,
    ) -> None:
        """scenario, difficulty (1 to 4): which layouts are drawn.
        on_goal: `terminate`, `respawn` or `next_goal`; None for `terminate`, or what the preset says.
        max_steps: control periods until the time limit; `never` for none, where robots that go on get other spawns and
        goals on the same walls as often as they need; None for what the scenario needs, or the preset says.
        reward: weights of the reward's terms, `shaped` or `v3`; None for `shaped`, or what the preset says.
        layout: a map to use instead of the scenario's, as `make_layout` gives or takes it.
        engine: what steps the world: `numba`, `jax`, or `auto` for Numba on a CPU.
        preset: settings under one name, which every other keyword overrides. `v2` has the physics of the older engine on
        pymunk: the force drive, 0.05 s a step in 3 substeps, velocities observed in m/s in the world's frame, goals one
        after the other (`respawn`) for 500 steps, and the reward `v3`.
        num_threads: of the Numba engine; None for what NUMBA_NUM_THREADS says, else OMP_NUM_THREADS, else for all cores.
        settings: any other field of SwarmSpec (`num_rays`, `drive`, `velocity_frame`, `substeps`) or SwarmParams.
        reward_terms, one of them, is a dict of your own terms of the reward by name, functions (outcome, params) or their
        import paths, "package.module:function": see `entropy_env.rewards`. Each needs a weight, `reward_<name>`.
        """
        check_keywords(SwarmParallelEnv, settings)
        self._world = self._simulator = World(
            num_agents, layout, scenario=scenario, difficulty=difficulty, on_goal=on_goal, render_mode=render_mode,
            max_steps=max_steps, reward=reward, engine=engine, preset=preset, num_threads=num_threads, **settings,
        )  # fmt: skip
        self.metadata = self.metadata | {"render_fps": self._world.render_fps}
        self.render_mode = render_mode
        self.np_random: np.random.Generator | None = None
        self.np_random_seed: int | None = None
        spec = self._world.swarm.spec
        self.possible_agents = [f"agent_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self.observation_spaces = {agent: observation_space(spec) for agent in self.possible_agents}
        self.action_spaces = {agent: action_space(spec) for agent in self.possible_agents}
        self.state_space = state_space(spec)
        self._row = {agent: row for row, agent in enumerate(self.possible_agents)}

    def observation_space(self, agent: str) -> Box:
        """The same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        """The same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """A new episode with every agent; without a seed the random stream goes on.

        options, for this episode alone: `difficulty` (1 to 4), and `layout`, as for the constructor.
        """
        plan = self._world.plan(options)
        if seed is not None or self.np_random is None:
            self.np_random, self.np_random_seed = seeding.np_random(checks.as_seed(seed))
        obs = self._world.reset(self.np_random, plan)
        self.agents = self.possible_agents[:]
        return dict(zip(self.agents, obs, strict=True)), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, np.ndarray]
    ) -> tuple[
        dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
    ]:  # fmt: skip
        """One control period. actions: for every agent in `agents`, (2,) left and right motor, clipped to [-1, 1].

        Actions of agents that have ended are ignored, whatever they are; once all have, nothing moves and all results
        are empty. Raises ValueError for an action that is missing, of an unknown agent, of another shape or not finite,
        and RuntimeError before the first reset.
        """
        if self.agents:
            self._world.check_running()
        else:
            self._world.check_begun()
            self._check_names(actions)
            return {}, {}, {}, {}, {}
        told = self._world.step(self._stack(actions))
        over, agents = bool(told.done[0]), self.agents
        stays = self._world.swarm.spec.on_goal != "terminate" and not over
        obs, rewards, infos = told.obs[0].copy(), told.reward[0].tolist(), _infos(told, self._world.swarm.terms)
        terminated = [False] * len(infos) if stays else told.terminated[0].tolist()
        if over or True in terminated:
            ended = told.terminated[0] | told.truncated[0]
            obs[ended] = told.final_obs[0][ended]
            self.agents = [] if over else [agent for agent in agents if not terminated[self._row[agent]]]
        truncated = [over and not ends for ends in terminated]
        if len(agents) < len(infos):
            rows = [self._row[agent] for agent in agents]
            columns: Any = obs, rewards, terminated, truncated, infos
            obs, rewards, terminated, truncated, infos = ([column[row] for row in rows] for column in columns)
        return (
            dict(zip(agents, obs, strict=True)),
            dict(zip(agents, rewards, strict=True)),
            dict(zip(agents, terminated, strict=True)),
            dict(zip(agents, truncated, strict=True)),
            dict(zip(agents, infos, strict=True)),
        )

    def _stack(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """(possible agents, 2) float32, zero for those who have left."""
        self._check_names(actions)
        chosen = [actions[agent] for agent in self.agents]
        try:
            stacked = check_action("the actions", chosen, (len(chosen), 2))
        except ValueError:
            for agent, action in zip(self.agents, chosen, strict=True):
                check_action(f"the action of {agent}", action, (2,))
            raise
        if len(chosen) == len(self.possible_agents):
            return stacked
        everybody = np.zeros((len(self.possible_agents), 2), np.float32)
        everybody[[self._row[agent] for agent in self.agents]] = stacked
        return everybody

    def _check_names(self, actions: Mapping[str, np.ndarray]) -> None:
        """ValueError for actions that are missing, or of unknown agents."""
        if not isinstance(actions, Mapping):
            raise ValueError(f"{actions=} must be a mapping from every agent to its action, (2,)")  # noqa: TRY004
        if actions.keys() == set(self.agents):
            return
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"no action for {', '.join(missing)}")
        for agent in actions:
            if agent not in self._row:
                raise ValueError(f"an action for {agent!r}, which is no agent of this environment")

    def state(self) -> np.ndarray:
        """(num_agents * 8,) float32, with the force drive 9, agent by agent, zero for those who have left: see
        `Swarm.global_state`."""
        return self._world.global_state()

    def render(self) -> np.ndarray | None:
        """A frame (H, W, 3) uint8 in mode `rgb_array`, None in `human`, which draws by itself at every step."""
        return self._world.render()

    def close(self) -> None:
        """Close the window."""
        self._world.close()

    def __repr__(self) -> str:
        swarm = self._world.swarm
        return (
            f"{type(self).__name__}(num_agents={len(self.possible_agents)}, scenario={swarm.scenario.name!r}, "
            f"difficulty={self._world.difficulty}, on_goal={swarm.spec.on_goal!r})"
        )


def _infos(told: Transition, terms: Iterable[str]) -> list[dict[str, Any]]:
    """For each agent of the only world, in Python's own numbers. terms: names of the reward's."""
    columns = (told.active, told.reached, told.collision, told.goals_reached, told.reward_terms)
    return [
        {
            "active": active,
            "reached": reached,
            "collision": collision,
            "goals_reached": goals_reached,
            "reward_terms": dict(zip(terms, values, strict=True)),
        }
        for active, reached, collision, goals_reached, values in zip(
            *(column[0].tolist() for column in columns), strict=True
        )
    ]
