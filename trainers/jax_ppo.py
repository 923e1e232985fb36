"""Feed-forward PPO with one network for all agents, rollout and learning in one jitted update.

    python -m trainers.jax_ppo --scenario rooms --num-agents 10 --total-steps 20000000

Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The 37 implementation
details". Agents learn while they respawn, so that hardly a lane of the batch is idle; a lane that is idle is masked
out of the losses, the advantages, the observation statistics and the metrics.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from trainers.common.advantages import gae
from trainers.common.losses import (
    clipped_policy_loss,
    explained_variance,
    masked_mean,
    masked_standardize,
    value_loss,
)
from trainers.common.networks import Critic, GaussianActor, gaussian_entropy, gaussian_log_prob
from trainers.common.normalize import RunningMoments, init_moments, normalize, update_moments
from trainers.common.rollout import BatchedEnv, Transitions, collect


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    scenario: str = "open"
    difficulty: int = 1
    num_agents: int = 10
    num_envs: int = 256
    total_steps: int = 6_000_000
    seed: int = 0
    num_steps: int = 32
    num_minibatches: int = 8
    num_epochs: int = 4
    learning_rate: float = 1e-3
    anneal_learning_rate: bool = True
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    initial_log_std: float = -0.7
    reward: str = "shaped"

    @property
    def steps_per_update(self) -> int:
        return self.num_envs * self.num_agents * self.num_steps

    @property
    def num_updates(self) -> int:
        return -(-self.total_steps // self.steps_per_update)


@struct.dataclass
class Runner:
    """Everything that training carries from one update to the next, and so everything a checkpoint holds."""

    params: dict[str, Any]  # of the actor and the critic
    opt_state: Any
    moments: RunningMoments  # of the observations
    env_state: Any
    obs: jax.Array  # (E, N, D)
    key: jax.Array
    update: jax.Array  # () int32, updates done


@struct.dataclass
class Batch:
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
            partial(self.epoch, batch), (runner.params, runner.opt_state), jax.random.split(k_epochs, self.config.num_epochs)
        )
        runner = Runner(
            params=params,
            opt_state=opt_state,
            moments=update_moments(runner.moments, steps.obs, steps.active),
            env_state=env_state,
            obs=obs,
            key=k_next,
            update=runner.update + 1,
        )
        return runner, rollout_metrics(steps) | {
            **jax.tree.map(jnp.mean, losses),
            "loss/explained_variance": explained_variance(batch.value, batch.target, batch.mask),
        }

    def act(self, params: dict, moments: RunningMoments, key: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A sampled action and its log probability."""
        mean, log_std = self.actor.apply(params["actor"], normalize(moments, obs))
        action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        return action, gaussian_log_prob(action, mean, log_std)

    def value(self, params: dict, moments: RunningMoments, obs: jax.Array) -> jax.Array:
        """The critic's estimate of the discounted return."""
        return self.critic.apply(params["critic"], normalize(moments, obs))

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
        order = jax.random.permutation(key, self.config.num_envs).reshape(self.config.num_minibatches, -1)
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
        critic = value_loss(self.critic.apply(params["critic"], batch.obs), batch.value, batch.target, batch.mask, None)
        entropy = gaussian_entropy(log_std)
        total = policy + config.value_coefficient * critic - config.entropy_coefficient * entropy
        names = {"policy": policy, "value": critic, "entropy": entropy, **metrics}
        return total, {f"loss/{name}": value for name, value in names.items()}


def rollout_metrics(steps: Transitions) -> dict[str, jax.Array]:
    """Means over what was collected, idle lanes left out."""
    done = steps.done
    mean = masked_mean(steps.reward, steps.active)
    return {
        "train/reward_mean": mean,
        "train/reward_std": jnp.sqrt(masked_mean(jnp.square(steps.reward - mean), steps.active)),
        "train/episode_length": masked_mean(steps.info["episode_length"].astype(jnp.float32), done),
        "train/episode_return": masked_mean(steps.info["episode_return"], done),
        "train/active_share": jnp.mean(steps.active.astype(jnp.float32)),
        "env/goal_reached_rate": masked_mean(steps.info["success"].astype(jnp.float32), done),
        "env/collision_rate": masked_mean(steps.info["collision"].astype(jnp.float32), steps.active),
    }
