"""examples/clients.md: its code runs where the library is installed, its commands exist, its links lead somewhere."""

import ast
import importlib.util
import os
import subprocess
import sys

import pytest
from helpers.commands import ROOT, broken_links, check_command, code_blocks, split_commands
from helpers.recipes import PAGE, SECTIONS, TEXT

PYTHON = [
    pytest.param(code, id=f"{title} line {line + 1}")
    for title, body in SECTIONS.items()
    for _, code, line in code_blocks(body, "python")
]
COMMANDS = [command for _, code, _ in code_blocks(TEXT, "console") for command in split_commands(code)]


def imported(code):
    """The packages that code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return sorted({name.split(".")[0] for name in names})


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(code, tmp_path):
    missing = [name for name in imported(code) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script.name]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | quiet, timeout=600)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_says_what_it_was_tested_with_and_how_it_is_installed(title):
    assert SECTIONS[title].lstrip().startswith("Tested with ")
    assert "pip install" in SECTIONS[title]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_exist_and_know_their_flags(command):
    check_command(command)


def test_links_lead_to_files_and_headings():
    assert broken_links(PAGE) == []
