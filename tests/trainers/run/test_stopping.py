"""What ends a run early, and what is kept apart: on a learner whose return is the number of its updates."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers.killed import TIMED, killed_at

from trainers.run import loop
from trainers.run.checkpoint import load_arrays, save_checkpoint
from trainers.run.folder import prepare_run_folder
from trainers.run.hooks import Moment
from trainers.run.loop import fit
from trainers.run.options import RunOptions, WatchOptions
from trainers.run.stopping import Best, RecentMean, Target
from trainers.run.watching import Evaluation, Films


@dataclasses.dataclass(frozen=True)
class Counter:
    """Every update takes 10 agent steps, in which 30 episodes end."""

    reports: bool = True
    steps_per_update = 10

    def init(self, key: jax.Array, inputs: Any) -> jax.Array:
        return jnp.float32(0)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, state: jax.Array, inputs: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        figures = {"train/episode_return": state + 1, "train/episodes": jnp.int32(30)}
        return state + 1, figures if self.reports else {}


SCORES = [1, 3, 2, 5, 5, 4, 1, 0, 7, 8]  # returns that evaluations find after each update


def run(path, *hooks, updates=10, resume=False, reports=True, interval=10, **options):
    options = RunOptions(total_steps=10 * updates, run_dir=path, resume=resume, checkpoint_interval=interval, **options)
    with prepare_run_folder(path, resume) as folder:
        return fit(Counter(reports), {}, options, folder, {}, hooks)


def target(least=6.0):
    return Target("return", least, RecentMean("train/episode_return", "train/episodes", 70))


def evaluation(interval=10):
    return Evaluation(interval, lambda moment: {"return": SCORES[moment.step // 10 - 1], "success": 0.5})


def content(path):
    """All that a run has written, by name, without what depends on the machine."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    files = {
        file.relative_to(path / "checkpoints"): load_arrays(file) for file in path.glob("checkpoints/**/*.safetensors")
    }
    summary = json.loads((path / "summary.json").read_text())
    return (
        [{name: value for name, value in line.items() if name not in TIMED} for line in lines],
        {str(name): (float(arrays[""]), about) for name, (arrays, about) in files.items()},
        (summary["step"], summary["stopped"], summary["interrupted"]),
    )


def best_step(path):
    (file,) = (path / "checkpoints" / "best").iterdir()
    return int(file.stem.removeprefix("step_"))


def test_a_target_ends_the_run_once_the_mean_of_enough_episodes_reaches_it(tmp_path):
    moment = run(tmp_path / "run", target())
    assert moment.step == 70  # the updates 5, 6 and 7, of 30 episodes each, are the first whose mean is 6
    assert moment.stopped == "the target return 6 is reached, with 6"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["step"], summary["stopped"], summary["interrupted"]) == (70, moment.stopped, False)


def test_a_mean_waits_for_enough_episodes_weighs_them_and_ignores_updates_without_any():
    mean = RecentMean("a", "n", episodes=10)
    notes = [mean.note({"a": value, "n": count}) for value, count in [(1, 6), (9, 0), (3, 6), (5, 2), (7, 10), (0, 3)]]
    assert notes == [None, None, 2.0, pytest.approx(34 / 14), 7.0, pytest.approx(70 / 13)]


def test_a_figure_that_the_learner_does_not_report_is_named(tmp_path):
    with pytest.raises(ValueError, match="no figure 'train/episode_return'"):
        run(tmp_path / "run", target(), reports=False)


def test_the_best_checkpoint_is_kept_and_the_run_ends_without_a_better_one(tmp_path):
    moment = run(tmp_path / "run", evaluation(), Best(3), keep_checkpoints=2)
    assert (moment.step, moment.stopped) == (70, "3 evaluations without a better one")
    assert best_step(tmp_path / "run") == 40  # the fifth is as good, not better
    lines, files, _ = content(tmp_path / "run")
    assert [line["eval/return"] for line in lines] == SCORES[:7]
    assert files["best/step_000000000040.safetensors"][0] == 4
    assert sorted(files)[1:] == ["step_000000000060.safetensors", "step_000000000070.safetensors"]


def test_success_comes_before_return():
    best = Best()
    kept = []
    for success, score in [(0.5, 1.0), (0.4, 9.0), (0.6, 0.0), (0.6, 0.5)]:
        moment = Moment(1, None, None, {"eval/success": success, "eval/return": score})
        best(moment)
        kept.append(moment.kept_as)
    assert kept == ["best", None, "best", "best"]


@pytest.mark.parametrize(("interval", "every"), [(10, 10), (30, 20), (10, 40)])
@pytest.mark.parametrize("cut", [20, 50, 60])
def test_a_run_cut_and_resumed_stops_and_keeps_as_one_left_alone(cut, interval, every, tmp_path):
    def hooks():
        return evaluation(every), Best(3), target(8.5)

    run(tmp_path / "whole", *hooks(), interval=interval)
    with killed_at(cut):
        run(tmp_path / "parts", *hooks(), interval=interval)
    run(tmp_path / "parts", *hooks(), resume=True, interval=interval)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_evaluations_and_films_come_after_the_update_that_completes_the_interval(tmp_path):
    filmed = []
    run(tmp_path / "run", evaluation(25), Films(40, lambda moment, path: filmed.append(path)))
    lines, *_ = content(tmp_path / "run")
    assert [line["step"] for line in lines if "eval/return" in line] == [30, 50, 80, 100]
    assert filmed == [tmp_path / "run" / "videos" / f"step_{step:012d}.gif" for step in (40, 80)]


def test_a_film_that_fails_costs_a_warning(tmp_path):
    def film(moment, path):
        raise OSError("no room")

    with pytest.warns(UserWarning, match="no film at 40 steps: no room"):
        assert run(tmp_path / "run", Films(40, film), updates=5).step == 50


def test_a_best_checkpoint_that_the_disk_refuses_costs_a_warning(tmp_path, monkeypatch):
    def save(folder, tree, step, metadata, **keep):
        if folder.name == "best" and step == 20:
            raise OSError("no room")
        return save_checkpoint(folder, tree, step, metadata, **keep)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    with pytest.warns(UserWarning, match="checkpoints/best could not be written \\(no room\\)"):
        assert run(tmp_path / "run", evaluation(), Best(), updates=3).step == 30
    assert best_step(tmp_path / "run") == 10


def test_a_run_that_goes_on_no_longer_says_that_it_has_ended(tmp_path):
    run(tmp_path / "run", target(2.0))
    with killed_at(50):
        run(tmp_path / "run", target(9.0), resume=True)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_verbose_prints_every_figure_of_every_update(tmp_path, capsys):
    run(tmp_path / "run", updates=3, verbose=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[:3] for line in lines] == [
        [f"step {10 * update}", f"train/episode_return {update}", "train/episodes 30"] for update in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"early_stop": 10}, ["early_stop=10", "eval_interval"]),
        ({"eval_interval": 0}, ["eval_interval=0", "above 0"]),
        ({"eval_interval": 10, "eval_episodes": 0}, ["eval_episodes=0"]),
        ({"target_success": 1.5}, ["target_success=1.5", "from 0 to 1"]),
        ({"film_interval": -1}, ["film_interval=-1"]),
    ],
)
def test_options_that_cannot_be_met_are_named(options, words):
    with pytest.raises(ValueError, match=r"must|needs|give") as caught:
        WatchOptions(**options)
    assert all(word in str(caught.value) for word in words)
