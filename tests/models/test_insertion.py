"""`models.insert`: where blocks go, and what stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.inserting import SimpleGate, blocks, chain, conv, outputs
from support.small_networks import images, narrow_resnet, randomize

from keras_attention import (
    ECA,
    AWConv2D,
    SqueezeExcite,
    image_input,
    models,
)
from keras_attention import graph as graphs


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


@keras.saving.register_keras_serializable("test_insertion")
class Backbone(keras.Model):
    """A functional model in a class with arguments of its own, as keras_hub's are."""

    def __init__(self, filters, **kwargs):
        inputs = keras.Input((None, None, 3))
        x = layers.ReLU(name="relu")(conv("c1", filters)(inputs))
        super().__init__(inputs, conv("c2", filters)(x), **kwargs)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


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
        weights, optimizer = model.get_weights(), model.optimizer
        variables, paths = list(model.variables), [w.path for w in model.variables]
        result = models.insert(model, "coord", at="resnet", warm_start=True)
        assert model.compiled and model.optimizer is optimizer
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

    def test_layers_that_keras_quantized(self):
        model = chain(layers.Dense(4, name="dense"), conv("conv"))
        model.get_layer("dense").quantize("int8")
        result = models.insert(model, "se", at="dense", warm_start=True)
        assert result.get_layer("dense_attention").dtype_policy.name == "float32"
        x = images(2, 8, 8, 4)
        np.testing.assert_allclose(outputs(result, x), outputs(model, x), atol=1e-6)

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

    @pytest.mark.parametrize("at", ["relu", "backbone"])
    def test_models_of_classes_of_their_own(self, at, tmp_path):
        x = inputs = keras.Input((8, 8, 3))
        for layer in Backbone(4, name="backbone"), layers.Flatten(), layers.Dense(2):
            x = layer(x)
        model = keras.Model(inputs, x)
        result = models.insert(model, "coord", at=at, warm_start=True)
        x = images(2, 8, 8, 3)
        np.testing.assert_allclose(outputs(result, x), outputs(model, x), atol=1e-6)
        result.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(outputs(loaded, x), outputs(result, x))

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
