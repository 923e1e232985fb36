"""What is wrong with the options that all training commands share is told by name, before anything is made."""

import importlib

import numpy as np
import pytest

PPO = "trainers.jax_ppo", "PPOConfig", "--run-dir"
LSTM = "trainers.sb3_lstm", "LstmConfig", "--folder"


@pytest.fixture(params=[PPO, LSTM], ids=["jax_ppo", "sb3_lstm"])
def trainer(request):
    """The command, its options and the flag of its folder."""
    name, options, folder = request.param
    if "sb3" in name:
        pytest.importorskip("sb3_contrib")
    module = importlib.import_module(name)
    return module.main, getattr(module, options), folder


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gamma", "2"], ["gamma=2", "0 to 1"]),
        (["--gae-lambda", "-1"], ["gae_lambda=-1", "0 to 1"]),
        (["--learning-rate", "-1"], ["learning_rate=-1", "above 0"]),
        (["--total-steps", "0"], ["total_steps=0", "above 0"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--learning-rat", "1"], ["--learning-rate"]),
    ],
)
def test_a_wrong_option_is_named(flags, words, trainer, capsys, tmp_path, monkeypatch):
    main, _, _ = trainer
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    printed = capsys.readouterr()
    assert all(word in printed.err + printed.out for word in words)


@pytest.mark.parametrize(
    "change", [{"learning_rate": np.inf}, {"learning_rate": "fast"}, {"seed": -1}, {"num_agents": 2.5}]
)
def test_a_value_that_could_never_train_is_refused(change, trainer):
    _, options, _ = trainer
    with pytest.raises(ValueError, match=next(iter(change))):
        options(**change)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--scenario", "romms"], ["romms", "rooms"]),
        (["--difficulty", "5"], ["difficulty=5"]),
        (["--num-agents", "100000"], ["100000", "at most"]),
        (["--env-params", "max_wheel_sped", "1"], ["max_wheel_sped", "max_wheel_speed"]),
        (["--env-params", "num_rays", "8"], ["num_rays"]),
        (["--env-params", "difficulty", "2"], ["difficulty"]),
        (["--env-params", "num_agents", "3"], ["num_agents"]),
        (["--reward", "spicy"], ["spicy", "shaped"]),
    ],
)
def test_an_impossible_swarm_is_named_and_leaves_no_folder(flags, words, trainer, tmp_path, capsys):
    main, _, folder = trainer
    assert main([*flags, folder, str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not (tmp_path / "new").exists()
