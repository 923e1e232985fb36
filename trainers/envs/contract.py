"""What a batched environment is. Learners take any that keeps this contract, and `check_env` tells what one breaks.

E worlds step together, each with N lanes; one agent is one lane. The world resets in the step that ends it.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

NEEDED = ("final_obs", "acted", "episode_return", "episode_length")  # in `info`
OPTIONAL = ("success", "goals_reached", "collision")  # in `info`, of which learners report means


class BatchedEnv(Protocol):
    """A functional environment over E worlds. Hashable. `entropy_env.vector.VectorSwarm` is one."""

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        """Begin new episodes. Returns obs (E, N, D) float32 and the state."""

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        """Step every world. Returns obs, state, reward, terminated, truncated and info.

        action: (E, N, A) float32 in [-1, 1], which the environment clips, or int32: (E, N) for one choice, (E, N, K) for
        several. obs: those after any reset. reward: (E, N) float32. terminated, truncated: (E, N) bool, true in an
        episode's last step alone, and never both. info has, besides anything else:

        - `final_obs` (E, N, D), before any reset, valid where terminated or truncated;
        - `acted` (E, N) bool, the agents that took part in this step;
        - `episode_return` (E, N) float32 and `episode_length` (E, N) int32, valid where terminated or truncated.

        A learner also reports `success` (E, N) bool with `goals_reached` (E, N) int32, and `collision` (E, N) bool, if they
        are there. What agents remember ends in worlds of `over` (E,) bool, if it is there, besides where an episode does.
        """


class CriticEnv(BatchedEnv, Protocol):
    """A batched environment that shows a critic more than the observations. No policy sees it.

    `info` of a step has `final_critic_input` (E, N, K) float32, before any reset, valid where truncated.
    """

    def critic_input(self, state: Any, params: Any) -> jax.Array:
        """Return what a critic sees beside the observations, (E, N, K) float32.

        For a central critic it is a row for each agent, whose last number is 1 for agents in the world and 0 for others.
        """


class OpenEnv(BatchedEnv, Protocol):
    """A batched environment that says what it is, so that `train_policy` can train in it."""

    @property
    def num_envs(self) -> int:
        """The number of worlds."""

    @property
    def action_space(self) -> Any:
        """The space of one agent's actions, a Box, Discrete or MultiDiscrete of Gymnasium or gymnax."""

    @property
    def default_params(self) -> Any:
        """The parameters to train with, a pytree of arrays."""


def going_on(terminated: jax.Array, truncated: jax.Array, info: dict[str, Any]) -> jax.Array:
    """Return (E, N) bool: the agent took part in a step, and its episode goes on, and with it what the agent remembers."""
    lanes = info["acted"] & ~(terminated | truncated)
    return lanes & ~info["over"][:, None] if "over" in info else lanes


def check_env(
    env: BatchedEnv, params: Any, action: jax.ShapeDtypeStruct, critic: str = "local"
) -> tuple[int, int, int]:
    """Check shapes and types, computing nothing. Returns the numbers of worlds, lanes and observed values.

    action: shape and type of one agent's action, () or (A,). critic: local, or a kind that sees more, for which an
    environment that has `critic_input` is checked, too. Raises ValueError naming all that breaks the contract.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    obs, state = jax.eval_shape(env.reset, key, params)
    if getattr(obs, "ndim", None) != 3 or obs.dtype != jnp.float32:
        raise ValueError(f"reset must return obs (worlds, lanes, values) float32, and returned {_told(obs)}")
    lanes = obs.shape[:2]
    results = jax.eval_shape(env.step, key, state, jax.ShapeDtypeStruct(lanes + action.shape, action.dtype), params)
    if len(results) != 6:
        raise ValueError(
            f"step must return obs, state, reward, terminated, truncated and info, and returned {len(results)} results"
        )
    next_obs, next_state, reward, terminated, truncated, info = results
    wanted = {
        "obs": (next_obs, obs.shape, jnp.float32),
        "reward": (reward, lanes, jnp.float32),
        "terminated": (terminated, lanes, jnp.bool),
        "truncated": (truncated, lanes, jnp.bool),
        "info['final_obs']": (info.get("final_obs"), obs.shape, jnp.float32),
        "info['acted']": (info.get("acted"), lanes, jnp.bool),
        "info['episode_return']": (info.get("episode_return"), lanes, jnp.float32),
        "info['episode_length']": (info.get("episode_length"), lanes, jnp.int32),
    }
    if critic != "local" and hasattr(env, "critic_input"):
        shown = jax.eval_shape(env.critic_input, state, params)
        wanted["critic_input"] = shown, lanes + shown.shape[-1:], jnp.float32
        wanted["info['final_critic_input']"] = info.get("final_critic_input"), shown.shape, jnp.float32
    wrong = [
        f"{name} must be {jnp.dtype(dtype).name}{list(shape)}, and is {_told(got)}"
        for name, (got, shape, dtype) in wanted.items()
        if getattr(got, "shape", None) != shape or got.dtype != dtype
    ]
    before, after = jax.tree.map(_told, state), jax.tree.map(_told, next_state)
    if before != after:
        wrong.append(f"step must return a state like reset's, {before}, and returned {after}")
    if wrong:
        raise ValueError(f"{type(env).__name__} breaks the contract of a batched environment: {'; '.join(wrong)}")
    return obs.shape


def _told(x: Any) -> str:
    weak = " (weak)" if getattr(x, "weak_type", False) else ""
    return f"{x.dtype.name}{list(x.shape)}{weak}" if hasattr(x, "dtype") else "absent" if x is None else repr(x)
