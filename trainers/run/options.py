"""Options that training commands have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from entropy_env import checks
from entropy_env.rewards import PRESETS
from entropy_env.scenarios import SCENARIOS
from entropy_env.task import PARAM_FIELDS, Task

Scenario = Annotated[str, tyro.conf.arg(help=f"Family of layouts: {', '.join(SCENARIOS)}.")]
Reward = Annotated[str, tyro.conf.arg(help=f"Preset of reward weights: {', '.join(PRESETS)}.")]


@dataclasses.dataclass(frozen=True)
class WorldOptions:
    """The worlds to train in."""

    scenario: Scenario = "open"
    difficulty: int = 1
    """1 to 4 within the family."""
    num_agents: int = 10
    """Robots in each world; all share one network."""
    reward: Reward = "shaped"
    env_params: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Other numbers of the world, for example max_wheel_speed 0.8."""

    @property
    def task(self) -> Task:
        """Raises ValueError for an impossible specification."""
        return Task.of(**self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What `Task.of` takes. Raises ValueError for a name in `env_params` that is no number of the world."""
        known = PARAM_FIELDS - {"difficulty"}  # which is an option of its own
        for name in self.env_params:
            if name not in known:
                raise ValueError(f"env_params has an unknown parameter {name!r}{checks.suggest(name, sorted(known))}")
        own = {name: getattr(self, name) for name in ("scenario", "difficulty", "num_agents", "reward")}
        return own | self.env_params


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How long to train, and where the run goes."""

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(  # when a run is resumed
        {"total_steps", "run_dir", "resume", "checkpoint_interval", "deterministic"}
    )

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

    def __post_init__(self) -> None:
        if self.resume and self.run_dir is None:
            raise ValueError("resume needs run_dir, the folder of the run to continue")
