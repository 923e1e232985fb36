"""A trained policy: what its checkpoint says of it, and loading it from a run folder to act."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from entropy_env.env import Swarm
from entropy_env.scenarios import Scenario
from entropy_env.types import Drive, OnGoal, SwarmParams, SwarmSpec, VelocityFrame
from trainers.learn.normalize import RunningMoments, init_moments, normalize
from trainers.networks.mlp import ACTIVATIONS, GaussianActor
from trainers.run.checkpoint import CheckpointError, load_checkpoint

ALGORITHM = "jax_ppo"
Described = TypeVar("Described")


@dataclasses.dataclass(frozen=True)
class ActorSpec:
    """The network that chooses actions."""

    obs_dim: int
    action_dim: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))  # JSON has lists only
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} must be one of {', '.join(ACTIVATIONS)}")

    @property
    def network(self) -> GaussianActor:
        return GaussianActor(self.hidden_sizes, self.action_dim, activation=self.activation)


@dataclasses.dataclass(frozen=True)
class Task:
    """The simulator that a policy is trained in or evaluated on."""

    scenario: str = "open"
    difficulty: int = 1
    num_agents: int = 10
    num_rays: int = 32
    substeps: int = 4
    drive: Drive = "kinematic"
    velocity_frame: VelocityFrame = "body"
    reward: str = "shaped"
    params: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)  # other fields of SwarmParams

    def make(self, on_goal: OnGoal, scenario: Scenario | None = None) -> tuple[Swarm, SwarmParams]:
        """The simulator and its parameters, with other worlds than the task's if a scenario is given. Raises ValueError
        where they do not exist or not go together."""
        spec = SwarmSpec(
            num_agents=self.num_agents,
            num_rays=self.num_rays,
            substeps=self.substeps,
            drive=self.drive,
            velocity_frame=self.velocity_frame,
            on_goal=on_goal,
        )
        env = Swarm(spec, scenario or self.scenario, self.difficulty)
        return env, env.make_params(self.reward, **self.params)


def describe_policy(actor: ActorSpec, task: Task) -> dict[str, Any]:
    """Metadata that let `load_policy` load a checkpoint whose tree has `params["actor"]` and `moments`."""
    return {"algorithm": ALGORITHM, "policy": dataclasses.asdict(actor), "env": dataclasses.asdict(task)}


class Policy(struct.PyTreeNode):
    """Maps the observations of any number of agents to their actions.

    >>> policy = load_policy("runs/open")
    >>> actions = {agent: policy(obs) for agent, obs in observations.items()}

    A pytree, so it can be an argument of jitted functions and be called in them.
    """

    params: Any  # of the actor
    moments: RunningMoments  # of the observations it was trained on
    spec: ActorSpec = struct.field(pytree_node=False)
    task: Task = struct.field(pytree_node=False)  # that it was trained in
    step: int  # of its checkpoint

    @property
    def obs_dim(self) -> int:
        return self.spec.obs_dim

    def __call__(self, obs: jax.Array | np.ndarray, key: jax.Array | None = None) -> jax.Array | np.ndarray:
        """(..., obs_dim) to actions (..., action_dim) in [-1, 1]: the mean, or with a key a sample around it.

        JAX arrays give a JAX array, anything else a NumPy array that is the caller's own to change.
        """
        if np.shape(obs)[-1:] != (self.obs_dim,):
            raise ValueError(f"obs has shape {np.shape(obs)}, this policy expects (..., {self.obs_dim})")
        action = _act(self, obs, key)
        return action if isinstance(obs, jax.Array) else np.array(action)


@jax.jit
def _act(policy: Policy, obs: jax.Array, key: jax.Array | None) -> jax.Array:
    obs = normalize(policy.moments, jnp.asarray(obs, jnp.float32))
    output: Any = policy.spec.network.apply(policy.params, obs)
    action, log_std = output
    if key is not None:
        action += jnp.exp(log_std) * jax.random.normal(key, action.shape, jnp.float32)
    return jnp.clip(action, -1.0, 1.0)


def load_policy(run_dir: str | os.PathLike[str]) -> Policy:
    """The policy of the newest whole checkpoint in a run folder; damaged ones are passed over with a warning.

    Raises FileNotFoundError where there is no run or no checkpoint, CheckpointError where it holds no such policy.
    """
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"no run folder {run_dir}")
    folder = Path(run_dir) / "checkpoints"
    _, metadata = load_checkpoint(folder, {}, partial=True)
    algorithm = metadata.get("algorithm")
    if algorithm != ALGORITHM:
        raise CheckpointError(f"{run_dir} holds a policy of {algorithm!r}; only those of {ALGORITHM!r} can be loaded")
    spec, task = _described(ActorSpec, metadata, "policy"), _described(Task, metadata, "env")
    obs = jax.ShapeDtypeStruct((spec.obs_dim,), jnp.float32)
    like = {
        "params": {"actor": jax.eval_shape(spec.network.init, jax.random.key(0), obs)},
        "moments": init_moments(spec.obs_dim),
    }
    with warnings.catch_warnings(action="ignore"):  # said above
        tree, metadata = load_checkpoint(folder, like, partial=True)
    return Policy(tree["params"]["actor"], tree["moments"], spec, task, metadata["step"])


def _described(cls: type[Described], metadata: dict[str, Any], name: str) -> Described:
    try:
        return cls(**metadata[name])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's metadata do not describe its {name}: {error}") from error
