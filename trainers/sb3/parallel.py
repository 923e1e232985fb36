"""Environments of PettingZoo as a vectorised one of Stable-Baselines3. One agent is one lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from stable_baselines3.common.vec_env import VecEnv

from trainers.learn.distributions import distribution_of


def check_actions(space: spaces.Space) -> None:
    """Raise ValueError for an action space that nothing serves, or for numbers without bounds."""
    distribution_of(space)
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise ValueError(f"the action space {space} must have finite bounds")


class ParallelVecEnv(VecEnv):
    """Parallel environments of PettingZoo that step together. All agents share the spaces, and so one policy.

    Observations are flat, actions of a Box in [-1, 1]. An environment begins anew once no agent is left. An agent that
    ended before observes zeros until then, and earns nothing. Known limit: SB3 learns from those idle steps, too.
    """

    def __init__(self, envs: Sequence[ParallelEnv]) -> None:
        """Raises ValueError if there are no agents, if they differ in their spaces, or if nothing serves the space of their actions."""
        self.envs, self.agents = list(envs), list(envs[0].possible_agents)
        if not self.agents:
            raise ValueError(f"{envs[0]} has no possible_agents: there must be at least one to train")
        self._space, self._actions = envs[0].observation_space(self.agents[0]), envs[0].action_space(self.agents[0])
        for agent in self.agents:
            for mine, space in (
                (envs[0].observation_space(agent), self._space),
                (envs[0].action_space(agent), self._actions),
            ):
                if mine != space:
                    raise ValueError(
                        f"all agents must have the same spaces, but {agent} has {mine} and {self.agents[0]} {space}"
                    )
        check_actions(self._actions)
        box = isinstance(self._actions, spaces.Box)
        own: spaces.Space = spaces.Box(-1.0, 1.0, self._actions.shape, np.float32) if box else self._actions
        self.obs_dim = spaces.flatdim(self._space)
        super().__init__(len(envs) * len(self.agents), spaces.Box(-np.inf, np.inf, (self.obs_dim,), np.float32), own)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, int)  # so far

    def reset(self) -> Any:
        return np.concatenate([self._begin(index) for index in range(len(self.envs))])

    def step_async(self, actions: np.ndarray) -> None:
        self._chosen = actions.reshape(len(self.envs), len(self.agents), *actions.shape[1:])

    def step_wait(self) -> Any:
        steps = [self._step(index) for index in range(len(self.envs))]
        obs, reward, done = (np.concatenate(parts) for parts in list(zip(*steps, strict=True))[:3])
        return obs, reward, done, [info for step in steps for info in step[3]]

    def _step(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step one environment. Returns the results of its lanes."""
        env, first = self.envs[index], index * len(self.agents)
        alive = list(env.agents)
        chosen = dict(zip(self.agents, self._chosen[index], strict=True))
        observed, earned, terminated, truncated, told = env.step({agent: self._own(chosen[agent]) for agent in alive})
        obs = np.zeros((len(self.agents), self.obs_dim), np.float32)
        reward, done = np.zeros(len(self.agents), np.float32), np.zeros(len(self.agents), bool)
        infos: list[dict[str, Any]] = [{} for _ in self.agents]
        for lane, agent in enumerate(self.agents):
            if agent not in alive:
                continue
            reward[lane], done[lane] = earned[agent], terminated[agent] or truncated[agent]
            self._returns[first + lane] += reward[lane]
            self._lengths[first + lane] += 1
            flat = self._flat(observed[agent])
            infos[lane] = dict(told.get(agent, {}))
            if done[lane]:
                infos[lane] |= {
                    "terminal_observation": flat,
                    "TimeLimit.truncated": bool(truncated[agent] and not terminated[agent]),
                    "episode": {"r": float(self._returns[first + lane]), "l": int(self._lengths[first + lane])},
                }
            else:
                obs[lane] = flat
        if not env.agents:
            for lane in np.flatnonzero(~done).tolist():  # idle until now
                infos[lane]["terminal_observation"] = obs[lane]
            done[:] = True
            obs = self._begin(index)
        return obs, reward, done, infos

    def _begin(self, index: int) -> np.ndarray:
        """Begin a new episode of one environment. Returns the observations of its lanes."""
        first = index * len(self.agents)
        seed, self._seeds[first] = self._seeds[first], None
        self._returns[first : first + len(self.agents)] = self._lengths[first : first + len(self.agents)] = 0
        observed, _ = self.envs[index].reset(seed=seed)
        empty = np.zeros(self.obs_dim, np.float32)
        return np.stack([self._flat(observed[agent]) if agent in observed else empty for agent in self.agents])

    def _flat(self, obs: Any) -> np.ndarray:
        return np.asarray(spaces.flatten(self._space, obs), np.float32)

    def _own(self, action: np.ndarray) -> Any:
        """Return an action as the environment takes it."""
        if not isinstance(self._actions, spaces.Box):
            return action
        low, high = self._actions.low, self._actions.high
        return (low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)).astype(self._actions.dtype)

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(self._lanes(indices))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._env_of(lane), attr_name) for lane in self._lanes(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for lane in self._lanes(indices):
            setattr(self._env_of(lane), attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self._env_of(lane), method_name)(*args, **kwargs) for lane in self._lanes(indices)]

    def _lanes(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))

    def _env_of(self, lane: int) -> ParallelEnv:
        return self.envs[lane // len(self.agents)]
