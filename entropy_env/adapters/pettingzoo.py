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
from entropy_env.engines import EngineName
from entropy_env.engines.interface import Transition
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
    """Robots `agent_0`, `agent_1`, ... that move at the same time, each on its way to its own goal.

    `on_goal` says what happens to an agent that reaches its goal:

    - `terminate`: it is terminated and leaves;
    - `respawn`: it starts again elsewhere, and observes zeros while it waits for room;
    - `next_goal`: it goes on to its next goal.

    With the last two, no agent ends before the time limit. The time limit truncates all agents that are left.

    With `comm_neighbours` above 0 robots talk. An action is then (38,): after the motors a score for each of 32 tokens, of
    which the highest is spoken, token 0 being silence, and the 4 numbers of a payload, see `entropy_env.comms`.
    `entropy_env.vocabulary.say` makes these 36 numbers. The inbox, 9 numbers for each word that is heard, comes in the
    observation after the goal.

    As in all of PettingZoo, `num_agents` is the number of agents now in `agents`, 0 before the first reset.
    `max_num_agents` is the number of all agents.

    `infos[agent]` reports the step: `reached`, `collision`, `goals_reached` since the reset, `reward_terms`, and whether
    the agent is still `active` in the world.
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
        """Make the environment.

        num_agents: robots in the world.
        scenario, difficulty (1 to 4): choose the layouts that are drawn.
        on_goal: `terminate`, `respawn` or `next_goal`, see above. None: the preset's, or else `terminate`.
        render_mode: None, `human` or `rgb_array`.
        max_steps: the time limit in control periods, or `never`. Without a time limit, robots get new spawns and goals
        between the same walls whenever they need them. None: the preset's, or else what the scenario needs.
        reward: the reward preset, `shaped` or `v3`. None: the preset's, or else `shaped`.
        layout: a map to use instead of the scenario's: a result of `make_layout`, or a mapping of its arguments.
        engine: steps the world: `numba`, `jax`, or `auto` for Numba on a CPU.
        preset: the name of several settings; any other keyword overrides them. `v2` is the older engine on pymunk: the
        force drive, 0.05 s per step in 3 substeps, velocities observed in m/s in the world's frame, one goal after
        another (`respawn`) for 500 steps, and the reward `v3`.
        num_threads: threads of the Numba engine. None: NUMBA_NUM_THREADS, or else OMP_NUM_THREADS, or else all cores.
        settings: any other field of SwarmSpec (`num_rays`, `drive`, `velocity_frame`, `substeps`, `comm_neighbours`,
        `comm_channel`) or SwarmParams.
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
        """Return the agent's observation space. It is the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        """Return the agent's action space. It is the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin a new episode with every agent. Without a seed, the random numbers go on from before.

        options, for this episode only: `difficulty` (1 to 4) and `layout`, as in the constructor.
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
        """Step by one control period. actions: for every agent in `agents`, (2,) left and right motor, clipped to [-1, 1]; (38,)
        where robots talk, see above.

        Actions of agents that have ended are ignored and not checked. Once all agents have ended, nothing moves and all
        results are empty. Raises ValueError for an action that is missing, of an unknown agent, of another shape or not
        finite, and RuntimeError before the first reset.
        """
        if self.agents:
            self._world.check_running()
        else:
            self._world.check_begun()
            self._check_names(actions)
            return {}, {}, {}, {}, {}
        transition = self._world.step(self._stack(actions))
        over, agents = bool(transition.over[0]), self.agents
        stays = self._world.swarm.spec.on_goal != "terminate" and not over
        obs, rewards, infos = (
            transition.obs[0].copy(),
            transition.reward[0].tolist(),
            _infos(transition, self._world.swarm.terms),
        )
        terminated = [False] * len(infos) if stays else transition.terminated[0].tolist()
        if over or True in terminated:
            ended = transition.terminated[0] | transition.truncated[0]
            obs[ended] = transition.final_obs[0][ended]
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
        """Return the actions of all possible agents, (N, action_dim) float32, zero for those that have left."""
        self._check_names(actions)
        chosen = [actions[agent] for agent in self.agents]
        width = self._world.swarm.spec.action_dim
        try:
            stacked = check_action("the actions", chosen, (len(chosen), width))
        except ValueError:
            for agent, action in zip(self.agents, chosen, strict=True):
                check_action(f"the action of {agent}", action, (width,))
            raise
        if len(chosen) == len(self.possible_agents):
            return stacked
        everybody = np.zeros((len(self.possible_agents), width), np.float32)
        everybody[[self._row[agent] for agent in self.agents]] = stacked
        return everybody

    def _check_names(self, actions: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError if an action is missing, or is of an unknown agent."""
        width = self._world.swarm.spec.action_dim
        if not isinstance(actions, Mapping):
            raise ValueError(f"{actions=} must be a mapping from every agent to its action, ({width},)")  # noqa: TRY004
        if actions.keys() == set(self.agents):
            return
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"no action for {', '.join(missing)}")
        for agent in actions:
            if agent not in self._row:
                raise ValueError(f"an action for {agent!r}, which is no agent of this environment")

    def state(self) -> np.ndarray:
        """Return the state of all agents, 8 float32 each, or 9 with the force drive; see `Swarm.global_state`.

        Agents that have left are zero.
        """
        return self._world.global_state()

    def render(self) -> np.ndarray | None:
        """Return a frame (H, W, 3) uint8 in mode `rgb_array`. Return None in `human`, which draws by itself in every step."""
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


def _infos(transition: Transition, terms: Iterable[str]) -> list[dict[str, Any]]:
    """Return the info of each agent of the only world, in Python numbers. terms: names of the reward's terms."""
    columns = (
        transition.active,
        transition.reached,
        transition.collision,
        transition.goals_reached,
        transition.reward_terms,
    )
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
