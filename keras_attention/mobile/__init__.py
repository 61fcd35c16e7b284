"""From a trained Keras model to a verified full-integer TFLite file.

`deploy -> quantize -> convert -> verify`; see the functions of these names. `inspect`
and `benchmark` look at files of any origin. Importing this package imports neither
TensorFlow nor tfmot nor LiteRT: each comes on first use.
"""

from keras_attention.mobile.benchmark import benchmark
from keras_attention.mobile.check import check
from keras_attention.mobile.convert import convert
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.distillation import soft_targets
from keras_attention.mobile.inspect import inspect
from keras_attention.mobile.quantize import quantize
from keras_attention.mobile.rules import Rule, register_rule
from keras_attention.mobile.verify import verify

__all__ = [
    "Rule",
    "benchmark",
    "check",
    "convert",
    "deploy",
    "inspect",
    "quantize",
    "register_rule",
    "soft_targets",
    "verify",
]
