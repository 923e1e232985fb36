"""PPO of Stable-Baselines3 in any environment of Gymnasium or PettingZoo, in a run folder like that of native runs."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
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

from trainers.evaluation.episodes import LONGEST, evaluate_in, mean_figures, report
from trainers.learn.distributions import distribution_of
from trainers.learn.normalize import RunningMoments, init_moments
from trainers.policies import Policy, load_policy
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.policies.own_spaces import OwnSpaces
from trainers.run.checkpoint import TRY_AGAIN, save_checkpoint
from trainers.run.config import save_config
from trainers.run.files import Patience
from trainers.run.folder import LOCK_FILE, RunFolder
from trainers.run.hooks import Hook, Hooks, Moment
from trainers.run.interrupt import termination_as_interrupt
from trainers.run.loop import write_summary
from trainers.run.terminal import say
from trainers.run.training import open_folder
from trainers.run.watching import judge
from trainers.sb3.callbacks import BufferMean, EndedError, Figures, returns_of
from trainers.sb3.parallel import ParallelVecEnv, check_actions
from trainers.track.dashboard import Dashboard
from trainers.track.tracking import Tracking, check_installed

ACTIVATIONS = {"tanh": th.nn.Tanh, "relu": th.nn.ReLU, "elu": th.nn.ELU, "silu": th.nn.SiLU}

NATIVE = (  # options that must have their defaults
    "distributed", "accumulate", "precision", "network", "head_sizes", "layer_norm", "deviation", "action_distribution",
    "sequence_length", "burn_in", "critic", "normalize_value", "sharing", "entropy_coefficient_final",
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
    check_installed(config.trackers)
    worlds = make_worlds(factory, first, config.num_envs)
    config = config.for_lanes(config.num_envs, worlds.num_envs // config.num_envs)
    model = make_model(worlds, config)
    actor = ActorSpec.of(
        spaces.flatdim(worlds.observation_space),
        distribution_of(worlds.action_space),
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
    )

    def fresh(seed: int) -> HostedEpisodes:
        return HostedEpisodes(make_worlds(factory, None, config.num_envs), seed, jax.random.key(config.seed))

    built_in = judge(
        config,
        lambda moment: ActorPolicy(actor_params(model), moments_of(model), actor, None, moment.step),
        lambda: partial(mean_figures, fresh(2**30 + config.seed % 2**30), config.eval_episodes),
        BufferMean(returns_of),
    )
    hooks = [*built_in, *hooks]
    try:
        opened = open_folder(config, config.slug)
    except FileExistsError as error:
        again = "runs of Stable-Baselines3 cannot be resumed, so choose another --run-dir, or delete the folder"
        raise FileExistsError(f"{config.run_dir} already holds a run: {again}") from error
    with opened as folder, termination_as_interrupt(), contextlib.ExitStack() as stack:
        save_config(folder.config, dataclasses.replace(config, run_dir=folder.path))
        run = Run(model, folder, describe_policy(actor, None, own_spaces(first)), config)
        run.save()
        say(f"Training {folder.path} with Stable-Baselines3 on {model.device}")
        tracking = Tracking(folder.path, config.trackers, config.track_project)
        per_update = worlds.num_envs * config.num_steps

        def end(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None and issubclass(kind, Exception):
                run.forget(per_update)

        stack.push(end)
        with tracking, Dashboard(-(-config.total_steps // per_update) * per_update, title=config.env) as dashboard:
            figures = Figures(tracking, dashboard, Hooks(hooks), folder.path, run.after, config.verbose)
            try:
                model.learn(config.total_steps, figures, log_interval=sys.maxsize)
            except EndedError:
                tracking.converged = True  # a hook found that the run is done
            except KeyboardInterrupt:
                run.finish(interrupted=True)
                say(f"Stopped and saved: {folder.path}")
                raise
            run.finish()
    why = f" and stopped: {run.last.stopped}" if run.last.stopped else ""
    say(f"Trained {model.num_timesteps:,} agent steps{why}. Run: {folder.path}")
    if config.episodes:
        played = fresh(2**31 + config.seed % 2**31)  # training begins at its own seed
        report(evaluate_in(played, load_policy(folder.path), config.episodes, config.seed), folder.path)
    return folder.path


class Run:
    """What is kept of a run: checkpoints of the actor, and at the end the model of Stable-Baselines3 and a summary."""

    def __init__(self, model: PPO, folder: RunFolder, metadata: dict[str, Any], config: Any) -> None:
        self.last = Moment(0, model, (), {}, folder.path)
        self._model, self._folder, self._metadata = model, folder, metadata
        self._interval, self._keep, self._saved = config.checkpoint_interval, config.keep_checkpoints, 0
        self._patience, self._named = Patience(), Patience()

    def save(self) -> None:
        """Write a checkpoint. Raises OSError."""
        save_actor(self._model, self._folder.checkpoints, self._metadata, self._keep)

    def after(self, moment: Moment, failure: BaseException | None) -> None:
        """Save what is to be saved after an update."""
        self.last = moment
        if moment.kept_as:
            save = partial(save_actor, self._model, self._folder.checkpoints / moment.kept_as, self._metadata, 1)
            self._named.try_to(save, f"checkpoints/{moment.kept_as}", "training goes on")
        if failure is not None:
            self.save()
        elif moment.step - self._saved >= self._interval:
            written = self._patience.try_to(self.save, f"the checkpoint at {moment.step:,} steps", TRY_AGAIN)
            self._saved = moment.step if written else self._saved

    def forget(self, first: int) -> None:
        """Remove the files of a run that failed before its first update, after `first` steps."""
        if self._model.num_timesteps < first:
            for path in self._folder.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK_FILE:
                    path.unlink()

    def finish(self, interrupted: bool = False) -> None:
        """Save the end of the run. Raises OSError."""
        self.last.interrupted = interrupted
        self.save()
        self._model.save(self._folder.path / "model.zip")
        write_summary(self._folder.path, self.last)


def make_worlds(factory: Callable[[], Any], first: Any, num_envs: int) -> VecEnv:
    """Make `num_envs` environments that step together, one lane an agent. first: one that is already made, or None.

    Observations are flat, actions of a Box in [-1, 1]. Raises ValueError for an action space that nothing serves.
    """
    made = [factory() if first is None else first, *(factory() for _ in range(num_envs - 1))]
    if isinstance(made[0], gymnasium.Env):
        check_actions(made[0].action_space)
        return DummyVecEnv([partial(as_flat, env) for env in made])
    return ParallelVecEnv([aec_to_parallel(env) if isinstance(env, pettingzoo.AECEnv) else env for env in made])


def own_spaces(env: Any) -> OwnSpaces:
    """Return what one agent of an environment observes and takes."""
    if isinstance(env, gymnasium.Env):
        return OwnSpaces.of(env.observation_space, env.action_space)
    agent = env.possible_agents[0]
    return OwnSpaces.of(env.observation_space(agent), env.action_space(agent))


def as_flat(env: gymnasium.Env) -> gymnasium.Env:
    """Wrap an environment so that observations are flat and actions of a Box are in [-1, 1], and count its episodes."""
    env = Monitor(env)
    if isinstance(env.action_space, spaces.Box):
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return FiniteObservations(gymnasium.wrappers.FlattenObservation(env))


class FiniteObservations(gymnasium.ObservationWrapper):
    """Raises ValueError for an observation that is not finite, before it gets into the weights."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._steps = 0  # of all episodes, resets among them

    def observation(self, observation: np.ndarray) -> np.ndarray:
        self._steps += 1
        if not np.all(np.isfinite(observation)):
            raise ValueError(f"{self.unwrapped} observed {observation} in its step {self._steps:,}, resets counted")
        return observation


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
        vf_coef=config.value_coefficient / 2,  # the squared error is not halved there, as ours is
        max_grad_norm=config.max_grad_norm, seed=config.seed, device="cpu",
        policy_kwargs=shape | {"log_std_init": config.initial_log_std},
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    return model


def save_actor(model: PPO, folder: Path, metadata: dict[str, Any], keep: int) -> Path:
    """Write the actor as a checkpoint that `load_policy` reads. keep: the number of checkpoints to keep."""
    tree = {"params": {"actor": actor_params(model)}, "moments": moments_of(model)}
    return save_checkpoint(folder, tree, model.num_timesteps, metadata, keep=keep)


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


class HostedEpisodes:
    """`trainers.evaluation.episodes.Episodes` in environments of Stable-Baselines3, the same at each call.

    Known limit: only if resets with a seed repeat themselves.
    """

    def __init__(self, worlds: VecEnv, seed: int, key: jax.Array) -> None:
        """seed: of the worlds. key: of sampled actions."""
        self._worlds, self._seed, self._key = worlds, seed, key

    def __call__(self, policy: Policy, count: int, sampled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Episodes`. Plays as many of every lane, because the first to end would be the short ones."""
        lanes = self._worlds.num_envs
        rounds = -(-count // lanes)
        self._worlds.seed(self._seed)
        obs: Any = self._worlds.reset()
        returns, lengths = np.zeros((rounds, lanes)), np.zeros((rounds, lanes), int)
        played = np.zeros(lanes, int)  # episodes of each lane
        clock = waited = 0  # steps, and those since an episode has ended
        while played.min() < rounds and waited < LONGEST:
            key = jax.random.fold_in(self._key, clock) if sampled else None
            action, _ = policy.act(jnp.asarray(obs, jnp.float32), (), key)
            obs, _, _, infos = self._worlds.step(np.array(action))
            clock, waited = clock + 1, waited + 1
            for lane, info in enumerate(infos):
                if "episode" in info and played[lane] < rounds:
                    place = played[lane], lane
                    returns[place], lengths[place] = info["episode"]["r"], info["episode"]["l"]
                    played[lane] += 1
                    waited = 0
        ended = np.arange(rounds)[:, None] < played
        return returns.ravel()[:count], lengths.ravel()[:count], ended.ravel()[:count]
