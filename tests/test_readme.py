"""README.md: its code runs, its commands exist, its links lead somewhere."""

import re
import runpy

import pytest
from helpers.commands import ROOT, check_command, code_blocks, flags_in, prose_of, run_help, split_commands

from entropy_env.scenarios import SCENARIOS

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
PROSE = prose_of(TEXT)
BLOCKS = code_blocks(TEXT)
PYTHON = [pytest.param(code, line, id=f"line {line + 1}") for _, code, line in code_blocks(TEXT, "python")]
SHELL = [code for _, code, _ in code_blocks(TEXT, "console", "bash", "sh")]
INLINE = re.findall(r"`((?:python|make|pip) [^`]+)`", PROSE)
COMMANDS = [command for text in [*SHELL, *INLINE] for command in split_commands(text)]
OURS = "https://raw.githubusercontent.com/entropy-env/entropy-env/main/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all blocks run, so that a later one finds the files of an earlier one."""
    return tmp_path_factory.mktemp("readme")


def test_the_readme_shows_code_and_commands():
    assert README.exists()
    assert PYTHON
    assert COMMANDS


def test_every_block_is_looked_at_or_is_no_code():
    assert TEXT.count("```") == 2 * len(BLOCKS), "a fence is indented, unclosed or has more than a language"
    assert {language for language, _, _ in BLOCKS} <= {"python", "console", "bash", "sh", "text", "yaml", "bibtex"}


@pytest.mark.parametrize(("code", "line"), PYTHON)
def test_python_blocks_run(code, line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script = folder / f"line_{line + 1}.py"
    script.write_text("\n" * line + code, encoding="utf-8")  # an error's line number is that of the README
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_exist_and_know_their_flags(command):
    check_command(command)


def test_flags_in_prose_are_those_of_a_command():
    modules = {word for command in COMMANDS for word in command if word.startswith(("trainers.", "benchmarks."))}
    known = set().union(*(flags_in(run_help(module)) for module in modules))
    assert flags_in(PROSE) <= known


def test_links_lead_to_files():
    targets = [target.removeprefix(OURS).split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", PROSE)]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_every_scenario_is_named():
    assert [name for name in SCENARIOS if f"`{name}`" not in PROSE] == []


@pytest.mark.parametrize(
    "wrong",
    [
        "make trian",
        "make train RUNS=runs/other",
        "python -m trainers.jax_pop",
        "cd x && python -m trainers.jax_ppo --scenari open",
        "python examples/random_rollout.py --agents=3",
        "pip install -c constraint.txt .",
        "pip install '.[torch]'",
        "entropy-train --scenario open",
    ],
)
def test_a_wrong_command_is_found(wrong):
    with pytest.raises((AssertionError, FileNotFoundError)):
        for command in split_commands(f"# by hand\n$ {wrong}"):
            check_command(command)
