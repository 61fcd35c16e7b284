"""From a trained Keras model to a verified full-integer TFLite file.

`deploy -> quantize -> convert -> verify`; see the functions of these names. Importing
this package imports neither TensorFlow nor tfmot nor LiteRT: each comes on first use.
"""

from keras_attention.mobile.check import check
from keras_attention.mobile.convert import convert
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.quantize import quantize
from keras_attention.mobile.verify import verify

__all__ = ["check", "convert", "deploy", "quantize", "verify"]
