"""The examples run, small, and their docstrings say how."""

import ast
import collections
import importlib.util
import re

import imageio.v3 as iio
import numpy as np
import pygame
import pytest
from helpers.commands import ROOT, check_command, split_commands

from entropy_env.render import Renderer

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GIF, MP4 = b"GIF89a", b"ftyp"


def load(name):
    """The module of an example, which need not be on the path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_docstring_shows_commands_that_exist(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()), clean=False)
    shown = [line.strip() for line in docstring.splitlines() if line.startswith("    ")]
    assert shown
    for line in shown:
        assert line.startswith(f"python examples/{path.name}")
        for command in split_commands(line):
            check_command(command)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_only_what_pip_installs(path):
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    repository = {file.stem for folder in (ROOT, ROOT / "tests", ROOT / "examples") for file in folder.iterdir()}
    assert imported & repository <= {"entropy_env", "trainers"}


def test_random_rollout_sums_up_every_episode(capsys):
    load("random_rollout").main(num_agents=2, scenario="curriculum", episodes=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["episode 0", "episode 1"]
    assert all("of 2 arrived" in line for line in lines)


def test_functional_rollout_measures_and_sweeps(capsys):
    load("functional_rollout").main(num_agents=2, num_envs=8, num_steps=4)
    printed = capsys.readouterr().out
    assert "agent steps/s" in printed
    assert printed.count("m/s  ") == 4


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of `train_and_evaluate`."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    load("train_and_evaluate").main(num_agents=2, num_envs=8, total_steps=512, episodes=2, run_dir=folder)
    return folder


def test_train_and_evaluate_leaves_a_run(run_dir):
    assert (run_dir / "config.yaml").exists()
    assert any((run_dir / "checkpoints").iterdir())


def test_render_episode_draws_without_a_policy(tmp_path, capsys):
    out = tmp_path / "episode.mp4"
    load("render_episode").main(scenario="curriculum", num_agents=2, out=out)
    assert MP4 in out.read_bytes()[:16]
    assert "2 of 2 robots arrived" in capsys.readouterr().out


def test_render_episode_draws_an_arena_of_the_size_given(tmp_path, capsys):
    load("render_episode").main(num_agents=3, size=(3.0, 1.0), out=tmp_path / "small.mp4")
    assert "3 robots arrived" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at most 12 fit"):
        load("render_episode").main(num_agents=13, size=(3.0, 1.0), out=tmp_path / "full.mp4")


def test_render_episode_draws_the_policy_of_a_run(tmp_path, run_dir, capsys):
    out = tmp_path / "episode.gif"
    load("render_episode").main(scenario="curriculum", run_dir=run_dir, out=out)
    assert out.read_bytes().startswith(GIF)
    assert "of 2 robots arrived" in capsys.readouterr().out


def test_render_worlds_draws_policies_beside_each_other(tmp_path, run_dir, capsys):
    out = tmp_path / "worlds.gif"
    load("render_worlds").main((run_dir,) * 3, best_of=2, speed=50, size=(120, 90), out=out)
    assert capsys.readouterr().out.count("of 2 robots arrived in") == 3
    frames = iio.imread(out, index=None)
    assert len(frames) > 1
    height, width = frames[0].shape[:2]
    assert (frames[0][height // 2 :, width // 2 :, :3] == 255).all()  # where a fourth world would be
    assert not (frames[0][height // 2 :, : width // 2, :3] == 255).all()


class Driver:
    """Holds a key down for some frames, then lets go and presses another."""

    def __init__(self, monkeypatch, held, frames, last):
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        self.states, self._frames, self._held, self._last = [], frames, held, last
        draw = Renderer.draw

        def watched(renderer, state, *args, **kwargs):
            self.states.append(state)
            if len(self.states) == frames and last == pygame.QUIT:
                pygame.event.post(pygame.event.Event(pygame.QUIT))
            return draw(renderer, state, *args, **kwargs)

        monkeypatch.setattr(Renderer, "draw", watched)
        monkeypatch.setattr(pygame.key, "get_pressed", self.get_pressed)

    def get_pressed(self):
        key = self._held if len(self.states) < self._frames else self._last
        return collections.defaultdict(bool, {key: True})

    def moved(self):
        """m along the first heading, and rad to the left."""
        first, last = self.states[0], self.states[-1]
        cos, sin = np.cos(first.heading[0]), np.sin(first.heading[0])
        return (last.position[0] - first.position[0]) @ np.array([cos, sin]), last.heading[0] - first.heading[0]


@pytest.mark.parametrize(
    ("key", "ahead", "left"),
    [(pygame.K_w, 1, 0), (pygame.K_DOWN, -1, 0), (pygame.K_LEFT, 0, 1), (pygame.K_d, 0, -1)],
    ids=["w", "down", "left", "d"],
)
def test_the_driver_steers(key, ahead, left, monkeypatch):
    driver = Driver(monkeypatch, key, 4, pygame.K_ESCAPE)
    load("drive").main(num_agents=2)
    assert len(driver.states) == 4
    distance, turn = driver.moved()
    assert np.sign(np.round(distance, 3)) == ahead
    assert np.sign(np.round(np.sin(turn), 3)) == left


def test_closing_the_window_ends_the_drive(monkeypatch):
    driver = Driver(monkeypatch, pygame.K_UP, 3, pygame.QUIT)
    load("drive").main(num_agents=2)
    assert len(driver.states) == 3


def test_driving_without_a_display_says_so(monkeypatch):
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "none such")
    with pytest.raises(SystemExit, match="needs a display"):
        load("drive").main()
