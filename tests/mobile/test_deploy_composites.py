"""Layers made of layers, variables used directly, and what `mobile.deploy` refuses."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.deploying import CLOSE, chain, difference, features, layer_calls, names
from support.mobile_nets import randomize, small

from keras_attention import CoordAttention
from keras_attention.mobile import deploy, quantize


class Affine(layers.Layer):
    """Uses a variable of its own directly, in a way that the test chooses."""

    def __init__(self, shape, function, **kwargs):
        super().__init__(**kwargs)
        self.shape, self.function = shape, function

    def build(self, _):
        self.w = self.add_weight(shape=self.shape, name="w")

    def call(self, x):
        return self.function(x, self.w)

    def get_config(self):
        return super().get_config() | {"shape": self.shape, "function": self.function}


@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ((4,), lambda x, w: x * w),
        ((4,), lambda x, w: ops.multiply(w, x)),
        ((1, 1, 4), lambda x, w: x + w),
        ((1, 1, 1, 4), lambda x, w: x - w),
        ((4,), lambda x, w: ops.subtract(w, x)),
        ((4,), lambda x, w: x / w),
        ((), lambda x, w: x * w),
        ((1,), lambda x, w: x + w),
        ((4,), lambda x, w: (x - w) * ops.subtract(w, x)),
        (
            (),
            lambda x, w: (
                ops.concatenate([x, x], -1) * w + ops.tile(x * w, (1, 1, 1, 2))
            ),
        ),
    ],
)
def test_scale_or_shift_by_a_variable(shape, function):
    model = chain(Affine(shape, function, name="own"))
    deployed = deploy(model)
    assert difference(model, deployed, features(2, 8, 6, 4)) <= CLOSE
    kinds = {type(layer) for layer in deployed.layers if layer.weights}
    assert kinds == {layers.DepthwiseConv2D}


@pytest.mark.parametrize("shape", [(4,), (5, 4)])
def test_scale_of_another_rank(shape):
    model = chain(Affine((4,), lambda x, w: x * w), shape=shape)
    assert difference(model, deploy(model), features(2, *shape)) <= CLOSE


class TiedWeights(layers.Layer):
    """Uses the kernel of a sub-layer a second time, transposed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3, name="inner")

    def call(self, x):
        return ops.matmul(self.inner(x), ops.transpose(self.inner.kernel))


class OwnVariable(layers.Layer):
    """Makes its variable by hand, outside of `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.w = keras.Variable(np.ones(4, "float32"), name="w")

    def call(self, x):
        return x * ops.exp(self.w)


class Standardized(layers.Conv2D):
    """Keras' documented way to change a convolution: another `convolution_op`."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel))


class AlwaysDropout(layers.Dropout):
    def call(self, x):
        return super().call(x, training=True)


class Decides(layers.Layer):
    def call(self, x):
        return x if ops.sum(x) > 0 else -x

    def compute_output_shape(self, shape):
        return shape


class CallsTensorFlow(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.nn.relu(x)


class NoConfig(layers.Layer):
    def __init__(self, something, **kwargs):
        super().__init__(**kwargs)
        self.something = something

    def call(self, x):
        return x


def own(shape, function):
    return Affine(shape, function, name="own")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            own((1, 1, 4, 4), lambda x, w: ops.conv(x, w)),
            "'own/w' is used directly in operation 'own_conv' of layer 'own' .*deploy",
        ),
        (
            own((8, 6, 4), lambda x, w: x + w),  # another shift at each position
            "'own/w' is used directly in operation 'own_add' of layer 'own' .*deploy",
        ),
        (
            own((4,), lambda x, w: ops.divide(w, x)),
            "'own/w' is used directly in operation 'own_divide' of layer 'own'",
        ),
        (
            own((4,), lambda x, w: x * ops.exp(w)),
            r"'own' \(Affine\) uses its variable 'w' in a way that can't be .*deploy",
        ),
        (own((4,), lambda x, w: w * x), r"'own' \(Affine\).*write x \* w,.*deploy"),
        (
            OwnVariable(name="own"),
            r"'own' \(OwnVariable\) uses its variable 'w' .*deploy",
        ),
        (TiedWeights(name="tied"), r"'tied' \(TiedWeights\) .* 'kernel' .*deploy"),
        (Standardized(4, 3, name="ws"), r"'ws' \(Standardized\) .* 'kernel' .*deploy"),
        (
            AlwaysDropout(0.5, name="mc"),
            r"'mc' \(AlwaysDropout\) can't be opened.*deploy",
        ),
        (
            Decides(name="if"),
            r"'if' \(Decides\) can't be opened: its call\(\) .*deploy",
        ),
        (CallsTensorFlow(name="tf"), r"'tf' \(CallsTensorFlow\) can't be .*deploy"),
        (
            NoConfig(object(), name="no"),
            r"'no' \(NoConfig\) can't be opened: get_config\(\) and .*deploy",
        ),
    ],
)
def test_refused_layers(layer, message):
    inputs = keras.Input((8, 6, 4))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match=message):
        deploy(model)


def test_refused_inside_of_another_layer():
    class Outer(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = TiedWeights()

        def call(self, x):
            return self.inner(x)

    with pytest.raises(ValueError, match=r"'outer_inner' \(TiedWeights\) .*'kernel'"):
        deploy(chain(Outer(name="outer")))


@keras.saving.register_keras_serializable(package="mobile_nets")
class Doubling(layers.Layer):
    """Has a `deploy` of its own."""

    deployments = 0

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), name="w")

    def call(self, x):
        return ops.exp(self.w) * 2.0 * x

    def deploy(self):
        type(self).deployments += 1
        scale = layers.DepthwiseConv2D(
            1, use_bias=False, name=f"{self.name}_scale", trainable=self.trainable
        )
        scale.build((None, None, None, self.w.shape[0]))
        scale.set_weights([2 * np.exp(self.w.numpy())[None, None, :, None]])
        return lambda x: ops.add(scale(x), 0.0)


def test_deploy_of_a_users_layer_is_called_once():
    block, inputs = Doubling(name="double"), keras.Input((8, 6, 4), name="x")
    model = randomize(
        keras.Model(inputs, block(layers.ReLU(name="relu")(block(inputs))))
    )
    Doubling.deployments = 0
    deployed = deploy(model)
    assert Doubling.deployments == 1
    assert names(deployed) == ["x", "double_scale", "relu"]
    assert len(layer_calls(deployed, "double_scale")) == 2
    assert difference(model, deployed, features(2, 8, 6, 4)) <= CLOSE
    block.trainable = False
    assert not deploy(model).get_layer("double_scale").trainable


def test_attention_inside_of_a_composite_layer():
    class Attend(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attention = CoordAttention(reduction=2)

        def call(self, x):
            return x + self.attention(x)

    model = chain(Attend(name="attend"))
    deployed = deploy(model)
    assert "attend_attention_gate_h" in names(deployed)
    assert difference(model, deployed, features(3, 8, 6, 4)) <= CLOSE


def test_a_composite_layer_with_several_inputs_and_a_dictionary_of_outputs():
    class Pair(layers.Layer):
        def call(self, pair, scale=1.0):
            a, b = pair
            return {"sum": a + b * scale, "difference": a - b}

    a, b = keras.Input((4,)), keras.Input((4,))
    both = Pair(name="pair")([a, b], scale=3.0)
    model = keras.Model([a, b], layers.Concatenate()([both["sum"], both["difference"]]))
    data = [features(3, 4), features(3, 4, seed=1)]
    assert difference(model, deploy(model), data) <= CLOSE


def channels_first(layer):
    inputs = keras.Input((3, 8, 8))
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, data_format="channels_first", name="first"),
        layers.MaxPooling2D(data_format="channels_first", name="first"),
        layers.BatchNormalization(axis=1, name="first"),
    ],
)
def test_channels_first_is_refused_by_name(layer):
    with pytest.raises(
        ValueError, match="Layer 'first' is channels_first, .*channels_l"
    ):
        deploy(channels_first(layer))


def test_channels_first_attention_is_refused_by_name():
    model = channels_first(CoordAttention(data_format="channels_first", name="first"))
    with pytest.raises(ValueError, match="first.*channels_last"):
        deploy(model)


class Subclassed(keras.Model):
    def __init__(self, name="own", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_kinds_of_models():
    with pytest.raises(
        TypeError, match="'own' is no functional or Sequential model. Wr"
    ):
        deploy(Subclassed())
    with pytest.raises(TypeError, match="no functional or Sequential model"):
        deploy(layers.Dense(2, name="dense"))
    with pytest.raises(
        ValueError, match="'plain' is not built: begin it with a keras.I"
    ):
        deploy(keras.Sequential([layers.Dense(2)], name="plain"))
    inputs = keras.Input((3,))  # what the first message says to do
    model = keras.Model(inputs, Subclassed()(inputs))
    assert difference(model, deploy(model), features(2, 3)) == 0
    assert names(deploy(model))[1:] == ["own_dense"]


@pytest.mark.parametrize("shape", [(None, 8, 3), (8, None, 3)])
def test_dynamic_sizes_are_refused(shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.ReLU()(inputs), name="dynamic")
    with pytest.raises(
        ValueError, match="of model 'dynamic' has a dynamic height or wi"
    ):
        deploy(model)
    with pytest.raises(ValueError, match=r"\(9, 9, 3\) does not fit the input of 'dyn"):
        deploy(model, (9, 9, 3))
    with pytest.raises(ValueError, match="does not fit the input of 'dynamic'"):
        deploy(model, (8, 8))
    with pytest.raises(
        ValueError, match="must hold 1 shapes, one per input of 'dynamic'"
    ):
        deploy(model, [(8, 8, 3), (4,)])
    assert deploy(model, (8, 8, 3)).input_shape == (None, 8, 8, 3)


def test_a_quantized_model_is_refused():
    quantized = quantize(small(), features(2, 8, 8, 3))
    for refuse in (deploy, lambda model: quantize(model, features(2, 8, 8, 3))):
        with pytest.raises(ValueError, match="is quantized already.*the float model"):
            refuse(quantized)
    outer = keras.Sequential([keras.Input((8, 8, 3)), quantized])
    with pytest.raises(ValueError, match="image_quant' is quantized already"):
        deploy(outer)
