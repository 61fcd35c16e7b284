"""The networks of the papers: builds and counts them, and writes the tables of a page.

    python benchmarks/presets.py [--count] [--write docs/models.md]

--count builds every network and compares its parameters and multiply-adds with those
that the table in keras_attention/models states; without it the tables are written in a
moment.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _page

import keras_attention  # noqa: F401
from keras_attention import models

# The published figures of the networks without attention, and why ours are others.
# Builder, arguments, published multiply-adds in millions, reason.
BACKBONES = (
    ("MobileNetV2", {"width": 1.0}, 300, "rounded"),
    (
        "MobileNetV2",
        {"width": 0.75},
        200,
        "rounded; the same table says 210 for it with SE, 209.3 here",
    ),
    ("MobileNetV2", {"width": 0.5}, 100, "rounded"),
    (
        "ResNet50",
        {},
        3860,
        "of another variant: the stride is in the first 1x1 convolution of c3, c4 and "
        "c5 (3,858.0, keras.applications.ResNet50); here these three see the larger "
        "map, 3 x 77.1 more",
    ),
    (
        "ResNet50",
        {"attention": "a2"},
        6500,
        "the same variant: 6,427.0 with five blocks of 513.8; what the other 73 are is "
        "not known",
    ),
)


def million(number):
    return f"{number / 1e6:,.1f}"


def preset_lines():
    """Returns the table of presets and their notes."""
    head = (
        *("preset", "network", "arXiv", "builder", "parameters", "published (M)"),
        *("multiply-adds (M)", "published", "top-1 / top-5 (%)", "on", "source"),
        "certainty",
    )
    rows = []
    for name, preset in models.presets().items():
        own = f"`{name}`", preset.title, preset.paper, preset.builder
        parameters, adds = f"{preset.parameters:,}", million(preset.multiply_adds)
        published = preset.published
        if published is None:
            rows.append((*own, parameters, "-", adds, *"-----"))
            continue
        accuracy = f"{published.top1}"
        if published.top5 is not None:
            accuracy += f" / {published.top5}"
        rows.append(
            (
                *own,
                parameters,
                published.parameters or "-",
                adds,
                published.multiply_adds or "-",
                accuracy,
                published.dataset,
                published.source,
                published.certainty,
            )
        )
    noted = {}
    for name, preset in models.presets().items():
        if preset.note:
            noted.setdefault(preset.note, []).append(f"`{name}`")
    notes = [f"- {', '.join(names)}: {note}" for note, names in noted.items()]
    return [*_page.table(head, rows), "", *notes]


def backbone_lines():
    """Returns the table of multiply-adds beside published ones; builds networks."""
    head = ("network", "multiply-adds (M)", "published", "difference")
    rows = []
    for builder, arguments, published, reason in BACKBONES:
        model = getattr(models, builder)(**arguments)
        count = models.count_multiply_adds(model).total
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        network = f"`{builder}({given})`"
        rows.append((network, million(count), f"{published:,}", reason))
    return _page.table(head, rows)


def count():
    """Returns the presets that are not what the table states."""
    wrong = []
    for name, preset in models.presets().items():
        model = models.preset(name)
        parameters = sum(weight.numpy().size for weight in model.trainable_weights)
        adds = models.count_multiply_adds(model).total
        print(f"{name:24} {parameters:12,} {adds:16,}", flush=True)
        if (parameters, adds) != (preset.parameters, preset.multiply_adds):
            wrong.append(name)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="build and compare")
    parser.add_argument("--write", help="the page to put the tables into")
    arguments = parser.parse_args()
    wrong = count() if arguments.count else []
    if arguments.write:
        _page.put(arguments.write, "presets", preset_lines())
        _page.put(arguments.write, "multiply-adds", backbone_lines())
    else:
        print(*preset_lines(), "", *backbone_lines(), sep="\n")
    raise SystemExit(f"not as stated: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
