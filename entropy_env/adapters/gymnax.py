"""One robot as a gymnax environment.

from entropy_env.adapters.gymnax import GymnaxSwarm
env = GymnaxSwarm(scenario="rooms")
params = env.default_params.replace(max_wheel_speed=0.8)
obs, state = env.reset(key, params)
obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

try:
    from gymnax.environments.environment import Environment
    from gymnax.environments.spaces import Box
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"GymnaxSwarm needs gymnax ({error}): pip install gymnax", name=error.name) from error

from entropy_env import spaces
from entropy_env.adapters import functional
from entropy_env.adapters.world import check_keywords, check_single
from entropy_env.scenarios import Scenario
from entropy_env.types import OnGoal, SwarmParams, SwarmState

SIX_RESULTS = hasattr(Environment, "is_truncated")  # from gymnax 1.0 on; 0.0.9 has one `done`


class GymnaxParams(SwarmParams):
    """SwarmParams that also know their time limit by gymnax's name."""

    @property
    def max_steps_in_episode(self) -> jax.Array | int:
        """`max_steps`."""
        return self.max_steps


def _replace(self: GymnaxParams, **values: Any) -> GymnaxParams:
    """Other values, `max_steps_in_episode` among them. They are not checked, as `Swarm.make_params` does: a difficulty, say,
    must not be above the one that the environment was made with."""
    if "max_steps_in_episode" in values:
        values["max_steps"] = values.pop("max_steps_in_episode")
    return dataclasses.replace(self, **values)


GymnaxParams.replace = _replace  # type: ignore[assignment]  # flax puts its own in place of one in the class


class GymnaxSwarm(Environment):
    """One robot on its way to its goal. `step` gives what gymnax 1.0's does, and gymnax 0.0.9's five values under 0.0.9.

    Reaching the goal terminates; with `on_goal="next_goal"` it turns to the next one instead. The time limit truncates.
    `info` holds `terminated`, `truncated`, `final_observation`, which is what the step ended on, `discount`, and `reached`,
    `collision` and `goals_reached` since the reset.

    Under `vmap` only the worlds that are over draw a new layout, with the key and hence the result of gymnax's own
    auto-reset, which draws one for every world in every step.
    """

    def __init__(
        self,
        scenario: str | Scenario = "open",
        difficulty: int = 1,
        on_goal: OnGoal = "terminate",
        max_steps: int | Literal["never"] | None = None,
        reward: str | None = None,
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        """The keywords of Gymnasium's `Swarm-v0` that choose a world. Its numbers are in `default_params`."""
        check_single(on_goal, settings)
        check_keywords(GymnaxSwarm, settings, functional.make_swarm)
        super().__init__()
        self.swarm, params = functional.make_swarm(
            1, scenario, difficulty, preset, on_goal=on_goal, max_steps=max_steps, reward=reward, **settings
        )
        self._params = GymnaxParams(**vars(params))

    @property
    def default_params(self) -> GymnaxParams:
        """Plain numbers, all of which may change without a recompile."""
        return self._params

    @partial(jax.jit, static_argnums=0)
    def step(self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams | None = None) -> Any:
        """One control period. action: (2,) left and right motor, clipped to [-1, 1]."""
        obs, state, reward, terminated, truncated, info = self._step(key, state, action, params, True)
        if SIX_RESULTS:
            return obs, state, reward, terminated, truncated, info
        return obs, state, reward, terminated | truncated, info

    def step_env(self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams) -> Any:
        """`step` without the reset, and without `truncated`, which `is_truncated` tells of the state."""
        _, state, reward, terminated, truncated, info = self._step(key, state, action, params, False)
        return info["final_observation"], state, reward, terminated if SIX_RESULTS else terminated | truncated, info

    def reset_env(self, key: jax.Array, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
        """A new world."""
        obs, state = self.swarm.reset(key, params)
        return obs[0], state

    def _step(
        self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams | None, autoreset: bool
    ) -> functional.Told:
        params = self._params if params is None else params
        action = jnp.reshape(action, (1, self.swarm.spec.action_dim))
        obs, state, reward, terminated, truncated, told = functional.step(
            self.swarm, key, state, action, params, autoreset
        )
        info = {name: told[name][0] for name in ("reached", "collision", "goals_reached")}
        info |= {"terminated": terminated[0], "truncated": truncated[0], "final_observation": told["final_obs"][0]}
        info["discount"] = jnp.where(terminated[0], 0.0, 1.0)
        return obs[0], state, reward[0], terminated[0], truncated[0], info

    def get_obs(self, state: SwarmState, params: SwarmParams | None = None, key: jax.Array | None = None) -> jax.Array:
        """(obs_dim,), zero once the robot has reached its goal."""
        return self.swarm.observe(state, self._params if params is None else params)[0]

    def is_terminated(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Whether the robot has reached its goal and left."""
        return ~state.active[0]

    def is_truncated(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Whether the time was up before that."""
        return state.active[0] & (state.step >= params.max_steps)

    def is_terminal(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """As gymnax's version has it: up to 0.0.9 the time limit counts."""
        over = self.is_terminated(state, params)
        return over if SIX_RESULTS else over | self.is_truncated(state, params)

    @property
    def name(self) -> str:
        """Of the environment."""
        return "Swarm-v0"

    @property
    def num_actions(self) -> int:
        """Left and right motor."""
        return self.swarm.spec.action_dim

    def action_space(self, params: SwarmParams | None = None) -> Box:
        """Left and right motor in [-1, 1]."""
        return Box(-1.0, 1.0, (self.swarm.spec.action_dim,), jnp.float32)

    def observation_space(self, params: SwarmParams | None = None) -> Box:
        """Lidar in [0, 1], then velocity (2) and goal (2), unbounded."""
        space = spaces.observation_space(self.swarm.spec)
        return Box(space.low, space.high, space.shape, jnp.float32)
