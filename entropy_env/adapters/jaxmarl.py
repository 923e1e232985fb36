"""The swarm as a JaxMARL environment.

from entropy_env.adapters.jaxmarl import JaxMARLSwarm
env = JaxMARLSwarm(num_agents=10, scenario="rooms")
obs, state = env.reset(key)
obs, state, rewards, dones, infos = env.step(key, state, actions)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

try:
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv
    from jaxmarl.environments.spaces import Box, Discrete
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"JaxMARLSwarm needs JaxMARL ({error}): pip install jaxmarl", name=error.name) from error

from entropy_env import spaces
from entropy_env.adapters import functional
from entropy_env.adapters.world import check_keywords
from entropy_env.scenarios import Scenario
from entropy_env.types import OnGoal, SwarmState

Actions = Literal["continuous", "discrete"]
MOTORS = (  # left and right motor of each discrete action: stop, ahead, wide and tight arcs, turn in place, back
    (0.0, 0.0),
    (1.0, 1.0),
    (0.8, 1.0),
    (1.0, 0.8),
    (0.4, 1.0),
    (1.0, 0.4),
    (-0.5, 0.5),
    (0.5, -0.5),
    (-1.0, -1.0),
)
IN_INFOS = ("reached", "collision", "goals_reached")  # entries of the info of `Swarm.step`
PerAgent = dict[str, jax.Array]


class JaxMARLSwarm(MultiAgentEnv):
    """Robots `agent_0`, `agent_1`, ... that move at the same time, each on its way to its own goal.

    `dones[agent]` is set in the step that ends a robot's episode, and while the robot is not in the world:

    - `on_goal="terminate"`: from its arrival to the reset of the world, with observations and rewards of zero;
    - `respawn`: at each arrival, after which it starts again elsewhere;
    - `next_goal`: only at the time limit.

    `dones["__all__"]` is set in the step that ends the world, and with it `dones` of every agent. The world is reset in
    the same step.

    JaxMARL has a single `done`, so a time limit looks like any other end. `terminated` and `truncated` in `infos` tell
    them apart. `infos` also has `reached`, `collision`, and `goals_reached` since the reset. Each is (num_agents,), as
    JaxMARL's baselines expect. The state is a SwarmState.

    Under `vmap` only the worlds that are over draw a new layout. JaxMARL's own auto-reset would draw one for every world
    in every step. The key is the same, and so is the result.
    """

    def __init__(
        self,
        num_agents: int = 10,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal | None = None,
        max_steps: int | Literal["never"] | None = None,
        reward: str | None = None,
        preset: str | None = None,
        actions: Actions = "continuous",
        **settings: Any,
    ) -> None:
        """Take the keywords of `swarm_v0.parallel_env` that choose a world, and `actions`.

        actions: `continuous`, or `discrete` for the actions in MOTORS. Algorithms such as JaxMARL's MAPPO need discrete ones.
        Raises ValueError for `discrete` where robots talk: an index has no words.
        """
        check_keywords(JaxMARLSwarm, settings, functional.make_swarm)
        if actions not in get_args(Actions):
            raise ValueError(f"{actions=} must be one of {', '.join(get_args(Actions))}")
        self.swarm, self.params = functional.make_swarm(
            num_agents, scenario, difficulty, preset, on_goal=on_goal, max_steps=max_steps, reward=reward, **settings
        )
        spec = self.swarm.spec
        if actions == "discrete" and spec.talks:
            raise ValueError(
                f"{actions=} with comm_neighbours={spec.comm_neighbours}: robots that talk need actions='continuous', or "
                "comm_neighbours=0"
            )
        super().__init__(num_agents=spec.num_agents)
        seen = spaces.observation_space(spec)
        self.observation_spaces = {a: Box(seen.low, seen.high, seen.shape, jnp.float32) for a in self.agents}
        self._discrete = actions == "discrete"
        space = Discrete(len(MOTORS)) if self._discrete else Box(-1.0, 1.0, (spec.action_dim,), jnp.float32)
        self.action_spaces = dict.fromkeys(self.agents, space)

    @partial(jax.jit, static_argnums=0)
    def reset(self, key: jax.Array) -> tuple[PerAgent, SwarmState]:
        """Begin a new world. Returns observations (obs_dim,) by agent, and the state."""
        obs, state = self.swarm.reset(key, self.params)
        return self._by_agent(obs), state

    @partial(jax.jit, static_argnums=0)
    def step(
        self, key: jax.Array, state: SwarmState, actions: Mapping[str, jax.Array], reset_state: SwarmState | None = None
    ) -> tuple[PerAgent, SwarmState, PerAgent, PerAgent, PerAgent]:
        """Step by one control period, and reset a world that is over.

        actions: for every agent (2,) left and right motor, clipped to [-1, 1], or an index of MOTORS; where robots talk
        (38,), the motors and what it says, see `entropy_env.comms`.
        reset_state: the state to reset to, instead of a new world.
        """
        if reset_state is not None:
            return super().step(key, state, actions, reset_state)
        return self._step(key, state, actions, True)

    @partial(jax.jit, static_argnums=0)
    def step_env(
        self, key: jax.Array, state: SwarmState, actions: Mapping[str, jax.Array]
    ) -> tuple[PerAgent, SwarmState, PerAgent, PerAgent, PerAgent]:
        """Do as `step`, but without the reset."""
        return self._step(key, state, actions, False)

    def _step(
        self, key: jax.Array, state: SwarmState, actions: Mapping[str, jax.Array], autoreset: bool
    ) -> tuple[PerAgent, SwarmState, PerAgent, PerAgent, PerAgent]:
        action = jnp.stack([jnp.asarray(actions[agent]) for agent in self.agents])
        if self._discrete:
            action = jnp.asarray(MOTORS, jnp.float32)[action.reshape(self.num_agents)]
        obs, state, reward, terminated, truncated, transition = functional.step(
            self.swarm, key, state, action, self.params, autoreset
        )
        dones = self._by_agent(terminated | truncated | ~transition["active"])
        dones["__all__"] = transition["over"]
        infos = {name: transition[name] for name in IN_INFOS} | {"terminated": terminated, "truncated": truncated}
        return self._by_agent(obs), state, self._by_agent(reward), dones, infos

    def get_obs(self, state: SwarmState) -> PerAgent:
        """Return observations (obs_dim,) by agent, zero for an agent that is not in the world."""
        return self._by_agent(self.swarm.observe(state, self.params))

    @partial(jax.jit, static_argnums=0)
    def get_avail_actions(self, state: SwarmState) -> PerAgent:
        """Return that every agent may take every action. Actions of agents that are not in the world are ignored."""
        size = len(MOTORS) if self._discrete else self.swarm.spec.action_dim
        return {agent: jnp.ones(size, bool) for agent in self.agents}

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """All agents by class: there is one class."""
        return {"robots": self.agents}

    def _by_agent(self, rows: jax.Array) -> PerAgent:
        return dict(zip(self.agents, rows, strict=True))
