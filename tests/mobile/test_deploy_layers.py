"""What `mobile.deploy` makes of single layers and of the ways to call them."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.deploying import (
    CLOSE,
    chain,
    difference,
    features,
    layer_calls,
    names,
    outputs,
)
from support.mobile_nets import PIXELS, randomize

from keras_attention import graph as graphs
from keras_attention.mobile import deploy


def bn(**arguments):
    return layers.BatchNormalization(name="norm", **arguments)


def second():
    return layers.BatchNormalization(name="second_norm")


SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


@pytest.mark.parametrize(
    ("chained", "shape"),
    [
        ([layers.Conv2D(6, 3, name="linear"), bn()], (8, 6, 4)),
        ([layers.Conv2D(6, 3, use_bias=False, name="linear"), bn()], (8, 6, 4)),
        ([layers.Conv2D(6, 3, groups=2, name="linear"), bn(scale=False)], (8, 6, 4)),
        ([layers.Conv2DTranspose(6, 3, 2, name="linear"), bn(center=False)], (8, 6, 4)),
        (
            [layers.DepthwiseConv2D(3, depth_multiplier=2, name="linear"), bn()],
            (8, 6, 4),
        ),
        ([layers.Conv1D(6, 3, name="linear"), bn()], (8, 4)),
        ([layers.Conv1DTranspose(6, 3, 2, name="linear"), bn()], (8, 4)),
        ([layers.SeparableConv1D(6, 3, name="linear"), bn()], (8, 4)),
        ([layers.SeparableConv2D(6, 3, name="linear"), bn()], (8, 6, 4)),
        (
            [layers.DepthwiseConv1D(3, depth_multiplier=2, name="linear"), bn()],
            (8, 4),
        ),
        ([layers.Conv2D(6, 3, name="linear"), bn(), second()], (8, 6, 4)),
        ([layers.Dense(6, name="linear"), bn()], (4,)),
        ([layers.Dense(6, name="linear"), bn(axis=1)], (4,)),
        ([layers.Dense(6, name="linear"), bn(epsilon=0.1)], (8, 6, 4)),
    ],
)
def test_folded_normalization(chained, shape):
    model = chain(*chained, layers.ReLU(name="relu"), shape=shape)
    deployed = deploy(model)
    kinds = [type(layer) for layer in deployed.layers if layer.weights]
    separable = isinstance(chained[0], SEPARABLE)
    assert len(kinds) == 1 + separable and layers.BatchNormalization not in kinds
    assert [n for n in names(deployed) if "norm" in n] == []
    assert {"linear", "relu"} <= set(names(deployed))
    assert difference(model, deployed, features(3, *shape)) <= CLOSE


@pytest.mark.parametrize(
    ("chained", "shape"),
    [
        ([bn()], (8, 6, 4)),
        ([bn()], (4,)),
        ([bn()], (5, 4)),
        ([bn()], (2, 3, 5, 4)),
        ([layers.Conv2D(4, 3, activation="relu"), bn()], (8, 6, 4)),
        ([layers.Conv3D(4, 2), bn()], (2, 3, 5, 4)),
        ([layers.MaxPooling2D(), bn(scale=False, center=False)], (8, 6, 4)),
    ],
)
def test_normalization_that_stands_alone(chained, shape):
    model = chain(*chained, shape=shape)
    deployed = deploy(model)
    norm = deployed.get_layer("norm")
    assert isinstance(norm, layers.DepthwiseConv2D) and norm.kernel.shape[2] == 4
    assert difference(model, deployed, features(3, *shape)) <= CLOSE


def two_readers():
    inputs = keras.Input((8, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", name="linear")(inputs)
    return keras.Model(inputs, layers.Add()([bn()(x), x]))


def an_output():
    inputs = keras.Input((8, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", name="linear")(inputs)
    return keras.Model(inputs, [bn()(x), x])


def called_once_more():
    inputs, linear = keras.Input((8, 6, 4)), layers.Conv2D(4, 3, padding="same")
    return keras.Model(inputs, bn()(linear(linear(inputs))))


def two_normalizations():
    inputs, linear = keras.Input((8, 6, 4)), layers.Conv2D(4, 3, padding="same")
    other = layers.BatchNormalization(name="other")
    return keras.Model(inputs, [bn()(linear(inputs)), other(linear(inputs))])


def normalization_elsewhere():
    inputs, norm = keras.Input((8, 6, 4)), bn()
    return keras.Model(inputs, norm(layers.Conv2D(4, 3)(norm(inputs))))


@pytest.mark.parametrize(
    "make",
    [two_readers, an_output, called_once_more, two_normalizations],
)
def test_what_must_not_be_folded(make):
    model = randomize(make())
    deployed = deploy(model)
    assert isinstance(deployed.get_layer("norm"), layers.DepthwiseConv2D)
    assert difference(model, deployed, features(3, 8, 6, 4)) <= CLOSE


def test_a_normalization_that_is_called_elsewhere_too():
    model = randomize(normalization_elsewhere())
    deployed = deploy(model)
    assert len(layer_calls(deployed, "norm")) == 2
    assert difference(model, deployed, features(3, 8, 6, 4)) <= CLOSE


@pytest.mark.parametrize(
    "front",
    [
        layers.Rescaling(1 / 127.5, offset=-1.0, name="front"),
        layers.Rescaling([0.1, 0.2, 0.3], offset=[1.0, 2.0, 3.0], name="front"),
        layers.Normalization(mean=3.0, variance=4.0, axis=None, name="front"),
        layers.Normalization(mean=(1.0, 2, 3), variance=(4.0, 5, 6), name="front"),
        layers.Normalization(
            mean=(1.0, 2, 3), variance=(4.0, 5, 0), axis=3, name="front"
        ),
    ],
)
def test_input_scaling_is_a_frozen_depthwise_convolution(front):
    model = chain(front, layers.ReLU(), shape=(5, 3, 3))
    front_weights = [ops.convert_to_numpy(w) for w in front.weights]
    deployed = deploy(model)
    layer = deployed.get_layer("front")
    assert isinstance(layer, layers.DepthwiseConv2D) and not layer.trainable
    assert difference(model, deployed, 100 * np.abs(features(2, 5, 3, 3))) <= CLOSE
    for old, new in zip(front_weights, front.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_adapted_normalization():
    front = layers.Normalization(name="front")
    front.adapt(PIXELS.astype("float32"))
    model = chain(front, layers.Conv2D(4, 3), shape=(32, 32, 3))
    front.adapt(PIXELS.astype("float32"))  # `chain` made its statistics random
    assert difference(model, deploy(model), PIXELS.astype("float32")) <= CLOSE


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            layers.Normalization(
                mean=1.0, variance=1.0, axis=None, invert=True, name="f"
            ),
            "'f' must be adapted, and not inverted",
        ),
        (
            layers.Normalization(
                axis=1, mean=(1.0, 2, 3), variance=(4.0, 5, 6), name="f"
            ),
            r"'f' must have axis=-1, the channels, or axis=None. Its axis is \(1,\)",
        ),
    ],
)
def test_refused_normalization(layer, message):
    with pytest.raises(ValueError, match=message):
        deploy(chain(layer, shape=(3, 5, 3)))


AUGMENTATIONS = {
    "AugMix": (),
    "CutMix": (),
    "Equalization": (),
    "MixUp": (),
    "RandAugment": (),
    "Solarization": (),
    "RandomBrightness": (0.2,),
    "RandomColorDegeneration": (0.2,),
    "RandomColorJitter": (),
    "RandomContrast": (0.2,),
    "RandomCrop": (8, 8),
    "RandomElasticTransform": (),
    "RandomErasing": (),
    "RandomFlip": (),
    "RandomGaussianBlur": (),
    "RandomGrayscale": (),
    "RandomHue": (0.2,),
    "RandomInvert": (),
    "RandomPerspective": (),
    "RandomPosterization": (4,),
    "RandomRotation": (0.2,),
    "RandomSaturation": (0.2,),
    "RandomSharpness": (0.2,),
    "RandomShear": (0.2, 0.2),
    "RandomTranslation": (0.2, 0.2),
    "RandomZoom": (0.2,),
}


def test_every_augmentation_of_keras_is_gone():
    found = {name for name in dir(layers) if name.startswith("Random")}
    assert found <= set(AUGMENTATIONS)  # a new one in Keras: add it
    photos = PIXELS[:2, :8, :8].astype("float32")
    for name, arguments in AUGMENTATIONS.items():
        layer = getattr(layers, name)(*arguments, name="augment")
        np.testing.assert_array_equal(
            layer(photos, training=False), photos, err_msg=name
        )
        inputs = keras.Input((8, 8, 3), name="x")
        model = keras.Model(inputs, layers.ReLU(name="relu")(layer(inputs)))
        assert names(deploy(model))[1:] == ["relu"], name


def test_what_looks_like_augmentation_but_works_at_inference_stays():
    model = chain(layers.AutoContrast(name="contrast"), shape=(8, 8, 3))
    photos = PIXELS[:2, :8, :8].astype("float32")
    assert names(deploy(model)) == ["x", "contrast"]
    assert np.abs(outputs(model, photos)[0] - photos).max() > 1
    assert difference(model, deploy(model), photos) == 0


def test_pipeline():
    pipeline = layers.Pipeline(
        [layers.RandomFlip(), layers.Rescaling(0.5, name="half")], name="pipe"
    )
    model = chain(pipeline, shape=(8, 8, 3))
    assert names(deploy(model)) == ["x", "pipe_half"]
    assert difference(model, deploy(model), features(2, 8, 8, 3)) <= CLOSE


def test_casts():
    inputs = keras.Input((4,))
    steps = ops.cast(ops.cast(inputs * 3, "int32"), "float32")  # rounds towards zero
    same = ops.cast(ops.cast(inputs, "bfloat16"), "float32")
    model = keras.Model(inputs, [steps, inputs * ops.cast(inputs > 0, "float32"), same])
    data = ops.convert_to_numpy(
        ops.cast(ops.cast(features(5, 4), "bfloat16"), "float32")
    )
    deployed = deploy(model)
    assert difference(model, deployed, data) == 0
    assert sum("cast" in n.name for n in graphs.trace_model(deployed).nodes) == 3


def test_an_activation_inside_of_a_recursion_stays_there():
    model = chain(layers.LSTM(5), shape=(6, 4))
    assert difference(model, deploy(model), features(3, 6, 4)) <= CLOSE


def test_activations_become_layers_of_their_own():
    def swish(x):
        return x * ops.relu6(x + 3.0) / 6.0

    model = chain(
        layers.Conv2D(4, 3, activation="relu6", name="a"),
        layers.Conv2D(4, 1, activation=layers.LeakyReLU(name="leaky"), name="b"),
        layers.Conv2D(4, 1, activation=swish, name="c"),
        layers.Conv2D(4, 1, activation="linear", name="d"),
    )
    deployed = deploy(model)
    assert names(deployed) == ["x", "a", "a_relu6", "b", "b_leaky", "c", "d"]
    for layer in deployed.layers:
        if isinstance(layer, layers.Conv2D):
            assert layer.activation is keras.activations.linear
    steps = [node.name for node in graphs.trace_model(deployed).nodes]
    divide = "c_swish_true_divide_multiply"  # by a number
    swish = ["c_swish_add", "c_swish_relu6", "c_swish_multiply", divide]
    assert [step for step in steps if step.startswith("c_")] == swish
    assert difference(model, deployed, features(2, 8, 6, 4)) <= CLOSE
    assert model.get_layer("a").activation is keras.activations.relu6


def test_sums_of_more_than_two_are_pairs():
    inputs = keras.Input((4, 4, 3))
    parts = [layers.Conv2D(3, 1)(inputs) for _ in range(4)]
    total = layers.Add(name="sum")(parts)
    product = layers.Multiply(name="product")(parts)
    model = randomize(keras.Model(inputs, [total, product, layers.Add()([inputs])]))
    deployed = deploy(model)
    for name in ("sum", "product"):
        assert [n for n in names(deployed) if n.startswith(name)] == [
            f"{name}_0",
            f"{name}_1",
            name,
        ]
    assert difference(model, deployed, features(2, 4, 4, 3)) <= CLOSE


def test_layers_called_with_keywords():
    inner = keras.Sequential([keras.Input((6, 4, 4)), layers.Conv2D(4, 1, name="in")])
    x = inputs = keras.Input((8, 6, 4), name="x")
    x = layers.Conv2D(4, 3, name="conv")(inputs=x)
    x = layers.BatchNormalization()(inputs=x, training=False, mask=None)
    x = inner(inputs=layers.Dropout(0.5)(inputs=x))
    model = randomize(keras.Model(inputs, layers.Rescaling(2.0, name="two")(inputs=x)))
    deployed = deploy(model)
    assert names(deployed)[:2] == ["x", "conv"] and len(deployed.layers) == 4
    assert difference(model, deployed, features(2, 8, 6, 4)) <= CLOSE


@pytest.mark.parametrize("outer", ["dictionary", "list"])
def test_nested_model_that_is_called_on_a_dictionary(outer):
    a, b = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    given = [a, b] if outer == "list" else {"b": a, "a": b}
    inner = keras.Model(given, layers.Dense(3)(a) - 2 * layers.Dense(3)(b))
    c, d = keras.Input((4,)), keras.Input((4,))
    model = randomize(keras.Model([c, d], inner({"b": c, "a": d})))
    assert (
        difference(model, deploy(model), [features(3, 4), features(3, 4, seed=1)]) == 0
    )
