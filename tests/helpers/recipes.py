"""The sections of examples/clients.md and their code."""

from __future__ import annotations

import re
import runpy

from helpers.commands import ROOT, code_blocks

PAGE = ROOT / "examples" / "clients.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def run_recipe(title, folder, long, short):
    """Run the Python of the section of that title, with `short` in place of `long`, as a script in the folder."""
    code = "\n".join(code for _, code, _ in code_blocks(SECTIONS[title], "python"))
    assert long in code
    script = folder / "recipe.py"
    script.write_text(code.replace(long, short), encoding="utf-8")
    runpy.run_path(str(script))
