"""What `import keras_attention` does, seen from processes that do nothing else."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_attention
from keras_attention import CoordAttention, grouped, image_input

PACKAGE = pathlib.Path(keras_attention.__file__).parent
# attributes, imported on first use
LAZY = ("data", "mobile", "models", "training", "weights")
NEEDED = {"keras", "keras_attention", "numpy"}


def python(code, *arguments):
    """Runs code in a new process and returns what it prints, read as JSON."""
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGE.parent),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_imports_keras_numpy_and_the_standard_library_only():
    # TensorFlow is there already, as Keras' backend: what counts is who asks for what.
    code = """
import builtins, json, sys
import keras
before, asked, real = set(sys.modules), set(), builtins.__import__

def spy(name, globals=None, locals=None, fromlist=(), level=0):
    if (globals or {}).get("__name__", "").split(".")[0] == "keras_attention":
        asked.add(name.split(".")[0])
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = spy
import keras_attention
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
allowed = set(sys.stdlib_module_names)
print(json.dumps([sorted(asked - allowed), sorted(loaded - allowed)]))
"""
    asked, loaded = python(code)
    assert set(asked) == NEEDED
    assert set(loaded) <= NEEDED


def test_files_load_and_submodules_resolve_after_the_import_alone(tmp_path):
    x = image_input.make_input((6, 6, 8))
    attention = CoordAttention(name="coord")
    blocks = keras.layers.Conv2D(4, 1, kernel_constraint=grouped.BlockDiagonal(2))
    model = keras.Model(x, blocks(attention(x)))
    for variable in model.trainable_weights:
        variable.assign(keras.random.normal(variable.shape, seed=variable.shape[-1]))
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(0, 1, (2, 6, 6, 8)).astype("float32")
    np.savez(tmp_path / "data.npz", x=images, y=model(images))
    code = """
import json, sys
import keras_attention
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
y = model(data["x"])
print(json.dumps([
    float(np.abs(y - data["y"]).max() / np.abs(data["y"]).max()),
    float(np.abs(data["y"]).max()),
    keras_attention.image_input.input_range_of(model),
    model.layers[-1].kernel_constraint.groups,
    [getattr(keras_attention, name).__name__ for name in sys.argv[3:]],
]))
"""
    paths = tmp_path / "model.keras", tmp_path / "data.npz"
    difference, largest, input_range, groups, names = python(code, *paths, *LAZY)
    assert difference <= 1e-6  # the same kernels on the same numbers
    assert largest > 0.1
    assert (tuple(input_range), groups) == (image_input.BYTE_RANGE, 2)
    assert names == [f"keras_attention.{name}" for name in LAZY]
    assert set(LAZY) <= set(dir(keras_attention))


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="'keras_attention' has no attribute 'x'"):
        keras_attention.x  # noqa: B018


def test_public_names():
    for name in keras_attention.__all__:
        assert getattr(keras_attention, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", keras_attention.__version__)
    # setuptools reads the version without importing the package
    assert f'__version__ = "{keras_attention.__version__}"' in (
        PACKAGE / "__init__.py"
    ).read_text("utf-8")


def private_keras(path):
    """Yields the line numbers where a module reaches into `keras.src`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute | ast.Constant):
            names = [ast.unparse(node).strip("'\"")]
        if any(re.match(r"keras\.src(\.|$)", name) for name in names):
            yield node.lineno


def test_nothing_imports_private_keras(tmp_path):
    found = {
        str(path.relative_to(PACKAGE)): list(private_keras(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert len(found) > 5
    assert {path: lines for path, lines in found.items() if lines} == {}

    sample = tmp_path / "sample.py"
    sample.write_text(
        "import keras.src\n"
        "from keras.src import ops\n"
        "from keras import src\n"
        "layers = keras.src.layers\n"
        "importlib.import_module('keras.src.ops')\n"
        "import keras\n"
    )
    assert sorted(set(private_keras(sample))) == [1, 2, 3, 4, 5]
