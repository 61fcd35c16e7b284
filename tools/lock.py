"""Writes the exact version of every package that `make` installs: requirements*.txt.

The newest versions that pyproject.toml allows, with the test extra and whatever these
ask for in turn, as pip resolves them on the oldest supported Python: a package drops
an old Python before it drops a new one, so the newer ones take the same list. They are
asked, where they are found, before the file is written.

The environments of the other backends, requirements-jax.txt and requirements-torch.txt,
hold what the layers and their tests need, at the same versions, and no TensorFlow.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from make_venv import LOCK, ROOT, SUPPORTED, find_python, lock_of

HEADER = """\
# What `make` installs: every package of pyproject.toml and its test extra, with all
# that these ask for. Written by `make lock` for Linux on x86-64, Python {}.
"""
BACKEND_HEADER = """\
# What `make test-backends` installs for Keras on {}: the packages that the layers and
# their tests need, at the versions of requirements.txt. Written by `make lock`.
"""

# What the layers ask for, of pyproject.toml; and each backend.
CORE = ("keras", "numpy", "setuptools")
BACKEND_REQUIREMENTS = {"jax": "jax", "torch": "torch==2.13.0"}


def resolve(version: str, requirements: list[str], *options: str) -> list[str]:
    """Asks pip what it would install.

    Args:
        version: the Python to ask, as "3.11".
        requirements: PEP 508 requirements.
        options: further arguments for pip.

    Returns:
        Sorted pins, "name==version".
    """
    print(f"Python {version}: resolving", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([find_python(version)[1], "-m", "venv", folder], check=True)
        report = Path(folder, "report.json")
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "install", "-qq"]
        pip += ["--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, *options, *requirements], check=True)
        packages = [
            item["metadata"] for item in json.loads(report.read_text())["install"]
        ]
    # One spelling of a name, as PEP 503 has it; and a build's own part of a version,
    # as in 2.13.0+cpu, is not to be had everywhere.
    return sorted(
        f"{re.sub('[-_.]+', '-', package['name']).lower()}"
        f"=={package['version'].partition('+')[0]}"
        for package in packages
    )


def lock_backend(backend: str, requirements: list[str]) -> None:
    """Writes the lock of a backend's environment; requirements.txt must be there.

    Only the oldest Python is asked: what PyTorch asks for depends on its build.
    """
    requirements = [BACKEND_REQUIREMENTS[backend], *requirements]
    pins = resolve(SUPPORTED[0], requirements, "--constraint", LOCK)
    path = Path(lock_of(backend))
    path.write_text(BACKEND_HEADER.format(backend) + "\n".join(pins) + "\n")
    print(f"{len(pins)} packages locked in {path}")


def main() -> None:
    """Resolves on the oldest Python, checks the others, writes the file."""
    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]
    test = project["optional-dependencies"]["test"]
    requirements = project["dependencies"] + test
    oldest, *newer = SUPPORTED
    pins = resolve(oldest, requirements)
    for version in newer:
        if resolve(version, pins) != pins:
            sys.exit(f"error: Python {version} needs packages that {oldest} does not")
    Path(LOCK).write_text(HEADER.format(", ".join(SUPPORTED)) + "\n".join(pins) + "\n")
    print(f"{len(pins)} packages locked in {LOCK}")
    needed = [r for r in requirements if re.match(r"[\w-]+", r)[0] in CORE]
    needed += [r for r in test if not r.startswith(("jax", "ruff"))]
    for backend in BACKEND_REQUIREMENTS:
        lock_backend(backend, needed)


if __name__ == "__main__":
    main()
