"""Training of image classifiers: recipes on any number of devices, and plain fits.

The names are imported on first use: recipes and evaluation need no TensorFlow.
"""

from keras_attention import lazy

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

__getattr__, __dir__, __all__ = lazy.names(__name__, _NAMES)
