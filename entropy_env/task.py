"""A world as plain data. Adapters, trainers and evaluation build their worlds from it, and checkpoints store it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from entropy_env import checks
from entropy_env.env import Swarm
from entropy_env.rewards import as_terms, current_name, import_path
from entropy_env.scenarios import Scenario, make_scenario
from entropy_env.settings import BANDWIDTH_WEIGHT, SWITCHED
from entropy_env.types import PARAM_NAMES, OnGoal, SwarmParams, SwarmSpec, cast_params

SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(SwarmSpec))
PARAM_FIELDS = frozenset({*PARAM_NAMES, *SWITCHED, BANDWIDTH_WEIGHT})
PRESETS: dict[str, dict[str, Any]] = {
    # The physics, observed velocity and reward of the older engine on pymunk. Goals and lidar were scaled otherwise there.
    "v2": {
        "drive": "force",
        "dt": 0.05,
        "substeps": 3,
        "velocity_frame": "world",
        "on_goal": "respawn",
        "reward": "v3",
        "max_steps": 500,
    },
}


def lasting_on_goal(scenario: str | Scenario) -> OnGoal:
    """Return what trainings prefer as `on_goal`: `respawn`, or `terminate` in a scenario that does not take it.

    Raises ValueError for an unknown scenario.
    """
    family = scenario if isinstance(scenario, Scenario) else make_scenario(scenario)
    return "respawn" if "respawn" in family.endings else "terminate"


@dataclasses.dataclass(frozen=True)
class Task:
    """A scenario at a level of difficulty, with a specification, a reward preset and other parameters.

    `Task.of` makes one from flat keywords.
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
        """Make a task from settings: fields of SwarmSpec and SwarmParams, and `reward`, the name of a reward preset.

        A `reward_geodesic` other than 0 switches `geodesic` on, unless that is given, and `reward_team` `team_rewards`.
        preset: the name of settings to start from; those given override it. A setting that is None keeps the preset's
        value, or else the default. If `scenario` is a Scenario, its own difficulty counts.
        Raises ValueError for an unknown name or an impossible specification. `resolve` checks the rest.
        """
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
        settings = {name: value for name, value in settings.items() if value is not None}
        settings = ({} if preset is None else PRESETS[preset]) | settings
        weights = {f"reward_{name}" for name, _ in as_terms(settings.get("reward_terms", ()))}
        known = SPEC_FIELDS | PARAM_FIELDS | weights | {"reward"}
        for name in settings:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}{checks.suggest(name, sorted(known))}")
        for weight, field in SWITCHED.items():
            if np.any(np.asarray(settings.get(weight, 0)) != 0):
                settings.setdefault(field, True)
        spec = SwarmSpec(**{name: settings.pop(name) for name in SPEC_FIELDS & settings.keys()})
        reward = settings.pop("reward", cls.reward)
        difficulty = scenario.difficulty if isinstance(scenario, Scenario) else difficulty
        return cls(scenario, difficulty, spec, reward, settings)

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """Make a task from the `settings` in a checkpoint. Older checkpoints hold the fields of SwarmParams in `params`."""
        settings = dict(values)
        settings["reward"] = current_name(settings.get("reward"))
        return cls.of(**settings.pop("params", {}), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords that `of` makes this task from."""
        spec = {name: value for name, value in vars(self.spec).items() if value is not None}
        return {"scenario": self.scenario, "difficulty": self.difficulty, "reward": self.reward} | spec | self.params

    def written(self) -> dict[str, Any]:
        """The settings as JSON can keep them, with import paths for reward terms. `load` reads them.

        Raises ValueError for a reward term without an import path.
        """
        terms = {name: import_path(term) for name, term in self.spec.reward_terms}
        return self.settings | {"reward_terms": terms}

    @property
    def num_agents(self) -> int:
        """The number of agents in each world."""
        return self.spec.num_agents

    def but(self, **settings: Any) -> Self:
        """Return this task with some settings changed. They are those of `of`; None changes nothing."""
        given = {name: value for name, value in settings.items() if value is not None}
        task = self.of(**(self.settings | given))
        return dataclasses.replace(task, difficulty=given.get("difficulty", task.difficulty))  # also for a Scenario

    def resolve(self, on_goal: OnGoal | None = None, room_for: int = 1) -> tuple[Swarm, SwarmParams]:
        """Return the simulator and its parameters as plain numbers. Starts no device.

        on_goal: use this instead of the task's. room_for: a level whose layouts must fit too, besides the task's own.
        Raises ValueError if such a world is impossible.
        """
        spec = self.spec if on_goal is None else dataclasses.replace(self.spec, on_goal=on_goal)
        env = Swarm(spec, self.scenario, max(self.difficulty, room_for))
        return env, env.resolve_params(self.reward, difficulty=self.difficulty, **self.params)

    def make(self, on_goal: OnGoal | None = None) -> tuple[Swarm, SwarmParams]:
        """Return the same as `resolve`, with the parameters as JAX arrays of strong types."""
        env, params = self.resolve(on_goal)
        return env, cast_params(params)
