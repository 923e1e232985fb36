"""PPO for many agents. Rollout and learning are one jitted update.

Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The 37 implementation
details". Agents that arrive respawn, so few lanes of a batch are idle. Idle lanes are masked out of the losses, the
advantages, the observation statistics and the metrics.

Memory, the critic's view and the sharing of weights are options. Networks that remember learn from whole sequences, with
the memory that the rollout had before each. Independent agents have weights and standardised advantages of their own; the
loss is the mean over all, so Adam gives each its own pace. The clipping of the global norm and the statistics of
observations and returns are shared.

Several devices share the worlds. Each steps and learns from its own; gradients, standardised advantages, observation
statistics and metrics are those over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from trainers.algorithms.ppo_options import Hyperparameters
from trainers.algorithms.ppo_state import Batch, Runner
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
    weighted_gradients,
)
from trainers.learn.metrics import rollout_metrics
from trainers.learn.normalize import init_moments, leave_alone, normalize, standardize, unstandardize, update_moments
from trainers.learn.rollout import Choice, Scene, Transitions, collect
from trainers.learn.speech import Speech, Talking, through_channel, word_figures
from trainers.learn.spread import Spread
from trainers.learn.steering import Steered, steer
from trainers.networks.actor_critic import NO_MEMORY, ActorCritic, attention_of
from trainers.networks.inbox import Inbox
from trainers.networks.layers import Body


@dataclasses.dataclass(frozen=True)
class PPO:
    """The algorithm on a batched environment. Hashable, so its methods can be jitted with a static `self`.

    With several devices, `env` holds the worlds of one. The state of the worlds then has a leading axis of devices.
    """

    # What of the state belongs to the worlds of a device.
    WORLDS: ClassVar[tuple[str, ...]] = ("env_state", "obs", "memory")

    config: Hyperparameters
    env: BatchedEnv
    obs_dim: int
    actions: Distribution
    num_agents: int  # in each world
    num_updates: int  # of the whole run; the learning rate reaches 0 after as many
    mesh: Mesh | None = None  # of the devices, with one axis; None for one device
    speech: Speech | None = None  # how to learn what to say, with actions that are `Talking`
    inbox: Inbox | None = None  # what listens

    def __post_init__(self) -> None:
        if self.config.critic != "local" and not hasattr(self.env, "critic_input"):
            raise ValueError(
                f"critic={self.config.critic!r} needs an environment that has `critic_input`, and "
                f"{type(self.env).__name__} has none"
            )
        if self.config.deviation != "free" and not self.actions.has_scale:
            raise ValueError(
                f"deviation={self.config.deviation!r} needs actions that are numbers, and these are choices"
            )

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
    def networks(self) -> ActorCritic:
        """What chooses actions and what judges them."""
        config = self.config
        body = Body(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Body)})
        initial_log_std: Any = config.initial_log_std if self.actions.has_scale else None
        if isinstance(self.actions, Talking):
            initial_log_std = self.actions.initial_log_std(config.initial_log_std)
        agents = self.num_agents if config.sharing == "independent" else 0
        return ActorCritic(
            body, self.actions.outputs, initial_log_std, config.deviation, config.critic, config.shared_trunk, agents,
            jnp.bfloat16 if config.precision == "bf16" else None, self.inbox,
            self.actions.outputs - self.actions.motors.size if isinstance(self.actions, Talking) else 0,
        )  # fmt: skip

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
        obs, env_state, more = self.spread.begin(self.begin, k_env, env_params)
        first = (0,) * (obs.ndim - 2)  # a world
        params = self.networks.init(k_actor, k_critic, *jax.tree.map(lambda x: x[first], (obs, more)))
        return Runner(
            params=params,
            opt_state=self.optimizer.init(params),
            moments=init_moments(self.obs_dim),
            env_state=env_state,
            obs=obs,
            key=k_run,
            update=jnp.int32(0),
            memory=self.networks.begin(obs.shape[:-1]),
            critic_moments=None if more is None else init_moments(more.shape[-1]),
            value_moments=init_moments(1) if self.config.normalize_value else None,
        )

    def begin(self, key: jax.Array, env_params: Any) -> tuple[jax.Array, Any, jax.Array | None]:
        """Begin the worlds of one device. Returns observations, state, and what else the critic sees."""
        obs, env_state = self.env.reset(key, env_params)
        return obs, env_state, self.critic_input(env_state, env_params)

    def critic_input(self, env_state: Any, env_params: Any) -> jax.Array | None:
        """Return what the critic sees beside the observations, (E, N, K), or None."""
        if self.config.critic == "local":
            return None
        return self.env.critic_input(env_state, env_params)  # type: ignore[attr-defined]

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
        return steered.at(runner.update)._update(runner, env_params)

    def at(self, update: jax.Array) -> PPO:
        """Return the algorithm with the options of an update, () int32, for those that change over the run."""
        learner, begin, end = self, self.config.entropy_coefficient, self.config.entropy_coefficient_final
        if self.speech is not None:
            speech = self.speech.at(update.astype(jnp.float32) / self.num_updates)
            learner = dataclasses.replace(self, speech=speech)
        if end is None:
            return learner
        now = begin + (end - begin) * update.astype(jnp.float32) / self.num_updates
        return steer(learner, Steered(None, {"entropy_coefficient": now}))[0]

    def _update(self, runner: Runner, env_params: Any) -> tuple[Runner, dict[str, jax.Array]]:
        k_next, k_rollout, k_epochs = jax.random.split(runner.key, 3)
        if self.axis is not None:
            k_rollout, k_epochs = (
                jax.random.fold_in(key, jax.lax.axis_index(self.axis)) for key in (k_rollout, k_epochs)
            )
        scene, steps, batch = self.gather(runner, env_params, k_rollout)
        value_moments = self.observe(runner.value_moments, batch.target[..., None], batch.mask)
        (params, opt_state), losses = jax.lax.scan(
            partial(self.epoch, batch.replace(target=standardize(value_moments, batch.target))),
            (runner.params, runner.opt_state),
            jax.random.split(k_epochs, self.config.num_epochs),
        )
        moments = self.observe(runner.moments, steps.obs if self.config.normalize_obs else None, steps.acted)
        runner = Runner(
            params=params,
            opt_state=opt_state,
            moments=moments if self.inbox is None else leave_alone(moments, self.inbox.columns),
            env_state=scene.env_state,
            obs=scene.obs,
            key=k_next,
            update=runner.update + 1,
            memory=scene.memory,
            critic_moments=self.observe(runner.critic_moments, steps.critic_input, steps.acted),
            value_moments=value_moments,
        )
        return runner, rollout_metrics(steps, self.axis) | {
            **jax.tree.map(jnp.mean, losses),
            "loss/explained_variance": explained_variance(batch.value, batch.target, batch.mask, self.axis),
            "loss/weight_norm": optax.tree.norm(params),
            **self.word_figures(runner, steps),
        }

    def word_figures(self, runner: Runner, steps: Transitions) -> dict[str, jax.Array]:
        """Return figures of what was said in a rollout, and of what is listened to after it."""
        figures = {}
        if isinstance(self.actions, Talking):
            figures = word_figures(self.actions, steps.action, steps.acted, self.axis)
        if self.inbox is not None:
            obs = normalize(runner.moments, runner.obs)
            about = self.networks.actor, self.networks.agents, runner.params["actor"]
            weights = attention_of(*about, obs, runner.memory[0])
            entropy = -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-9)), axis=-1)
            hears = jnp.sum(weights, axis=-1) > 0
            figures["comm/attention_entropy"] = masked_mean(entropy, hears, self.axis)
        return figures

    @property
    def tell(self) -> Callable[[Any, Any], Any] | None:
        """What the rollout notes of the worlds before each step: what is true, or who is heard."""
        if self.speech is None or not (self.speech.grounded or self.speech.differentiable):
            return None
        return self.env.truth if self.speech.grounded else self.env.heard  # type: ignore[attr-defined]

    def gather(self, runner: Runner, env_params: Any, key: jax.Array) -> tuple[Scene, Transitions, Batch]:
        """Collect a rollout. Returns where it ended, its steps, and what can be learnt from it."""
        scene, steps, memories = collect(
            key, self.env, env_params, Scene(runner.env_state, runner.obs, runner.memory), self.config.num_steps,
            partial(self.act, runner), partial(self.value, runner), self.critic_input, self.config.cuts.every, self.tell,
        )  # fmt: skip
        last_input = self.critic_input(scene.env_state, env_params)
        return scene, steps, self.prepare(runner, steps, scene, last_input, memories)

    def act(self, runner: Runner, key: jax.Array, obs: jax.Array, memory: Any = NO_MEMORY, told: Any = None) -> Choice:
        """Sample actions for obs (..., D). told: see `tell`."""
        obs, value = normalize(runner.moments, obs), None
        if self.networks.critic_remembers:  # so it must see every step
            described, value, memory = self.networks(runner.params, obs, None, memory)
            value = unstandardize(runner.value_moments, value)
        else:
            described, _, acted = self.networks.act(runner.params, obs, memory[0])
            memory = acted, memory[1]
        if self.speech is None:
            action, noise = self.actions.sample(key, described), None
        else:
            action, noise = self.speech.choose(key, self.actions, described, told)  # type: ignore[arg-type]
        log_prob = self.actions.log_prob(action, described)
        return Choice(action, self.actions.executed(action), log_prob, value, memory, noise)

    def value(
        self, runner: Runner, obs: jax.Array, more: jax.Array | None = None, memory: Any = NO_MEMORY
    ) -> jax.Array:
        """Return the critic's estimate of the discounted return. more: what it sees beside the observations."""
        obs, more = normalize(runner.moments, obs), self.see(runner, more)
        return unstandardize(runner.value_moments, self.networks.value(runner.params, obs, more, memory))

    def see(self, runner: Runner, more: jax.Array | None) -> jax.Array | None:
        """Normalise what the critic sees beside the observations, but for the mark of agents that are in the world."""
        if more is None or runner.critic_moments is None:
            return None
        seen = normalize(runner.critic_moments, more)
        return seen.at[..., -1].set(more[..., -1]) if self.config.critic == "central" else seen

    def observe(self, moments: Any, seen: jax.Array | None, mask: jax.Array) -> Any:
        """Update statistics, if there are any, with what was seen in a rollout, if anything. The next rollout uses them."""
        return moments if moments is None or seen is None else update_moments(moments, seen, mask, self.axis)

    def prepare(
        self, runner: Runner, steps: Transitions, scene: Scene, last_input: jax.Array | None, memories: Any
    ) -> Batch:
        """Compute the advantages and value targets of a rollout. Worlds are the first axis of the batch."""
        obs = normalize(runner.moments, jnp.concatenate([steps.obs, scene.obs[None]]))
        more = jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), steps.critic_input, last_input)
        more = self.see(runner, more)
        if steps.value is None:
            value = unstandardize(runner.value_moments, self.networks.value(runner.params, obs, more))
        else:
            value = jnp.concatenate([steps.value, self.value(runner, scene.obs, None, scene.memory)[None]])
        next_value = jnp.where(steps.truncated, steps.final_value, value[1:])
        advantage, target = gae(
            steps.reward, value[:-1], next_value, steps.terminated, steps.done,
            discount=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        goes_on = steps.goes_on if self.networks.body.remembers else None
        batch = Batch(
            obs[:-1], steps.action, steps.log_prob, value[:-1], advantage, target, steps.acted,
            None if more is None else more[:-1], goes_on, steps.told, steps.noise, memories,
        )  # fmt: skip
        return jax.tree.map(lambda x: x.swapaxes(0, 1), batch)

    def epoch(self, batch: Batch, learner: tuple, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Pass over the batch once, in minibatches of randomly chosen worlds."""
        worlds = jnp.arange(self.config.worlds_on(self.spread.num_devices), dtype=jnp.int32)
        order = jax.random.permutation(key, worlds).reshape(self.config.num_minibatches, -1)
        return jax.lax.scan(partial(self.descend, batch), learner, order)

    def descend(self, batch: Batch, learner: tuple, worlds: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        """Take one gradient step on some worlds of the batch."""
        params, opt_state = learner
        grads, metrics = self.gradients(params, jax.tree.map(lambda x: x[worlds], batch))
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def gradients(self, params: dict, batch: Batch) -> tuple[dict, dict[str, jax.Array]]:
        """Return the gradients of the loss over a minibatch, and its metrics. The same on all devices.

        Each device differentiates the loss over all of them, so the mean of what they get is the gradient.
        """
        if self.config.accumulate == 1:
            grads, metrics = jax.grad(self.loss, has_aux=True)(params, batch)
        else:  # each part counts by its share of the samples
            batch = batch.replace(advantage=self.standardize(batch.advantage, batch.mask))
            parts = jax.tree.map(lambda x: x.reshape(self.config.accumulate, -1, *x.shape[1:]), batch)
            counts = over_devices(jnp.sum(parts.mask, axis=(1, 2, 3), dtype=jnp.int32), self.axis)
            loss = partial(self.loss, standardized=True)
            grads, metrics = weighted_gradients(loss, params, parts, counts / jnp.maximum(jnp.sum(counts), 1))
        return mean_over_devices(grads, self.axis), metrics

    def standardize(self, advantage: jax.Array, mask: jax.Array) -> jax.Array:
        """Standardise advantages over a minibatch: over all agents together, or with independent ones over each alone."""
        scale = partial(masked_standardize, axis=self.axis)
        return jax.vmap(scale, -1, -1)(advantage, mask) if self.networks.agents else scale(advantage, mask)

    def arrange(self, params: dict, batch: Batch) -> Batch:
        """Return a minibatch as networks take it: samples (S, ...) if each is judged alone, else sequences
        (length, S, N, ...) with the memory before each, (S, N, ...).

        With `differentiable` speech, gradients then reach speakers through the words in the observations. What a speaker
        remembers is computed again over its sequence.
        """
        networks, cuts = self.networks, self.config.cuts
        differentiable = self.speech is not None and self.speech.differentiable
        if not (networks.body.remembers or networks.agents or self.config.critic == "central" or differentiable):
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), batch)

        def renew(steps: Batch, memory: Any) -> Any:
            return networks(jax.lax.stop_gradient(params), steps.obs, steps.critic_input, memory, steps.goes_on)[-1]

        steps = batch.replace(memory=NO_MEMORY)
        batch = cuts.cut(steps).replace(memory=cuts.memory_before(batch.memory, steps, renew))
        if not differentiable or self.inbox is None:
            return batch
        said = networks.act(params, batch.obs, batch.memory[0], batch.goes_on)[0]
        about = self.actions, self.inbox.columns, said, batch.obs, batch.action, batch.noise, batch.told
        return batch.replace(obs=through_channel(*about))  # type: ignore[arg-type]

    def loss(self, params: dict, batch: Batch, standardized: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return PPO's loss over a minibatch, and its metrics. standardized: whether its advantages already are."""
        batch = self.arrange(params, batch)
        config, mask, axis = self.config, batch.mask, self.axis
        described, value, _ = self.networks(params, batch.obs, batch.critic_input, batch.memory, batch.goes_on)
        log_prob = self.actions.log_prob(batch.action, described)
        advantage = batch.advantage if standardized else self.standardize(batch.advantage, mask)
        policy, metrics = clipped_policy_loss(log_prob, batch.log_prob, advantage, mask, config.clip, axis)
        critic = value_loss(value, batch.target, mask, axis)
        entropy = self.actions.entropy(described)
        entropy = masked_mean(entropy, mask, axis) if entropy.ndim else entropy
        total = policy + config.value_coefficient * critic - config.entropy_coefficient * entropy
        figures = {f"loss/{name}": value for name, value in
                   {"policy": policy, "value": critic, "entropy": entropy, **metrics}.items()}  # fmt: skip
        if self.speech is not None:
            truth = batch.told if self.speech.grounded else None
            spoken, more = self.speech.loss(self.actions, described, batch.action, truth, mask, axis)  # type: ignore[arg-type]
            total, figures = total + spoken, figures | more
        return total, figures
