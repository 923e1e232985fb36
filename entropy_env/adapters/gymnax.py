"""One robot as a gymnax environment.

from entropy_env.adapters.gymnax import GymnaxSwarm
env = GymnaxSwarm(scenario="rooms")
params = env.default_params.replace(max_wheel_speed=0.8)
obs, state = env.reset(key, params)
obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
"""

from __future__ import annotations

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
from entropy_env.types import OnGoal, SwarmParams, SwarmState, replace_params

SIX_RESULTS = hasattr(Environment, "is_truncated")  # gymnax 1.0 and later; 0.0.9 has a single `done`


class GymnaxParams(SwarmParams):  # type: ignore[misc]
    """SwarmParams with gymnax's name for the time limit."""

    @property
    def max_steps_in_episode(self) -> jax.Array | int:
        """The time limit, `max_steps`."""
        return self.max_steps


def _replace(self: GymnaxParams, **values: Any) -> GymnaxParams:
    """Do as `SwarmParams.replace`, which does not know `max_steps_in_episode`."""
    if "max_steps_in_episode" in values:
        values["max_steps"] = values.pop("max_steps_in_episode")
    return replace_params(self, **values)


GymnaxParams.replace = _replace  # type: ignore[assignment]  # flax would overwrite a `replace` defined in the class


class GymnaxSwarm(Environment):
    """One robot on its way to its goal. `step` returns six values as in gymnax 1.0, or five under gymnax 0.0.9.

    Reaching the goal terminates the episode. With `on_goal="next_goal"` the robot goes on to its next goal instead. The
    time limit truncates. `info` holds `terminated`, `truncated`, `final_observation` (before any reset), `discount`,
    `reached`, `collision`, and `goals_reached` since the reset.

    Under `vmap` only the worlds that are over draw a new layout. Gymnax's own auto-reset would draw one for every world
    in every step. The key is the same, and so is the result.
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
        """Take the keywords of Gymnasium's `Swarm-v0` that choose a world. Its parameters are in `default_params`."""
        check_single(on_goal, settings)
        check_keywords(GymnaxSwarm, settings, functional.make_swarm)
        super().__init__()
        self.swarm, params = functional.make_swarm(
            1, scenario, difficulty, preset, on_goal=on_goal, max_steps=max_steps, reward=reward, **settings
        )
        self._params = GymnaxParams(**vars(params))

    @property
    def default_params(self) -> GymnaxParams:
        """The parameters, plain numbers. All of them may change without a recompile."""
        return self._params

    @partial(jax.jit, static_argnums=0)
    def step(self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams | None = None) -> Any:
        """Step by one control period, and reset a world that is over. action: (2,) left and right motor, clipped.

        With `comm_neighbours` it is (38,): then what the robot says, though nobody listens, see `entropy_env.comms`.
        """
        obs, state, reward, terminated, truncated, info = self._step(key, state, action, params, True)
        if SIX_RESULTS:
            return obs, state, reward, terminated, truncated, info
        return obs, state, reward, terminated | truncated, info

    def step_env(self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams) -> Any:
        """Do as `step`, but without the reset, and without returning `truncated`: ask `is_truncated`."""
        _, state, reward, terminated, truncated, info = self._step(key, state, action, params, False)
        return info["final_observation"], state, reward, terminated if SIX_RESULTS else terminated | truncated, info

    def reset_env(self, key: jax.Array, params: SwarmParams) -> tuple[jax.Array, SwarmState]:
        """Begin a new world. Returns its observation (obs_dim,) and its state."""
        obs, state = self.swarm.reset(key, params)
        return obs[0], state

    def _step(
        self, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams | None, autoreset: bool
    ) -> functional.StepResult:
        params = self._params if params is None else params
        action = jnp.reshape(action, (1, self.swarm.spec.action_dim))
        obs, state, reward, terminated, truncated, transition = functional.step(
            self.swarm, key, state, action, params, autoreset
        )
        info = {name: transition[name][0] for name in ("reached", "collision", "goals_reached")}
        info |= {
            "terminated": terminated[0],
            "truncated": truncated[0],
            "final_observation": transition["final_obs"][0],
        }
        info["discount"] = jnp.where(terminated[0], 0.0, 1.0)
        return obs[0], state, reward[0], terminated[0], truncated[0], info

    def get_obs(self, state: SwarmState, params: SwarmParams | None = None, key: jax.Array | None = None) -> jax.Array:
        """Return the observation (obs_dim,), zero once the robot has reached its goal."""
        return self.swarm.observe(state, self._params if params is None else params)[0]

    def is_terminated(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Whether the robot has reached its goal and left."""
        return ~state.active[0]

    def is_truncated(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Whether the time limit came before the goal."""
        return state.active[0] & (state.step >= params.max_steps)

    def is_terminal(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Whether the episode is over in the sense of the installed gymnax: up to 0.0.9 the time limit counts too."""
        over = self.is_terminated(state, params)
        return over if SIX_RESULTS else over | self.is_truncated(state, params)

    @property
    def name(self) -> str:
        """The name of the environment."""
        return "Swarm-v0"

    @property
    def num_actions(self) -> int:
        """The number of values in an action: left and right motor, and with `comm_neighbours` what the robot says."""
        return self.swarm.spec.action_dim

    def action_space(self, params: SwarmParams | None = None) -> Box:
        """Return the space of actions, (action_dim,) in [-1, 1]: see `step`."""
        return Box(-1.0, 1.0, (self.swarm.spec.action_dim,), jnp.float32)

    def observation_space(self, params: SwarmParams | None = None) -> Box:
        """Return the space of observations: lidar in [0, 1], velocity (2) and goal (2), unbounded, and words in [-1, 1]."""
        space = spaces.observation_space(self.swarm.spec)
        return Box(space.low, space.high, space.shape, jnp.float32)
