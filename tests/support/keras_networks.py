"""Networks of `keras.applications` with blocks in them, from training to int8 files."""

import keras
import numpy as np
from keras import ops
from support.mobile_nets import images, scaled

from keras_attention import mobile

# By preset; small, and with maps of more than one position in every unit of ResNet50.
NETWORKS = {
    "mobilenet_v2": ("MobileNetV2", {"alpha": 0.35}),
    "resnet": ("ResNet50", {}),
    "efficientnet": ("EfficientNetV2B0", {"include_preprocessing": False}),
}
SIZE = 64
DATA = scaled(images(4, SIZE))
# float32 through 50 to 80 layers
UNCHANGED = 1e-4


def keras_network(preset):
    """A network for the images above, and 10 classes; its weights are initial ones."""
    name, arguments = NETWORKS[preset]
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(SIZE, SIZE, 3),
        classes=10,
        classifier_activation=None,
        **arguments,
    )


def logits(model):
    return ops.convert_to_numpy(model(DATA, training=False))


def blocks(model):
    return [layer for layer in model.layers if "_attention" in layer.name]


def check_every_step(model, original, folder):
    """Compares, trains a step, saves, loads, deploys and converts to int8.

    Args:
        model: With blocks in it.
        original: The model whose outputs it has to have; None for no comparison.
        folder: For the files.
    """
    if original is not None:
        before = logits(original)
        assert np.abs(logits(model) - before).max() <= UNCHANGED * np.abs(before).max()
    _train(model)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    after = logits(model)
    np.testing.assert_array_equal(logits(loaded), after)
    deployed = mobile.deploy(loaded)
    # 1e-5 is what deploy promises; the input of deep networks is amplified.
    assert np.abs(logits(deployed) - after).max() <= 1e-4 * np.abs(after).max()
    quantized = mobile.quantize(deployed, DATA)
    report = mobile.convert(quantized, folder / "model.tflite")
    assert set(report.dtypes) <= {"int8", "int32"}


def _train(model):
    """One step. Every block moves, in all weights that get a gradient at the start."""
    moving = [w for layer in blocks(model) for w in layer.trainable_weights]
    before = [ops.convert_to_numpy(w).copy() for w in moving]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Operation by operation: a graph of so many layers takes minutes to compile. With
    # moving statistics that are still the initial ones, logits would explode at higher
    # rates, and comparisons with them.
    model.compile(keras.optimizers.SGD(1e-5), loss, run_eagerly=True)
    value = model.train_on_batch(DATA, np.arange(4))
    assert np.isfinite(value)
    moved = {
        weight.path.split("/")[0]
        for weight, old in zip(moving, before, strict=True)
        if np.abs(ops.convert_to_numpy(weight) - old).max() > 0
    }
    assert moved == {layer.name for layer in blocks(model) if layer.trainable_weights}
