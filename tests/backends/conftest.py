"""Leaves out what is about other backends than TensorFlow, where that is Keras'."""

import keras

collect_ignore = []
if keras.backend.backend() == "tensorflow":
    collect_ignore += ["test_without_tensorflow.py"]
if keras.backend.backend() != "torch":
    collect_ignore += ["test_torch_blocks.py"]
