"""The float model's answers as targets, for plain `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention import mobile
from keras_attention.mobile import quantizers

IMAGES = scaled(photo_bytes(20, 8))


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("labels", [True, False])
def test_probabilities_of_the_same_images(labels):
    dataset = tf.data.Dataset.from_tensor_slices(
        (IMAGES, np.zeros(20, "int32")) if labels else IMAGES
    ).batch(8)
    net = small_net()
    found = mobile.soft_targets(net, dataset)
    assert int(found.cardinality()) == 3
    batches = list(found.as_numpy_iterator())
    assert [len(x) for x, _ in batches] == [8, 8, 4]
    x, y = (np.concatenate(column) for column in zip(*batches, strict=True))
    np.testing.assert_array_equal(x, IMAGES)
    # float32, computed in batches of another size
    np.testing.assert_allclose(y, softmax(np.array(net(IMAGES))), atol=1e-6)


def test_a_model_that_ends_in_probabilities():
    net = small_net(activation="softmax")
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES).batch(20)
    ((_, y),) = mobile.soft_targets(net, dataset, from_logits=False).as_numpy_iterator()
    np.testing.assert_allclose(y, net(IMAGES), atol=1e-6)


def test_each_epoch_is_answered_anew():
    """Augmented images differ from epoch to epoch; so must the targets."""
    shuffled = tf.data.Dataset.from_tensor_slices(IMAGES).shuffle(20, seed=1).batch(20)
    net = small_net()
    targets = mobile.soft_targets(net, shuffled)
    for _ in range(2):
        ((x, y),) = targets.as_numpy_iterator()
        np.testing.assert_allclose(y, softmax(np.array(net(x))), atol=1e-6)


def test_plain_fit_brings_the_answers_nearer():
    net = small_net()
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES).batch(10)
    coarse = {
        "kernel": quantizers.tfmot_quantizers().LastValueQuantizer(
            3, True, symmetric=True, narrow_range=True
        )
    }
    quantized = mobile.quantize(
        net, IMAGES, overrides={"stem|depth|project": coarse}, freeze_after=10
    )
    before = np.abs(quantized(IMAGES) - net(IMAGES)).mean()
    weights = net.get_weights()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    quantized.compile(keras.optimizers.Adam(3e-3), loss)
    targets = mobile.soft_targets(net, dataset)
    quantized.fit(targets, epochs=30, shuffle=False, verbose=0)
    assert np.abs(quantized(IMAGES) - net(IMAGES)).mean() <= 0.8 * before
    for old, new in zip(weights, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mistakes():
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES).batch(8)
    with pytest.raises(TypeError, match="must be a tf.data.Dataset. Received: ndarray"):
        mobile.soft_targets(small_net(), IMAGES)
    net = small_net()
    two = keras.Model(net.input, [net.output, net.output * 2])
    with pytest.raises(ValueError, match=r"one output \(N, classes\).*'\w+' has out"):
        mobile.soft_targets(two, dataset)
    maps = keras.Model(net.input, net.get_layer("sum").output)
    with pytest.raises(ValueError, match=r"shapes \[\(None, 4, 4, 8\)\]"):
        mobile.soft_targets(maps, dataset)
