"""A config dataclass is its command line and its YAML file, and a mistake in either is told in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.run.config import ConfigError, check_same_run, load_config, parse_config, save_config


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a policy."""

    learning_rate: float = 3e-4
    """Step size of Adam."""
    num_envs: int = 256
    """Worlds in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each layer."""
    arena: tuple[float, float] = (8.0, 6.0)
    anneal: bool = True
    scenario: Literal["open", "rooms"] = "open"
    run_dir: Path | None = None
    target: float | None = None
    params: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Required:
    checkpoint: Path
    episodes: int = 100


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_flags_set_fields_with_dashes_or_underscores():
    flags = ["--learning-rate", "1e-3", "--num_envs", "8", "--hidden", "32", "16", "--no-anneal", "--scenario", "rooms"]
    assert parse_config(Options, flags) == Options(1e-3, 8, (32, 16), anneal=False, scenario="rooms")


def test_flags_override_the_file_and_the_file_overrides_defaults(write):
    path = write("learning-rate: 0.5\nnum_envs: 8\n")
    assert parse_config(Options, ["--config", str(path), "--num-envs", "9"]) == Options(0.5, 9)
    assert parse_config(Options, ["--num-envs", "9", f"--config={path}"]) == Options(0.5, 9)


def test_dicts_of_the_file_and_of_flags_are_put_together(write):
    path = write("params: {a: 1, b: 2}")
    assert parse_config(Options, ["--config", str(path), "--params", "b", "3", "c", "4"]).params == {
        "a": 1,
        "b": 3,
        "c": 4,
    }
    assert parse_config(Options, ["--config", str(path)]).params == {"a": 1, "b": 2}


@dataclasses.dataclass(frozen=True)
class Grown(Options):
    NEW: ClassVar[frozenset[str]] = frozenset({"rays", "terms"})
    rays: int = 32
    terms: dict[str, str] = dataclasses.field(default_factory=dict)


def test_a_run_of_before_an_option_had_its_default():
    kept = dataclasses.asdict(Options()) | {"reward": None}
    check_same_run(kept, Grown(), {"reward"}, "a run")
    with pytest.raises(ValueError, match="rays=16 is not what a run was begun with, 32"):
        check_same_run(kept, Grown(rays=16), {"reward"}, "a run")


def test_a_flag_may_correct_what_the_file_alone_would_make_invalid(write):
    path = write("num_envs: 0\n")
    assert parse_config(Options, ["--config", str(path), "--num-envs", "3"]).num_envs == 3
    with pytest.raises(SystemExit):
        parse_config(Options, ["--config", str(path)])
    with pytest.raises(ConfigError, match="num_envs=0 must be at least 1"):
        load_config(Options, path)


def test_required_fields_may_come_from_the_file_or_from_flags(write):
    path = write("checkpoint: runs/a\n")
    assert parse_config(Required, ["--config", str(path)]) == Required(Path("runs/a"))
    assert parse_config(Required, ["--checkpoint", "b", "--episodes", "3"]) == Required(Path("b"), 3)
    with pytest.raises(ConfigError, match="checkpoint"):
        load_config(Required, write("episodes: 3\n"))
    with pytest.raises(SystemExit):
        parse_config(Required, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1", Options(1.0)),
        ("learning_rate: 1e-3", Options(1e-3)),
        ("hidden: [32]", Options(hidden=(32,))),
        ("hidden: []", Options(hidden=())),
        ("arena: [4, 3.5]", Options(arena=(4.0, 3.5))),
        ("target: 2e-1", Options(target=0.2)),
        ("target: null", Options()),
        ("run_dir: runs/a", Options(run_dir=Path("runs/a"))),
        ("params: {dt: 1}", Options(params={"dt": 1.0})),
        ("", Options()),
    ],
)
def test_yaml_values_become_the_types_of_their_fields(write, text, expected):
    config = load_config(Options, write(text))
    assert config == expected
    assert repr(config) == repr(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: fast", "learning_rate='fast' must be of type float"),
        ("learning_rate: true", "learning_rate=True must be of type float"),
        ("num_envs: 1.5", "num_envs=1.5 must be of type int"),
        ("num_envs: true", "num_envs=True must be of type int"),
        ("anneal: 1", "anneal=1 must be of type bool"),
        ("anneal: 'no'", "anneal='no' must be of type bool"),
        ("hidden: 64", "hidden=64 must be of type tuple[int, ...]"),
        ("hidden: [64, a]", "hidden=[64, 'a'] must be of type tuple[int, ...]"),
        ("arena: [1, 2, 3]", "arena=[1, 2, 3] must be of type tuple[float, float]"),
        ("scenario: maze", "scenario='maze' must be of type Literal['open', 'rooms']"),
        ("target: none", "target='none' must be of type float | None"),
        ("params: {dt: slow}", "params={'dt': 'slow'} must be of type dict[str, float]"),
        ("note: 3", "note=3 must be of type str"),
        ("learnin-rate: 1", "unknown key 'learnin-rate', the nearest is 'learning_rate'"),
        ("envs: 1", "unknown key 'envs', the nearest is 'num_envs'"),
        ("num_envs: 1\nnum-envs: 2", "'num_envs' is given twice"),
        ("- 1", "must hold `key: value` lines"),
        ("a: [", "cannot read"),
    ],
)
def test_a_mistake_in_the_file_is_named(write, capsys, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as raised:
        load_config(Options, path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    with pytest.raises(SystemExit) as exited:
        parse_config(Options, ["--config", str(path)], prog="train")
    assert exited.value.code == 2
    assert capsys.readouterr() == ("", f"train: error: {raised.value}\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-envs", "0"], "num_envs=0 must be at least 1"),
        (["--num-envs", "many"], "--num-envs"),
        (["--nun-envs", "3"], "--num-envs"),
        (["--config"], "--config"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    ],
)
def test_a_mistake_in_the_flags_exits_with_status_2_and_a_message(capsys, flags, message):
    with pytest.raises(SystemExit) as exited:
        parse_config(Options, flags)
    assert exited.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "Traceback" not in output.err


def test_help_describes_every_field_and_shows_the_values_of_the_file(write, capsys):
    with pytest.raises(SystemExit) as exited:
        parse_config(Options, ["--config", str(write("num_envs: 12")), "--help"])
    assert exited.value.code == 0
    text = capsys.readouterr().out
    for part in ("Train a policy.", "--config FILE", "Step size of Adam.", "--no-anneal", "(default: 12)"):
        assert part in text
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in text


reals = st.floats(allow_nan=False)


@settings(deadline=None)
@given(
    config=st.builds(
        Options,
        learning_rate=reals,
        num_envs=st.integers(1),
        hidden=st.lists(st.integers()).map(tuple),
        arena=st.tuples(reals, reals),
        anneal=st.booleans(),
        scenario=st.sampled_from(["open", "rooms"]),
        run_dir=st.none() | st.text("ab/é '#:", min_size=1).map(Path),
        target=st.none() | reals,
        params=st.dictionaries(st.text(), reals),
        note=st.text(),
    )
)
def test_a_saved_config_loads_as_an_equal_one(config, tmp_path_factory):
    path = save_config(tmp_path_factory.mktemp("saved") / "config.yaml", config)
    assert load_config(Options, path) == config
