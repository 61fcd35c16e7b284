"""Training of image classifiers, in float and under quantization."""

from keras_attention.training.classification import (
    accuracy,
    finetune_quantized,
    fit_classifier,
    require_match,
)

__all__ = ["accuracy", "finetune_quantized", "fit_classifier", "require_match"]
