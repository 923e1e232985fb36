"""The dashboard: V2's table with colours for good and bad, and plain lines where there is no terminal."""

import io
import math

import pytest
from rich.console import Console

from trainers.track.dashboard import BAD, FAIR, GOOD, ROWS, Dashboard, above, below, falling

FIGURES = {
    "train/fps": 1234.0, "loss/total": 0.5, "loss/value": 0.25, "loss/explained_variance": 0.8, "loss/entropy": 2.5,
    "loss/approx_kl": 0.03, "loss/clip_fraction": 0.4, "train/std": 0.9, "env/goal_reached_rate": 0.95,
}  # fmt: skip
COLOURS = {GOOD: "\x1b[32m", FAIR: "\x1b[33m", BAD: "\x1b[31m"}


def drawn(*updates, width=80):
    """What a terminal shows last, with its colours."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system="standard")
    dashboard = Dashboard(1_000_000, title="swarm_1", console=console)
    for figures in updates:
        dashboard.show(figures)
    with console.capture() as captured:
        console.print(dashboard.picture())
    return captured.get()


def row(picture, label):
    (line,) = (line for line in picture.splitlines() if f" {label} " in line)
    return line


def test_a_figure_is_good_fair_or_bad():
    assert [above(0.7, 0.3)(value, math.nan) for value in (0.7, 0.69, 0.29)] == [GOOD, FAIR, BAD]
    assert [below(0.02, 0.05)(value, math.nan) for value in (0.019, 0.02, 0.05)] == [GOOD, FAIR, BAD]
    assert [falling(value, 1.0) for value in (0.9, 1.0, 1.1, 1.3)] == [GOOD, GOOD, FAIR, BAD]
    assert falling(5.0, math.nan) == GOOD
    assert [falling(value, -1.0) for value in (-1.1, -0.9, -0.7)] == [GOOD, FAIR, BAD]


def test_the_table_is_that_of_v2():
    labels = ["fps", "loss", "value_loss", "explained_variance", "entropy_loss", "approx_kl", "clip_fraction", "std", "success"]  # fmt: skip
    assert [entry.label for entry in ROWS.values()] == labels
    picture = drawn(FIGURES)
    assert all(row(picture, label) for label in labels)
    assert "1,234" in row(picture, "fps")
    assert "-2.5000" in row(picture, "entropy_loss")
    assert "95.0%" in row(picture, "success")
    assert "…" not in picture


@pytest.mark.parametrize(
    ("label", "colour"), [("explained_variance", GOOD), ("approx_kl", FAIR), ("clip_fraction", BAD), ("success", GOOD)]
)
def test_values_have_their_colours(label, colour):
    assert COLOURS[colour] in row(drawn(FIGURES), label)


def test_a_loss_is_judged_by_the_one_before():
    assert COLOURS[GOOD] in row(drawn({"loss/total": 2.0}, {"loss/total": 1.0}), "loss")
    assert COLOURS[BAD] in row(drawn({"loss/total": 1.0}, {"train/std": 1.0}, {"loss/total": 2.0}), "loss")


def test_figures_that_are_not_finite_or_not_of_the_table_leave_it_as_it_was():
    picture = drawn({"loss/total": 2.0}, {"loss/total": math.nan, "system/cpu_memory": 1.0})
    assert "2.0000" in row(picture, "loss")
    assert "nan" not in picture
    assert "cpu" not in picture


def test_on_a_terminal_the_bar_and_table_stay_on_the_screen_with_steps_speed_and_time_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40, color_system=None)
    with Dashboard(1000, 200, title="swarm_1: 10 robots", console=console) as dashboard:
        dashboard.show(FIGURES)
        dashboard.update(500, fps=1234.5, success=0.5, episode_return=1.25)
        console.print("a message")
    last = console.file.getvalue().rpartition("a message")[2]
    assert "500/1k  1.23k fps  success 50%  return 1.25" in last
    assert "eta" in last
    assert "swarm_1: 10 robots" in last
    assert "clip_fraction" in last


def test_without_a_terminal_there_are_plain_lines_alone():
    console = Console(file=io.StringIO())
    with Dashboard(1000, interval=0, console=console) as dashboard:
        dashboard.show(FIGURES)
        dashboard.update(500, fps=1234.5, success=0.5)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith(" 50%  500/1k  1.23k fps  success 50%")
