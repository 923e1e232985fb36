"""Trainings that tests of recurrent PPO share."""

import contextlib
import dataclasses
import io
import shutil
import signal

import pytest
import torch as th
from helpers.lstm import TINY, collect, stop

from trainers.sb3_lstm import train


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums are rounded otherwise with more, and tests beside each other crawl."""
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@pytest.fixture(autouse=True)
def usual_signals():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished training, which tests must not change."""
    config = dataclasses.replace(TINY, folder=tmp_path_factory.mktemp("trained"))
    with contextlib.redirect_stdout(io.StringIO()):
        train(config)
    return config.folder


@pytest.fixture(scope="session")
def stopped(tmp_path_factory):
    """The folder of a training stopped at 224 of 256 steps, with two checkpoints, which tests must not change."""
    folder = tmp_path_factory.mktemp("stopped")
    with contextlib.redirect_stdout(io.StringIO()):
        stop(dataclasses.replace(TINY, folder=folder), after=7.5)
    return folder


@pytest.fixture
def half_way(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "half_way")


@pytest.fixture(scope="session")
def stock():
    return collect("MlpLstmPolicy")
