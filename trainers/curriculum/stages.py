"""Stages: what a curriculum changes from one to the next, and when a swarm moves on. Read from YAML."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from entropy_env import checks
from entropy_env.scenarios import LEVELS, make_scenario
from entropy_env.settings import SWITCHED
from entropy_env.task import PARAM_FIELDS, SPEC_FIELDS, Task
from trainers.run.config import ConfigError

DEFAULT = "default"
CRITERIA = ("success", "return", "collision_rate")  # figures that stages are judged by; less of the last is better
Limits = dict[str, float]  # by criterion
WHOLE = {  # keys of a file that hold for all stages
    "stages", "episodes", "replay", "promote", "demote",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage sets, and when a swarm leaves it."""

    task: Task
    options: dict[str, float]  # of the learner, those that it sets
    promote: Limits  # all must be met to go on
    demote: Limits  # the stage before comes again once one is no longer met


@dataclasses.dataclass(frozen=True)
class Plan:
    """All stages. `description` is the same for equal plans."""

    stages: tuple[Stage, ...]
    episodes: int  # a stage is judged by the latest so many
    replay: float  # share of worlds that play earlier stages
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Whole:
    """What stages start from."""

    task: Task
    options: Collection[str]  # those of the learner that a stage may set
    fixed: Collection[str]  # other options, for messages
    check: Callable[..., object]  # raises ValueError for options of the learner that cannot be had


class OnceLoader(yaml.SafeLoader):
    """Reads YAML, and raises for a key that comes twice, of which YAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} comes twice in one place{str(node.start_mark).strip()}")
        return super().construct_mapping(node, deep)


def read_plan(source: str, whole: Whole) -> Plan:
    """Read a curriculum from a YAML file, or make the default one: the four levels of scenario `curriculum`.

    Raises ConfigError if the file is wrong or a stage cannot be had, naming it.
    """
    if source == DEFAULT:
        content: Any = {"stages": [{"scenario": "curriculum", "difficulty": level} for level in LEVELS]}
    else:
        try:
            content = yaml.load(Path(source).read_text(encoding="utf-8"), OnceLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the curriculum {source}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list) or not content["stages"]:
        raise ConfigError(f"{source} must hold `stages:`, a list of at least one")
    try:
        return _plan(content, whole)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _plan(content: dict[str, Any], whole: Whole) -> Plan:
    _check_names("the curriculum", content, WHOLE)
    episodes, replay = content.get("episodes", 500), content.get("replay", 0.0)
    if type(episodes) is not int or episodes < 1:
        raise ValueError(f"episodes={episodes!r} must be a whole number above 0")
    if _number("replay", replay) < 0 or replay >= 1:
        raise ValueError(f"replay={replay!r} must be at least 0 and below 1")
    stages = []
    for number, given in enumerate(content["stages"], 1):
        try:
            stages.append(_stage(content, given, whole))
            _check_ways(number, len(content["stages"]), given, stages[-1])
        except (TypeError, ValueError) as error:
            raise ValueError(f"stage {number}: {error}") from error
    return Plan(tuple(stages), episodes, float(replay), {"episodes": episodes, "replay": replay} | content)


def _stage(content: Mapping[str, Any], given: Any, whole: Whole) -> Stage:
    if not isinstance(given, dict):
        raise TypeError(f"{given!r} must hold `name: value` pairs")
    terms = {f"reward_{name}" for name, _ in whole.task.spec.reward_terms}
    worlds = PARAM_FIELDS | terms | {"scenario", "reward"}
    for name in given:
        if name in SPEC_FIELDS | set(whole.fixed):
            raise ValueError(f"{name!r} cannot change between stages: set it for the whole run")
    _check_names("a stage", given, worlds | set(whole.options) | {"promote", "demote"})
    if "difficulty" in given and type(given["difficulty"]) is not int:
        raise ValueError(f"difficulty={given['difficulty']!r} must be one of {', '.join(map(str, LEVELS))}")
    own = whole.task.but(**{name: value for name, value in given.items() if name in worlds})
    if own.spec != whole.task.spec:
        begun = [
            name for name, field in SWITCHED.items() if getattr(own.spec, field) != getattr(whole.task.spec, field)
        ]
        raise ValueError(f"{', '.join(begun)} cannot begin in a stage: give the whole run a weight, however small")
    env, params = own.resolve(on_goal="respawn")  # raises for an unknown scenario, and for more robots than fit
    if env.spec.components:
        raise ValueError(f"scenario={own.scenario!r} cannot be a stage: its robots observe what no others do")
    if env.spec.talks and {"comm_range", "goal_scale"} & set(given):
        raise ValueError("comm_range and goal_scale cannot change between stages: words tell places in them")
    if params.max_steps == checks.NEVER:
        raise ValueError("max_steps='never' has no end, so nobody could judge the stage")
    options = {name: _number(name, value) for name, value in given.items() if name in whole.options}
    whole.check(**options)
    return Stage(
        own,
        options,
        _limits("promote", given.get("promote", content.get("promote", {"success": 0.8}))),
        _limits("demote", given.get("demote", content.get("demote", {}))),
    )


def _check_ways(number: int, count: int, given: Mapping[str, Any], stage: Stage) -> None:
    """Raise ValueError for a stage that no swarm could leave or stay in as the file says."""
    if number == 1 and "demote" in given:
        raise ValueError("demote: there is no stage before the first")
    if number < count and not stage.promote:
        raise ValueError("promote={} names no figure, so nothing would say when to go on: for example {success: 0.8}")
    for name in stage.promote.keys() & stage.demote.keys():
        sign = -1 if name == "collision_rate" else 1
        if sign * stage.demote[name] > sign * stage.promote[name]:
            raise ValueError(
                f"{name}: demote={stage.demote[name]:g} is stricter than promote={stage.promote[name]:g}, so swarms that "
                "are good enough to go on would be too bad to stay"
            )


def _check_names(what: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no {name!r}{checks.suggest(str(name), sorted(known))}")


def _limits(name: str, given: Any) -> Limits:
    if not isinstance(given, dict):
        raise TypeError(f"{name}={given!r} must hold `figure: number` pairs")
    _check_names(name, given, CRITERIA)
    limits = {figure: _number(f"{name}: {figure}", value) for figure, value in given.items()}
    for figure in limits.keys() - {"return"}:
        if not 0 <= limits[figure] <= 1:
            raise ValueError(f"{name}: {figure}={given[figure]!r} must be from 0 to 1")
    return limits


def _number(name: str, value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 3e-4, without a point, as text
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a number{', without quotes' if isinstance(value, str) else ''}")
    return float(value)


def scenario_of(task: Task) -> Any:
    """Return the layout generator of a task."""
    return make_scenario(str(task.scenario), task.difficulty)
