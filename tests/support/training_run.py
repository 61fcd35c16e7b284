"""One `training.train` in a process: `python training_run.py RESULT FOLDER STRATEGY`.

The recipe is `digits` with a small network, shorter, and with SGD. RESULT is written as
JSON.
"""

import json
import pathlib
import sys

import keras
import tensorflow as tf
from support.command_line import small_net

from keras_attention import models, training

CHANGES = [
    *("image_size=16", "batch_size=64", "epochs=1", "schedule.warmup_epochs=0.5"),
    # Adam would take a bias in front of a normalization, whose gradient is rounding
    # errors, as far as any other.
    *("optimizer.name=sgd", "optimizer.lr=0.1", "optimizer.clip_norm=1.0"),
    "weight_ema=0.8",
    *("augment.mixup=0.2", "label_smoothing=0.1"),
]


def run(folder, strategy):
    """Trains, and on TensorFlow once more as quantized; returns what was reported."""
    models.MobileNetV2 = small_net
    quantized = keras.backend.backend() == "tensorflow"
    changes = [*CHANGES, f"quantize.epochs={int(quantized)}"]
    recipe = training.Recipe.load("digits").replace(changes)
    report = training.train(recipe, folder, strategy=strategy)
    return {
        "history": report.history,
        "strategy": [report.strategy, report.replicas],
        "resumed": str(report.resumed),
        "wrote": report.wrote,
        "top1": report.evaluation and report.evaluation.top1,
    }


if __name__ == "__main__":
    result, folder, strategy = sys.argv[1:]
    if strategy == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    found = run(pathlib.Path(folder), strategy)
    pathlib.Path(result).write_text(json.dumps(found))
