"""The READMEs: their code runs, their commands exist, their links lead somewhere."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from helpers.commands import (
    ROOT,
    broken_links,
    check_command,
    code_blocks,
    flags_in,
    prose_of,
    run_help,
    split_commands,
)

from entropy_env.scenarios import SCENARIOS

PAGES = [
    "README.md", "benchmarks/README.md", "entropy_env/README.md", "trainers/README.md", "trainers/sb3/README.md",
]  # fmt: skip
EXTEND = "## Extend it\n"  # whose blocks add to registries, so they run in a process of their own
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


def in_extend(text, line):
    """Whether a line of a page stands under its heading `Extend it`."""
    before = "".join(text.splitlines(keepends=True)[:line])
    return EXTEND in before and "\n## " not in before.split(EXTEND)[1]


PYTHON = [
    pytest.param(page, code, line, id=f"{page} line {line + 1}")
    for page, text in TEXTS.items()
    for _, code, line in code_blocks(text, "python")
    if not in_extend(text, line)
]


def commands_of(page):
    """All commands that a page shows, in blocks and within sentences, as lists of words."""
    shell = [code for _, code, _ in code_blocks(TEXTS[page], "console", "bash", "sh")]
    inline = re.findall(r"`((?:python|make|pip) [^`]+)`", prose_of(TEXTS[page]))
    return [command for text in [*shell, *inline] for command in split_commands(text)]


COMMANDS = [pytest.param(command, id=f"{page} {' '.join(command)}") for page in PAGES for command in commands_of(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all blocks run, so that a later one finds the files of an earlier one."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_found_from_the_first_one(page):
    assert page == "README.md" or f"]({page}" in TEXTS["README.md"]


def test_the_first_page_is_short_and_shows_code_and_commands():
    assert len(TEXTS["README.md"].splitlines()) <= 150
    assert code_blocks(TEXTS["README.md"], "python")
    assert commands_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_looked_at_or_is_no_code(page):
    blocks = code_blocks(TEXTS[page])
    assert TEXTS[page].count("```") == 2 * len(blocks), "a fence is indented, unclosed or has more than a language"
    assert {language for language, _, _ in blocks} <= {"python", "console", "bash", "sh", "text", "yaml", "bibtex"}


@pytest.mark.parametrize(("page", "code", "line"), PYTHON)
def test_python_blocks_run(page, code, line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script = folder / f"{page.replace('/', '_')}_line_{line + 1}.py"
    script.write_text("\n" * line + code, encoding="utf-8")  # an error's line number is that of the page
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("page", ["entropy_env/README.md", "trainers/README.md"])
def test_extensions_run(page, folder):
    """One after the other in a new process."""
    blocks = [code for _, code, line in code_blocks(TEXTS[page], "python") if in_extend(TEXTS[page], line)]
    assert len(blocks) >= 2
    script = folder / f"{page.replace('/', '_')}_extend.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    subprocess.run([sys.executable, script], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist_and_know_their_flags(command):
    check_command(command)


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_prose_are_those_of_a_command(page):
    commands = commands_of(page)
    modules = {word for command in commands for word in command if word.startswith(("trainers.", "benchmarks."))}
    known = set().union(*(flags_in(run_help(module)) for module in modules))
    assert flags_in(prose_of(TEXTS[page])) <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    assert broken_links(ROOT / page) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One heading\n")
    page = tmp_path / "page.md"
    good, bad = ["other.md#one-heading", "#here", "https://a.b/c"], ["none.md", "other.md#two", "#there"]
    page.write_text("## `Here`\n" + "".join(f"[link]({target})\n" for target in good + bad))
    assert broken_links(page) == bad


def test_every_scenario_is_named():
    prose = prose_of(TEXTS["entropy_env/README.md"])
    assert [name for name in SCENARIOS if f"`{name}`" not in prose] == []


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
