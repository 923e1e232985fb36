"""Options that training commands have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from entropy_env import checks
from entropy_env.rewards import PRESETS
from entropy_env.scenarios import SCENARIOS
from entropy_env.task import PARAM_FIELDS, Task
from trainers.track.tracking import PROJECT, TRACKERS, check_trackers

Scenario = Annotated[str, tyro.conf.arg(help=f"Family of layouts: {', '.join(SCENARIOS)}.")]
Reward = Annotated[str, tyro.conf.arg(help=f"Preset of reward weights: {', '.join(PRESETS)}.")]
Trackers = Annotated[
    tuple[str, ...], tyro.conf.arg(help=f"Where figures and files go beside the run folder: {', '.join(TRACKERS)}.")
]


@dataclasses.dataclass(frozen=True)
class WorldOptions:
    """The worlds to train in."""

    NEW: ClassVar[frozenset[str]] = frozenset(  # options that configs of older versions lack
        {"num_rays", "reward_terms", "track", "wandb", "track_project", "keep_checkpoints", "verbose", "eval_interval", "eval_episodes",
         "early_stop", "target_success", "target_return", "film_interval", "curriculum", "comm_neighbours", "comm_channel",
         "comm_history"}
    )  # fmt: skip

    scenario: Scenario = "open"
    difficulty: int = 1
    """Difficulty of the layouts, 1 to 4."""
    num_agents: int = 10
    """Robots in each world."""
    num_rays: int = 32
    """Rays of each robot's lidar, evenly around it."""
    reward: Reward = "shaped"
    env_params: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Other parameters of the world, for example: max_wheel_speed 0.8."""

    reward_terms: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Your own terms of the reward by name, as import paths package.module:function. Each needs a weight among
    env_params, reward_NAME."""
    comm_neighbours: int | None = None
    """Speakers that each robot hears at most; 0 for robots that do not talk. By default as the scenario has it: 8 in relay
    and lookout, 0 in the others."""
    comm_channel: Literal["broadcast", "targeted", "team"] = "broadcast"
    """Who may hear a word: all in range, the nearest robot in the direction that the payload points in, or the team."""
    comm_history: int = 0
    """Longest delay of words, in control periods, that the parameter comm_delay may set."""

    @property
    def task(self) -> Task:
        """The worlds as a task. Raises ValueError for an impossible specification."""
        return Task.of(**self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords for `Task.of`. Raises ValueError for an unknown name in `env_params`."""
        known = PARAM_FIELDS - {"difficulty"} | {f"reward_{name}" for name in self.reward_terms}
        for name in self.env_params:
            if name not in known:
                raise ValueError(f"env_params has an unknown parameter {name!r}{checks.suggest(name, sorted(known))}")
        names = ("scenario", "difficulty", "num_agents", "num_rays", "reward", "reward_terms", "comm_neighbours",
                 "comm_channel", "comm_history")  # fmt: skip
        own = {name: getattr(self, name) for name in names}
        return own | self.env_params


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """Who takes the figures and files of a run. A resumed run may name others."""

    TRACK: ClassVar[frozenset[str]] = frozenset({"track", "wandb", "track_project"})

    track: Trackers = ("tensorboard",)
    wandb: bool = False
    """The same as wandb in --track."""
    track_project: str = PROJECT
    """Project in Weights & Biases and trackio, experiment in MLflow."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "track", tuple(self.track))
        check_trackers(self.track)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of the trackers, each once."""
        return tuple(dict.fromkeys((*self.track, *["wandb"] * self.wandb)))


@dataclasses.dataclass(frozen=True)
class StopOptions:
    """When to evaluate the policy, and when a run has learnt enough. A resumed run may have others."""

    WATCH: ClassVar[frozenset[str]] = frozenset({"eval_interval", "eval_episodes", "early_stop", "target_return"})

    eval_interval: int | None = None
    """Agent steps between evaluations on fresh episodes. The best one's checkpoint is kept in checkpoints/best."""
    eval_episodes: int = 64
    """Fresh episodes of each such evaluation, the same each time."""
    early_stop: int | None = None
    """End the run after so many evaluations in a row without a better one, for example 10."""
    target_return: float | None = None
    """End the run once the mean return of the latest 100 episodes is as high."""

    def __post_init__(self) -> None:
        for name in ("eval_interval", "early_stop"):
            _check_above_0(self, name)
        if self.eval_interval and self.eval_episodes < 1:
            raise ValueError(f"eval_interval={self.eval_interval} needs eval_episodes={self.eval_episodes} above 0")
        if self.early_stop and not self.eval_interval:
            raise ValueError(f"early_stop={self.early_stop} counts evaluations: give eval_interval, too")


@dataclasses.dataclass(frozen=True)
class WatchOptions(StopOptions):
    """The same for a swarm, and when to film it."""

    WATCH: ClassVar[frozenset[str]] = StopOptions.WATCH | {"target_success", "film_interval"}

    target_success: float | None = None
    """End the run once so large a share of robots reaches the first goal, over the latest 100 episodes."""
    film_interval: int | None = None
    """Agent steps between films, GIFs in videos/ of the run folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_above_0(self, "film_interval")
        if self.target_success is not None and not 0 <= self.target_success <= 1:
            raise ValueError(f"target_success={self.target_success} must be from 0 to 1")


def _check_above_0(options: Any, name: str) -> None:
    value = getattr(options, name)
    if value is not None and value < 1:
        raise ValueError(f"{name}={value} must be above 0")


@dataclasses.dataclass(frozen=True)
class RunOptions(TrackOptions):
    """How long to train, and where to keep the run."""

    MAY_CHANGE: ClassVar[frozenset[str]] = TrackOptions.TRACK | {  # options that may differ when a run is resumed
        "total_steps", "run_dir", "resume", "checkpoint_interval", "keep_checkpoints", "deterministic", "verbose"
    }  # fmt: skip

    total_steps: int = 5_000_000
    """Agent steps to train for, over all robots and worlds; rounded up to whole updates."""
    seed: int = 0
    """Seed of the weights, the layouts and the noise."""
    run_dir: Path | None = None
    """Folder of the run. By default runs/SCENARIO-DATE-TIME, followed by a number if that exists."""
    resume: bool = False
    """Continue the run in RUN_DIR from its newest checkpoint, bit for bit."""
    checkpoint_interval: int = 1_000_000
    """Agent steps between checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints to keep, the newest ones."""
    deterministic: bool = False
    """Make results on a GPU repeat exactly, at some cost in speed. On a CPU they always do."""
    verbose: bool = False
    """Print all figures of every update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.run_dir is None:
            raise ValueError("resume needs run_dir, the folder of the run to continue")
