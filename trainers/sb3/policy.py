"""A trained recurrent policy: loading it from a zip, and playing whole episodes with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from entropy_env.engines import make_engine
from entropy_env.engines.interface import Transition
from entropy_env.env import Swarm
from entropy_env.spaces import action_space, observation_space
from entropy_env.types import Layout, SwarmParams, SwarmState
from trainers.evaluation.play import Episode, Live, Moment, travelled
from trainers.policies.jax import Task
from trainers.run.checkpoint import CheckpointError
from trainers.sb3.checkpoint import Saved, load_state, unpack
from trainers.sb3.lstm import LstmPolicy

Memory = tuple[np.ndarray, ...] | None  # (layers, robots, units) each; None at the start of an episode
EPSILON = 1e-8  # as VecNormalize has it
CLIP = 10.0


class LanePolicy:
    """Maps the observations of any number of robots, and what each remembers, to their actions.

    >>> policy = load_policy("models/swarm_1.zip")
    >>> actions, memory = policy(obs, memory)

    Every robot has its row in obs (robots, obs_dim) and in the memory, which is None when their episodes begin.
    """

    def __init__(
        self,
        network: RecurrentActorCriticPolicy,
        task: Task,
        step: int,
        moments: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """moments: arrays with the `normalizer/obs_mean` and `normalizer/obs_var` (obs_dim,) of the observations it was
        trained on, or None."""
        self.network, self.task, self.step, self._moments = network, task, step, moments

    @property
    def obs_dim(self) -> int:
        return self.network.observation_space.shape[0]  # type: ignore[index]

    def __call__(self, obs: np.ndarray, memory: Memory = None, sampled: bool = False) -> tuple[np.ndarray, Memory]:
        """Actions (robots, action_dim) in [-1, 1], the mean or a sample around it, and the new memory."""
        if self._moments is not None:
            mean, var = (self._moments[f"normalizer/obs_{name}"] for name in ("mean", "var"))
            obs = np.clip((obs - mean) / np.sqrt(var + EPSILON), -CLIP, CLIP).astype(np.float32)
        starts = np.full(len(obs), memory is None)
        return self.network.predict(obs, memory, starts, deterministic=not sampled)


def load_policy(path: str | os.PathLike[str]) -> LanePolicy:
    """The policy in a zip of `trainers.sb3_lstm`. Raises FileNotFoundError where there is none, CheckpointError if
    it is damaged."""
    saved = unpack(path)
    if "env" not in saved.about:
        raise CheckpointError(
            f"{path} is of Stable-Baselines3 alone and does not say what it was trained in: it can be trained on, as "
            f"--base-model of trainers.sb3_lstm"
        )
    try:
        task, step = Task(**saved.about["env"]), int(saved.about["step"])
        env, _ = task.make(on_goal="terminate")
        moments = saved.arrays if saved.about["config"]["normalize_obs"] else None
        if moments is not None and moments["normalizer/obs_mean"].shape != (env.spec.obs_dim,):
            raise ValueError("its normaliser is of other observations")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe what it was trained in ({error!r})") from error
    network = LstmPolicy(observation_space(env.spec), action_space(env.spec), lambda _: 0.0, **shape_of(saved))
    load_state(network, saved)
    network.set_training_mode(False)
    return LanePolicy(network, task, step, moments)


def shape_of(saved: Saved) -> dict[str, Any]:
    """The `policy_kwargs` that a network with these weights is made with."""
    weights = saved.weights["policy"]
    return {
        "lstm_hidden_size": weights["lstm_actor.weight_hh_l0"].shape[1],
        "n_lstm_layers": sum(name.startswith("lstm_actor.weight_hh_l") for name in weights),
        "enable_critic_lstm": any(name.startswith("lstm_critic.") for name in weights),
    }


def player(
    policy: LanePolicy, env: Swarm, params: SwarmParams, keys: jax.Array
) -> Callable[[jax.Array, bool], Episode]:
    """Plays an episode for each of as many keys as these (E,)."""
    return partial(play, policy, env, params)


def play(policy: LanePolicy, env: Swarm, params: SwarmParams, keys: jax.Array, sampled: bool) -> Episode:
    """Episodes (E, N), one for each key (E,), in the worlds that `trainers.evaluation.play.play` finds with those keys."""
    zero = np.zeros((len(keys), env.spec.num_agents), np.int32)
    reached, steps, contacts = zero > 0, zero.copy(), zero.copy()
    path, total_reward = zero.astype(np.float32), zero.astype(np.float32)
    for before, _, told, after in _steps(policy, env, params, keys, sampled):
        reached |= told.terminated
        steps += told.acted
        contacts += told.collision
        path += np.asarray(travelled(before, after, env.spec.drive))
        total_reward += told.reward
        layout = after.layout
    return Episode(layout, reached, steps, contacts, path, total_reward)


def live(policy: LanePolicy, env: Swarm, params: SwarmParams) -> Live:
    """Plays episodes step by step, from the first moment to the last."""

    def moments(key: jax.Array, sampled: bool) -> Iterator[Moment]:
        total_reward = np.zeros(env.spec.num_agents, np.float32)
        for before, obs, told, after in _steps(policy, env, params, key[None], sampled):
            if before.step[0] == 0:
                yield Moment(_first(before), obs[0], total_reward)
            total_reward = total_reward + told.reward[0]
            yield Moment(_first(after), told.obs[0].copy(), total_reward)

    return moments


def film(policy: LanePolicy, env: Swarm, params: SwarmParams, key: jax.Array, sampled: bool) -> list[SwarmState]:
    """The states of one episode, NumPy."""
    return [moment.state for moment in live(policy, env, params)(key, sampled)]


def _first(state: SwarmState) -> SwarmState:
    return jax.tree.map(lambda leaf: leaf[0], state)


def _steps(
    policy: LanePolicy, env: Swarm, params: SwarmParams, keys: jax.Array, sampled: bool
) -> Iterator[tuple[SwarmState, np.ndarray, Transition, SwarmState]]:
    """Every step of the episodes, until all agents have arrived or the time is up: the worlds before and what was seen
    of them, what was told, the worlds after."""
    params = jax.device_get(params)
    engine = make_engine(env, len(keys), params, autoreset=False)
    obs = engine.reset_to(jax.device_get(_layouts(env, keys, params)))
    memory, after, over = None, engine.state, np.array(False)
    with th.random.fork_rng():
        th.manual_seed(int(jax.random.bits(keys[0], dtype=np.uint32)))
        random = th.get_rng_state()
    while not over.all():
        with th.random.fork_rng():  # its own, also where several are played in turn
            th.set_rng_state(random)
            actions, memory = policy(obs.reshape(-1, policy.obs_dim), memory, sampled)
            random = th.get_rng_state()
        before, seen, told = after, obs.copy(), engine.step(actions.reshape(*obs.shape[:2], -1))
        after, obs, over = engine.state, told.obs, told.done
        yield before, seen, told, after


@partial(jax.jit, static_argnums=0)
def _layouts(env: Swarm, keys: jax.Array, params: SwarmParams) -> Layout:
    worlds = jax.vmap(lambda key: jax.random.split(key)[0])(keys)  # the other half is for the actions
    return jax.vmap(env.generate, (0, None))(worlds, params)
