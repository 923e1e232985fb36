"""The hook that moves a swarm from one stage of a curriculum to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env import vector
from entropy_env.env import Swarm
from entropy_env.scenarios.stages import Stages
from entropy_env.types import OnGoal, SwarmParams, cast_params
from trainers.curriculum.stages import Limits, Plan, scenario_of
from trainers.curriculum.worlds import StagedParams, StagedWorlds
from trainers.envs.views import view_of
from trainers.learn.steering import Steered
from trainers.run.hooks import Moment
from trainers.run.stopping import RETURN, SUCCESS, RecentMean
from trainers.run.terminal import say

FIGURES = {"success": SUCCESS, "return": RETURN, "collision_rate": ("env/collision_rate", "env/episodes")}


@dataclasses.dataclass(frozen=True)
class Course:
    """A plan for a number of worlds and a learner: the worlds to train in, and the inputs of each stage."""

    plan: Plan
    num_envs: int
    defaults: Mapping[str, float]  # the learner's options, where a stage sets nothing
    share: int  # worlds on each device
    on_goal: OnGoal = "respawn"
    critic: str = "local"  # see `trainers.envs.views`

    @cached_property
    def worlds(self) -> StagedWorlds:
        """The worlds of a device, with the families of all stages in one program."""
        stages = self.plan.stages
        env = Swarm(
            dataclasses.replace(stages[0].task.spec, on_goal=self.on_goal),
            Stages(stages=tuple(scenario_of(stage.task) for stage in stages)),
        )
        return StagedWorlds(vector.batch(env, self.share, stagger=True, critic=view_of(self.critic, env)))

    def inputs(self, number: int) -> Steered:
        """Return the inputs of the learner in a stage, from 1. They have the same shapes in all stages."""
        assigned = np.full(self.num_envs, number)
        share = round(self.plan.replay * self.num_envs)
        if number > 1 and share:  # spread over the batch, earlier stages in turn
            replaying = np.linspace(0, self.num_envs - 1, share).round().astype(int)
            assigned[replaying] = 1 + np.arange(share) % (number - 1)
        params = StagedParams(self._params(assigned), jnp.asarray(assigned == number))
        names = {name for stage in self.plan.stages for name in stage.options}
        own = self.plan.stages[number - 1].options
        options = {name: jnp.float32(own.get(name, self.defaults[name])) for name in sorted(names)}
        return Steered(params, options)

    def _params(self, assigned: np.ndarray) -> SwarmParams:
        """Return the parameters of worlds in these stages (E,). Numbers that no stage changes are scalars."""
        resolved = [cast_params(stage.task.resolve(on_goal=self.on_goal)[1], np.asarray) for stage in self.plan.stages]

        def per_world(*values: np.ndarray) -> jax.Array:
            table = np.stack(values)
            return jnp.asarray(table[assigned - 1] if (table != table[0]).any() else table[0])

        return jax.tree.map(per_world, *resolved).replace(difficulty=jnp.asarray(assigned, jnp.int32))


class Promotion:
    """Judges the stage after every update, and replaces the inputs when the swarm moves on or back.

    A stage is judged by its latest episodes, once every world has had the time of a whole episode in it: before that,
    robots that arrive are known and those that will not are not yet. Adds `env/stage` and `env/difficulty`.
    """

    def __init__(self, course: Course, steps_per_period: int) -> None:
        """steps_per_period: agent steps of all worlds in a control period."""
        self._course = course
        self._number, self._since = 1, 0  # the stage, and the agent steps done when it began
        limits = [stage.task.resolve(on_goal="respawn")[1].max_steps for stage in course.plan.stages]
        self._episode = [int(limit) * steps_per_period for limit in limits]  # agent steps of a whole episode, by stage
        self._means = {name: RecentMean(*figure, course.plan.episodes) for name, figure in FIGURES.items()}

    def __call__(self, moment: Moment) -> None:
        stage = self._course.plan.stages[self._number - 1]
        moment.metrics |= {"env/stage": self._number, "env/difficulty": stage.task.difficulty}
        if moment.step - self._since < self._episode[self._number - 1]:
            return
        means = {name: mean.note(moment.metrics) for name, mean in self._means.items()}
        met = {name: value for name, value in means.items() if value is not None}
        if len(met) < len(means):
            return
        if self._number < len(self._course.plan.stages) and _all_met(stage.promote, met):
            self._move(moment, 1, met)
        elif self._number > 1 and not _all_met(stage.demote, met):
            self._move(moment, -1, met)

    def _move(self, moment: Moment, by: int, means: Mapping[str, float]) -> None:
        self._number, self._since = self._number + by, moment.step
        for mean in self._means.values():
            mean.clear()
        moment.inputs = self._course.inputs(self._number)
        told = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in means.items())
        say(f"Stage {self._number} of {len(self._course.plan.stages)} from {moment.step:,} steps on: {told}")

    def state(self) -> Any:
        return {
            "plan": self._course.plan.description,
            "stage": self._number,
            "since": self._since,
            "means": {name: mean.state() for name, mean in self._means.items()},
        }

    def restore(self, saved: Any) -> None:
        """Raises ValueError if the run was begun with other stages."""
        if saved["plan"] != self._course.plan.description:
            raise ValueError("the curriculum is not the one that the run was begun with")
        self._number, self._since = saved["stage"], saved["since"]
        for name, mean in self._means.items():
            mean.restore(saved["means"][name])


def _all_met(limits: Limits, means: Mapping[str, float]) -> bool:
    return all(
        means[name] <= limit if name == "collision_rate" else means[name] >= limit for name, limit in limits.items()
    )
