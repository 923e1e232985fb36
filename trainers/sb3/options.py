"""Options of the pipeline of Stable-Baselines3."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from entropy_env.rewards import PRESETS as REWARDS
from entropy_env.task import Task
from trainers.run.config import check_numbers
from trainers.run.options import WorldOptions

RewardOfPhysics = Annotated[
    str | None, tyro.conf.arg(help=f"Preset of reward weights: {', '.join(REWARDS)}; by default what the physics has.")
]
PRESETS: dict[str, dict[str, int]] = {
    "multi": {"num_worlds": 8, "n_steps": 512, "batch_size": 4096},
    "single": {"num_worlds": 1, "n_steps": 2048, "batch_size": 256},
}
MAY_CHANGE = {  # when a training is resumed
    "preset", "folder", "total_steps", "checkpoint_interval", "base_model", "base_from_v2", "videos", "eval_episodes",
    "wandb", "wandb_project",
    "device",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LstmConfig(WorldOptions):
    """Options of recurrent PPO."""

    preset: Literal["multi", "single"] = "multi"
    """Entropy V2's settings. multi: 8 worlds, n_steps 512, batch_size 4096; single: 1 world, 2048 and 256."""
    num_worlds: int | None = None
    """Worlds side by side; by default the preset's."""
    n_steps: int | None = None
    """Control periods between updates; by default the preset's."""
    batch_size: int | None = None
    """Samples of a minibatch; by default the preset's."""
    curriculum: bool = False
    """Raise the difficulty up to 4, one level each time that 80 % of 100 episodes reach their first goal."""
    total_steps: int = 1_000_000
    """Agent steps to train for, over all lanes; rounded up to whole rollouts."""
    seed: int = 0
    """Decides the weights, the layouts and the noise."""
    folder: Path = Path(".")
    """Where checkpoints, models, runs and videos go."""
    base_model: Path | None = None
    """Zip of a model to begin with instead of fresh weights, where there is no checkpoint."""
    base_from_v2: bool = False
    """The base model is of Entropy V2: fit its goal inputs, which had another scale."""
    checkpoint_interval: int = 50_000
    """Agent steps between checkpoints, each at the end of a rollout."""
    physics: Literal["kinematic", "v2"] = "kinematic"
    """kinematic: robots driven by wheel speeds. v2: the forces, observed velocity, reward and clock of Entropy V2."""
    reward: RewardOfPhysics = None  # type: ignore[assignment]
    learning_rate: float = 3e-4
    """Of Adam."""
    n_epochs: int = 10
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount per control period."""
    gae_lambda: float = 0.95
    """Decay of the advantage estimate."""
    clip_range: float = 0.2
    """How far an update may move the probability of an action, as a ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    ent_coef_final: float | None = None
    """Its weight at the end, to which it moves linearly over the training; by default it stays."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    lstm_hidden_size: int = 256
    """Units of the memory of the actor, and of the critic."""
    normalize_obs: bool = False
    """Scale observations by their running mean and deviation (VecNormalize)."""
    normalize_reward: bool = False
    """Scale rewards by the running deviation of the return (VecNormalize)."""
    videos: bool = True
    """Film an episode at the start and at the end, and both side by side."""
    eval_episodes: int = 256
    """Fresh worlds to evaluate the finished model on; 0 for none."""
    wandb: bool = False
    """Track the training with Weights & Biases, offline where there is no key."""
    wandb_project: str = "entropy-env"
    """Its project there."""
    device: str = "auto"
    """Of torch: auto, cpu, cuda."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {', '.join(PRESETS)}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        counts = ("num_worlds", "num_agents", "n_steps", "batch_size", "total_steps", "checkpoint_interval", "n_epochs")
        check_numbers(
            self,
            above_0=(*counts, "lstm_hidden_size", "learning_rate", "clip_range", "max_grad_norm"),
            not_negative=("ent_coef", "ent_coef_final", "vf_coef", "eval_episodes"),
            up_to_1=("gamma", "gae_lambda"),
        )
        if self.batch_size > self.steps_per_rollout:  # type: ignore[operator]
            raise ValueError(f"batch_size={self.batch_size} is more than a rollout of {self.steps_per_rollout} steps")
        if self.batch_size == 1 or self.steps_per_rollout % self.batch_size == 1:  # type: ignore[operator]
            raise ValueError(
                f"batch_size={self.batch_size} leaves a minibatch of one of the {self.steps_per_rollout} steps of a "
                f"rollout, whose advantages cannot be normalised"
            )
        if self.base_from_v2:
            if self.base_model is None:
                raise ValueError("base_from_v2 needs base_model, the policy of Entropy V2")
            if self.physics != "v2" or self.normalize_obs:
                raise ValueError(
                    "base_from_v2 needs physics v2 and no normalize_obs: V2's policies observe velocities so"
                )

    @property
    def task(self) -> Task:
        """The worlds to begin with. Raises ValueError for an impossible specification."""
        preset = "v2" if self.physics == "v2" else None
        return Task.of(preset=preset, **self.settings).but(on_goal="respawn")

    @property
    def lanes(self) -> int:
        """Robots in all worlds."""
        return self.num_worlds * self.num_agents  # type: ignore[operator]

    @property
    def steps_per_rollout(self) -> int:
        """Agent steps, over all lanes."""
        return self.n_steps * self.lanes  # type: ignore[operator]

    @property
    def whole_steps(self) -> int:
        """Agent steps of the whole training, rollouts being whole."""
        return -(-self.total_steps // self.steps_per_rollout) * self.steps_per_rollout
