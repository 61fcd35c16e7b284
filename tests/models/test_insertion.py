"""`models.insert`: where blocks go, and what stays as it was."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.small_networks import SMALL, images, narrow_resnet, randomize

from keras_attention import (
    ECA,
    AWConv2D,
    CoordAttention,
    SelectiveKernel,
    SqueezeExcite,
    image_input,
    models,
    names,
)
from keras_attention import graph as graphs
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import placement, sites


def chain(*stack, shape=(8, 8, 4), name="chain"):
    """A functional model of layers one after the other."""
    x = inputs = keras.Input(shape, name="image")
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def conv(name, filters=4, **arguments):
    settings = {"kernel_size": 3, "padding": "same"} | arguments
    return layers.Conv2D(filters, name=name, **settings)


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def blocks(model):
    """{name of a block: names of what it reads, and of what reads it}."""
    graph = graphs.trace_model(model)
    makers, readers = graph.producers(), graph.consumers()
    found = {}
    for node in graph.nodes:
        if re.search(r"_attention(_\d+)?$", node.name):
            (x,), (y,) = node.input_tensors, node.output_tensors
            maker = makers[id(x)].name if id(x) in makers else None
            reading = sorted(r.name if r else "" for r in readers[id(y)])
            found.setdefault(node.name, []).append((maker, reading))
    return found


class TestPresetsEqualBuilders:
    """`insert` into a plain network makes what the builder makes with `attention`."""

    @staticmethod
    def signature(model):
        found = []
        for name, calls in blocks(model).items():
            config = model.get_layer(name).get_config() | {"name": None}
            for text in ("kernel_initializer", "bias_initializer"):
                config.pop(text, None)  # of a convolution: the replaced one's
            found.append((*calls, config))
        return sorted(found, key=str)

    def check(self, build, backbone, block):
        built = build(attention=block)
        inserted = models.insert(build(attention=None), block, at=backbone)
        assert self.signature(inserted) == self.signature(built) != []
        assert inserted.count_params() == built.count_params()
        assert inserted.output_shape == built.output_shape

    @pytest.mark.parametrize("block", names())
    def test_resnet(self, block):
        def build(attention):
            return narrow_resnet(
                units=(1, 2, 2, 2), channels=(8, 8, 8, 8), attention=attention
            )

        self.check(build, "resnet", block)

    @pytest.mark.parametrize("block", ["coord", "simam", "aw"])
    def test_resnet_of_two_convolutions(self, block):
        def build(attention):
            return narrow_resnet("ResNet18", attention=attention)

        self.check(build, "resnet", block)

    @pytest.mark.parametrize("block", ["eca", "aw"])
    def test_mobilenet_v2(self, block):
        def build(attention):
            return models.MobileNetV2(**SMALL, attention=attention)

        self.check(build, "mobilenet_v2", block)

    @pytest.mark.parametrize("block", ["coord", "aw"])
    def test_mobilenext(self, block):
        def build(attention):
            return models.MobileNeXt((32, 32, 3), 5, width=0.35, attention=attention)

        self.check(build, "mobilenext", block)

    @pytest.mark.parametrize("block", ["sk"])
    def test_efficientnet(self, block):
        def build(attention):
            return models.EfficientNetLite0((32, 32, 3), 5, attention=attention)

        self.check(build, "efficientnet", block)


class TestPresets:
    def test_each_place_of_the_placement_table_is_found(self):
        for backbone, patterns in sites.PATTERNS.items():
            assert set(placement.PLACEMENT[backbone].values()) <= patterns.keys()

    def test_keras_mobilenet_v2(self):
        found = self.find(keras.applications.MobileNetV2, "mobilenet_v2")
        for position, name in (
            ("after_depthwise", "block_{}_depthwise_relu"),
            ("after_project", "block_{}_project_BN"),
            ("replace_spatial", "block_{}_depthwise"),
        ):
            assert found(position) == {
                name.format(n): {"stage": None, "unit": n, "units": None}
                for n in range(1, 17)  # "expanded_conv" does not expand
            }

    @pytest.mark.parametrize(
        ("build", "project"), [("ResNet50", "3_bn"), ("ResNet50V2", "3_conv")]
    )
    def test_keras_resnet(self, build, project):
        found = self.find(getattr(keras.applications, build), "resnet")
        counts = (3, 4, 6, 3)
        every = [(c, u) for c in range(2, 6) for u in range(1, counts[c - 2] + 1)]
        for position, name in (
            ("after_project", project),
            ("after_spatial", "2_relu"),
            ("replace_spatial", "2_conv"),
            ("after_sum", "out"),
        ):
            assert found(position) == {
                f"conv{c}_block{u}_{name}": {
                    "stage": c - 1,
                    "unit": u,
                    "units": counts[c - 2],
                }
                for c, u in every
            }
        last = found("after_stage")
        assert list(last) == [f"conv{c}_block{counts[c - 2]}_out" for c in range(2, 6)]

    def test_keras_efficientnet(self):
        found = self.find(keras.applications.EfficientNetB0, "efficientnet")
        units = "1a 2a 2b 3a 3b 4a 4b 4c 5a 5b 5c 6a 6b 6c 6d 7a".split()
        behind = found("after_depthwise")
        assert list(behind) == [f"block{unit}_se_excite" for unit in units]
        assert behind["block4c_se_excite"] == {"stage": 4, "unit": 3, "units": 3}
        assert list(found("replace_spatial")) == [f"block{u}_dwconv" for u in units]

    def test_keras_efficientnet_v2(self):
        """Fused units have no depthwise convolution; those of stage 1 expand not."""
        found = self.find(keras.applications.EfficientNetV2B0, "efficientnet")
        fused = ["2a", "2b", "3a", "3b"]
        behind, replaced = found("after_depthwise"), found("replace_spatial")
        assert sorted(n for n in behind if "expand" in n) == [
            f"block{unit}_expand_activation" for unit in fused
        ]
        excited = [name for name in behind if name.endswith("_se_excite")]
        assert len(behind) == len(excited) + 4 and len(excited) == 3 + 5 + 8
        assert sorted(n for n in replaced if "dwconv2" not in n) == [
            "block1a_project_conv",
            *(f"block{unit}_expand_conv" for unit in fused),
        ]
        assert len(replaced) == 21

    @staticmethod
    def find(build, backbone):
        model = build(weights=None, input_shape=(32, 32, 3), include_top=False)
        layer_names = [layer.name for layer in model.layers]

        def found(position):
            result = sites.find(backbone, position, layer_names)
            return dict(sorted(result.items()))

        return found

    def test_own_squeeze_and_excitation_stays(self):
        model = models.EfficientNetB0((32, 32, 3), 5)
        result = models.insert(model, "coord", at="efficientnet")
        found = blocks(result)
        assert found["stage_2_unit_1_depthwise_act_attention"] == [
            ("stage_2_unit_1_attention", ["stage_2_unit_1_project_conv"])
        ]
        assert len(found) == 32
        assert {type(result.get_layer(n)) for n in found} == {
            SqueezeExcite,
            CoordAttention,
        }

    def test_selective_kernels_take_the_padding_over(self):
        base = keras.applications.MobileNetV2(
            (32, 32, 3), 0.35, weights=None, include_top=False
        )
        model = models.insert(base, "sk", at="mobilenet_v2")
        assert model.output_shape == base.output_shape
        (call,) = blocks(model)["block_1_depthwise_attention"]
        assert call == ("block_1_expand_relu", ["block_1_depthwise_BN"])
        assert model.get_layer("block_1_depthwise_attention").strides == 2
        gone = {layer.name for layer in base.layers} - {x.name for x in model.layers}
        pads = {f"block_{n}_pad" for n in (1, 3, 6, 13)}
        assert gone == pads | {f"block_{n}_depthwise" for n in range(1, 17)}

    def test_of_a_preset_selective_kernels_take_what_they_can(self):
        x = inputs = keras.Input((8, 8, 4))
        for name in ("block1a_project", "block1b_project", "block1c_expand"):
            x = conv(f"{name}_conv", 4 if "1b" in name else 8)(x)
            last = f"{name[:7]}_project_bn"
            x = layers.BatchNormalization(name=last)(x)
        model = keras.Model(inputs, x)
        with pytest.raises(ValueError, match="'sk' can't take.*'block1a_project_conv'"):
            models.insert(model, "sk", at="block1a_project_conv")
        with pytest.raises(ValueError, match="matches no Conv2D or DepthwiseConv2D"):
            models.insert(model, "sk", at="efficientnet")


@pytest.fixture(scope="module")
def model():
    stack = [conv("conv1"), layers.ReLU(name="relu"), conv("conv10"), conv("head")]
    return chain(*stack)


class TestAt:
    @pytest.mark.parametrize(
        ("at", "expected"),
        [
            ("conv1", ["conv1"]),  # the whole name, not a part of it
            (r"conv\d+", ["conv1", "conv10"]),
            ("conv10|relu", ["conv10", "relu"]),
            (lambda layer: layer.name.startswith("conv1"), ["conv1", "conv10"]),
            (lambda layer: isinstance(layer, layers.ReLU), ["relu"]),
            (".*", ["conv1", "conv10", "head", "relu"]),  # the input is none of them
        ],
    )
    def test_behind_what_matches(self, model, at, expected):
        result = models.insert(model, "eca", at=at)
        found = blocks(result)
        assert found.keys() == {f"{name}_attention" for name in expected}
        for name in expected:
            assert found[f"{name}_attention"][0][0] == name
            assert isinstance(result.get_layer(f"{name}_attention"), ECA)

    def test_in_the_place_of_convolutions_that_match(self, model):
        result = models.insert(model, "aw", at=".*")
        assert sorted(blocks(result)) == [
            "conv10_attention",
            "conv1_attention",
            "head_attention",
        ]
        assert [type(x) for x in result.layers[1:]] == [
            AWConv2D,
            layers.ReLU,
            AWConv2D,
            AWConv2D,
        ]

    def test_function_gets_the_layers_of_the_given_model(self, model):
        seen = []
        with pytest.raises(ValueError, match="matches no layer"):
            models.insert(model, "eca", at=lambda layer: seen.append(layer))
        assert seen == model.layers[1:]

    @pytest.mark.parametrize("position", ["after_layer", "after_project"])
    def test_sites_that_a_function_gets(self, position):
        found = []

        def make(site):
            found.append(site)
            return SqueezeExcite(4, name=site.name)

        if position == "after_layer":
            models.insert(chain(conv("a"), conv("b", 6)), make, at="b")
            expected = {"name": "b_attention", "backbone": None, "unit": None}
            expected |= {"stage": None, "units": None, "shape": (None, 8, 8, 6)}
        else:
            base = narrow_resnet()
            models.insert(base, make, at="resnet")
            assert len(found) == 5
            expected = {"name": "stage_1_unit_2_bn_3_attention", "backbone": "resnet"}
            expected |= {"stage": 1, "unit": 2, "units": 2, "shape": (None, 8, 8, 16)}
        site = found[-1] if position == "after_layer" else found[1]
        for field, value in (expected | {"position": position, "conv": None}).items():
            assert getattr(site, field) == value

    def test_every_way_to_name_a_block(self, model):
        for value in (
            {"name": "se", "reduction": 2},
            lambda site: SqueezeExcite(2, name=site.name),
        ):
            layer = models.insert(model, value, at="relu").get_layer("relu_attention")
            assert type(layer) is SqueezeExcite and layer.reduction == 2
        layer = models.insert(model, SqueezeExcite, "relu").get_layer("relu_attention")
        assert type(layer) is SqueezeExcite and layer.reduction == 16

    def test_arguments_are_fitted(self):
        model = chain(conv("a", 36))
        assert models.insert(model, "ema", "a").get_layer("a_attention").groups == 18
        given = {"name": "ema", "groups": 4}
        assert models.insert(model, given, "a").get_layer("a_attention").groups == 4

    def test_names_stay_unique(self, model):
        once = models.insert(model, "eca", at="relu")
        twice = models.insert(once, "se", at="relu")
        found = blocks(twice)
        assert isinstance(twice.get_layer("relu_attention_1"), SqueezeExcite)
        # Blocks stand in the order in which they came.
        assert found["relu_attention_1"] == [("relu_attention", ["conv10"])]
        replaced = models.insert(twice, "aw", at="conv10")
        (call,) = blocks(models.insert(replaced, "nl", at="relu"))["relu_attention_2"]
        assert call == ("relu_attention_1", ["conv10_attention"])


@keras.saving.register_keras_serializable("test_insertion")
class Composite(keras.layers.Layer):
    """Layers inside, built when it is called first."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, name="first")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x):
        return self.norm(self.first(x))


class TestCopy:
    def test_layers_stay_what_they_were(self):
        model = narrow_resnet()
        randomize(model)
        model.get_layer("stage_1_unit_1_conv_1").trainable = False
        model.get_layer("classifier").bias.trainable = False
        result = models.insert(model, "se", at="resnet")
        assert result.name == model.name
        assert image_input.input_range_of(result) == image_input.BYTE_RANGE
        assert type(result.layers[0]) is image_input.ImageInput
        for layer in model.layers:
            copy = result.get_layer(layer.name)
            assert copy is not layer and type(copy) is type(layer)
            assert copy.get_config() == layer.get_config()
            assert copy.trainable == layer.trainable
            for old, new in zip(layer.weights, copy.weights, strict=True):
                assert new is not old and new.path == old.path
                assert new.trainable == old.trainable
                np.testing.assert_array_equal(new, old)

    def test_given_model_stays_as_it_is(self):
        model = narrow_resnet()
        randomize(model)
        model.compile("sgd", "mse")
        x = images(2, 32, 32, 3)
        before = outputs(model, x)[0]
        weights = model.get_weights()
        variables, paths = list(model.variables), [w.path for w in model.variables]
        result = models.insert(model, "coord", at="resnet", warm_start=True)
        assert model.compiled and model.optimizer.name == "sgd"
        assert not result.compiled
        for each in (*result.weights, *result.layers):
            assert not any(each is other for other in (*model.weights, *model.layers))
        for weight in result.weights:
            weight.assign(ops.zeros_like(weight))
        assert all(a is b for a, b in zip(model.variables, variables, strict=True))
        assert [w.path for w in model.variables] == paths
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(outputs(model, x)[0], before)

    def test_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = narrow_resnet()
        finally:
            keras.config.set_dtype_policy("float32")
        result = models.insert(model, "se", at="resnet")
        block = result.get_layer("stage_1_unit_1_bn_3_attention")
        assert block.dtype_policy.name == block.reduce.dtype_policy.name
        assert block.dtype_policy.name == "mixed_bfloat16"
        assert result.get_layer("stem_conv").compute_dtype == "bfloat16"
        assert result.get_layer("classifier").compute_dtype == "float32"
        assert keras.config.dtype_policy().name == "float32"

    def test_sequential(self):
        model = keras.Sequential([keras.Input((8, 8, 4)), conv("a"), conv("b")])
        result = models.insert(model, "coord", at="a", warm_start=True)
        assert not isinstance(result, keras.Sequential)
        assert blocks(result) == {"a_attention": [("a", ["b"])]}
        x = images(2, 8, 8, 4)
        np.testing.assert_allclose(outputs(result, x), outputs(model, x), atol=1e-6)

    def test_structures_of_inputs_and_outputs(self):
        a, b = (keras.Input((8, 8, 4), name=name) for name in "ab")
        y = conv("conv")(a)
        total = ops.add(y, ops.tanh(b))
        model = keras.Model({"b": b, "a": a}, {"total": total, "all": [y, total]})
        result = models.insert(model, SimpleGate, at="conv", warm_start=False)
        x = {name: images(2, 8, 8, 4, seed=n) for n, name in enumerate("ab")}
        assert result.output.keys() == {"total", "all"}
        gate = np.float32(0.5)
        y, *_ = outputs(model, x)
        for new, old in zip(
            outputs(result, x),
            (gate * y, gate * y + np.tanh(x["b"]), gate * y + np.tanh(x["b"])),
            strict=True,
        ):
            # the same sums, in float32
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)

    def test_layers_of_all_kinds(self):
        normalize = layers.Normalization(name="normalize")
        normalize.adapt(images(16, 8, 8, 4))
        model = chain(
            normalize,
            layers.Lambda(lambda x: 2 * x, name="double"),
            Composite(name="composite"),
            conv("conv"),
            layers.TimeDistributed(layers.Dense(3), name="distributed"),
        )
        randomize(model)
        model.get_layer("composite").norm.trainable = False
        result = models.insert(model, "nl", at="conv", warm_start=True)
        x = images(2, 8, 8, 4)
        np.testing.assert_array_equal(outputs(result, x), outputs(model, x))
        composite = result.get_layer("composite")
        assert composite.first.trainable and not composite.norm.trainable

    def test_saves_and_loads(self, tmp_path):
        model = models.insert(chain(conv("a"), conv("b")), "coord", at="a")
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        x = images(2, 8, 8, 4)
        np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))


@keras.saving.register_keras_serializable("test_insertion")
class SimpleGate(keras.layers.Layer):
    """x * sigmoid(w), w = 0 at the start, for tensors of any rank."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="zeros", name="w")

    def call(self, x):
        return x * ops.sigmoid(self.w)


class TestSharedAndNested:
    def test_a_shared_layer_shares_its_block(self):
        a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
        shared = conv("shared")
        y = layers.Add(name="sum")([shared(a), shared(b)])
        model = keras.Model([a, b], y)
        result = models.insert(model, SimpleGate, at="shared")
        assert blocks(result) == {"shared_attention": [("shared", ["sum"])] * 2}
        assert len([w for w in result.weights if w.name == "w"]) == 1

    def test_nested_models_stay_nested(self):
        base = keras.Sequential(
            [keras.Input((8, 8, 3)), conv("a"), conv("b")], name="base"
        )
        inputs = keras.Input((8, 8, 3))
        x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
        model = keras.Model(inputs, layers.Dense(2, name="head")(x))
        result = models.insert(model, "se", at="a|head_of_nothing")
        nested = result.get_layer("base")
        assert blocks(nested) == {"a_attention": [("a", ["b"])]}
        (call,) = (n for n in graphs.trace_model(result).nodes if n.op is nested)
        assert call.kwargs["training"] is False
        # A nested model is a layer, too.
        assert blocks(models.insert(model, "se", at="base"))["base_attention"]

    def test_a_nested_model_called_twice(self):
        base = chain(conv("a"), conv("b"), name="base")
        a, b = (keras.Input((8, 8, 4), name=name) for name in "ab")
        model = keras.Model([a, b], layers.Subtract()([base(a), base(b)]))
        result = models.insert(model, "coord", at="a", warm_start=True)
        assert len([w for w in result.weights if "a_attention" in w.path]) == len(
            result.get_layer("base").get_layer("a_attention").weights
        )
        x = [images(2, 8, 8, 4, seed=seed) for seed in (0, 1)]
        np.testing.assert_allclose(outputs(result, x), outputs(model, x), atol=1e-6)

    @pytest.mark.parametrize("nested", [True, False])
    def test_blocks_in_a_frozen_model_learn(self, nested):
        base = chain(conv("a"), layers.BatchNormalization(name="bn"), name="base")
        base.trainable = False
        model = chain(base, conv("head")) if nested else base
        result = models.insert(model, "se", at="bn")
        head = 2 if nested else 0
        paths = [w.path for w in result.trainable_weights]
        assert len(paths) == 4 + head
        assert sum("bn_attention" in path for path in paths) == 4
        inside = result.get_layer("base") if nested else result
        assert not inside.get_layer("bn").trainable
        # Where no block stands the model itself stays frozen.
        if nested:
            other = models.insert(model, "se", at="head")
            assert not other.get_layer("base").trainable

    def test_dictionaries_into_nested_models(self):
        a, b = (keras.Input((8, 8, 4), name=name) for name in "ab")
        base = keras.Model({"a": a, "b": b}, conv("c")(a) + b, name="base")
        x, y = (keras.Input((8, 8, 4), name=name) for name in "xy")
        model = keras.Model([x, y], conv("d")(base({"a": x, "b": y})))
        result = models.insert(model, "se", at="c|d")
        data = [images(2, 8, 8, 4, seed=seed) for seed in (0, 1)]
        assert result(data).shape == (2, 8, 8, 4)


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
