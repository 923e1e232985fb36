"""Checkpoints of recurrent PPO that are damaged, of another hand or of other options."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch as th
from helpers.lstm import (
    FLAGS,
    TINY,
    KilledError,
    assert_same,
    content,
    content_of,
    edited,
    failing_after,
    refused,
    rewritten,
)

from trainers.evaluate import main as evaluate_main
from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.sb3.checkpoint import unpack
from trainers.sb3.workspace import open_workspace
from trainers.sb3_lstm import main, train


def damaged_copies(data):
    """Truncated and with one bit flipped, all over."""
    rng = np.random.default_rng(0)
    end = data.rfind(b"PK\x05\x06")
    directory = int.from_bytes(data[end + 16 : end + 20], "little")
    yield from (data[:size] for size in (0, 10, len(data) // 2, len(data) - 1))
    for place in [*rng.integers(0, directory, 50), *range(directory, len(data))]:
        copy = bytearray(data)
        copy[place] ^= 1 << int(rng.integers(8))
        yield bytes(copy)


def test_damage_anywhere_is_noticed_or_harmless(stopped, tmp_path):
    data, messages = (stopped / "checkpoints" / "checkpoint.zip").read_bytes(), []
    expected = content(stopped / "checkpoints" / "checkpoint.zip")
    with open_workspace(tmp_path) as workspace:
        for copy in damaged_copies(data):
            workspace.checkpoint.write_bytes(copy)
            try:
                found = content_of(workspace.find_checkpoint())
            except CheckpointError as error:
                messages.append(str(error))
                continue
            assert found.keys() == expected.keys()  # the bit was in a time stamp or the like
            assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert len(messages) > 200
    assert all(str(workspace.checkpoint) in message for message in messages)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_is_kept(half_way, trained, capsys):
    newest, older = half_way / "checkpoints" / "checkpoint.zip", half_way / "checkpoints" / "previous.zip"
    steps = unpack(older).about["step"]
    newest.write_bytes(newest.read_bytes()[:-100])
    with failing_after(0, KilledError()), pytest.raises(KilledError), pytest.warns(UserWarning) as caught:
        train(dataclasses.replace(TINY, folder=half_way))
    assert str(newest) in str(caught[0].message)
    assert str(older) in str(caught[0].message)
    assert f"Resuming from checkpoint at {steps} steps" in capsys.readouterr().out
    with open_workspace(half_way) as workspace, failing_after(2, KilledError(), os, "replace"):
        with contextlib.suppress(KilledError):  # while the next one is written: the whole one must still be there
            workspace.save_checkpoint(newest.read_bytes() if newest.exists() else b"half")
        assert unpack(older).about["step"] == steps
    newest.unlink(missing_ok=True)
    train(dataclasses.replace(TINY, folder=half_way))
    assert_same(half_way, trained)


def test_with_nothing_whole_left_it_says_what_to_do(half_way, capsys):
    for name in ("checkpoint", "previous"):
        (half_way / "checkpoints" / f"{name}.zip").write_bytes(b"PK")
    assert main([*FLAGS, "--folder", str(half_way)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"{half_way}/checkpoints/checkpoint.zip" in error
    assert f"Delete {half_way}/checkpoints to begin anew" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2, "version": "9.9"}, ["9.9", "format 2", "upgrade"]),
        ({"format": "two"}, ["cannot be read"]),
        ({"name": "../../elsewhere"}, ["../../elsewhere"]),
        ({"curriculum": {"levels": 3}}, ["does not hold what a training goes on from"]),
    ],
)
def test_a_checkpoint_of_another_version_or_hand_is_refused(changes, words, stopped, tmp_path, capsys):
    checkpoint = tmp_path / "checkpoints" / "checkpoint.zip"
    checkpoint.parent.mkdir()
    edited(stopped / "checkpoints" / "checkpoint.zip", checkpoint, **changes)
    error = refused(tmp_path, capsys)
    assert all(word in error for word in [str(checkpoint), *words])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-worlds", "3"], ["num_worlds=3", "4 lanes", "2"]),
        (["--num-agents", "3", "--batch-size", "24"], ["num_agents=3"]),
        (["--scenario", "circle"], ["scenario='circle'", "'open'"]),
        (["--normalize-obs"], ["normalize_obs=True"]),
        (["--seed", "1"], ["seed=1"]),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(flags, words, half_way, capsys):
    error = refused(half_way, capsys, *flags)
    assert all(word in error for word in [*words, "checkpoint.zip", "--folder"])
    assert (half_way / "checkpoints" / "checkpoint.zip").exists()


def test_a_model_is_no_checkpoint(trained, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained / "models" / "swarm_1.zip", tmp_path / "checkpoints" / "checkpoint.zip")
    assert "--base-model" in refused(tmp_path, capsys)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_no_pickle_of_a_zip_is_run(stopped, tmp_path, capsys):
    trace, source = tmp_path / "trace", stopped / "checkpoints" / "checkpoint.zip"
    (tmp_path / "checkpoints").mkdir()

    def in_data(members):
        data = json.loads(members["data"])
        trap = {":type:": "dict", ":serialized:": __import__("base64").b64encode(pickle.dumps(Trap(trace))).decode()}
        members["data"] = json.dumps(data | dict.fromkeys(data, trap)).encode()

    def in_weights(name, **kwargs):
        def change(members):
            buffer = io.BytesIO()
            th.save({"lstm_actor.weight_ih_l0": th.zeros(32, 36), "x": Trap(trace)}, buffer, **kwargs)
            members[name] = buffer.getvalue()

        return change

    def plain_pickle(members):
        members["policy.pth"] = pickle.dumps(Trap(trace))

    pickle.loads(pickle.dumps(Trap(trace)))
    assert trace.exists(), "the trap does not work"
    trace.rmdir()
    harmless = rewritten(source, tmp_path / "data.zip", in_data)
    load_policy(harmless)
    shutil.copy(harmless, tmp_path / "checkpoints" / "checkpoint.zip")
    assert main([*FLAGS, "--folder", str(tmp_path)]) == 0
    for change in (
        in_weights("policy.pth"),
        in_weights("policy.optimizer.pth"),
        in_weights("policy.pth", _use_new_zipfile_serialization=False),
        plain_pickle,
    ):
        path = rewritten(source, tmp_path / "weights.zip", change)
        with pytest.raises(CheckpointError, match="refused"):
            load_policy(path)
        assert "weights_only" not in refused(tmp_path / "other", capsys, "--base-model", str(path))
    assert not trace.exists()


def test_a_checkpoint_of_a_newer_version_is_left_where_it_is(half_way, capsys):
    path = half_way / "checkpoints" / "checkpoint.zip"
    edited(path, path, format=99)
    before = path.read_bytes()
    assert main([*FLAGS, "--folder", str(half_way)]) == 2
    assert "in format 99" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"config": [1]}, {"env": {"params": [1]}}, {"config": {"normalize_obs": True}}, {"step": "x"}]
)
def test_a_description_of_nonsense_is_one_line(change, trained, tmp_path, capsys):
    path = edited(trained / "models" / "swarm_1.zip", tmp_path / "odd.zip", **change)
    assert evaluate_main([str(path), "--episodes", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
