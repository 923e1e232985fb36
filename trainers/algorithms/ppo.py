"""Feed-forward PPO with one network for all agents. Rollout and learning are one jitted update.

Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The 37 implementation
details". Agents that arrive respawn, so few lanes of a batch are idle. Idle lanes are masked out of the losses, the
advantages, the observation statistics and the metrics.

Several devices share the worlds. Each steps and learns from its own; gradients, standardised advantages, observation
statistics and metrics are those over all.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from trainers.algorithms.ppo_options import Hyperparameters
from trainers.envs.contract import BatchedEnv
from trainers.learn.advantages import gae
from trainers.learn.distributions import Distribution
from trainers.learn.losses import (
    clipped_policy_loss,
    explained_variance,
    masked_mean,
    masked_standardize,
    mean_over_devices,
    over_devices,
    value_loss,
)
from trainers.learn.metrics import rollout_metrics
from trainers.learn.normalize import RunningMoments, init_moments, normalize, update_moments
from trainers.learn.rollout import Transitions, collect
from trainers.learn.spread import Spread
from trainers.learn.steering import Steered, steer
from trainers.networks.mlp import Actor, Critic


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
    """Samples to learn from: obs (E, T, N, D), action (E, T, N, ...), all others (E, T, N)."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True)
class PPO:
    """The algorithm on a batched environment. Hashable, so its methods can be jitted with a static `self`.

    With several devices, `env` holds the worlds of one. The state of the worlds then has a leading axis of devices.
    """

    WORLDS: ClassVar[tuple[str, ...]] = ("env_state", "obs")  # what of the state belongs to the worlds of a device

    config: Hyperparameters
    env: BatchedEnv
    obs_dim: int
    actions: Distribution
    num_agents: int  # in each world
    num_updates: int  # of the whole run; the learning rate reaches 0 after as many
    mesh: Mesh | None = None  # of the devices, with one axis; None for one device

    @property
    def spread(self) -> Spread:
        """How the runner lies on the devices."""
        return Spread(self.mesh, self.config.num_envs, self.WORLDS)

    @property
    def axis(self) -> str | None:
        """The name of the axis of the devices, None for one device."""
        return self.spread.axis

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""
        return self.config.num_envs * self.num_agents * self.config.num_steps

    @property
    def actor(self) -> Actor:
        config = self.config
        initial_log_std = config.initial_log_std if self.actions.has_scale else None
        return Actor(config.hidden_sizes, self.actions.outputs, initial_log_std, config.activation, self.dtype)

    @property
    def critic(self) -> Critic:
        hidden_sizes = () if self.config.shared_trunk else self.config.hidden_sizes
        return Critic(hidden_sizes, self.config.activation, self.dtype)

    @property
    def dtype(self) -> Any:
        """What networks compute in, None for the type of their inputs."""
        return jnp.bfloat16 if self.config.precision == "bf16" else None

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
        obs, env_state = self.spread.begin(self.env.reset, k_env, env_params)
        one = obs[0] if self.mesh is None else obs[0, 0]
        params = {"actor": self.actor.init(k_actor, one)}
        params["critic"] = self.critic.init(k_critic, self.seen(params, one))
        return Runner(
            params=params,
            opt_state=self.optimizer.init(params),
            moments=init_moments(self.obs_dim),
            env_state=env_state,
            obs=obs,
            key=k_run,
            update=jnp.int32(0),
        )

    def specs(self, runner: Runner) -> Runner:
        """Return how a runner is spread over the devices."""
        return self.spread.specs(runner)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, runner: Runner, inputs: Any) -> tuple[Runner, dict[str, jax.Array]]:
        """Collect one batch and learn from it. Returns the runner and metrics, () each.

        inputs: the parameters of the environment, or `Steered`, which sets options among STEERABLE, too.
        """
        return self.spread.update(self.update_share, runner, inputs)

    def update_share(self, runner: Runner, inputs: Any) -> tuple[Runner, dict[str, jax.Array]]:
        """Update with the worlds of one device, and with the options that the inputs set."""
        steered, env_params = steer(self, inputs)
        return steered._update(runner, env_params)

    def _update(self, runner: Runner, env_params: Any) -> tuple[Runner, dict[str, jax.Array]]:
        k_next, k_rollout, k_epochs = jax.random.split(runner.key, 3)
        if self.axis is not None:
            k_rollout, k_epochs = (
                jax.random.fold_in(key, jax.lax.axis_index(self.axis)) for key in (k_rollout, k_epochs)
            )
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
        return runner, rollout_metrics(steps, self.axis) | {
            **jax.tree.map(jnp.mean, losses),
            "loss/explained_variance": explained_variance(batch.value, batch.target, batch.mask, self.axis),
            "loss/weight_norm": optax.tree.norm(params),
        }

    def act(self, params: dict, moments: RunningMoments, key: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sample actions (..., A) for obs (..., D). Returns them and their log probabilities (...,)."""
        described, _ = self.actor.apply(params["actor"], normalize(moments, obs))
        action = self.actions.sample(key, described)
        return action, self.actions.log_prob(action, described)

    def value(self, params: dict, moments: RunningMoments, obs: jax.Array) -> jax.Array:
        """Return the critic's estimate of the discounted return."""
        return self.criticise(params, normalize(moments, obs))

    def criticise(self, params: dict, obs: jax.Array) -> jax.Array:
        """Return the value of normalised observations."""
        return self.critic.apply(params["critic"], self.seen(params, obs))

    def seen(self, params: dict, obs: jax.Array) -> jax.Array:
        """Return what the critic sees: the observations, or the hidden layer of the actor with a shared trunk."""
        return self.actor.apply(params["actor"], obs)[1] if self.config.shared_trunk else obs

    def observe(self, moments: RunningMoments, steps: Transitions) -> RunningMoments:
        """Update the observation statistics with a rollout. The next rollout uses them."""
        return update_moments(moments, steps.obs, steps.acted, self.axis) if self.config.normalize_obs else moments

    def prepare(self, runner: Runner, steps: Transitions, last_obs: jax.Array) -> Batch:
        """Compute the advantages and value targets of a rollout. Worlds are the first axis of the batch."""
        obs = normalize(runner.moments, jnp.concatenate([steps.obs, last_obs[None]]))
        value = self.criticise(runner.params, obs)
        next_value = jnp.where(steps.truncated, steps.final_value, value[1:])
        advantage, target = gae(
            steps.reward, value[:-1], next_value, steps.terminated, steps.done,
            discount=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        batch = Batch(obs[:-1], steps.action, steps.log_prob, value[:-1], advantage, target, steps.acted)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), batch)

    def epoch(self, batch: Batch, learner: tuple, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Pass over the batch once, in minibatches of randomly chosen worlds."""
        worlds = jnp.arange(self.config.worlds_on(self.spread.num_devices), dtype=jnp.int32)
        order = jax.random.permutation(key, worlds).reshape(self.config.num_minibatches, -1)
        return jax.lax.scan(partial(self.descend, batch), learner, order)

    def descend(self, batch: Batch, learner: tuple, worlds: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Take one gradient step on some worlds of the batch."""
        params, opt_state = learner
        samples = jax.tree.map(lambda x: x[worlds].reshape(-1, *x.shape[3:]), batch)
        grads, metrics = self.gradients(params, samples)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def gradients(self, params: dict, samples: Batch) -> tuple[dict, dict[str, jax.Array]]:
        """Return the gradients of the loss over a minibatch, and its metrics. The same on all devices.

        Each device differentiates the loss over all of them, so the mean of what they get is the gradient.
        """
        if self.config.accumulate == 1:
            grads, metrics = jax.grad(self.loss, has_aux=True)(params, samples)
        else:
            grads, metrics = self.gradients_in_parts(params, samples)
        return mean_over_devices(grads, self.axis), metrics

    def gradients_in_parts(self, params: dict, samples: Batch) -> tuple[dict, dict[str, jax.Array]]:
        """Do as `jax.grad` of the loss, in parts. Each counts by its share of the samples."""
        advantage = masked_standardize(samples.advantage, samples.mask, self.axis)
        parts = jax.tree.map(
            lambda x: x.reshape(self.config.accumulate, -1, *x.shape[1:]), samples.replace(advantage=advantage)
        )
        counts = over_devices(jnp.sum(parts.mask, axis=1, dtype=jnp.int32), self.axis)

        def add(total, part_and_count):
            part, count = part_and_count
            share = count / jnp.maximum(jnp.sum(counts), 1)
            found = jax.grad(partial(self.loss, standardized=True), has_aux=True)(params, part)
            return jax.tree.map(lambda so_far, new: so_far + share * new, total, found), None

        first = jax.tree.map(lambda x: x[0], parts)
        zero = jax.tree.map(jnp.zeros_like, (params, jax.eval_shape(self.loss, params, first)[1]))
        return jax.lax.scan(add, zero, (parts, counts))[0]

    def loss(self, params: dict, batch: Batch, standardized: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return PPO's loss over a minibatch, and its metrics. standardized: whether its advantages already are."""
        config, mask, axis = self.config, batch.mask, self.axis
        described, hidden = self.actor.apply(params["actor"], batch.obs)
        log_prob = self.actions.log_prob(batch.action, described)
        advantage = batch.advantage if standardized else masked_standardize(batch.advantage, mask, axis)
        policy, metrics = clipped_policy_loss(log_prob, batch.log_prob, advantage, mask, config.clip, axis)
        value = self.critic.apply(params["critic"], hidden if config.shared_trunk else batch.obs)
        critic = value_loss(value, batch.target, mask, axis)
        entropy = self.actions.entropy(described)
        entropy = masked_mean(entropy, mask, axis) if entropy.ndim else entropy
        total = policy + config.value_coefficient * critic - config.entropy_coefficient * entropy
        names = {"policy": policy, "value": critic, "entropy": entropy, **metrics}
        return total, {f"loss/{name}": value for name, value in names.items()}
