"""The .json beside a converted file: what an app must know that the file can't tell.

docs/file_formats.md describes every key.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import keras

from keras_attention import files
from keras_attention import graph as graphs
from keras_attention.mobile import litert

FORMAT = "keras-attention-mobile/tflite-1"

_PACKAGES = ("ai-edge-litert", "keras", "tensorflow", "tensorflow-model-optimization")


def path_of(target: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the .json that stands beside a .tflite file."""
    return pathlib.Path(target).with_suffix(".json")


def twin_of(target: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the uint8 twin that stands beside an int8 file."""
    target = pathlib.Path(target)
    return target.with_name(f"{target.stem}_uint8.tflite")


def describe(
    model: keras.Model,
    precision: str,
    labels: Sequence[str] | None,
    contents: Mapping[pathlib.Path, bytes],
) -> bytes:
    """Returns the text of the .json for converted files.

    The same model and versions give the same bytes: it holds no time and no folder.

    Args:
        model: what was converted; its inputs know what bytes stand for.
        precision: of the files.
        labels: class names in the order of the first output, or None.
        contents: the files by their paths, all of the same model.

    Returns:
        JSON in UTF-8.
    """
    import keras_attention

    described = [(path, data, litert.File(data)) for path, data in contents.items()]
    _, _, first = described[0]
    versions = {name: metadata.version(name) for name in _PACKAGES}
    content = {
        "format": FORMAT,
        "model": model.name,
        "precision": precision,
        "inputs": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "byte": _byte(graphs.input_layer(given)),
            }
            for given, tensor in zip(model.inputs, first.inputs, strict=True)
        ],
        "outputs": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "softmax": first.made_by(index) == "SOFTMAX",
            }
            for index, tensor in enumerate(first.outputs)
        ],
        "labels": None if labels is None else list(labels),
        "files": [
            {
                "name": path.name,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "inputs": [_grid(tensor) for tensor in file.inputs],
                "outputs": [_grid(tensor) for tensor in file.outputs],
            }
            for path, data, file in described
        ],
        "operators": first.operators,
        "versions": {"keras-attention-mobile": keras_attention.__version__} | versions,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _byte(layer: keras.Layer) -> dict[str, float] | None:
    """Returns what a byte of an image stands for: offset + scale * byte."""
    stored = getattr(layer, "input_range", None)
    if stored is None:
        return None
    low, high = stored
    return {"low": low, "high": high, "scale": (high - low) / 255, "offset": low}


def _grid(tensor: litert.Tensor) -> dict[str, Any]:
    fields = dataclasses.asdict(tensor)
    return {name: fields[name] for name in ("dtype", "scale", "zero_point")}


def require_own(target: pathlib.Path) -> None:
    """Checks that the .json beside `target` is absent or one that `convert` wrote.

    Raises:
        OSError: it is another file, which would be lost, or can't be written.
    """
    path = files.require_writable(path_of(target))
    if path.exists() and read(path) is None:
        raise FileExistsError(
            f"cannot write {path}: there is such a file already, and mobile.convert "
            "did not write it. Move it, or choose another name for the .tflite file."
        )


def stale_twin(target: pathlib.Path) -> pathlib.Path | None:
    """Returns the twin that an earlier conversion to `target` left, to be removed.

    A twin that the .json does not vouch for, by its digest, is somebody's own: it
    stays, with a warning.
    """
    twin, content = twin_of(target), read(path_of(target))
    if not twin.exists():
        return None
    known = {file["name"]: file["sha256"] for file in (content or {}).get("files", ())}
    if known.get(twin.name) == hashlib.sha256(twin.read_bytes()).hexdigest():
        return twin
    warnings.warn(
        f"{twin} stays as it is: it does not belong to {target.name} as converted now.",
        stacklevel=3,
    )
    return None


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns what `describe` wrote; None if there is nothing, or something else."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    return content if ours else None
