"""Options of the training with Stable-Baselines3."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from entropy_env.rewards import PRESETS as REWARDS
from entropy_env.task import Task, lasting_on_goal
from trainers.run.config import check_numbers
from trainers.run.options import TrackOptions, WatchOptions, WorldOptions

RewardOfPhysics = Annotated[
    str | None, tyro.conf.arg(help=f"Preset of reward weights: {', '.join(REWARDS)}; by default what the physics has.")
]
PRESETS: dict[str, dict[str, int]] = {
    "multi": {"num_worlds": 8, "n_steps": 512, "batch_size": 4096},
    "single": {"num_worlds": 1, "n_steps": 2048, "batch_size": 256},
}
MAY_CHANGE = TrackOptions.TRACK | WatchOptions.WATCH | {  # options that may differ when a training is resumed
    "preset", "folder", "total_steps", "checkpoint_interval", "base_model", "base_from_v2", "videos", "eval_episodes",
    "wandb_project", "device", "verbose",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LstmConfig(TrackOptions, WatchOptions, WorldOptions):
    """Options of recurrent PPO."""

    preset: Literal["multi", "single"] = "multi"
    """Entropy V2's settings. multi: 8 worlds, n_steps 512, batch_size 4096; single: 1 world, 2048 and 256."""
    num_worlds: int | None = None
    """Number of worlds; by default the preset's."""
    n_steps: int | None = None
    """Control periods of each world between two updates; by default the preset's."""
    batch_size: int | None = None
    """Samples per minibatch; by default the preset's."""
    curriculum: bool = False
    """Raise the difficulty, up to 4, by one level whenever 80 % of 100 robots have reached their first goal."""
    total_steps: int = 1_000_000
    """Agent steps to train for, over all robots and worlds; rounded up to whole rollouts."""
    seed: int = 0
    """Seed of the weights, the layouts and the noise."""
    folder: Path = Path(".")
    """Folder for checkpoints, models, runs and videos."""
    base_model: Path | None = None
    """Zip of a model whose weights to begin with. A checkpoint in the folder comes first."""
    base_from_v2: bool = False
    """The base model is one of Entropy V2. Adapts the weights of its goal inputs, which were scaled differently there."""
    checkpoint_interval: int = 50_000
    """Agent steps between checkpoints. Each is written at the end of a rollout."""
    physics: Literal["kinematic", "v2"] = "kinematic"
    """kinematic: robots driven by wheel speeds. v2: the forces, observed velocity, reward and time limit of Entropy V2."""
    reward: RewardOfPhysics = None  # type: ignore[assignment]
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    n_epochs: int = 10
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount per control period."""
    gae_lambda: float = 0.95
    """Decay of the advantage estimate (lambda of GAE)."""
    clip_range: float = 0.2
    """Clip range of PPO: the ratio of new to old probability counts only from 1 - clip_range to 1 + clip_range."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    ent_coef_final: float | None = None
    """Weight of the entropy bonus at the end of the training. It changes linearly; by default it stays the same."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    lstm_hidden_size: int = 256
    """Units of the LSTM, in the actor and in the critic."""
    normalize_obs: bool = False
    """Normalise observations by their running mean and standard deviation (VecNormalize)."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the return (VecNormalize)."""
    videos: bool = True
    """Film an episode at the start and at the end, and both side by side."""
    eval_episodes: int = 256
    """Fresh worlds to evaluate on: the finished model, 0 for none, and every eval_interval."""
    verbose: bool = False
    """Print all figures of every update."""
    wandb_project: str | None = None
    """The same as --track-project."""
    device: str = "auto"
    """Device of torch: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {', '.join(PRESETS)}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        counts = ("num_worlds", "num_agents", "num_rays", "n_steps", "batch_size", "total_steps", "checkpoint_interval",
                  "n_epochs")  # fmt: skip
        check_numbers(
            self,
            above_0=(*counts, "lstm_hidden_size", "learning_rate", "clip_range", "max_grad_norm"),
            not_negative=("ent_coef", "ent_coef_final", "vf_coef", "eval_episodes"),
            up_to_1=("gamma", "gae_lambda"),
        )
        TrackOptions.__post_init__(self)
        if self.wandb_project is not None:
            object.__setattr__(self, "track_project", self.wandb_project)
        WatchOptions.__post_init__(self)
        if self.batch_size > self.steps_per_rollout:  # type: ignore[operator]
            raise ValueError(f"batch_size={self.batch_size} is more than a rollout of {self.steps_per_rollout} steps")
        if self.batch_size == 1 or self.steps_per_rollout % self.batch_size == 1:  # type: ignore[operator]
            raise ValueError(
                f"batch_size={self.batch_size} splits the {self.steps_per_rollout} steps of a rollout so that a minibatch "
                f"has one step, whose advantage cannot be normalised"
            )
        if self.base_from_v2:
            if self.base_model is None:
                raise ValueError("base_from_v2 needs base_model, the policy of Entropy V2")
            if self.physics != "v2" or self.normalize_obs:
                raise ValueError(
                    "base_from_v2 needs physics v2 and no normalize_obs, because V2's policies observe velocities in m/s"
                )

    @property
    def task(self) -> Task:
        """The worlds that the training begins with, as a task. Raises ValueError for an impossible specification."""
        preset = "v2" if self.physics == "v2" else None
        return Task.of(preset=preset, **self.settings).but(on_goal=lasting_on_goal(self.scenario))

    @property
    def lanes(self) -> int:
        """The number of robots in all worlds."""
        return self.num_worlds * self.num_agents  # type: ignore[operator]

    @property
    def steps_per_rollout(self) -> int:
        """The number of agent steps per rollout, over all lanes."""
        return self.n_steps * self.lanes  # type: ignore[operator]

    @property
    def whole_steps(self) -> int:
        """The number of agent steps of the whole training: `total_steps` rounded up to whole rollouts."""
        return -(-self.total_steps // self.steps_per_rollout) * self.steps_per_rollout
