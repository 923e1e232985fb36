"""A world as plain data: what adapters, trainers and evaluation build theirs from, and what checkpoints keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from entropy_env import checks
from entropy_env.env import Swarm
from entropy_env.scenarios import Scenario
from entropy_env.types import OnGoal, SwarmParams, SwarmSpec, cast_params

SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(SwarmSpec))
PARAM_FIELDS = frozenset(field.name for field in dataclasses.fields(SwarmParams))
PRESETS: dict[str, dict[str, Any]] = {
    # the physics, observed velocity and reward of the older engine on pymunk; its goals and lidar had other scales
    "v2": {
        "drive": "force",
        "dt": 0.05,
        "substeps": 3,
        "velocity_frame": "world",
        "on_goal": "respawn",
        "reward": "seed",
        "max_steps": 500,
    },
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A scenario at a level, with a specification, a preset of rewards and other parameters.

    `Task.of` takes all of them as flat keywords.
    """

    scenario: str | Scenario = "open"
    difficulty: int = 1
    spec: SwarmSpec = dataclasses.field(default_factory=SwarmSpec)
    reward: str = "shaped"
    params: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # other fields of SwarmParams

    @classmethod
    def of(
        cls, scenario: str | Scenario = "open", difficulty: int = 1, preset: str | None = None, **settings: Any
    ) -> Self:
        """The task with these settings: fields of SwarmSpec and SwarmParams, and `reward`, the name of its preset.

        preset: settings under those that are given. A setting that is None stays what the preset says, or the default.
        A Scenario brings its own difficulty. Raises ValueError for unknown names and an impossible specification;
        `resolve` checks the rest.
        """
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
        settings = {name: value for name, value in settings.items() if value is not None}
        settings = ({} if preset is None else PRESETS[preset]) | settings
        known = SPEC_FIELDS | PARAM_FIELDS | {"reward"}
        for name in settings:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}{checks.suggest(name, sorted(known))}")
        spec = SwarmSpec(**{name: settings.pop(name) for name in SPEC_FIELDS & settings.keys()})
        reward = settings.pop("reward", cls.reward)
        difficulty = scenario.difficulty if isinstance(scenario, Scenario) else difficulty
        return cls(scenario, difficulty, spec, reward, settings)

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """The task of a checkpoint: its `settings`, of which older versions kept those of SwarmParams under `params`."""
        settings = dict(values)
        return cls.of(**settings.pop("params", {}), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What `of` makes this task of."""
        spec = {name: value for name, value in dataclasses.asdict(self.spec).items() if value is not None}
        return {"scenario": self.scenario, "difficulty": self.difficulty, "reward": self.reward} | spec | self.params

    @property
    def num_agents(self) -> int:
        """In each world."""
        return self.spec.num_agents

    def but(self, **settings: Any) -> Self:
        """This task with other settings, as `of` takes them."""
        return self.of(**(self.settings | {name: value for name, value in settings.items() if value is not None}))

    def resolve(self, on_goal: OnGoal | None = None, room_for: int = 1) -> tuple[Swarm, SwarmParams]:
        """The simulator and its parameters as plain numbers, which starts no device.

        on_goal: another than the task's. room_for: a level that layouts must have room for, beside the task's.
        Raises ValueError where such a world does not exist.
        """
        spec = self.spec if on_goal is None else dataclasses.replace(self.spec, on_goal=on_goal)
        env = Swarm(spec, self.scenario, max(self.difficulty, room_for))
        return env, env.resolve_params(self.reward, difficulty=self.difficulty, **self.params)

    def make(self, on_goal: OnGoal | None = None) -> tuple[Swarm, SwarmParams]:
        """As `resolve`, with parameters as JAX arrays of strong types."""
        env, params = self.resolve(on_goal)
        return env, cast_params(params)
