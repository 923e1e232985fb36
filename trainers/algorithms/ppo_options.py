"""Options of PPO, and settings of them by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

from trainers.learn.sequences import Cuts

PRESETS: dict[str, dict[str, Any]] = {  # settings to start from, by name
    # Those of the V3 blueprint: 2,048 steps of worlds in each update, here of 32 worlds.
    "v3": {
        "num_envs": 32,
        "num_steps": 64,
        "num_minibatches": 32,
        "num_epochs": 10,
        "learning_rate": 3e-4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip": 0.2,
        "entropy_coefficient": 0.01,
        "value_coefficient": 0.5,
        "hidden_sizes": (256, 256),
        "activation": "relu",
        "shared_trunk": True,
    },
    "cartpole": {
        "num_envs": 16,
        "num_steps": 32,
        "num_minibatches": 2,
        "num_epochs": 10,
        "learning_rate": 1e-3,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "entropy_coefficient": 0.0,
        "hidden_sizes": (64, 64),
    },
    "pendulum": {
        "num_envs": 32,
        "num_steps": 64,
        "num_minibatches": 8,
        "num_epochs": 10,
        "learning_rate": 1e-3,
        "gamma": 0.9,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.0,
        "hidden_sizes": (64, 64),
    },
}

STEERABLE = (  # options that may change between updates
    "learning_rate", "gamma", "gae_lambda", "clip", "entropy_coefficient", "value_coefficient", "max_grad_norm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Options of PPO itself."""

    NEW: ClassVar[frozenset[str]] = frozenset(  # options that configs of older versions lack
        {"shared_trunk", "accumulate", "precision", "network", "cell_size", "head_sizes", "layer_norm", "deviation",
         "action_distribution", "sequence_length", "burn_in", "critic", "normalize_value", "sharing",
         "entropy_coefficient_final"}
    )  # fmt: skip

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
    """Weight of the entropy bonus. It keeps actions noisy, which finds ways out; too little makes long runs stand still."""
    entropy_coefficient_final: float | None = None
    """Weight of the entropy bonus at the end of the run. It changes linearly, from --entropy-coefficient or what a stage of a
    curriculum sets instead; by default it stays the same."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, in the actor and in the critic."""
    shared_trunk: bool = False
    """Let the critic share the actor's hidden layers, and its memory."""
    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """Activation of the hidden layers."""
    network: Literal["mlp", "gru", "lstm"] = "mlp"
    """Whether a policy remembers what it has seen: mlp does not; gru and lstm put such a cell after the hidden layers."""
    cell_size: int = 64
    """Units of the cell."""
    head_sizes: tuple[int, ...] = ()
    """Units of each hidden layer after the cell, or after the shared layers. Actor and critic have their own."""
    layer_norm: bool = False
    """Normalise what goes into each activation (layer normalisation)."""
    deviation: Literal["free", "state"] = "free"
    """Standard deviation of the actions: free, the same for all observations, or state, a function of them."""
    action_distribution: Literal["clipped", "tanh"] = "clipped"
    """How actions stay within -1 and 1: a Gaussian that is clipped, or its hyperbolic tangent."""
    sequence_length: int | None = None
    """Steps through which the learner of a memory looks back, by default num_steps. It must divide num_steps."""
    burn_in: int = 0
    """Steps before each sequence through which the current weights bring its memory up to date, without learning there."""
    critic: Literal["local", "central", "privileged"] = "local"
    """What the critic sees: local, what its agent does; central, the state of all agents too; privileged, what the
    simulator knows too. Policies never see it."""
    normalize_value: bool = False
    """Let the critic learn normalised returns: less their running mean, over their running standard deviation."""
    sharing: Literal["shared", "independent"] = "shared"
    """One network for all agents, or one for each."""
    accumulate: int = 1
    """Parts that each minibatch is computed in, one after the other, to save memory. The update stays the same."""
    precision: Literal["f32", "bf16"] = "f32"
    """What networks compute in. Weights, losses and the optimiser stay in f32."""
    normalize_obs: bool = True
    """Normalise observations by their running mean and standard deviation."""
    initial_log_std: float = -0.7
    """Logarithm of the actions' standard deviation at the start. Less noise keeps actions closer to the mean action."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} must be above 0")
        self.worlds_on(1)
        for name in ("hidden_sizes", "head_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("entropy_coefficient", "entropy_coefficient_final", "value_coefficient"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.cell_size < 1:
            raise ValueError(f"cell_size={self.cell_size} must be above 0")
        if self.sequence_length is not None:
            if self.sequence_length < 1:
                raise ValueError(f"sequence_length={self.sequence_length} must be above 0")
            if self.num_steps % self.sequence_length:
                raise ValueError(f"sequence_length={self.sequence_length} must divide num_steps={self.num_steps}")
        if not 0 <= self.burn_in <= self.cuts.length:
            raise ValueError(f"burn_in={self.burn_in} must be from 0 to sequence_length={self.cuts.length}")
        if self.burn_in and self.network == "mlp":
            raise ValueError(f"burn_in={self.burn_in} needs a network that remembers: choose network gru or lstm")
        if self.burn_in and self.cuts.length == self.num_steps:
            raise ValueError(f"burn_in={self.burn_in} needs a sequence_length below num_steps={self.num_steps}")
        if self.shared_trunk and self.critic != "local":
            raise ValueError(f"critic={self.critic!r} sees more than the actor: leave out shared_trunk")

    @property
    def alone(self) -> Hyperparameters:
        """These options without those that a subclass adds, so that runs which differ in others share compiled code."""
        return Hyperparameters(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Hyperparameters)}
        )

    @property
    def cuts(self) -> Cuts:
        """How the steps of a rollout are cut into sequences."""
        return Cuts(self.sequence_length or self.num_steps, self.burn_in)

    def worlds_on(self, num_devices: int) -> int:
        """Return the number of worlds on each of so many devices. Raises ValueError if they do not divide."""
        shares = {"devices": num_devices, "num_minibatches": self.num_minibatches, "accumulate": self.accumulate}
        if self.num_envs % math.prod(shares.values()):
            named = [f"{name}={count}" for name, count in shares.items() if count > 1]
            product = f" = {math.prod(shares.values())}" if len(named) > 1 else ""
            raise ValueError(f"num_envs={self.num_envs} must be a multiple of {' x '.join(named)}{product}")
        return self.num_envs // num_devices
