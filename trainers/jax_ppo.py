"""Feed-forward PPO with one network for all agents, rollout and learning in one jitted update.

    python -m trainers.jax_ppo --scenario rooms --num-agents 10 --total-steps 20000000

Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The 37 implementation
details". Agents learn while they respawn, so that hardly a lane of the batch is idle; a lane that is idle is masked
out of the losses, the advantages, the observation statistics and the metrics.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from entropy_env import vector
from trainers.learn.advantages import gae
from trainers.learn.losses import (
    clipped_policy_loss,
    explained_variance,
    masked_mean,
    masked_standardize,
    value_loss,
)
from trainers.learn.normalize import RunningMoments, init_moments, normalize, update_moments
from trainers.learn.rollout import BatchedEnv, Transitions, collect
from trainers.networks.mlp import Critic, GaussianActor, gaussian_entropy, gaussian_log_prob
from trainers.policies.jax import ActorSpec, Task, describe_policy
from trainers.run.checkpoint import TRY_AGAIN, CheckpointError, latest_step, load_checkpoint, save_checkpoint
from trainers.run.compilation import cache_compilations
from trainers.run.config import check_numbers, load_config, parse_config, save_config
from trainers.run.files import Patience
from trainers.run.folder import begin_run_folder, prepare_run_folder
from trainers.run.interrupt import Interrupt
from trainers.run.terminal import say, warnings_as_lines
from trainers.track.loggers import MetricsLogger, Progress, system_metrics


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Options of PPO."""

    scenario: str = "open"
    """Family of layouts: open, obstacles, rooms, maze, corridor, crossing, circle or curriculum."""
    difficulty: int = 1
    """1 to 4 within the family."""
    num_agents: int = 10
    """Robots in each world; all share one network."""
    num_envs: int = 256
    """Worlds that run side by side."""
    total_steps: int = 5_000_000
    """Agent steps to train for, over all lanes; rounded up to whole updates."""
    seed: int = 0
    """Decides the weights, the layouts and the noise."""
    run_dir: Path | None = None
    """Folder of the run; by default runs/SCENARIO-DATE-TIME, with a number behind it where that is taken."""
    resume: bool = False
    """Continue the run in RUN_DIR from its newest checkpoint, bit for bit."""
    checkpoint_interval: int = 1_000_000
    """Agent steps between checkpoints."""
    deterministic: bool = False
    """Make a GPU repeat itself exactly, at some cost in speed. A CPU always does."""
    reward: str = "shaped"
    """Preset of reward weights: shaped or seed."""
    env_params: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Other numbers of the world, for example max_wheel_speed 0.8."""
    num_steps: int = 32
    """Control periods that each world runs for between updates."""
    num_minibatches: int = 8
    """Parts that a batch is split into, by worlds."""
    num_epochs: int = 4
    """Passes over each batch."""
    learning_rate: float = 1e-3
    """Of Adam, at the start."""
    anneal_learning_rate: bool = True
    """Decrease the learning rate linearly to 0 over the run."""
    gamma: float = 0.995
    """Discount per control period."""
    gae_lambda: float = 0.97
    """Decay of the advantage estimate."""
    clip: float = 0.2
    """How far an update may move the probability of an action, as a ratio."""
    entropy_coefficient: float = 0.001
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units in the hidden layers of the actor and of the critic."""
    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """Of the hidden layers."""
    normalize_obs: bool = True
    """Scale observations by their running mean and deviation."""
    initial_log_std: float = -0.7
    """Logarithm of the action noise at the start. Less noise keeps the mean action close to what was practised."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        counts = ("num_agents", "num_envs", "total_steps", "checkpoint_interval", "num_steps", "num_minibatches")
        check_numbers(
            self,
            above_0=(*counts, "num_epochs", "learning_rate", "clip", "max_grad_norm"),
            up_to_1=("gamma", "gae_lambda"),
        )
        if self.num_envs % self.num_minibatches:
            raise ValueError(f"num_envs={self.num_envs} must be a multiple of num_minibatches={self.num_minibatches}")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} must be above 0")
        if self.resume and self.run_dir is None:
            raise ValueError("resume needs run_dir, the folder of the run to continue")

    @property
    def steps_per_update(self) -> int:
        """Agent steps, over all lanes."""
        return self.num_envs * self.num_agents * self.num_steps

    @property
    def num_updates(self) -> int:
        """In the whole run."""
        return -(-self.total_steps // self.steps_per_update)


MAY_CHANGE = {"total_steps", "run_dir", "resume", "checkpoint_interval", "deterministic"}  # in a resumed run


class Runner(struct.PyTreeNode):
    """Everything that training carries from one update to the next, and so everything a checkpoint holds."""

    params: dict[str, Any]  # of the actor and the critic
    opt_state: Any
    moments: RunningMoments  # of the observations
    env_state: Any
    obs: jax.Array  # (E, N, D)
    key: jax.Array
    update: jax.Array  # () int32, updates done


class Batch(struct.PyTreeNode):
    """Samples to learn from: obs (E, T, N, D), action (E, T, N, A), the rest (E, T, N)."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True)
class PPO:
    """The algorithm on a batched environment. Hashable, so that its methods jit with `self` static."""

    config: PPOConfig
    env: BatchedEnv
    obs_dim: int
    action_dim: int

    @property
    def actor(self) -> GaussianActor:
        config = self.config
        return GaussianActor(config.hidden_sizes, self.action_dim, config.initial_log_std, config.activation)

    @property
    def critic(self) -> Critic:
        return Critic(self.config.hidden_sizes, self.config.activation)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        config = self.config
        rate = config.learning_rate
        if config.anneal_learning_rate:
            rate = optax.linear_schedule(rate, 0.0, config.num_updates * config.num_epochs * config.num_minibatches)
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=1e-5))

    @partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array, env_params: Any) -> Runner:
        """A runner before its first update."""
        k_actor, k_critic, k_env, k_run = jax.random.split(key, 4)
        obs, env_state = self.env.reset(k_env, env_params)
        params = {"actor": self.actor.init(k_actor, obs[0]), "critic": self.critic.init(k_critic, obs[0])}
        return Runner(
            params=params,
            opt_state=self.optimizer.init(params),
            moments=init_moments(self.obs_dim),
            env_state=env_state,
            obs=obs,
            key=k_run,
            update=jnp.int32(0),
        )

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, runner: Runner, env_params: Any) -> tuple[Runner, dict[str, jax.Array]]:
        """Collect one batch and learn from it. Returns the runner and metrics, () each."""
        k_next, k_rollout, k_epochs = jax.random.split(runner.key, 3)
        env_state, obs, steps = collect(
            k_rollout, self.env, env_params, runner.env_state, runner.obs, self.config.num_steps,
            partial(self.act, runner.params, runner.moments), partial(self.value, runner.params, runner.moments),
        )  # fmt: skip
        batch = self.prepare(runner, steps, obs)
        (params, opt_state), losses = jax.lax.scan(
            partial(self.epoch, batch),
            (runner.params, runner.opt_state),
            jax.random.split(k_epochs, self.config.num_epochs),
        )
        runner = Runner(
            params=params,
            opt_state=opt_state,
            moments=self.observe(runner.moments, steps),
            env_state=env_state,
            obs=obs,
            key=k_next,
            update=runner.update + 1,
        )
        return runner, rollout_metrics(steps) | {
            **jax.tree.map(jnp.mean, losses),
            "loss/explained_variance": explained_variance(batch.value, batch.target, batch.mask),
            "loss/weight_norm": optax.tree.norm(params),
        }

    def act(self, params: dict, moments: RunningMoments, key: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A sampled action and its log probability."""
        mean, log_std = self.actor.apply(params["actor"], normalize(moments, obs))
        action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, jnp.float32)
        return action, gaussian_log_prob(action, mean, log_std)

    def value(self, params: dict, moments: RunningMoments, obs: jax.Array) -> jax.Array:
        """The critic's estimate of the discounted return."""
        return self.critic.apply(params["critic"], normalize(moments, obs))

    def observe(self, moments: RunningMoments, steps: Transitions) -> RunningMoments:
        """The observation statistics with those of a rollout, for the next one."""
        return update_moments(moments, steps.obs, steps.active) if self.config.normalize_obs else moments

    def prepare(self, runner: Runner, steps: Transitions, last_obs: jax.Array) -> Batch:
        """Advantages and value targets of a rollout, world by world."""
        obs = normalize(runner.moments, jnp.concatenate([steps.obs, last_obs[None]]))
        value = self.critic.apply(runner.params["critic"], obs)
        next_value = jnp.where(steps.truncated, steps.final_value, value[1:])
        advantage, target = gae(
            steps.reward, value[:-1], next_value, steps.terminated, steps.done,
            discount=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        batch = Batch(obs[:-1], steps.action, steps.log_prob, value[:-1], advantage, target, steps.active)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), batch)

    def epoch(self, batch: Batch, learner: tuple, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """One pass over the batch in minibatches of random worlds."""
        worlds = jnp.arange(self.config.num_envs, dtype=jnp.int32)
        order = jax.random.permutation(key, worlds).reshape(self.config.num_minibatches, -1)
        return jax.lax.scan(partial(self.descend, batch), learner, order)

    def descend(self, batch: Batch, learner: tuple, worlds: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """One gradient step on some worlds of the batch."""
        params, opt_state = learner
        samples = jax.tree.map(lambda x: x[worlds].reshape(-1, *x.shape[3:]), batch)
        grads, metrics = jax.grad(self.loss, has_aux=True)(params, samples)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def loss(self, params: dict, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """PPO's loss over a minibatch."""
        config = self.config
        mean, log_std = self.actor.apply(params["actor"], batch.obs)
        log_prob = gaussian_log_prob(batch.action, mean, log_std)
        advantage = masked_standardize(batch.advantage, batch.mask)
        policy, metrics = clipped_policy_loss(log_prob, batch.log_prob, advantage, batch.mask, config.clip)
        critic = value_loss(self.critic.apply(params["critic"], batch.obs), batch.target, batch.mask)
        entropy = gaussian_entropy(log_std)
        total = policy + config.value_coefficient * critic - config.entropy_coefficient * entropy
        names = {"policy": policy, "value": critic, "entropy": entropy, **metrics}
        return total, {f"loss/{name}": value for name, value in names.items()}


def rollout_metrics(steps: Transitions) -> dict[str, jax.Array]:
    """Means over what was collected, idle lanes left out.

    `env/goal_reached_rate` looks at each agent's first goal in a world: was it reached before the time limit? Later
    ones, which a respawned agent has less time for, would bias it.
    """
    done, success = steps.done, steps.info["success"]
    first = done & (steps.info["goals_reached"] == success)
    mean = masked_mean(steps.reward, steps.active)
    return {
        "train/reward_mean": mean,
        "train/reward_std": jnp.sqrt(masked_mean(jnp.square(steps.reward - mean), steps.active)),
        "train/episode_length": masked_mean(steps.info["episode_length"].astype(jnp.float32), done),
        "train/episode_return": masked_mean(steps.info["episode_return"], done),
        "train/active_share": jnp.mean(steps.active.astype(jnp.float32)),
        "env/goal_reached_rate": masked_mean(success.astype(jnp.float32), first),
        "env/collision_rate": masked_mean(steps.info["collision"].astype(jnp.float32), steps.active),
    }


class TrainingDivergedError(ArithmeticError):
    """A loss or the weights are no longer finite."""


def make_ppo(config: PPOConfig) -> tuple[PPO, Any, dict[str, Any]]:
    """The algorithm on its swarm, the swarm's parameters, and what a checkpoint says of the policy."""
    task = Task(config.scenario, config.difficulty, config.num_agents, reward=config.reward, params=config.env_params)
    env, env_params = task.make(on_goal="respawn")
    ppo = PPO(config, vector.batch(env, config.num_envs, stagger=True), env.spec.obs_dim, env.spec.action_dim)
    actor = ActorSpec(env.spec.obs_dim, env.spec.action_dim, config.hidden_sizes, config.activation)
    return ppo, env_params, describe_policy(actor, task)


def train(config: PPOConfig) -> Path:
    """Train to `config.total_steps` and return the run folder. Turns on JAX's persistent compilation cache.

    Raises ValueError for a swarm that cannot be or a resumed run of other options, OSError where the run folder cannot
    be used, CheckpointError where it does not hold this run, TrainingDivergedError as soon as a figure is not finite,
    and KeyboardInterrupt, once all is saved, after Ctrl-C.
    """
    if config.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    cache_compilations()
    ppo, env_params, metadata = make_ppo(config)
    opened = prepare_run_folder(config.run_dir, config.resume) if config.run_dir else begin_run_folder(config.scenario)
    narrow = jax.enable_x64(False)  # with 64 bits optax would correct moments in other numbers
    with narrow, opened as folder, Interrupt() as interrupt:
        path = folder.path
        runner = ppo.init(jax.random.key(config.seed), env_params)
        if config.resume:
            check_same_run(load_config(PPOConfig, folder.config, whole=True), config)
            runner, _ = load_checkpoint(folder.checkpoints, runner)
        save_config(folder.config, dataclasses.replace(config, run_dir=path, resume=False))
        first, last = int(runner.update), config.num_updates
        steps_done = first * config.steps_per_update
        if not config.resume:
            save_checkpoint(folder.checkpoints, runner, steps_done, metadata)
        say(f"{'Resuming' if config.resume else 'Training'} {path} on {jax.devices()[0].device_kind}, {steps_done:,} "
            f"of {last * config.steps_per_update:,} agent steps done")  # fmt: skip
        if first >= last:
            say("Nothing left to train; more --total-steps would go on from here.")
            return path
        update, seconds = compile_update(ppo, runner, env_params)
        say(f"Compiled in {seconds:.1f} s")
        saved, patience = first, Patience()
        with (
            MetricsLogger(path, steps_done if config.resume else None) as logger,
            Progress(last * config.steps_per_update, steps_done) as progress,
        ):
            for index in range(first + 1, last + 1):
                started = time.perf_counter()
                runner, metrics = update(runner, env_params)
                metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                check_finite(metrics, index, folder.checkpoints)
                elapsed = time.perf_counter() - started
                metrics |= {
                    "train/fps": config.steps_per_update / elapsed,
                    "train/sps": 1 / elapsed,
                    "env/layout_reuses": int(runner.env_state.layout_reuses.sum()),
                    **system_metrics(),
                }
                steps_done = index * config.steps_per_update
                logger.log(steps_done, metrics)
                progress.update(
                    steps_done,
                    fps=metrics["train/fps"],
                    success=metrics["env/goal_reached_rate"],
                    episode_return=metrics["train/episode_return"],
                )
                save = partial(save_checkpoint, folder.checkpoints, runner, steps_done, metadata)
                if index == last or interrupt.asked:
                    save_last(save, folder.checkpoints)
                    break
                if (index - saved) * config.steps_per_update >= config.checkpoint_interval:
                    written = patience.try_to(save, f"the checkpoint at {steps_done:,} steps", TRY_AGAIN)
                    saved = index if written else saved
    if steps_done < last * config.steps_per_update:
        say(f"Stopped and saved. Continue with: python -m trainers.jax_ppo --resume --run-dir {path}")
        raise KeyboardInterrupt
    say(f"Trained {steps_done:,} agent steps. Evaluate with: python -m trainers.evaluate {path}")
    return path


def save_last(save: Callable[[], object], checkpoints: Path) -> None:
    """Write the checkpoint that ends a process, or an OSError that says from where the next one goes on."""
    try:
        save()
    except OSError as error:
        raise OSError(f"{error}: not saved; --resume goes on from step {latest_step(checkpoints):,}") from error


def check_same_run(kept: PPOConfig, config: PPOConfig) -> None:
    """ValueError naming an option in which a run cannot change when it is resumed."""
    for field in dataclasses.fields(PPOConfig):
        before, now = getattr(kept, field.name), getattr(config, field.name)
        if before != now and field.name not in MAY_CHANGE:
            raise ValueError(f"{field.name}={now!r} is not what {config.run_dir} was begun with, {before!r}")


def compile_update(ppo: PPO, runner: Runner, env_params: Any) -> tuple[Any, float]:
    """The compiled update, and the seconds it took."""
    started = time.perf_counter()
    compiled = PPO.update.lower(ppo, runner, env_params).compile()
    return compiled, time.perf_counter() - started


def check_finite(metrics: dict[str, float], index: int, checkpoints: Path) -> None:
    """Raise TrainingDivergedError for losses or weights that are not finite."""
    for name in ("loss/policy", "loss/value", "loss/weight_norm"):
        if not math.isfinite(metrics[name]):
            raise TrainingDivergedError(
                f"{name} is {metrics[name]} at update {index}; the last good checkpoint stays in {checkpoints}. "
                f"A lower --learning-rate or --max-grad-norm may help."
            )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parse = partial(parse_config, PPOConfig, prog="python -m trainers.jax_ppo", description=__doc__)
    config = parse(argv)
    if config.resume and config.run_dir:
        if any(flag.startswith("--config") for flag in argv):
            say("error: a resumed run keeps its own options: leave out --config", sys.stderr)
            return 2
        kept = config.run_dir / "config.yaml"
        config = parse(["--config", str(kept), *argv]) if kept.exists() else config
    try:
        with warnings_as_lines():
            train(config)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, CheckpointError, TrainingDivergedError) as error:
        say(f"error: {error}", sys.stderr)
        return 1 if isinstance(error, TrainingDivergedError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
