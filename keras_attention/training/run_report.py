"""What a run and an evaluation leave to look at: pages, pictures, and all as JSON."""

import dataclasses
import json
import math
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import keras
from matplotlib.figure import Figure

from keras_attention import files, html_page
from keras_attention.training import curves, evaluation_pictures, logs
from keras_attention.training.evaluation import EvaluationReport
from keras_attention.training.recipe_rules import flat

_PACKAGES = (
    "keras-attention-mobile",
    "keras",
    "tensorflow",
    "jax",
    "numpy",
    "tensorflow-model-optimization",
    "ai-edge-litert",
)
CLASS_COLUMNS = "class", "samples", "precision", "recall", "F1"
MISTAKE_COLUMNS = "class", "taken for", "samples", "of class"
# Classes in a page's table; more would hide what follows.
_SHOWN = 30


def environment(**more: Any) -> dict[str, Any]:
    """Returns on what a run runs: machine, devices, versions.

    Args:
        **more: Further entries, as strategy and replicas.

    Returns:
        Plain values: "machine", "processors", "python", "backend", "devices" (of the
        kind that Keras computes on), the given ones, and "versions" of the packages
        that are installed.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "devices": keras.distribution.list_devices(),
        **more,
        "versions": versions,
    }


def write(
    out_dir: str | os.PathLike,
    recipe: Any,
    history: Mapping[str, Sequence[float]] | str | os.PathLike,
    evaluation: EvaluationReport | None,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a run's report: report.html, report.json and curves.png.

    Args:
        out_dir: Folder for the files; each is replaced as a whole.
        recipe: A `Recipe`, or what it is as nested dicts.
        history: The table of epochs, as `logs.read` returns it; or its path.
        evaluation: Of the trained model; None: was not done.
        environment: What `environment` returned.

    Returns:
        What report.json holds: "recipe", "environment", "epochs", "seconds" (of all
        epochs) and "images_per_second" (median, without the first epoch, in which
        functions are traced) where the table has them, "history", "evaluation". Numbers
        that are not finite, which JSON does not know, are null there.

    Raises:
        ValueError: If there is no epoch.
        OSError: If a file can't be read or written.
    """
    out = pathlib.Path(out_dir)
    if not isinstance(history, Mapping):
        history = logs.read(history)
    drawn = curves.figure(history)
    if dataclasses.is_dataclass(recipe):
        recipe = dataclasses.asdict(recipe)
    report = {
        "recipe": recipe,
        "environment": dict(environment),
        "epochs": len(next(iter(history.values()))),
        **_times(history),
        "history": {name: list(values) for name, values in history.items()},
        "evaluation": None if evaluation is None else evaluation.to_dict(),
    }
    body = [
        html_page.cards(_cards(report, evaluation)),
        html_page.section(
            "Learning curves", html_page.drawing(drawn, "Metrics over the epochs")
        ),
        *([] if evaluation is None else _sections(evaluation, *_pictures(evaluation))),
        html_page.section("Recipe", _settings(report["recipe"])),
        html_page.section("Environment", _settings(report["environment"])),
    ]
    title = f"Training on {recipe['data']}" if "data" in recipe else "Training"
    report = _finite(report)
    _write(out / "curves.png", html_page.png(drawn))
    _write(out / "report.html", html_page.page(title, "\n".join(body)).encode())
    _write(out / "report.json", _json(report))
    return report


def write_evaluation(out_dir: str | os.PathLike, report: EvaluationReport) -> None:
    """Write evaluation.json, evaluation.html, confusion_matrix.png, reliability.png.

    Args:
        out_dir: Folder for the files; each is replaced as a whole.
        report: What `evaluate` returned.

    Raises:
        OSError: If a file can't be written.
    """
    out = pathlib.Path(out_dir)
    confusion, reliability = _pictures(report)
    cards = html_page.cards(_accuracy_cards(report))
    body = [cards, *_sections(report, confusion, reliability)]
    name = pathlib.Path(report.model).name
    page = html_page.page(f"Evaluation of {name}", "\n".join(body))
    _write(out / "confusion_matrix.png", html_page.png(confusion))
    _write(out / "reliability.png", html_page.png(reliability))
    _write(out / "evaluation.html", page.encode())
    _write(out / "evaluation.json", _json(report.to_dict()))


def class_rows(report: EvaluationReport, most: int) -> tuple[str, list[list[str]]]:
    """The table of the classes as text.

    Args:
        report: What `evaluate` returned.
        most: So many classes are shown; of more those with the lowest F1 score.

    Returns:
        What the table shows, and its rows by `CLASS_COLUMNS`.
    """
    classes, title = list(report.classes), "Classes"
    if len(classes) > most:
        title = f"The {most} of {len(classes):,} classes with the lowest F1 score"
        # Without a sample and an answer there is nothing to be bad at.
        classes.sort(key=lambda entry: math.inf if entry.f1 is None else entry.f1)
    return title, [
        [
            entry.label,
            f"{entry.count:,}",
            *(
                "-" if value is None else f"{value:.2%}"
                for value in (entry.precision, entry.recall, entry.f1)
            ),
        ]
        for entry in classes[:most]
    ]


def mistake_rows(report: EvaluationReport) -> list[list[str]]:
    """The most frequent mistakes as text, by `MISTAKE_COLUMNS`."""
    return [
        [pair.truth, pair.answer, f"{pair.count:,}", f"{pair.share:.2%}"]
        for pair in report.confused
    ]


def _accuracy_cards(report: EvaluationReport) -> list[tuple[str, str]]:
    fifth = report.top5 is not None
    return [
        (f"{report.top1:.2%}", f"top-1 on {report.count:,} samples"),
        *([(f"{report.top5:.2%}", "top-5")] if fifth else []),
        (f"{report.loss:.4f}", "negative log-likelihood"),
        (f"{report.calibration_error:.4f}", "expected calibration error"),
    ]


def _cards(report: Mapping[str, Any], evaluation: EvaluationReport | None):
    cards = [] if evaluation is None else _accuracy_cards(evaluation)
    cards.append((f"{report['epochs']:,}", "epochs"))
    if "seconds" in report:
        minutes, seconds = divmod(round(report["seconds"]), 60)
        hours, minutes = divmod(minutes, 60)
        cards.append((f"{hours}:{minutes:02}:{seconds:02}", "hours, validation too"))
    if "images_per_second" in report:
        cards.append((f"{report['images_per_second']:,.0f}", "images per second"))
    return cards


def _times(history: Mapping[str, Sequence[float]]) -> dict[str, float]:
    found = {}
    if logs.SECONDS in history:
        found["seconds"] = math.fsum(history[logs.SECONDS])
    if logs.THROUGHPUT in history:
        rates = history[logs.THROUGHPUT]
        found["images_per_second"] = statistics.median(rates[1:] or rates)
    return found


def _pictures(report: EvaluationReport) -> tuple[Figure, Figure]:
    return (
        evaluation_pictures.confusion_matrix(report),
        evaluation_pictures.reliability_diagram(report),
    )


def _sections(
    report: EvaluationReport, confusion: Figure, reliability: Figure
) -> list[str]:
    title, rows = class_rows(report, _SHOWN)
    mistakes = html_page.table(MISTAKE_COLUMNS, mistake_rows(report))
    return [
        html_page.section(
            "Most frequent mistakes", mistakes if report.confused else "<p>None.</p>"
        ),
        html_page.section(
            "Confusion matrix",
            html_page.image(confusion, "Which classes are taken for which"),
        ),
        html_page.section(
            "Calibration",
            html_page.image(
                reliability, "Share of right answers by the probability of the answer"
            ),
            html_page.small(
                f"{len(report.bins)} bins of equal width; outputs are "
                f"{report.outputs}. Guo et al. 2017, arXiv 1706.04599, equation 3."
            ),
        ),
        html_page.section(
            title,
            html_page.table(CLASS_COLUMNS, rows),
        ),
    ]


def _settings(values: Mapping[str, Any]) -> str:
    rows = [(name, _shown(value)) for name, value in flat(values).items()]
    return html_page.table((), rows, kind="settings")


def _shown(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # A list of numbers takes one line, not one line per number; no text has newlines.
    text = re.sub(r'\[\n[^\[\]{}"]+\]', lambda found: " ".join(found[0].split()), text)
    return f"{text}\n".encode()


def _write(path: pathlib.Path, content: bytes) -> None:
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
