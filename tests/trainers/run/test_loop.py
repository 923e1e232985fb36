"""The loop that trains any learner, on one that only adds up noise: hooks, inputs, checkpoints, a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.killed import TIMED, killed_at

from trainers.run import loop
from trainers.run.checkpoint import CheckpointError, latest_step, load_arrays, save_checkpoint
from trainers.run.folder import prepare_run_folder
from trainers.run.loop import TrainingDivergedError, fit
from trainers.run.options import RunOptions


@dataclasses.dataclass(frozen=True)
class Walk:
    """A random walk. `gain` scales its steps. An update takes 10 agent steps."""

    figure: str = "toy/total"
    steps_per_update = 10

    def init(self, key: jax.Array, inputs: Any) -> dict[str, jax.Array]:
        return {"key": key, "total": jnp.float32(0)}

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, state: dict[str, jax.Array], inputs: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        key, k_step = jax.random.split(state["key"])
        total = state["total"] + inputs["gain"] * jax.random.normal(k_step, (), jnp.float32)
        return {"key": key, "total": total}, {self.figure: total, "toy/gain": inputs["gain"]}


GAIN = {"gain": jnp.float32(1), "unused": {"pair": np.zeros(2, np.float32)}}


def run(path, *hooks, updates=5, resume=False, interval=10, learner=Walk(), inputs=GAIN):
    options = RunOptions(total_steps=10 * updates, run_dir=path, resume=resume, checkpoint_interval=interval)
    with prepare_run_folder(path, resume) as folder:
        return fit(learner, inputs, options, folder, {"algorithm": "walk"}, hooks)


def newest(path):
    return load_arrays(max((path / "checkpoints").glob("*.safetensors")))


def figures(path):
    """The lines of metrics.jsonl, without what depends on the machine."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


class Louder:
    """Doubles the gain after every second update, and remembers how many it has seen."""

    def __init__(self):
        self.seen, self.best = 0, -math.inf

    def __call__(self, moment):
        self.seen += 1
        self.best = max(self.best, moment.metrics["toy/total"])
        moment.metrics["mine/seen"] = self.seen
        if self.seen % 2 == 0:
            moment.inputs = moment.inputs | {"gain": 2 * moment.inputs["gain"]}

    def state(self):
        return {"seen": self.seen, "best": self.best}

    def restore(self, saved):
        self.seen, self.best = saved["seen"], saved["best"]


def failing_at(step):
    def fail(moment):
        if moment.step == step:
            raise ZeroDivisionError("my mistake")

    return fail


def full_at(monkeypatch, *steps):
    """The disk refuses the checkpoints at these steps."""

    def save(folder, tree, step, metadata, **keep):
        if step in steps:
            raise OSError(errno.ENOSPC, "No space left on device", "here")
        return save_checkpoint(folder, tree, step, metadata, **keep)

    monkeypatch.setattr(loop, "save_checkpoint", save)


def test_hooks_are_called_in_their_order_and_see_what_earlier_ones_added(tmp_path):
    seen = []

    def first(moment):
        moment.metrics["mine/first"] = moment.step

    def second(moment):
        seen.append((moment.step, moment.metrics["mine/first"], float(moment.state["total"])))

    run(tmp_path / "run", first, second, updates=3)
    assert [(step, added) for step, added, _ in seen] == [(10, 10), (20, 20), (30, 30)]
    lines = figures(tmp_path / "run")
    assert [line["mine/first"] for line in lines] == [10, 20, 30]
    assert [line["toy/total"] for line in lines] == pytest.approx([total for *_, total in seen])


@pytest.mark.parametrize("last", [False, True])
def test_a_hook_ends_the_run_after_it_is_saved(last, tmp_path):
    def enough(moment):
        if moment.step == 30:
            moment.stop("three are enough")

    moment = run(tmp_path / "run", enough, updates=3 if last else 5, interval=1000)
    assert (moment.step, moment.stopped) == (30, "three are enough")
    assert newest(tmp_path / "run")[1]["step"] == 30
    assert len(figures(tmp_path / "run")) == 3


def test_replaced_inputs_reach_the_next_update_and_checkpoints_keep_them_alone(tmp_path):
    run(tmp_path / "run", Louder())
    assert [line["toy/gain"] for line in figures(tmp_path / "run")] == [1, 1, 2, 2, 4]
    arrays, _ = newest(tmp_path / "run")
    assert arrays.keys() == {"key", "total", "inputs/gain"}
    assert arrays["inputs/gain"] == 4
    resumed = run(tmp_path / "run", Louder(), updates=6, resume=True)
    assert figures(tmp_path / "run")[-1]["toy/gain"] == 4
    assert resumed.inputs["gain"] == 8


def test_inputs_that_no_hook_has_replaced_are_those_of_the_resuming_process(tmp_path):
    run(tmp_path / "run", updates=2)
    assert newest(tmp_path / "run")[0].keys() == {"key", "total"}
    run(tmp_path / "run", updates=3, resume=True, inputs=GAIN | {"gain": jnp.float32(3)})
    assert [line["toy/gain"] for line in figures(tmp_path / "run")] == [1, 1, 3]


def test_inputs_changed_in_place_are_kept_too(tmp_path):
    def steer(moment):
        moment.inputs["gain"] = 3  # an int, where the update takes a float32

    mine = dict(GAIN)
    run(tmp_path / "run", steer, updates=2)
    assert newest(tmp_path / "run")[0]["inputs/gain"].dtype == np.float32
    assert figures(tmp_path / "run")[-1]["toy/gain"] == 3
    assert mine["gain"] == 1


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (GAIN | {"gain": np.ones(3, np.float32)}, ["'gain'", "float32[]", "float32[3]"]),
        (GAIN | {"unused": {"pair": jnp.zeros(2, jnp.complex64)}}, ["'unused/pair'", "float32[2]", "complex64[2]"]),
        ({"gain": 1.0}, ["no leaf 'unused/pair'"]),
        (GAIN | {"loud": 1.0}, ["a new leaf 'loud'"]),
    ],
)
def test_inputs_of_another_shape_are_refused_by_name_and_the_run_is_saved(inputs, words, tmp_path):
    def steer(moment):
        if moment.step == 30:
            moment.inputs = inputs

    with pytest.raises(ValueError, match="inputs") as caught:
        run(tmp_path / "run", steer, interval=1000)
    assert all(word in str(caught.value) for word in words)
    assert "raised by the hook steer after 30 agent steps" in caught.value.__notes__
    assert newest(tmp_path / "run")[0].keys() == {"key", "total"}
    assert run(tmp_path / "run", resume=True).step == 50


def test_an_error_of_a_hook_comes_after_the_run_is_saved(tmp_path):
    later = []
    with pytest.raises(ZeroDivisionError, match="my mistake") as caught:
        run(tmp_path / "run", Louder(), failing_at(30), later.append, interval=1000)
    assert caught.value.__notes__ == ["raised by the hook fail after 30 agent steps"]
    assert len(later) == 3
    assert newest(tmp_path / "run")[1]["step"] == 30
    run(tmp_path / "run", Louder(), resume=True)
    run(tmp_path / "whole", Louder())
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")


def test_a_hook_fails_on_a_full_disk(tmp_path, monkeypatch):
    full_at(monkeypatch, 30)
    with pytest.raises(ZeroDivisionError) as caught:
        run(tmp_path / "run", failing_at(30))
    assert "'here': not saved; --resume goes on from step 20" in caught.value.__notes__[1]


def test_states_of_hooks_are_kept_each_under_its_name(tmp_path):
    run(tmp_path / "run", Louder(), lambda moment: None, Louder(), updates=1)
    states = newest(tmp_path / "run")[1]["hooks"]
    assert states.keys() == {"Louder", "Louder-2"}
    for hook in (first := Louder(), second := Louder()):
        hook.best = 99.0
    run(tmp_path / "run", first, second, updates=1, resume=True)
    assert first.state() == second.state() == json.loads(states["Louder"])


def test_a_state_that_is_not_finite_or_an_array_comes_back(tmp_path):
    class Odd(Louder):
        def __call__(self, moment):
            pass

        def state(self):
            return {"seen": np.arange(2), "best": self.best}

    run(tmp_path / "run", Odd(), updates=1)
    odd = Odd()
    odd.best = 0.0
    run(tmp_path / "run", odd, updates=1, resume=True)
    assert (odd.seen, odd.best) == ([0, 1], -math.inf)


def test_a_state_that_json_cannot_hold_is_refused_before_anything_is_trained(tmp_path):
    class Secret(Louder):
        def state(self):
            return {1, 2}

    with pytest.raises(TypeError, match="the hook Secret"):
        run(tmp_path / "run", Secret())
    assert not (tmp_path / "run").exists()


def test_a_hook_that_cannot_tell_its_state_fails_and_its_last_one_is_kept(tmp_path):
    class Broken(Louder):
        def state(self):
            return {"seen": self.seen, "share": 1 / (3 - self.seen)}

    with pytest.raises(ZeroDivisionError) as caught:
        run(tmp_path / "run", Broken())
    assert caught.value.__notes__ == ["raised by the hook Broken after 30 agent steps"]
    _, metadata = newest(tmp_path / "run")
    assert (metadata["step"], json.loads(metadata["hooks"]["Broken"])["seen"]) == (30, 2)


def test_a_state_that_no_hook_takes_is_told(tmp_path):
    run(tmp_path / "run", Louder(), updates=1)
    with pytest.warns(UserWarning, match="had a hook Louder"):
        run(tmp_path / "run", updates=2, resume=True)


def test_a_hook_that_the_run_did_not_have_begins_anew(tmp_path):
    run(tmp_path / "run", updates=2)
    run(tmp_path / "run", hook := Louder(), updates=3, resume=True)
    assert hook.seen == 1


@pytest.mark.parametrize("interval", [10, 20, 1000])
def test_a_run_killed_and_resumed_ends_as_one_left_alone(interval, tmp_path):
    run(tmp_path / "whole", Louder(), updates=7)
    for step, resume in ((30, False), (60, True)):
        with killed_at(step):
            run(tmp_path / "parts", Louder(), updates=7, resume=resume, interval=interval)
    run(tmp_path / "parts", Louder(), updates=7, resume=True)
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    (whole, about), (parts, resumed) = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert about == resumed
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        other = parts[name]
        if name == "key":
            array, other = jax.random.key_data(array), jax.random.key_data(other)
        np.testing.assert_array_equal(array, other)


def test_a_full_disk_costs_a_warning_until_there_is_room_again(tmp_path, monkeypatch):
    full_at(monkeypatch, 20, 30)
    with pytest.warns(UserWarning, match="at 20 steps could not be written .*'here'") as caught:
        run(tmp_path / "run")
    assert len(caught) == 1
    assert sorted(int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [10, 40, 50]


def test_a_last_checkpoint_that_the_disk_refuses_is_an_error(tmp_path, monkeypatch):
    full_at(monkeypatch, 50)
    with pytest.raises(OSError, match="'here': not saved; --resume goes on from step 40"):
        run(tmp_path / "run")


def test_a_watched_figure_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    def burst(moment):
        moment.inputs = moment.inputs | {"gain": math.inf if moment.step == 20 else 1.0}

    with pytest.raises(
        TrainingDivergedError, match=r"loss/policy is -?inf at update 3; the last good checkpoint stays"
    ):
        run(tmp_path / "watched", burst, learner=Walk("loss/policy"))
    assert latest_step(tmp_path / "watched" / "checkpoints") == 20
    assert run(tmp_path / "unwatched", burst).step == 50


def test_a_checkpoint_of_another_learner_is_refused(tmp_path):
    run(tmp_path / "run", Louder())
    with pytest.raises(CheckpointError, match="'inputs/gain' was saved as float32\\[\\], expected float32\\[2\\]"):
        run(tmp_path / "run", Louder(), updates=6, resume=True, inputs=GAIN | {"gain": np.ones(2, np.float32)})


@pytest.mark.parametrize("figure", ["abc", None, 10**400, ["a"]])
def test_a_figure_that_is_no_number_costs_no_update(tmp_path, figure):
    def adds(moment):
        moment.metrics["mine"] = figure

    with pytest.raises(TypeError, match=r"the figure 'mine' is .*must be a number"):
        run(tmp_path, adds)
    assert latest_step(tmp_path / "checkpoints") == 10


def test_figures_that_a_hook_removes_stay(tmp_path):
    run(tmp_path, lambda moment: moment.metrics.clear(), updates=1)
    assert figures(tmp_path)[0].keys() >= {"toy/total", "toy/gain"}


def test_a_reward_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"train/reward_mean is nan.*Look at the reward terms"):
        run(tmp_path, learner=Walk("train/reward_mean"), inputs=GAIN | {"gain": jnp.float32(math.nan)})
