"""Runs of robots that talk: what is saved, resumed, loaded, begun from, refused, and written of words."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.killed import TIMED, killed_at
from helpers.trackers import held_by

from entropy_env.comms import NOBODY
from entropy_env.types import PAYLOAD, TOKENS
from entropy_env.vocabulary import Word
from trainers.algorithms.speech_options import SpeechOptions
from trainers.curriculum.stages import ConfigError
from trainers.jax_ppo import Continued, PPOConfig, main, make_ppo, train
from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError, load_arrays
from trainers.run.config import load_config, save_config
from trainers.track.tracker import Histogram

UPDATE, KEY = 4 * 2 * 4, jax.random.key(0)
TINY = PPOConfig(
    scenario="relay", num_envs=4, num_agents=2, num_rays=4, num_steps=4, num_minibatches=2, hidden_sizes=(8,), cell_size=8,
    total_steps=4 * UPDATE, anneal_learning_rate=False, env_params={"max_steps": 6}, comm_neighbours=2,
)  # fmt: skip
SAID = "comm/token_distribution"
LOOKS = importlib.util.find_spec("tensorboard") is not None  # to read its events
KINDS: dict[str, dict[str, Any]] = {
    "soft": {"speech": "soft"},
    "gru differentiable": {"speech": "differentiable", "network": "gru", "sequence_length": 2},
    "lstm hard lookout": {"speech": "hard", "network": "lstm", "scenario": "lookout", "env_params": {}, "comm": "mean"},
    "none targeted": {"comm": "none", "comm_channel": "targeted", "comm_history": 2},
}


def newest(run: Path) -> dict[str, Any]:
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))[0]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any) -> Callable[[str], tuple[Path, PPOConfig]]:
    @functools.cache
    def trained(kind: str) -> tuple[Path, PPOConfig]:
        path = tmp_path_factory.mktemp("run") / "whole"
        config = dataclasses.replace(TINY, **KINDS[kind], run_dir=path)
        train(config)
        return path, config

    return trained


@pytest.fixture(params=["soft", *(pytest.param(name, marks=pytest.mark.slow) for name in list(KINDS)[1:])])
def run(request: Any, runs: Any) -> tuple[Path, PPOConfig]:
    return runs(request.param)


def test_a_run_that_was_killed_goes_on_in_the_same_arrays(run: tuple[Path, PPOConfig], tmp_path: Path) -> None:
    whole, config = run
    parts = dataclasses.replace(config, run_dir=tmp_path / "parts", checkpoint_interval=2 * UPDATE)
    with killed_at(3 * UPDATE):
        train(parts)
    train(dataclasses.replace(parts, resume=True))
    expected, arrays = newest(whole), newest(tmp_path / "parts")
    assert expected.keys() == arrays.keys()
    assert any("words/token" in name for name in arrays), "words in flight are kept"
    for name, array in expected.items():
        keys = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
        pair = [jax.random.key_data(x) if keys else x for x in (array, arrays[name])]
        np.testing.assert_array_equal(*pair, err_msg=name)
    figures = (
        [{k: v for k, v in line.items() if k not in TIMED} for line in lines(each)]
        for each in (whole, tmp_path / "parts")
    )
    assert next(figures) == next(figures)


def test_what_was_said_is_a_histogram_in_the_lines_and_in_tensorboard(run: tuple[Path, PPOConfig]) -> None:
    path, config = run
    for line in lines(path):
        told = Histogram(**line[SAID])
        assert len(told.counts) == TOKENS
        assert told.edges == [k - 0.5 for k in range(TOKENS + 1)]
        assert line["comm/silence_rate"] == pytest.approx(told.counts[0] / sum(told.counts), abs=1e-5)
        assert 0 <= line["comm/messages_per_step"] <= config.num_agents
        assert ("loss/communication" in line) == (config.speech in ("hard", "soft"))
        assert ("comm/attention_entropy" in line) == (config.comm != "none")
    if LOOKS:
        held = [(step, count) for step, name, count in held_by("tensorboard", path, "").histograms if name == SAID]
        assert held == [(line["step"], sum(line[SAID]["counts"])) for line in lines(path)]


def test_its_policy_is_loaded_and_speaks(run: tuple[Path, PPOConfig]) -> None:
    path, config = run
    policy = load_policy(path)
    ppo, inputs, _ = make_ppo(config)
    runner = jax.eval_shape(ppo.init, KEY, inputs)
    assert policy.spec.inbox == ppo.inbox
    assert jax.tree.map(jnp.shape, policy.params) == jax.tree.map(lambda x: x.shape, runner.params["actor"])
    obs = jax.random.uniform(KEY, (2, policy.obs_dim), minval=-1, maxval=1)
    action, _ = policy.act(obs, policy.begin(2), KEY)
    assert action.shape == (2, 2 + TOKENS + PAYLOAD)
    arrays = newest(path)
    if ppo.inbox is not None:
        here = ppo.inbox.columns
        assert np.all(arrays["moments/mean"][here] == 0) and np.all(arrays["moments/variance"][here] == 1)
        assert np.all(arrays["moments/mean"][:2] != 0)


@pytest.mark.parametrize("speech", [pytest.param("soft", marks=pytest.mark.slow), "differentiable"])
def test_the_learner_is_told_what_is_true_and_who_was_heard(speech: Any) -> None:
    config = dataclasses.replace(TINY, num_agents=4, num_steps=12, speech=speech, comm_neighbours=3)
    ppo, params, _ = make_ppo(config)
    runner = ppo.init(KEY, params)
    _, steps, _ = jax.jit(lambda runner: ppo.gather(runner, params, KEY))(runner)
    slots, told = np.asarray(ppo.inbox.split(steps.obs)[1]), np.asarray(steps.told)  # type: ignore[union-attr]
    _, payload, token, own = (np.asarray(x) for x in ppo.actions.split(steps.action))  # type: ignore[attr-defined]
    assert np.any(steps.terminated | steps.truncated), "worlds end"
    if speech == "soft":
        acted, obs = np.asarray(steps.acted), np.asarray(steps.obs)
        np.testing.assert_array_equal(told[..., -1], Word.FOUND_TARGET * acted)
        goal = ppo.env.env.spec.slice("goal")  # type: ignore[attr-defined]
        np.testing.assert_allclose(told[acted][:, 2:4], np.clip(obs[acted][:, goal], -1, 1), atol=1e-6)
        assert own.all(), "there is help only after `at`"
        return
    np.testing.assert_array_equal(slots[..., 4] > 0, told != NOBODY)
    checked = 0
    for t, e, n, k in np.argwhere(told[1:] != NOBODY):
        here = t, e, told[t + 1, e, n, k]
        assert slots[t + 1, e, n, k, 4] * 31 == pytest.approx(token[here], abs=1e-4)
        np.testing.assert_allclose(slots[t + 1, e, n, k, 5:], np.clip(payload[here], -1, 1), atol=1e-6)
        checked += 1
    assert checked > 200


def test_a_run_begins_with_the_networks_and_statistics_of_another(runs: Any, tmp_path: Path) -> None:
    path, config = runs("soft")
    params = config.env_params | {"reward_bandwidth": 0.01, "comm_range": 3.0}
    begun = dataclasses.replace(
        config, init_from=path, run_dir=tmp_path / "next", env_params=params, speech="reinforced"
    )
    ppo, inputs, _ = make_ppo(begun)
    assert isinstance(ppo, Continued)
    runner, arrays = ppo.init(jax.random.key(5), inputs), newest(path)
    for name in ("params", "moments"):
        for keys, leaf in jax.tree_util.tree_flatten_with_path(getattr(runner, name))[0]:
            there = f"{name}/" + jax.tree_util.keystr(keys, simple=True, separator="/")
            np.testing.assert_array_equal(leaf, arrays[there], err_msg=there)
    assert int(runner.update) == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(runner.opt_state))


@pytest.mark.slow
def test_a_run_that_began_with_another_goes_on_without_it(runs: Any, tmp_path: Path) -> None:
    path, config = runs("soft")
    first = tmp_path / "first"
    shutil.copytree(path, first)
    begun = dataclasses.replace(config, init_from=first, run_dir=tmp_path / "next", total_steps=UPDATE)
    train(begun)
    shutil.rmtree(first)
    train(dataclasses.replace(begun, resume=True, total_steps=2 * UPDATE))
    assert lines(tmp_path / "next")[-1]["step"] == 2 * UPDATE


def test_a_folder_to_begin_with_is_needed_but_for_going_on(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, init_from=tmp_path / "none")
    ppo, inputs, _ = make_ppo(config)
    with pytest.raises(FileNotFoundError, match=r"init_from='.*none' is no folder of a run"):
        ppo.init(KEY, inputs)
    make_ppo(dataclasses.replace(config, resume=True, run_dir=tmp_path))[0].init(KEY, inputs)


@pytest.mark.parametrize(("other", "told"), [
    ({"hidden_sizes": (9,)}, r"hidden_sizes=\(8,\) and not \(9,\)"),
    ({"activation": "relu"}, "activation='tanh' and not 'relu'"),
    ({"comm_neighbours": 3}, r"obs_dim=\d+ and not \d+, inbox="),
    ({"comm": "mean"}, "inbox=.*attention.* and not .*mean"),
    pytest.param({"network": "gru"}, "network='mlp' and not 'gru'", marks=pytest.mark.slow),
    pytest.param({"critic": "central"}, "leaf '(critic_moments|params/critic)", marks=pytest.mark.slow),
    ({"normalize_value": True}, "no leaf 'value_moments"),
])  # fmt: skip
def test_networks_of_another_kind_are_no_beginning(runs: Any, other: dict[str, Any], told: str) -> None:
    path, config = runs("soft")
    ppo, inputs, _ = make_ppo(dataclasses.replace(config, init_from=path, **other))
    with pytest.raises(CheckpointError, match=f"init_from='{path}': .*{told}"):
        ppo.init(KEY, inputs)


@pytest.mark.parametrize(("options", "told"), [
    ({"scenario": "open", "speech": "soft"}, "speech='soft' needs a scenario that knows what to say, and 'open' does not"),
    ({"scenario": "maze", "speech": "hard"}, "speech='hard' needs a scenario that knows what to say, and 'maze' does not"),
    ({"speech": "differentiable", "comm": "none"}, "speech='differentiable' needs something that listens"),
    ({"speech": "differentiable", "comm_history": 2}, "needs words without delay, not comm_history=2"),
    ({"speech": "soft", "comm_neighbours": 0}, "speech='soft' needs robots that talk: give comm_neighbours"),
    ({"scenario": "open", "comm_neighbours": None, "speech": "hard"}, "speech='hard' needs robots that talk"),
    ({"num_agents": 3}, "num_agents=3 must be even in scenario 'relay'"),
    ({"env_params": {"comm_delay": 1}}, "comm_delay=1 is beyond comm_history=0"),
    ({"env_params": {"reward_bandwidth": -0.1}}, "reward_bandwidth"),
])  # fmt: skip
def test_what_cannot_be_had_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        make_ppo(dataclasses.replace(TINY, **options))
    assert told in str(error.value)


@pytest.mark.parametrize(("options", "told"), [
    ({"grounding_share": 0.0}, "grounding_share=0.0 must be above 0 and at most 1"),
    ({"grounding_share": 1.5}, "grounding_share=1.5 must be above 0 and at most 1"),
    ({"grounding_share": float("nan")}, "grounding_share=nan must be"),
    ({"speaker_coefficient": -1.0}, "speaker_coefficient=-1.0 must not be negative"),
    ({"token_entropy_coefficient": -1.0}, "token_entropy_coefficient=-1.0 must not be negative"),
    ({"token_entropy_coefficient": float("nan")}, "token_entropy_coefficient=nan must be"),
])  # fmt: skip
def test_impossible_weights_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        dataclasses.replace(TINY, **options)
    assert told in str(error.value)


def test_the_command_says_in_a_line_what_is_wrong(tmp_path: Path, capsys: Any) -> None:
    flags = ["--scenario", "open", "--speech", "soft", "--comm-neighbours", "2", "--run-dir", str(tmp_path / "run")]
    assert main(flags) == 2
    assert "error: speech='soft' needs a scenario that knows what to say" in capsys.readouterr().err
    assert main(["--init-from", str(tmp_path / "none"), "--run-dir", str(tmp_path / "run")]) == 2
    assert f"init_from='{tmp_path / 'none'}' is no folder of a run" in capsys.readouterr().err


def test_options_of_older_runs_are_those_of_silent_ones(tmp_path: Path) -> None:
    new = SpeechOptions.SPEECH | {"init_from", "comm_neighbours", "comm_channel", "comm_history"}
    path = tmp_path / "config.yaml"
    save_config(
        path, dataclasses.replace(TINY, scenario="open", comm_neighbours=None, on_goal="respawn", run_dir=tmp_path)
    )
    kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in new]
    assert len(path.read_text().splitlines()) - len(kept) == len(new)
    path.write_text("\n".join(kept) + "\n")
    ppo, _, about = make_ppo(load_config(PPOConfig, path, whole=True))
    assert (ppo.speech, ppo.inbox, ppo.actions.outputs) == (None, None, 2)
    assert about["policy"]["talks"] is False
    assert about["policy"]["inbox"] is None


def test_robots_respawn_unless_the_scenario_forbids_it() -> None:
    endings = {
        name: dataclasses.replace(TINY, scenario=name, env_params={}).ending for name in ("relay", "lookout", "open")
    }
    assert endings == {"relay": "respawn", "lookout": "terminate", "open": "respawn"}
    assert dataclasses.replace(TINY, on_goal="terminate").ending == "terminate"


def test_scenarios_whose_robots_see_more_are_no_stages(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{scenario: open}, {scenario: relay}]")
    with pytest.raises(ConfigError, match="stage 2: scenario='relay' cannot be a stage"):
        make_ppo(dataclasses.replace(TINY, scenario="open", curriculum=str(path)))


def test_stages_of_other_scenarios_may_be_learnt_with_words(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{scenario: open}, {scenario: open, difficulty: 2}]")
    config = dataclasses.replace(
        TINY, scenario="open", curriculum=str(path), speech="differentiable", num_minibatches=1
    )
    ppo, inputs, _ = make_ppo(config)
    runner = jax.eval_shape(ppo.init, KEY, inputs)
    jax.eval_shape(ppo.update, runner, inputs)
