"""PPO of Stable-Baselines3 in any environment of Gymnasium or PettingZoo, in a run folder like that of native runs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pettingzoo
import torch as th
from gymnasium import spaces
from pettingzoo.utils.conversions import aec_to_parallel
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from trainers.evaluation.episodes import episode_figures, report
from trainers.learn.distributions import distribution_of
from trainers.learn.normalize import RunningMoments, init_moments
from trainers.policies import load_policy
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.run.checkpoint import save_checkpoint
from trainers.run.config import save_config
from trainers.run.hooks import Hook, Hooks, Moment
from trainers.run.terminal import say
from trainers.run.training import open_folder
from trainers.sb3.callbacks import NAMES, BetweenUpdates, diverged
from trainers.sb3.parallel import ParallelVecEnv, check_actions
from trainers.track.progress import Progress
from trainers.track.system import system_metrics
from trainers.track.tracking import Tracking

ACTIVATIONS = {"tanh": th.nn.Tanh, "relu": th.nn.ReLU, "elu": th.nn.ELU, "silu": th.nn.SiLU}

NATIVE = (  # options that must have their defaults
    "distributed", "accumulate", "precision", "network", "head_sizes", "layer_norm", "deviation", "action_distribution",
    "sequence_length", "burn_in", "critic", "normalize_value", "sharing",
)  # fmt: skip


class Trunk(BaseFeaturesExtractor):
    """Hidden layers that actor and critic share."""

    def __init__(self, space: spaces.Box, hidden_sizes: Sequence[int], activation: type[th.nn.Module]) -> None:
        super().__init__(space, hidden_sizes[-1])
        sizes = zip([spaces.flatdim(space), *hidden_sizes], hidden_sizes, strict=False)
        layers = [layer for pair in sizes for layer in (th.nn.Linear(*pair), activation())]
        self.layers = th.nn.Sequential(*layers)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        return self.layers(obs)


class Stopped(Exception):
    """A hook has stopped the run."""


def train(factory: Callable[[], Any], first: Any, config: Any, hooks: Sequence[Hook]) -> Path:
    """See `trainers.any_env.train_policy`. first: the first environment of the factory."""
    if config.resume:
        raise ValueError(
            "resume: runs of Stable-Baselines3 cannot be resumed, because their environments keep no state"
        )
    native = {"devices": (None, 1)} | {name: (getattr(type(config), name),) for name in NATIVE}
    for name, values in native.items():
        if getattr(config, name) not in values:
            raise ValueError(
                f"{name}={getattr(config, name)!r} is for functional environments, not for Stable-Baselines3"
            )
    worlds = make_worlds(factory, first, config.num_envs)
    num_agents = worlds.num_envs // config.num_envs
    config = config.for_lanes(config.num_envs, num_agents)
    model = make_model(worlds, config)
    with open_folder(config, config.slug) as folder:
        save_config(folder.config, dataclasses.replace(config, run_dir=folder.path))
        actor = ActorSpec.of(
            spaces.flatdim(worlds.observation_space),
            distribution_of(worlds.action_space),
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
        )
        save = partial(save_actor, model, folder.checkpoints, describe_policy(actor, None))
        save()
        say(f"Training {folder.path} with Stable-Baselines3 on {model.device}")
        tracking = Tracking(folder.path, config.trackers, config.track_project)
        with tracking, Progress(config.total_steps) as bar:
            calls = Updates(hooks, tracking, bar, save, config.checkpoint_interval, folder.path)
            with contextlib.suppress(KeyboardInterrupt, Stopped):
                model.learn(config.total_steps, calls, log_interval=sys.maxsize)
            save()
            tracking.converged = calls.stopped is not None
        path = folder.path
        model.save(path / "model.zip")
    if calls.stopped is None and model.num_timesteps < config.total_steps:
        say(f"Stopped and saved: {path}")
        raise KeyboardInterrupt
    why = f" and stopped: {calls.stopped}" if calls.stopped else ""
    say(f"Trained {model.num_timesteps:,} agent steps{why}. Run: {path}")
    if config.episodes:
        report(
            evaluate_in(make_worlds(factory, None, config.num_envs), load_policy(path), config.episodes, config.seed),
            path,
        )
    return path


class Updates(BetweenUpdates):
    """Calls the hooks after each update, writes its figures, and saves now and then."""

    def __init__(
        self, hooks: Sequence[Hook], tracking: Tracking, bar: Progress, save: Callable[[], object], interval: int,
        folder: Path,
    ) -> None:  # fmt: skip
        super().__init__()
        self._hooks, self._tracking, self._bar, self._save, self._interval = Hooks(hooks), tracking, bar, save, interval
        self._folder = folder
        self.stopped: str | None = None

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._since, self._steps, self._saved = time.perf_counter(), self.model.num_timesteps, self.model.num_timesteps

    def between(self) -> None:
        step, now, learnt = self.model.num_timesteps, time.perf_counter(), self.model.logger.name_to_value
        metrics = {ours: float(learnt[theirs]) for theirs, ours in NAMES.items() if theirs in learnt}
        for name in ("loss/total", "loss/policy", "loss/value"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise diverged(f"{name} is {metrics[name]}", step)
        if "train/entropy_loss" in learnt:
            metrics["loss/entropy"] = -float(learnt["train/entropy_loss"])
        episodes = self.model.ep_info_buffer or ()
        for name, short in (("train/episode_return", "r"), ("train/episode_length", "l")):
            metrics[name] = float(np.mean([episode[short] for episode in episodes])) if episodes else math.nan
        fps = (step - self._steps) / (now - self._since)
        metrics |= {"train/fps": fps, "train/sps": 1 / (now - self._since), **system_metrics()}
        moment = Moment(step, self.model, None, metrics, self._folder)
        failure = self._hooks.call(moment)
        self._tracking.log(step, moment.metrics)
        self._bar.update(step, fps=fps, episode_return=metrics["train/episode_return"])
        if failure:
            self._save()
            raise failure
        if step - self._saved >= self._interval:
            self._save()
            self._saved = step
        self._since, self._steps, self.stopped = time.perf_counter(), step, moment.stopped
        if moment.stopped is not None:
            raise Stopped


def make_worlds(factory: Callable[[], Any], first: Any, num_envs: int) -> VecEnv:
    """Make `num_envs` environments that step together, one lane an agent. first: one that is already made, or None.

    Observations are flat, actions of a Box in [-1, 1]. Raises ValueError for an action space that nothing serves.
    """
    made = [factory() if first is None else first, *(factory() for _ in range(num_envs - 1))]
    if isinstance(made[0], gymnasium.Env):
        check_actions(made[0].action_space)
        return DummyVecEnv([partial(as_flat, env) for env in made])
    return ParallelVecEnv([aec_to_parallel(env) if isinstance(env, pettingzoo.AECEnv) else env for env in made])


def as_flat(env: gymnasium.Env) -> gymnasium.Env:
    """Wrap an environment so that observations are flat and actions of a Box are in [-1, 1], and count its episodes."""
    env = Monitor(env)
    if isinstance(env.action_space, spaces.Box):
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return gymnasium.wrappers.FlattenObservation(env)


def make_model(worlds: VecEnv, config: Any) -> PPO:
    """Make SB3's PPO with the hyperparameters of our own."""
    lanes = worlds.num_envs
    if config.normalize_obs:
        worlds = VecNormalize(worlds, norm_obs=True, norm_reward=False)
    rate: Any = (lambda left: config.learning_rate * left) if config.anneal_learning_rate else config.learning_rate
    activation = ACTIVATIONS[config.activation]
    shape: dict[str, Any] = {"net_arch": list(config.hidden_sizes), "activation_fn": activation}
    if config.shared_trunk:
        kwargs = {"hidden_sizes": config.hidden_sizes, "activation": activation}
        shape |= {"net_arch": [], "features_extractor_class": Trunk, "features_extractor_kwargs": kwargs}
    model = PPO(
        "MlpPolicy", worlds, learning_rate=rate, n_steps=config.num_steps,
        batch_size=lanes * config.num_steps // config.num_minibatches, n_epochs=config.num_epochs, gamma=config.gamma,
        gae_lambda=config.gae_lambda, clip_range=config.clip, ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient, max_grad_norm=config.max_grad_norm, seed=config.seed, device="cpu",
        policy_kwargs=shape | {"log_std_init": config.initial_log_std},
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    return model


def save_actor(model: PPO, folder: Path, metadata: dict[str, Any]) -> Path:
    """Write the actor as a checkpoint that `load_policy` reads."""
    return save_checkpoint(
        folder, {"params": {"actor": actor_params(model)}, "moments": moments_of(model)}, model.num_timesteps, metadata
    )


def actor_params(model: PPO) -> dict[str, Any]:
    """Return the actor's weights as those of `trainers.networks.actor_critic.Actor`."""
    policy: Any = model.policy
    hidden = (
        policy.features_extractor if isinstance(policy.features_extractor, Trunk) else policy.mlp_extractor.policy_net
    )
    layers = [layer for layer in hidden.modules() if isinstance(layer, th.nn.Linear)]
    dense = {
        f"Dense_{index}": {
            "kernel": layer.weight.detach().cpu().numpy().T.astype(np.float32),
            "bias": layer.bias.detach().cpu().numpy().astype(np.float32),
        }
        for index, layer in enumerate([*layers, policy.action_net])
    }
    scale = {"log_std": policy.log_std.detach().cpu().numpy()} if hasattr(policy, "log_std") else {}
    return {"params": {"MLP_0": dense, **scale}}


def moments_of(model: PPO) -> RunningMoments:
    """Return the statistics that observations are normalised by."""
    normalizer: Any = model.get_vec_normalize_env()
    if normalizer is None:
        return init_moments(spaces.flatdim(model.observation_space))
    seen = normalizer.obs_rms
    return RunningMoments(*(jnp.asarray(x, jnp.float32) for x in (seen.count, seen.mean, seen.var)))


def evaluate_in(worlds: VecEnv, policy: ActorPolicy, episodes: int, seed: int) -> dict[str, Any]:
    """Compute the figures of `trainers.evaluation.episodes.evaluate_in`, over the first episodes of every lane."""
    figures = {}
    for sampled in (True, False):
        played = play(worlds, policy, -(-episodes // worlds.num_envs), jax.random.key(seed) if sampled else None, seed)
        returns, lengths = np.array(played[:episodes]).T
        figures[sampled] = episode_figures(returns, lengths)
    about = {"episodes": episodes, "seed": seed, "checkpoint_step": int(policy.step)}
    return {**figures[True], "deterministic": figures[False], **about}


def play(worlds: VecEnv, policy: ActorPolicy, rounds: int, key: jax.Array | None, seed: int) -> list[tuple[float, int]]:
    """Play `rounds` episodes in every lane, with sampled or likeliest actions. Returns return and length of each.

    As many of every lane, because the first to end would be the short ones.
    """
    worlds.seed(2**31 + seed % 2**31)  # training begins at its own seed
    obs = worlds.reset()
    played: list[list[tuple[float, int]]] = [[] for _ in range(worlds.num_envs)]
    clock = 0
    while any(len(lane) < rounds for lane in played):
        action = policy(np.asarray(obs, np.float32), None if key is None else jax.random.fold_in(key, clock))
        obs, _, _, infos = worlds.step(np.asarray(action))
        clock += 1
        for lane, info in zip(played, infos, strict=True):
            if "episode" in info and len(lane) < rounds:
                lane.append((info["episode"]["r"], info["episode"]["l"]))
    return [lane[index] for index in range(rounds) for lane in played]
