"""Training of image classifiers: recipes on any number of devices, and plain fits.

The names are imported on first use: recipes and evaluation need no TensorFlow.
"""

import importlib

# Name -> the module that defines it.
_NAMES = {
    "EvaluationReport": "evaluation",
    "NonFiniteLoss": "non_finite",
    "Recipe": "recipe",
    "TrainingReport": "trainer",
    "accuracy": "classification",
    "evaluate": "evaluation",
    "finetune_quantized": "classification",
    "fit_classifier": "classification",
    "require_match": "classification",
    "train": "trainer",
}

__all__ = sorted(_NAMES)  # noqa: PLE0605


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_NAMES})
