"""`models.insert`: convolutions that are replaced, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.inserting import SimpleGate, chain, conv, outputs
from support.small_networks import images, randomize

from keras_attention import (
    ECA,
    AWConv2D,
    SelectiveKernel,
    models,
)
from keras_attention.layers._grouped_conv import GroupedConv2D


def depthwise(name, **arguments):
    return layers.DepthwiseConv2D(3, padding="same", name=name, **arguments)


class TestReplacing:
    @pytest.mark.parametrize(
        "layer",
        [
            conv("c", 6),
            conv("c", 6, strides=2, padding="valid", use_bias=False),
            conv("c", 6, dilation_rate=2, activation="relu"),
            conv("c", 6, kernel_size=(1, 5), groups=2),
            GroupedConv2D(8, 3, groups=4, name="c"),
            depthwise("c"),
            depthwise("c", depth_multiplier=3, activation="relu6"),
            depthwise("c", strides=2, use_bias=False),
            depthwise("c", dilation_rate=2, depth_multiplier=2),
            layers.DepthwiseConv2D((3, 5), name="c"),
        ],
        ids=str,
    )
    def test_aw_keeps_kernel_and_bias(self, layer):
        """With constant gates AW is the convolution that it replaces."""
        layer = type(layer).from_config(layer.get_config())
        model = chain(conv("first"), layer)
        randomize(model)
        result = models.insert(model, "aw", at="c", warm_start=True)
        block = result.get_layer("c_attention")
        assert type(block) is AWConv2D and "c" not in {x.name for x in result.layers}
        x = images(2, 8, 8, 4)
        (new,), (old,) = outputs(result, x), outputs(model, x)
        # one rounding of 1.5 / 1.5 per product
        assert np.abs(new - old).max() <= 2e-6 * np.abs(old).max()
        cold = models.insert(model, "aw", at="c").get_layer("c_attention")
        given, kept = np.asarray(layer.kernel), np.asarray(cold.kernel)
        np.testing.assert_array_equal(kept.ravel(), given.ravel())

    def test_aw_takes_regularizers_and_constraints_over(self):
        arguments = {
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=(0, 1, 2)),
        }
        layer = conv("c", **arguments)
        block = models.insert(chain(layer), "aw", "c").get_layer("c_attention")
        for name in (*arguments, "activity_regularizer", "kernel_initializer"):
            given, kept = getattr(layer, name), getattr(block, name)
            assert keras.saving.serialize_keras_object(
                kept
            ) == keras.saving.serialize_keras_object(given)
        layer = depthwise("d", depthwise_regularizer=keras.regularizers.L2(0.2))
        block = models.insert(chain(layer), "aw", "d").get_layer("d_attention")
        assert float(block.kernel_regularizer.l2) == pytest.approx(0.2)

    def test_a_frozen_kernel_stays_frozen(self):
        layer = conv("c")
        model = chain(layer)
        layer.trainable = False
        block = models.insert(model, "aw", at="c").get_layer("c_attention")
        frozen = [w.path for w in block.weights if not w.trainable]
        assert not block.kernel.trainable and not block.bias.trainable
        assert block.expand.kernel.trainable and len(frozen) == 2 + 4

    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (AWConv2D(4, 3, name="c"), "it is a AWConv2D, and must be one of Conv2D"),
            (depthwise("c", depthwise_constraint="max_norm"), "its constraint"),
        ],
        ids=str,
    )
    def test_aw_refuses(self, layer, reason):
        with pytest.raises(ValueError, match=f"'aw' can't take .* 'c': {reason}"):
            models.insert(chain(layer), "aw", at="c")

    def test_aw_refuses_low_rank_updates(self):
        layer = conv("c")
        model = chain(layer)
        layer.enable_lora(2)
        with pytest.raises(ValueError, match="'c': its kernel is .* low-rank"):
            models.insert(model, "aw", at="c")

    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (conv("c", 6), "as many outputs as inputs, and has 4 -> 6"),
            (conv("c", kernel_size=1), "k x k with k > 1"),
            (conv("c", kernel_size=(3, 1)), "k x k with k > 1"),
            (conv("c", activation="swish"), "its activation"),
            (conv("c", padding="valid"), r"one tensor of shape \(None, 6, 6, 4\)"),
            (conv("c", strides=(1, 2)), "strides must be a positive integer"),
        ],
        ids=str,
    )
    def test_sk_refuses(self, layer, reason):
        layer = type(layer).from_config(layer.get_config())
        with pytest.raises(ValueError, match=f"'sk' can't take .* 'c': .*{reason}"):
            models.insert(chain(layer), "sk", at="c")

    def test_sk(self):
        model = chain(conv("c", strides=2), conv("d"))
        block = models.insert(model, "sk", at="c|d").get_layer("c_attention")
        assert type(block) is SelectiveKernel
        assert (block.strides, block.groups) == (2, 4)


class Halves(keras.layers.Layer):
    def call(self, x):
        return ops.split(x, 2, axis=-1)


class Unsaved(keras.layers.Layer):
    def __init__(self, size):
        super().__init__(name="unsaved")
        self.size = size

    def call(self, x):
        return x * self.size


class Widening(keras.layers.Layer):
    def call(self, x):
        return ops.concatenate([x, x], axis=-1)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def functional_with_a_call_of_its_own():
    class Own(type(chain(conv("a")))):
        def call(self, *args, **kwargs):
            return super().call(*args, **kwargs)

    x = keras.Input((8, 8, 4))
    return Own(x, conv("a")(x))


class TestRefuses:
    @pytest.mark.parametrize(
        ("model", "error", "message"),
        [
            (lambda: 3, TypeError, "model must be a functional or Sequential.* 3"),
            (Subclassed, TypeError, "must be a functional or .*received <Subclassed"),
            (lambda: conv("a"), TypeError, "must be a functional.*<Conv2D"),
            (functional_with_a_call_of_its_own, TypeError, "received <Own"),
            (
                lambda: keras.Sequential([conv("a")], name="bare"),
                ValueError,
                "'bare' is not built: begin it with a keras.Input",
            ),
            (
                lambda: chain(conv("a"), conv("b", data_format="channels_first")),
                ValueError,
                "layer 'b' is channels_first; blocks are inserted into channels_last",
            ),
            (
                lambda: chain(conv("a"), Unsaved(3)),
                ValueError,
                r"layer 'unsaved' \(Unsaved\) can't be copied by get_config",
            ),
        ],
    )
    def test_models(self, model, error, message):
        with pytest.raises(error, match=message):
            models.insert(model(), "eca", at="a")

    @pytest.mark.parametrize(
        ("at", "error", "message"),
        [
            (
                "mobilenet_v3",
                ValueError,
                "matches no layer of model 'chain'.*preset .mobilenet_v2, mobilenext, "
                "resnet, resnet_3d, efficientnet.*Layers are a, b, c$",
            ),
            ("resnet", ValueError, "at='resnet' matches no layer"),
            ("image", ValueError, "matches no layer"),
            ("conv[", ValueError, r"at='conv\[' is no regular expression: untermin"),
            (3, TypeError, "at must be a string or a function of a layer; received 3"),
            (None, TypeError, "at must be a string or.*None"),
        ],
    )
    def test_at(self, at, error, message):
        with pytest.raises(error, match=message):
            models.insert(chain(conv("a"), conv("b"), conv("c")), "eca", at=at)

    def test_long_lists_of_layers_are_cut(self):
        model = chain(*(layers.ReLU(name=f"r{n}") for n in range(20)))
        with pytest.raises(ValueError, match=r"Layers are r0, .*r7, \.\.\.$"):
            models.insert(model, "eca", at="x")
        with pytest.raises(ValueError, match="matches no Conv2D or DepthwiseConv2D"):
            models.insert(model, "aw", at="r1")

    @pytest.mark.parametrize(
        ("attention", "message"),
        [
            (None, "attention must be a registry name, .*received None"),
            (["eca", "se"], "attention must be.*received \\['eca', 'se'\\]"),
            (ECA(), "attention must be.*<ECA"),
            ("cord", "unknown attention name 'cord'.*did you mean 'coord'"),
            (lambda site: 3, "must return a keras.layers.Layer; received 3 for Site"),
            ({"name": "se", "reduction": 0}, "reduction must be a positive integer"),
            ({"name": "ema", "groups": 3}, "'ema' can't stand behind layer 'a'.*group"),
            (Widening, r"'a': it must return one tensor of shape \(None, 8, 8, 4\)"),
            (Halves, r"'a': it must return one tensor"),
            (
                lambda site: AWConv2D(4, 3, padding="same", name=site.name),
                "'a': AWConv2D is a convolution. Give it as attention 'aw'",
            ),
        ],
    )
    def test_blocks(self, attention, message):
        model = chain(conv("a"), name="model")
        weights = model.get_weights()
        model.compile("adam", "mse")
        with pytest.raises(ValueError, match=message):
            models.insert(model, attention, at="a")
        assert model.compiled and [x.name for x in model.layers] == ["image", "a"]
        for before, weight in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, weight)

    def test_several_outputs(self):
        x = inputs = keras.Input((8, 8, 4))
        model = keras.Model(inputs, Halves(name="halves")(x))
        message = "the block can't stand behind layer 'halves': it has 2 outputs"
        with pytest.raises(ValueError, match=message):
            models.insert(model, SimpleGate, at="halves")

    def test_other_ranks(self):
        model = chain(layers.GlobalAveragePooling2D(name="pool"))
        message = "'coord' can't stand behind layer 'pool'.*needs an input of rank 4"
        with pytest.raises(ValueError, match=message):
            models.insert(model, "coord", at="pool")

    def test_dynamic_channels(self):
        model = chain(layers.ReLU(name="relu"), shape=(8, 8, None))
        with pytest.raises(ValueError, match="'relu': the channels of .* not static"):
            models.insert(model, "se", at="relu")

    def test_variables_in_operations(self):
        layer, x = conv("a"), keras.Input((8, 8, 4))
        y = layer(x)
        model = keras.Model(x, ops.multiply(y, layer.bias))
        message = "operation '.*' reads variable 'a/bias' of a layer"
        with pytest.raises(ValueError, match=message):
            models.insert(model, "eca", at="a")
