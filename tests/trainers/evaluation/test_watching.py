"""Evaluations and films during a training of a real swarm, and the best checkpoint that they choose."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from helpers.killed import killed_at

from entropy_env.task import Task
from trainers.evaluate import evaluate, main, make_env
from trainers.evaluation import watching
from trainers.evaluation.play import episode_key
from trainers.evaluation.watching import FreshWorlds, fresh_key
from trainers.jax_ppo import PPOConfig, train
from trainers.policies import load_policy
from trainers.run.checkpoint import load_arrays

TINY = PPOConfig(
    num_envs=4, num_agents=2, num_steps=4, num_minibatches=2, hidden_sizes=(8,), total_steps=6 * 32,
    checkpoint_interval=32, env_params={"max_steps": 12.0}, eval_interval=64, eval_episodes=3, film_interval=96,
)  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A finished run with evaluations and films."""
    return train(dataclasses.replace(TINY, run_dir=tmp_path_factory.mktemp("watched") / "run"))


def evaluations(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["eval/success"], line["eval/return"]) for line in lines if "eval/return" in line}


def best(run):
    (file,) = (run / "checkpoints" / "best").iterdir()
    return load_arrays(file)


def test_the_best_checkpoint_is_that_of_the_best_evaluation(watched, capsys):
    scores = evaluations(watched)
    assert [*scores] == [64, 128, 192]
    step = max(scores, key=scores.get)
    assert load_policy(watched, best=True).step == step
    assert evaluate(watched, 1, best=True)["checkpoint_step"] == step
    assert load_policy(watched).step == 192
    assert main([str(watched), "--best", "--episodes", "1"]) == 0
    assert json.loads((watched / "evaluation-best.json").read_text())["checkpoint_step"] == step


def test_the_figures_are_those_of_the_policy_in_the_same_worlds_each_time(watched):
    policy = load_policy(watched)
    play = FreshWorlds(*make_env(policy), 3, TINY.seed)
    first, compiled = play(policy), watching.play_all._cache_size()
    again = play(policy.replace(step=7))
    assert watching.play_all._cache_size() == compiled
    assert first == again
    assert (first["success"], first["return"]) == evaluations(watched)[192]


def test_chunks_make_no_difference(watched, monkeypatch):
    policy = load_policy(watched)
    whole = FreshWorlds(*make_env(policy), 3, 0)(policy)
    monkeypatch.setattr(watching, "chunk_size", lambda env, episodes: 2)
    assert FreshWorlds(*make_env(policy), 3, 0)(policy) == pytest.approx(whole)


def test_worlds_are_neither_those_of_training_nor_of_the_evaluate_command():
    keys = [fresh_key(0, index) for index in range(50)] + [episode_key(0, index) for index in range(50)]
    keys += [*jax.random.split(jax.random.key(0), 50)]
    words = np.array([jax.random.key_data(key) for key in keys])
    assert len(np.unique(words, axis=0)) == len(words)


def test_films_are_in_the_run_folder(watched):
    assert sorted(file.name for file in (watched / "videos").iterdir()) == [
        "step_000000000096.gif",
        "step_000000000192.gif",
    ]


@pytest.mark.slow
def test_a_run_cut_and_resumed_evaluates_and_keeps_as_one_left_alone(watched, tmp_path):
    config = dataclasses.replace(TINY, run_dir=tmp_path / "run")
    with killed_at(160):
        train(config)
    train(dataclasses.replace(config, resume=True))
    assert evaluations(config.run_dir) == evaluations(watched)
    (expected, about), (arrays, resumed) = best(watched), best(config.run_dir)
    assert about == resumed
    assert expected.keys() == arrays.keys()
    for name, array in expected.items():
        if name != "key":
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def test_without_an_evaluation_there_is_no_best_and_it_is_said(watched, tmp_path, capsys):
    run = shutil.copytree(watched, tmp_path / "run", ignore=shutil.ignore_patterns("best"))
    assert main([str(run), "--best"]) == 2
    assert "no best checkpoint in" in capsys.readouterr().err


def test_worlds_without_a_time_limit_cannot_be_evaluated():
    with pytest.raises(ValueError, match="max_steps='never'"):
        FreshWorlds(*Task.of(max_steps="never").make(on_goal="terminate"), 3, 0)
