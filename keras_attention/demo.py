"""The demonstration: handwritten digits to a verified int8 file, with a report.

Every figure in the report is measured here, on the test images and the files that the
demonstration leaves, so that it can be checked and repeated by one command.
"""

import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from importlib import metadata

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_attention import data, files, mobile, models, report_html, training
from keras_attention.console import EpochProgress, working
from keras_attention.mobile import litert
from keras_attention.mobile.convert import with_gates

WIDTH = 0.5
LEARNING_RATE = 3e-3
FINETUNE_LEARNING_RATE = 5e-5

_PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
)


def run(
    out: str | os.PathLike,
    console: Console | None = None,
    *,
    epochs: int = 30,
    finetune_epochs: int = 3,
    seed: int = 0,
) -> dict:
    """Train, deploy, quantize, fine-tune, convert, verify and report.

    Leaves in `out`: model.keras (float, trained), quantized.keras (after fine-tuning),
    model.tflite (int8), model_uint8.tflite (its twin for raw bytes), model.json
    (about these two), labels.txt, report.json and report.html.

    Args:
        out: Folder for the results.
        console: Where progress is shown.
        epochs: Epochs of float training.
        finetune_epochs: Epochs of fine-tuning under quantization.
        seed: Decides initial weights and augmentation.

    Returns:
        What report.json holds; fractions go from 0 to 1.

    Raises:
        OSError: If `out` can't be written to.
    """
    start = time.perf_counter()
    out, console = pathlib.Path(out), console or Console(highlight=False)
    files.require_writable(out / "report.json")
    keras.utils.set_random_seed(seed)
    digits = data.load("digits", seed=seed)
    images, labels = _arrays(digits.test)

    model = models.MobileNetV2(
        digits.image_shape, len(digits.labels), width=WIDTH, attention="coord"
    )
    with EpochProgress(console, "Training MobileNetV2") as bar:
        history = training.fit_classifier(
            model, digits, epochs=epochs, learning_rate=LEARNING_RATE, callbacks=[bar]
        )
    _save(model, out / "model.keras")

    with working(console, "Deploying, calibrating"):
        deployed = mobile.deploy(model)
        answers = {"float": _predict(model, images)}
        difference = np.abs(_predict(deployed, images) - answers["float"]).max()
        steps = finetune_epochs * digits.steps_per_epoch
        # Ranges follow the data for half of the training, then the weights adapt.
        quantized = mobile.quantize(
            model, digits.calibration, freeze_after=max(1, steps // 2)
        )
    with tempfile.TemporaryDirectory() as folder:
        calibrated, float32 = (pathlib.Path(folder, f"{n}.tflite") for n in "ab")
        with working(console, "Converting the calibrated and the float model"):
            mobile.convert(quantized, calibrated)
            answers["ptq"] = litert.Runner(calibrated)(images)[0]
            mobile.convert(model, float32)

        with EpochProgress(console, "Fine-tuning as int8") as bar:
            finetuning = training.finetune_quantized(
                quantized,
                model,
                digits,
                epochs=finetune_epochs,
                learning_rate=FINETUNE_LEARNING_RATE,
                callbacks=[bar],
            )
        _save(quantized, out / "quantized.keras")

        with working(console, "Converting to int8"):
            converted = mobile.convert(
                quantized, out / "model.tflite", labels=digits.labels
            )
        with working(console, f"Verifying on {digits.test_size} test images"):
            verified = mobile.verify(
                out / "model.tflite", against=quantized, data=digits.test
            )
            answers["qat"] = _predict(quantized, images)
            answers["int8"] = litert.Runner(out / "model.tflite")(images)[0]
            latency = _latency({"int8": out / "model.tflite", "float32": float32})
        sizes = {
            "int8_bytes": converted.bytes,
            "float32_bytes": float32.stat().st_size,
        }

    right = {name: logits.argmax(-1) == labels for name, logits in answers.items()}
    report = {
        "float_accuracy": float(right["float"].mean()),
        "deploy_max_abs_diff": float(difference),
        "deploy_max_rel_diff": float(difference / np.abs(answers["float"]).max()),
        "ptq_int8_accuracy": float(right["ptq"].mean()),
        "qat_accuracy": float(right["qat"].mean()),
        "int8_accuracy": float(right["int8"].mean()),
        "argmax_agreement": verified.argmax_agreement,
        # Against the float model: what accuracies alone would hide.
        "broken": {
            name: int((right["float"] & ~ok).sum()) for name, ok in right.items()
        },
        "repaired": {
            name: int((~right["float"] & ok).sum()) for name, ok in right.items()
        },
        **sizes,
        "latency_ms": latency,
        "tensor_dtypes": converted.dtypes,
        "operators": converted.operators,
        "test_images": digits.test_size,
        "train_images": digits.train_size,
        "parameters": model.count_params(),
        "epochs": epochs,
        "learning_rate": LEARNING_RATE,
        "finetune_epochs": finetune_epochs,
        "finetune_learning_rate": FINETUNE_LEARNING_RATE,
        "seed": seed,
        "versions": _versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    with working(console, "Writing the report"):
        page = report_html.page(
            report,
            history,
            finetuning,
            _samples(deployed, images, labels, answers["int8"], digits.labels),
        )
        _write(out / "report.html", page)
        _write(out / "report.json", json.dumps(report, indent=2) + "\n")
    _show(console, report, out)
    return report


def _arrays(dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=60, verbose=0)


def _latency(paths: dict[str, pathlib.Path], rounds: int = 15, runs: int = 20) -> dict:
    """Median milliseconds per image on one thread, the files in turns.

    In turns, so that whatever else the machine does meets all of them alike.
    """
    rng = np.random.default_rng(0)
    runners = {name: litert.Runner(path) for name, path in paths.items()}
    times = {name: [] for name in paths}
    for _ in range(rounds):
        for name, runner in runners.items():
            entry = runner.file.inputs[0]
            values = rng.uniform(-1, 1, entry.shape).astype("float32")
            image = litert.quantize(values, entry)
            for _ in range(runs):
                begin = time.perf_counter()
                runner(image)
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


def _samples(deployed, images, labels, logits, names) -> report_html.Samples:
    """The first test image of each class, with the attention that it meets."""
    first = [int(np.argmax(labels == label)) for label in range(len(names))]
    gated = with_gates(deployed)
    _, *gates = gated.predict(images[first], verbose=0)
    # Behind the logits: row gates (N, H, 1, C) and column gates (N, 1, W, C) in turn.
    blocks = [name.split("_gate")[0] for name in gated.output_names[1::2]]
    return report_html.Samples(
        images=np.round((images[first] + 1) * 128).astype("uint8"),
        truth=[names[labels[index]] for index in first],
        answer=[names[int(logits[index].argmax())] for index in first],
        maps={
            block: (rows * columns).mean(-1)
            for block, rows, columns in zip(
                blocks, gates[::2], gates[1::2], strict=True
            )
        },
    )


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def _save(model: keras.Model, path: pathlib.Path) -> None:
    with files.replacing(path) as temporary:
        model.save(temporary)


def _write(path: pathlib.Path, text: str) -> None:
    with files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _show(console: Console, report: dict, out: pathlib.Path) -> None:
    table = Table("", "accuracy", "broken", "repaired", box=None)
    for title, accuracy, _, broken, repaired in report_html.rows(report):
        table.add_row(title, accuracy, broken, repaired)
    console.print("", table, "")
    console.print(
        f"Keras and the int8 file agree on {report['argmax_agreement']:.2%} of "
        f"{report['test_images']} test images.\n"
        f"int8 file: {report['int8_bytes'] / 1e6:.2f} MB, "
        f"{report['latency_ms']['int8']:.2f} ms per image; float32 file: "
        f"{report['float32_bytes'] / 1e6:.2f} MB, "
        f"{report['latency_ms']['float32']:.2f} ms.\n"
        f"Results in [bold]{out}[/], to look at: [bold]{out / 'report.html'}[/] "
        f"({report['seconds']:.0f} s)"
    )
