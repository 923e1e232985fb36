"""Make a trainer's command line and YAML file from one dataclass, the trainer's options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import math
import os
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml

from entropy_env.rewards import current_name
from trainers.run.files import to_json, write_atomic

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration file cannot be read, or has a wrong key or value."""


def parse_config(
    cls: type[Config], argv: Sequence[str] | None = None, *, description: str | None = None, prog: str | None = None
) -> Config:
    """Build a config from the command line. Flags override the values of `--config FILE`, these a preset of
    `with_presets`, and that the defaults.

    Options that are dicts are put together key by key.
    A wrong option, key or value, or a ValueError of `cls`, ends the process with a message on stderr and status 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")
    if hasattr(cls, "presets"):
        finder.add_argument("--preset", nargs="?")
    found = finder.parse_known_args(argv)[0]
    path = found.config
    help_text = "YAML file of these options; flags override it."
    file_option = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=help_text, help_behavior_hint="")]
    try:
        values = read_values(cls, path) if path else {}
        preset = getattr(found, "preset", None) or values.get("preset")
        # Tyro would take the keys of a dict that has some as the only ones.
        dicts = {name: value for name, value in values.items() if isinstance(value, dict)}
        defaults = _unchecked(cls, _preset_values(cls, preset) | values | {name: {} for name in _dicts(cls)})
        fields = [("config", file_option, None), ("fields", Annotated[cls, tyro.conf.arg(name="")], defaults)]
        options = dataclasses.make_dataclass("Options", fields)
        config: Any = tyro.cli(options, args=argv, prog=prog, description=description or inspect.getdoc(cls)).fields
        merged = {name: value | getattr(config, name) for name, value in dicts.items()}
        return dataclasses.replace(config, **merged) if merged else config
    except ValueError as error:
        print(f"{prog or Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


def with_presets(presets: Mapping[str, Mapping[str, Any]]) -> Callable[[type[Config]], type[Config]]:
    """Decorate a config that has a field `preset`: the name of settings to start from. Those given override it, those
    that are dicts key by key.

    presets: the settings by name. Making a config raises ValueError for an unknown name.
    """

    def decorate(cls: type[Config]) -> type[Config]:
        plain: Callable[..., None] = cls.__init__

        @functools.wraps(plain)
        def init(self: Any, *values: Any, preset: str | None = None, **settings: Any) -> None:
            own = _preset_values(cls, preset)
            dicts = {name: own[name] | settings[name] for name in settings if isinstance(own.get(name), dict)}
            plain(self, *values, preset=preset, **(own | settings | dicts))

        cls.__init__ = init  # type: ignore[method-assign]
        cls.presets = presets  # type: ignore[attr-defined]
        return cls

    return decorate


def _preset_values(cls: Any, preset: str | None) -> dict[str, Any]:
    if preset is None or not hasattr(cls, "presets"):
        return {}
    if preset not in cls.presets:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(cls.presets)}")
    return dict(cls.presets[preset])


def _dicts(cls: type) -> list[str]:
    """Return the names of the fields that are dicts."""
    return [name for name, hint in get_type_hints(cls).items() if get_origin(hint) is dict]


def check_numbers(
    config: Any, above_0: Sequence[str], not_negative: Sequence[str] = (), up_to_1: Sequence[str] = ()
) -> None:
    """Check the fields of a trainer's config: their types, that they are finite, the seed, and the ranges given here.

    above_0, not_negative, up_to_1: the names of the fields that must be so. Converts NumPy and JAX numbers to Python's.
    Raises ValueError naming the field and its value.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value, hint = field.name, _plain(getattr(config, field.name)), hints[field.name]
        try:
            value = value if get_origin(hint) is dict else _convert(value, hint)  # the simulator checks `env_params`
        except TypeError:
            raise ValueError(f"{name}={value!r} must be of type {_type_name(hint)}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be finite")
        object.__setattr__(config, name, value)
    for name in above_0:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)} must be above 0")
    for name in not_negative:
        if (getattr(config, name) or 0) < 0:
            raise ValueError(f"{name}={getattr(config, name)} must not be negative")
    for name in up_to_1:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)} must be from 0 to 1")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed} must be from 0 to 2^32 - 1")


def load_config(cls: type[Config], path: str | os.PathLike[str], *, whole: bool = False) -> Config:
    """Read a config from a YAML file. Options missing in the file have their defaults.

    Raises ConfigError if the file is wrong, and with `whole` if it does not set every option but those in `cls.NEW`.
    """
    values = read_values(cls, path)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    missing = [name for name in names if name not in values and name not in getattr(cls, "NEW", ())]
    if whole and missing:
        raise ConfigError(
            f"{path} does not set {', '.join(missing)}: it is damaged, or from another version. To repair it, add a line for "
            f"each, such as `{missing[0]}: VALUE`"
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def check_same_run(
    kept: Mapping[str, Any], config: Any, may_change: Collection[str], run: str, advice: str = ""
) -> None:
    """Raise ValueError if a resumed run has another value of an option that must stay the same.

    kept: the options that the run was begun with. may_change: names of the options that may differ. run: the name of the
    run in the message. advice: the end of the message.
    """
    new: frozenset[str] = getattr(config, "NEW", frozenset())
    defaults = {name: value for name, value in _defaults(type(config)).items() if name in new}
    # The version that began the run may not have known all of them.
    before, now = (json.loads(to_json(values)) for values in (defaults | dict(kept), dataclasses.asdict(config)))
    for values in (before, now):
        values["reward"] = current_name(values.get("reward"))
    for name, value in now.items():
        if name not in may_change and value != before.get(name):
            raise ValueError(f"{name}={value!r} is not what {run} was begun with, {before.get(name)!r}{advice}")


def save_config(path: str | os.PathLike[str], config: Any) -> Path:
    """Write every field of a config dataclass to a YAML file. `load_config` reads an equal config from it."""
    values = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return write_atomic(path, yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True))


def read_values(cls: type, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of `cls` that a YAML file sets, converted to their types. Raises ConfigError."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} must hold `key: value` lines")
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in (content or {}).items():
        name = str(key).replace("-", "_")
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{path}: unknown key {key!r}, the nearest is {nearest!r}")
        if name in values:
            raise ConfigError(f"{path}: {name!r} is given twice")
        try:
            values[name] = _convert(value, hints[name])
        except TypeError:
            raise ConfigError(f"{path}: {name}={value!r} must be of type {_type_name(hints[name])}") from None
    return values


def _convert(value: Any, hint: Any) -> Any:
    """Convert a YAML value to the type of a field: for example an int to a float, a list to a tuple. Raises TypeError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for choice in args:
            with contextlib.suppress(TypeError):
                return _convert(value, choice)
    elif origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
    elif origin is tuple and isinstance(value, list):
        items = args[:1] * len(value) if args[-1] is ... else args
        if len(items) == len(value):
            return tuple(map(_convert, value, items))
    elif origin is list and isinstance(value, list):
        return [_convert(item, args[0]) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {_convert(key, args[0]): _convert(item, args[1]) for key, item in value.items()}
    elif hint is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3, without a dot, as a string
            return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif type(value) is hint:  # not isinstance, which would take a bool for an int
        return value
    raise TypeError


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _unchecked(cls: type, values: dict[str, Any]) -> Any:
    """Make a `cls` from values and defaults, without validation, because flags may still correct wrong values."""
    config: Any = object.__new__(cls)
    for name, default in _defaults(cls).items():
        object.__setattr__(config, name, values.get(name, default))
    return config


def _defaults(cls: type) -> dict[str, Any]:
    """Return the default of every field, tyro.MISSING where there is none."""
    made = {}
    for field in dataclasses.fields(cls):
        has_none = field.default is dataclasses.MISSING
        if has_none and field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory()
        else:
            made[field.name] = tyro.MISSING if has_none else field.default
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # from NumPy or JAX
        return value.tolist()
    return str(value) if isinstance(value, Path) else value
