"""Hooks that fail, and the figures that they add: on a learner that counts its updates."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.run import hooks, loop
from trainers.run.checkpoint import latest_step
from trainers.run.folder import prepare_run_folder
from trainers.run.hooks import Hooks, Moment
from trainers.run.loop import fit
from trainers.run.options import RunOptions
from trainers.run.stopping import RecentMean
from trainers.track.tracker import as_figure


@dataclasses.dataclass(frozen=True)
class Count:
    """Episodes end in every second update alone. An update takes 10 agent steps."""

    steps_per_update = 10

    def init(self, key: jax.Array, inputs: Any) -> jax.Array:
        return jnp.int32(0)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, state: jax.Array, inputs: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        ended = (state + 1) % 2
        names = ("train/episodes", "train/episode_return", "train/episode_length", "train/reward_mean")
        return state + 1, dict(zip(names, (ended, ended * 5.0, ended * 7, jnp.float32(0)), strict=True))


class Seen:
    """Remembers the steps after which it was called."""

    def __init__(self):
        self.steps = []

    def __call__(self, moment):
        self.steps.append(moment.step)

    def state(self):
        return self.steps

    def restore(self, saved):
        self.steps = saved


def run(path, *own, updates=4, resume=False, **options):
    options = RunOptions(total_steps=10 * updates, run_dir=path, resume=resume, **options)
    with prepare_run_folder(path, resume) as folder:
        return fit(Count(), {}, options, folder, {}, own)


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ZeroDivisionError()])
def test_whatever_a_hook_raises_the_run_is_saved_and_the_hooks_after_it_miss_no_update(error, tmp_path):
    def fail(moment):
        if moment.step == 30:
            raise error

    with pytest.raises(type(error)) as caught:
        run(tmp_path, fail, Seen())
    assert caught.value is error
    assert "raised by the hook fail after 30 agent steps" in error.__notes__
    assert latest_step(tmp_path / "checkpoints") == 30
    run(tmp_path, seen := Seen(), resume=True)
    assert seen.steps == [10, 20, 30, 40]
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]


def test_the_first_of_several_errors_is_raised_and_tells_of_the_others(tmp_path):
    def first(moment):
        raise ZeroDivisionError("one")

    def second(moment):
        raise KeyError("two")

    with pytest.raises(ZeroDivisionError, match="one") as caught:
        run(tmp_path, first, second)
    assert caught.value.__notes__ == [
        "raised by the hook first after 10 agent steps",
        "KeyError('two') raised by the hook second after 10 agent steps, too",
    ]


def test_figures_are_looked_at_once_and_not_again_after_each_hook():
    looked = []

    def add(moment):
        moment.metrics["mine"] = 1.0

    moment = Moment(1, None, {}, {f"a{number}": float(number) for number in range(50)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hooks, "np", type("np", (), {"asarray": lambda value, *_: looked.append(value) or 1, "float64": 1})
        )
        assert Hooks([add, lambda moment: None]).call(moment) is None
    assert looked == [1.0]


def test_a_mean_over_episodes_is_missing_where_none_has_ended(tmp_path, capsys):
    run(tmp_path, seen := RecentMean("train/episode_return", "train/episodes", 2))
    means = {"train/episode_return", "train/episode_length"}
    assert [means & line.keys() for line in lines(tmp_path)] == [means, set(), means, set()]
    assert all("train/reward_mean" in line for line in lines(tmp_path))
    assert seen.note({"train/episodes": 0}) == 5.0
    assert "return -" in capsys.readouterr().out


def test_arrays_among_the_figures_are_in_the_lines_and_not_in_what_people_read(tmp_path, capsys):
    def add(moment):
        moment.metrics |= {"mine/array": np.arange(3), "mine/histogram": as_figure(np.arange(3))}

    run(tmp_path, add, verbose=True)
    assert lines(tmp_path)[-1]["mine/array"] == lines(tmp_path)[-1]["mine/histogram"]
    told = capsys.readouterr().out + (tmp_path / "summary.json").read_text()
    assert "train/episodes" in told
    assert "mine/" not in told


def test_a_run_that_cannot_be_compiled_closes_its_trackers(tmp_path, monkeypatch):
    closed = []

    class Tracking(loop.Tracking):
        def close(self):
            closed.append(self)
            super().close()

    def fail(*_):
        raise MemoryError("too large")

    monkeypatch.setattr(loop, "Tracking", Tracking)
    monkeypatch.setattr(loop, "compile_update", fail)
    with pytest.raises(MemoryError):
        run(tmp_path)
    assert len(closed) == 1
