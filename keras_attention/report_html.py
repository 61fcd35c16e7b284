"""The demonstration's report as one self-contained page."""

import dataclasses

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from keras_attention import html_page
from keras_attention.html_page import BLUE, INK, ORANGE


@dataclasses.dataclass(frozen=True)
class Samples:
    """Some test images and what the network looks at in them.

    Attributes:
        images: `uint8`, shape (N, height, width, 3).
        truth: Class name of each image.
        answer: Class name that the int8 file gives.
        maps: One array (N, h, w) per attention block, by its name: the mean gate over
            the channels.
    """

    images: np.ndarray
    truth: list[str]
    answer: list[str]
    maps: dict[str, np.ndarray]


def rows(report: dict) -> list[tuple[str, str, str, str, str]]:
    """The accuracy table: stage, accuracy, difference to float, broken, repaired.

    Args:
        report: What the demonstration measured.

    Returns:
        One row of texts per stage.
    """
    stages = (
        ("float", "float_accuracy", "Keras, float32"),
        ("ptq", "ptq_int8_accuracy", "int8 file, calibrated only"),
        ("qat", "qat_accuracy", "Keras, quantized and fine-tuned"),
        ("int8", "int8_accuracy", "int8 file, fine-tuned"),
    )
    found = []
    for name, key, title in stages:
        points = 100 * (report[key] - report["float_accuracy"])
        counts = (str(report[side][name]) for side in ("broken", "repaired"))
        found.append((title, f"{report[key]:.2%}", f"{points:+.2f}", *counts))
    return found


def page(report: dict, history: dict, finetuning: dict, samples: Samples) -> str:
    """Build the page.

    Args:
        report: What the demonstration measured.
        history: What `fit_classifier` returned.
        finetuning: What `finetune_quantized` returned.
        samples: Test images with their attention maps.

    Returns:
        HTML with its pictures inside.
    """
    latency = report["latency_ms"]
    cards = (
        (f"{report['int8_accuracy']:.2%}", "accuracy of the int8 file"),
        (f"{report['argmax_agreement']:.2%}", "same class in Keras and in the file"),
        (
            _size(report["int8_bytes"]),
            f"size; float32 {_size(report['float32_bytes'])}",
        ),
        (f"{latency['int8']:.2f} ms", f"an image; float32 {latency['float32']:.2f} ms"),
    )
    dtypes = ", ".join(f"{n} {name}" for name, n in report["tensor_dtypes"].items())
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    each = 100 / report["test_images"]
    body = (
        f"""<p>MobileNetV2 (half width) with CoordAttention in its 16 expanding units,
{report["parameters"]:,} parameters, trained on {report["train_images"]:,} images,
fine-tuned under quantization, converted to a full-int8 <code>.tflite</code> and run by
LiteRT on {report["test_images"]} test images.</p>""",
        html_page.cards(cards),
        html_page.section(
            f"Accuracy on {report['test_images']} test images",
            html_page.table(
                ("", "accuracy", "points", "broken", "repaired"),
                rows(report),
                kind="result",
            ),
            html_page.small(
                "Points: difference to the float model. Broken: images that the float "
                "model has right and this one wrong; repaired: the other way round. "
                f"One image is {each:.2f} points."
            ),
        ),
        html_page.section(
            "Training",
            html_page.image(
                _curves(history, finetuning), "Accuracy and loss over the epochs"
            ),
            html_page.small(
                f"{report['epochs']} epochs of float training (learning rate up to "
                f"{report['learning_rate']:g}), then {report['finetune_epochs']} of "
                f"fine-tuning under quantization (from "
                f"{report['finetune_learning_rate']:g}) with the float model's outputs "
                "as targets. The training accuracy is measured on shifted images while "
                "weights still move; under quantization it is the agreement with the "
                "float model."
            ),
        ),
        html_page.section(
            "Where CoordAttention looks",
            html_page.image(_attention(samples), "Test images with attention maps"),
            html_page.small(
                "The product of row and column gates of two blocks, averaged over the "
                "channels, on the first test image of each class; dark is the weakest "
                "place of an image, yellow the strongest. Below: the class and, if it "
                "differs, the int8 file's answer."
            ),
        ),
        html_page.section(
            "The file",
            f"""<p>Tensors: {dtypes}. The deployed form differs from the trained one by
at most {report["deploy_max_rel_diff"]:.1e} of the largest output. Latency: median on
one CPU thread of this machine, both files in turns.</p>""",
            html_page.small(
                f"{versions}. Seed {report['seed']}, {report['seconds']:.0f} s in all. "
                "All figures: report.json."
            ),
        ),
    )
    return html_page.page("Handwritten digits, from Keras to int8", "\n".join(body))


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _curves(history: dict, finetuning: dict) -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    split = len(history["loss"])
    for axes, key in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for prefix, label, colour in (("", "training", ORANGE), ("val_", "test", BLUE)):
            name = prefix + key
            epochs = np.arange(1, split + 1)
            axes.plot(epochs, history[name], color=colour, label=label, lw=1.6)
            after = np.arange(split + 1, split + 1 + len(finetuning[name]))
            axes.plot(after, finetuning[name], color=colour, lw=1.6, marker=".", ms=4)
        axes.axvspan(split + 0.5, after[-1] + 0.5, color="#eef2f5", lw=0)
        axes.set_title(key, fontsize=10, color=INK)
        axes.set_xlabel("epoch (shaded: under quantization)", fontsize=8, color=INK)
        html_page.tidy(axes)
        axes.set_xlim(0.5, after[-1] + 0.5)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _attention(samples: Samples) -> Figure:
    # The first block, and the last one whose map still has places to choose from.
    wide = [name for name, maps in samples.maps.items() if min(maps.shape[1:]) >= 4]
    chosen = dict.fromkeys([wide[0], wide[-1]] if wide else list(samples.maps)[:1])
    count = len(samples.images)
    figure = Figure(figsize=(count * 0.82 + 0.8, 0.86 * (1 + len(chosen)) + 0.2))
    figure.subplots_adjust(0.8 / figure.get_figwidth(), 0.1, 1, 1, 0.06, 0.06)
    grid = figure.subplots(1 + len(chosen), count, squeeze=False)
    for row, name in enumerate(chosen, 1):
        _, height, width = samples.maps[name].shape
        title = (
            f"{name.removesuffix('_attention').replace('_', ' ')}\n{height} x {width}"
        )
        grid[row, 0].set_ylabel(title, fontsize=9, color=INK, rotation=0, ha="right")
        grid[row, 0].yaxis.set_label_coords(-0.08, 0.4)
    for column, image in enumerate(samples.images):
        grid[0, column].imshow(image)
        for row, name in enumerate(chosen, 1):
            grid[row, column].imshow(_overlay(image, samples.maps[name][column]))
        text = samples.truth[column]
        wrong = samples.answer[column] != text
        if wrong:
            text += f" (int8: {samples.answer[column]})"
        colour = "#b3261e" if wrong else INK
        grid[-1, column].set_xlabel(text, fontsize=9, color=colour)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _overlay(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The attention map in colour, with the image's strokes in white over it."""
    from PIL import Image

    low, high = weights.min(), weights.max()
    scaled = Image.fromarray((weights - low) / max(high - low, 1e-6))
    height, width = image.shape[:2]
    smooth = np.asarray(scaled.resize((width, height), Image.Resampling.BICUBIC))
    colours = colormaps["viridis"](np.clip(smooth, 0, 1))[..., :3]
    ink = image.mean(-1, keepdims=True) / 255
    return colours * (1 - 0.75 * ink) + 0.75 * ink
