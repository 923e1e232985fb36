"""Code, commands and links in documentation, the latter two held against what is there."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHER_PROGRAMS = {
    "cd",
    "git",
    "pytest",
    "ruff",
    "mypy",
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "source",
    "nvidia-smi",
}


def code_blocks(text, *languages):
    """(language, code, lines before it) of every fenced block of Markdown, or of those in some languages."""
    blocks = [(match[1], match[2], text[: match.start(2)].count("\n")) for match in FENCE.finditer(text)]
    return [block for block in blocks if not languages or block[0] in languages]


def prose_of(text):
    """Markdown without its fenced blocks."""
    return FENCE.sub("", text)


def broken_links(page):
    """Targets of the links in a Markdown file that lead to no file, or to no heading of a Markdown file."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page.read_text(encoding="utf-8")))
    return [target for target in targets if "://" not in target and not leads_somewhere(page, target)]


def leads_somewhere(page, target):
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not anchor or anchor in anchors_of(path.read_text(encoding="utf-8")))


def anchors_of(text):
    """How GitHub names the headings of Markdown in links."""
    headings = re.findall(r"^#+ (.+)$", prose_of(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def split_commands(text):
    """The commands in shell text, as lists of words; of a transcript only what follows a prompt."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
    for line in typed:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        command = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                yield from [command] if command else []
                command = []
            else:
                command.append(word)


def check_command(words):
    """AssertionError where a command names a module, script, flag, target, extra or file that does not exist."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = Path(words[0]).name
    match [re.sub(r"^python[\d.]*$", "python", program), *words[1:]]:
        case ["make", *targets]:
            check_targets(targets)
        case ["pip", *rest] | ["python", "-m", "pip", *rest]:
            check_pip(rest)
        case ["python", "-c", code]:
            compile(code, "python -c", "exec")
        case ["python", "-m", module, *rest]:
            assert importlib.util.find_spec(module), f"there is no module {module}"
            if (ROOT / module.split(".")[0]).is_dir():
                check_flags(rest, run_help(module))
        case ["python", script, *rest] if script.endswith(".py"):
            check_flags(rest, run_help(script))
        case [name, *_]:
            assert name in OTHER_PROGRAMS, f"nothing here checks what {name!r} is told"


def check_targets(words):
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        pattern = rf"^{word.split('=')[0]}\s*[?:]?=" if "=" in word else rf"^{re.escape(word)}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile has no {word}"


def check_pip(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for before, word in zip(["", *words], words, strict=False):
        if before in ("-c", "-r"):
            assert (ROOT / word).exists(), f"there is no {word}"
        elif match := re.fullmatch(r"(?:\.|entropy[-_]env)\[(.+)\].*", word):
            assert set(match[1].split(",")) <= extras.keys(), f"{word}: the extras are {', '.join(extras)}"


def check_flags(words, help_text):
    known = flags_in(help_text)
    for word in words:
        flag = word.split("=")[0]
        assert not flag.startswith("--") or flag in known, f"no {flag} among {', '.join(sorted(known))}"


def flags_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@functools.cache
def run_help(target):
    """What a module, or a script in the repository, prints when asked for help."""
    with (
        mock.patch.object(sys, "argv", [target, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        contextlib.redirect_stdout(io.StringIO()) as printed,
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # the module may have been imported before
        contextlib.suppress(SystemExit),
    ):
        if target.endswith(".py"):
            runpy.run_path(str(ROOT / target), run_name="__main__")
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
    assert printed.getvalue().startswith("usage"), f"{target} has no --help"
    return printed.getvalue()
