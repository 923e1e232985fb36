"""What is written of trainings with memory, and the options of that benchmark."""

import json

import pytest

from benchmarks import detours, readme_detours, trials


def row(name, seed, success, mean=0.8, steps=5_000_000, **more):
    figures = {"success": {"mean": success}, "world_success": {"mean": success / 2}}
    played = {"success": {"mean": mean}, "world_success": {"mean": mean / 2}}
    return {"benchmark": f"detours/{name}/{seed}", "agent_steps": steps, **figures, "deterministic": played} | more


def test_an_effect_is_a_difference_with_its_interval():
    # By hand: variances 0.0004 and 0.0001, standard error 0.0129, 2.94 degrees of freedom, t = 3.22.
    assert readme_detours.effect([0.90, 0.92, 0.94], [0.81, 0.82, 0.83]) == "+10.0 (+5.8 to +14.2)"


def test_seeds_of_a_trial_are_one_line():
    rows = [row("maze", seed, 0.95 + seed / 100, steps=30e6, total_s=600.0) for seed in range(3)]
    rows += [row("maze, GRU", seed, 0.69 + seed / 100, 0.79 + seed / 100) for seed in range(3)]
    rows += [row("maze, no memory", seed, 0.58 + seed / 50, 0.79 + seed / 100) for seed in range(3)]
    lines = readme_detours.detours(rows).splitlines()
    assert "| `maze` | 30 M | 95.0 % to 97.0 % | 80.0 % | 47.5 % to 48.5 % | 40.0 % | 3 | 10 |" in lines
    assert "| a GRU | 70.0 % |  | 80.0 % |  |" in lines
    assert "| no memory | 60.0 % | -10.0 (-14.2 to -5.8) | 80.0 % | +0.0 (-2.3 to +2.3) |" in lines


def test_a_row_says_what_a_preset_stands_for_and_is_trained_again_if_that_changes(tmp_path, monkeypatch):
    trained = []

    def train(self, name, plan, options):
        trained.append(plan["seed"])
        return row("maze", plan["seed"], 0.9)

    monkeypatch.setattr(trials.Trials, "train", train)
    plans = [detours.DETOURS.planned("maze", seed, detours.Options()) for seed in range(2)]
    assert plans[0]["options"]["network"] == "gru"
    plans[1]["options"]["entropy_coefficient"] = 0.1
    file = tmp_path / "detours.json"
    file.write_text(json.dumps([plan | row("maze", seed, 0.9) for seed, plan in enumerate(plans)]))
    detours.main(detours.Options(rows=("maze",), seeds=2, json=None))
    assert sorted(trained) == [0, 1]
    trained.clear()
    monkeypatch.setattr(trials, "save_rows", lambda *_, **__: None)
    detours.main(detours.Options(rows=("maze",), seeds=2, json=file))
    assert trained == [1]


def test_all_rows_are_told():
    told = {**readme_detours.LEVERS, **readme_detours.CORRIDOR}
    assert set(told) == {name for name in detours.TRIALS if "," in name}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rows": ("mazes",)}, "rows='mazes' must be one of"), ({"side_by_side": 0}, "side_by_side=0 must be from 1 to")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        detours.DETOURS.names(detours.Options(**options))
