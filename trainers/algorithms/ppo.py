"""Feed-forward PPO with one network for all agents. Rollout and learning are one jitted update.

Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The 37 implementation
details". Agents that arrive respawn, so few lanes of a batch are idle. Idle lanes are masked out of the losses, the
advantages, the observation statistics and the metrics.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

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
from trainers.learn.steering import Steered
from trainers.networks.mlp import Critic, GaussianActor, gaussian_entropy, gaussian_log_prob

STEERABLE = (  # options that may change between updates
    "learning_rate", "gamma", "gae_lambda", "clip", "entropy_coefficient", "value_coefficient", "max_grad_norm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Options of PPO itself."""

    num_envs: int = 256
    """Number of worlds, all stepped together."""
    num_steps: int = 32
    """Control periods of each world between two updates."""
    num_minibatches: int = 8
    """Number of minibatches per batch. Each holds whole worlds, so it must divide num_envs."""
    num_epochs: int = 4
    """Passes over each batch."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start."""
    anneal_learning_rate: bool = True
    """Decrease the learning rate linearly to 0 over the run."""
    gamma: float = 0.995
    """Discount per control period."""
    gae_lambda: float = 0.97
    """Decay of the advantage estimate (lambda of GAE)."""
    clip: float = 0.2
    """Clip range of PPO: the ratio of new to old probability counts only from 1 - clip to 1 + clip."""
    entropy_coefficient: float = 0.001
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, in the actor and in the critic."""
    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """Activation of the hidden layers."""
    normalize_obs: bool = True
    """Normalise observations by their running mean and standard deviation."""
    initial_log_std: float = -0.7
    """Logarithm of the actions' standard deviation at the start. Less noise keeps actions closer to the mean action."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        if self.num_envs % self.num_minibatches:
            raise ValueError(f"num_envs={self.num_envs} must be a multiple of num_minibatches={self.num_minibatches}")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} must be above 0")


class Runner(struct.PyTreeNode):
    """Everything that training carries from one update to the next. A checkpoint holds all of it."""

    params: dict[str, Any]  # weights, `actor` and `critic`
    opt_state: Any
    moments: RunningMoments  # of observations
    env_state: Any
    obs: jax.Array  # (E, N, D)
    key: jax.Array
    update: jax.Array  # () int32, updates done


class Batch(struct.PyTreeNode):
    """Samples to learn from: obs (E, T, N, D), action (E, T, N, A), all others (E, T, N)."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True)
class PPO:
    """The algorithm on a batched environment. Hashable, so its methods can be jitted with a static `self`."""

    config: Hyperparameters
    env: BatchedEnv
    obs_dim: int
    action_dim: int
    num_agents: int  # in each world
    num_updates: int  # of the whole run; the learning rate reaches 0 after as many

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""
        return self.config.num_envs * self.num_agents * self.config.num_steps

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
            rate = optax.linear_schedule(rate, 0.0, self.num_updates * config.num_epochs * config.num_minibatches)
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=1e-5))

    @partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array, inputs: Any) -> Runner:
        """Return a runner before its first update. inputs: see `update`."""
        env_params = inputs.env_params if isinstance(inputs, Steered) else inputs
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
    def update(self, runner: Runner, inputs: Any) -> tuple[Runner, dict[str, jax.Array]]:
        """Collect one batch and learn from it. Returns the runner and metrics, () each.

        inputs: the parameters of the environment, or `Steered`, which sets options among STEERABLE, too.
        """
        if not isinstance(inputs, Steered):
            return self._update(runner, inputs)
        config = copy.copy(self.config)
        for name, value in inputs.options.items():
            object.__setattr__(config, name, value)  # traced, so the checks of the options cannot run again
        return dataclasses.replace(self, config=config)._update(runner, inputs.env_params)

    def _update(self, runner: Runner, env_params: Any) -> tuple[Runner, dict[str, jax.Array]]:
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
        """Sample actions (..., A) for obs (..., D). Returns them and their log probabilities (...,)."""
        mean, log_std = self.actor.apply(params["actor"], normalize(moments, obs))
        action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, jnp.float32)
        return action, gaussian_log_prob(action, mean, log_std)

    def value(self, params: dict, moments: RunningMoments, obs: jax.Array) -> jax.Array:
        """Return the critic's estimate of the discounted return."""
        return self.critic.apply(params["critic"], normalize(moments, obs))

    def observe(self, moments: RunningMoments, steps: Transitions) -> RunningMoments:
        """Update the observation statistics with a rollout. The next rollout uses them."""
        return update_moments(moments, steps.obs, steps.acted) if self.config.normalize_obs else moments

    def prepare(self, runner: Runner, steps: Transitions, last_obs: jax.Array) -> Batch:
        """Compute the advantages and value targets of a rollout. Worlds are the first axis of the batch."""
        obs = normalize(runner.moments, jnp.concatenate([steps.obs, last_obs[None]]))
        value = self.critic.apply(runner.params["critic"], obs)
        next_value = jnp.where(steps.truncated, steps.final_value, value[1:])
        advantage, target = gae(
            steps.reward, value[:-1], next_value, steps.terminated, steps.done,
            discount=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        batch = Batch(obs[:-1], steps.action, steps.log_prob, value[:-1], advantage, target, steps.acted)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), batch)

    def epoch(self, batch: Batch, learner: tuple, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Pass over the batch once, in minibatches of randomly chosen worlds."""
        worlds = jnp.arange(self.config.num_envs, dtype=jnp.int32)
        order = jax.random.permutation(key, worlds).reshape(self.config.num_minibatches, -1)
        return jax.lax.scan(partial(self.descend, batch), learner, order)

    def descend(self, batch: Batch, learner: tuple, worlds: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Take one gradient step on some worlds of the batch."""
        params, opt_state = learner
        samples = jax.tree.map(lambda x: x[worlds].reshape(-1, *x.shape[3:]), batch)
        grads, metrics = jax.grad(self.loss, has_aux=True)(params, samples)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def loss(self, params: dict, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return PPO's loss over a minibatch, and its metrics."""
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
    """Return means over a rollout, without idle lanes.

    `env/goal_reached_rate` is the share of agents that reached their first goal in a world before the time limit. Later
    goals would bias it, because an agent has less time left for them. `env/episodes` is how many agents that is over, and
    `train/episodes` how many episodes ended. Lanes that the environment does not count are left out.
    """
    if "counted" in steps.info:
        counted = steps.info["counted"]
        steps = steps.replace(
            acted=steps.acted & counted, terminated=steps.terminated & counted, truncated=steps.truncated & counted
        )
    done, success = steps.done, steps.info["success"]
    first = done & (steps.info["goals_reached"] == success)
    mean = masked_mean(steps.reward, steps.acted)
    return {
        "train/reward_mean": mean,
        "train/reward_std": jnp.sqrt(masked_mean(jnp.square(steps.reward - mean), steps.acted)),
        "train/episode_length": masked_mean(steps.info["episode_length"].astype(jnp.float32), done),
        "train/episode_return": masked_mean(steps.info["episode_return"], done),
        "train/episodes": jnp.sum(done, dtype=jnp.int32),
        "train/active_share": jnp.mean(steps.acted.astype(jnp.float32)),
        "env/goal_reached_rate": masked_mean(success.astype(jnp.float32), first),
        "env/episodes": jnp.sum(first, dtype=jnp.int32),
        "env/collision_rate": masked_mean(steps.info["collision"].astype(jnp.float32), steps.acted),
    }
