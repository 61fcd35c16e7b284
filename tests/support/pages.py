"""The README and the pages of docs/."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def docs(name):
    """Returns the path of a page of docs/."""
    return ROOT / "docs" / f"{name}.md"


def blocks(path, language):
    """Returns the blocks of code in that language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
