"""Writes requirements.txt: the exact version of every package that `make` installs.

The newest versions that pyproject.toml allows, with the test extra and whatever these
ask for in turn, as pip resolves them on the oldest supported Python: a package drops
an old Python before it drops a new one, so the newer ones take the same list. They are
asked, where they are found, before the file is written.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from make_venv import LOCK, ROOT, SUPPORTED, find_python

HEADER = """\
# What `make` installs: every package of pyproject.toml and its test extra, with all
# that these ask for. Written by `make lock` for Linux on x86-64, Python {}.
"""


def resolve(version: str, requirements: list[str]) -> list[str]:
    """Asks pip what it would install.

    Args:
        version: the Python to ask, as "3.11".
        requirements: PEP 508 requirements.

    Returns:
        Sorted pins, "name==version".
    """
    print(f"Python {version}: resolving", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([find_python(version)[1], "-m", "venv", folder], check=True)
        report = Path(folder, "report.json")
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "install", "-qq"]
        pip += ["--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, *requirements], check=True)
        packages = [
            item["metadata"] for item in json.loads(report.read_text())["install"]
        ]
    # One spelling of a name, as PEP 503 has it.
    return sorted(
        f"{re.sub('[-_.]+', '-', package['name']).lower()}=={package['version']}"
        for package in packages
    )


def main() -> None:
    """Resolves on the oldest Python, checks the others, writes the file."""
    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["test"]
    oldest, *newer = SUPPORTED
    pins = resolve(oldest, requirements)
    for version in newer:
        if resolve(version, pins) != pins:
            sys.exit(f"error: Python {version} needs packages that {oldest} does not")
    Path(LOCK).write_text(HEADER.format(", ".join(SUPPORTED)) + "\n".join(pins) + "\n")
    print(f"{len(pins)} packages locked in {LOCK}")


if __name__ == "__main__":
    main()
