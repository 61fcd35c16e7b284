"""Makes the virtual environment of `make`, unless a finished one is there.

    python3 tools/make_venv.py         # .venv, with this Python if it fits
    python3 tools/make_venv.py 3.12    # .venv-3.12, with that Python
    python3 tools/make_venv.py jax     # .venv-jax, Keras on JAX and no TensorFlow

Two stamps in the environment, each written last, say what was finished: the locked
packages, for this folder and this Python, and the editable install of the project. A
stale first stamp means a new environment, a stale second one only a new editable
install; so an interrupted or moved environment is never taken for a good one.

Runs on any Python 3.7 or later, to be able to say which one it needs.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import time

SUPPORTED = ("3.11", "3.12", "3.13")
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
LOCK = os.path.join(ROOT, "requirements.txt")
BACKENDS = ("jax", "torch")
PROJECT_FILES = [os.path.join(ROOT, name) for name in ("pyproject.toml", "setup.py")]

# Fails where `python -m venv` could not install pip (Debian without python3-venv). In
# a virtual environment it names the Python that this was made from.
PROBE = (
    "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], "
    "getattr(sys, '_base_executable', sys.executable))"
)


def probe(executable):
    """Returns (version, path of the interpreter), or None if it can't make a venv."""
    try:
        output = subprocess.run(
            [executable, "-c", PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    version, path = output.decode().strip().split(" ", 1)
    return version, path


def candidates(versions):
    """Yields the interpreters to try: this one, those on PATH, those of pyenv."""
    yield sys.executable
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for version in versions:
        yield shutil.which("python" + version) or ""
        pattern = os.path.join(pyenv, "versions", version + ".*", "bin", "python")
        yield from sorted(glob.glob(pattern))


def find_python(wanted=None):
    """Finds an interpreter that can make a virtual environment.

    Args:
        wanted: "3.12" for that version; None for the running Python if it is one of
            `SUPPORTED`, else for any of these.

    Returns:
        Version and path.

    Raises:
        SystemExit: there is none.
    """
    versions = (wanted,) if wanted else SUPPORTED
    for executable in candidates(versions):
        found = probe(executable)
        if found and found[0] in versions:
            return found
    running = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"error: needs Python {' or '.join(versions)} with its venv module (Debian: "
        f"python3-venv). {sys.executable} is Python {running}, and neither PATH nor "
        "pyenv has another that fits. `make PYTHON=/path/to/python ...` names one."
    )


def checksum(paths):
    """Returns one SHA-256 over the files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def holds(stamp, text):
    """Tells whether the stamp is there with just this text."""
    try:
        with open(stamp) as file:
            return file.read() == text
    except OSError:
        return False


def write(stamp, text):
    """Writes the stamp."""
    with open(stamp, "w") as file:
        file.write(text)


def show(text, end=""):
    """Shows progress: on a terminal each text takes the last one's place."""
    if sys.stdout.isatty():
        print("\r" + text.ljust(70), end=end, flush=True)
    elif end:
        print(text, flush=True)


def pip(python, title, *arguments):
    """Runs pip install; what it said is shown only if it fails."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--no-build-isolation", *arguments]
    said = []
    found = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:
            said.append(line.decode(errors="replace"))
            if said[-1].startswith("Collecting "):
                found += 1
                show(f"{title}: {found} found")
            elif said[-1].startswith("Installing collected"):
                show(f"{title}: installing")
    if process.returncode:
        sys.exit("".join(["\n", *said, f"error: {title} failed, see above"]))


def lock_of(backend=None):
    """Returns the path of a backend's locked packages; None: of TensorFlow's."""
    return os.path.join(ROOT, f"requirements-{backend}.txt") if backend else LOCK


def make_venv(wanted=None):
    """Brings .venv, or .venv-`wanted`, a Python or a backend, up to date."""
    backend = wanted if wanted in BACKENDS else None
    lock = lock_of(backend)
    version, base = find_python(None if backend else wanted)
    name = f".venv-{wanted}" if wanted else ".venv"
    folder = os.path.join(ROOT, name)
    python = os.path.join(folder, "bin", "python")
    packages_stamp = os.path.join(folder, ".packages")
    packages = f"Python {version} in {folder}, lock {checksum([lock])}\n"
    project_stamp = os.path.join(folder, ".project")
    project = f"editable {ROOT}, {checksum(PROJECT_FILES)}\n"

    start = time.monotonic()
    found = probe(python)
    if not (found and found[0] == version and holds(packages_stamp, packages)):
        show(f"{name}: new, Python {version}; a few minutes for its packages", "\n")
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        subprocess.run([base, "-m", "venv", folder], check=True)
        # First the locked setuptools: an sdist in the lock is built with that and with
        # no other (--no-build-isolation), today and in a year.
        with open(lock) as file:
            pins = [line.strip() for line in file if line.startswith("setuptools==")]
        pip(python, f"{name}: setuptools", *pins)
        pip(python, f"{name}: packages", "--use-pep517", "-r", lock)
        write(packages_stamp, packages)
    if not holds(project_stamp, project):
        pip(python, f"{name}: keras_attention", "--no-deps", "-e", ROOT)
        write(project_stamp, project)
        show(f"{name}: ready after {time.monotonic() - start:.0f} s", "\n")


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choices = SUPPORTED + BACKENDS
    parser.add_argument("wanted", nargs="?", choices=choices, metavar="X.Y|BACKEND")
    try:
        make_venv(parser.parse_args().wanted)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the next make starts anew")


if __name__ == "__main__":
    main()
