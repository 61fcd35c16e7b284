"""Multiply-adds: papers' networks, blocks, layers, operations; the model stays."""

import importlib.util
import json
import pathlib
import random
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.small_networks import images, narrow_resnet

import keras_attention
from keras_attention import CoordAttention, mobile, models, stock
from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import _counting_rules as rules
from keras_attention.models import count_multiply_adds

ROOT = pathlib.Path(keras_attention.__file__).parents[1]


def benchmark(name):
    """Returns a module of the folder benchmarks."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tensorflow_count():
    """The other counter, of the graph that TensorFlow makes of a layer."""
    return benchmark("_counting").multiply_adds


FORMULAS = benchmark("formulas").FORMULAS
MAPS = ((56, 56, 96), (14, 14, 384))  # those of benchmarks/blocks.py


@pytest.fixture(scope="module")
def reports():
    """Of the networks whose counts papers publish."""
    with pytest.MonkeyPatch.context() as patch:
        for module in models._building, models.mobilenet_v2:
            patch.setattr(module, "normal", lambda mode: "zeros")  # saves time
        nets = {w: models.MobileNetV2(width=w) for w in (1.0, 0.75, 0.5)}
        nets |= {a: models.ResNet50(attention=a) for a in (None, "a2")}
        return {name: count_multiply_adds(net) for name, net in nets.items()}


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "count", "stated"),
        [
            (1.0, 300_774_272, 300.8e6),
            (0.75, 209_069_792, 209.1e6),
            (0.5, 97_131_840, 97.1e6),
            (None, 4_089_184_256, 4.09e9),
            ("a2", 6_658_195_456, 6.66e9),
        ],
    )
    def test_totals(self, name, count, stated, reports):
        assert reports[name].total == count == sum(reports[name].layers.values())
        assert abs(count - stated) <= 0.02 * stated

    def test_layers_stand_in_the_order_of_the_graph(self, reports):
        layers = reports[1.0].layers
        assert list(layers)[:3] == ["stem_pad", "stem_conv", "stem_bn"]
        assert list(layers)[-1] == "classifier"
        assert layers["stem_conv"] == 112 * 112 * 32 * 27
        assert layers["block_1_depthwise_conv"] == 112 * 112 * 32 * 9
        assert layers["classifier"] == 1280 * 1000
        assert layers["stem_bn"] == 0
        blocks = [n for name, n in reports["a2"].layers.items() if "attention" in name]
        assert blocks == [513_802_240] * 5  # 2 L C (m + n) + 2 L m n, m = n = C / 2

    def test_published_3860_is_the_variant_with_the_stride_in_the_1x1(self, reports):
        first = sum(
            reports[None].layers[f"stage_{stage}_unit_1_conv_1"] for stage in (2, 3, 4)
        )
        variant = count_multiply_adds(keras.applications.ResNet50(weights=None))
        assert reports[None].total - first * 3 / 4 == variant.total == 3_857_973_248

    def test_the_page_states_them(self, reports):
        page = (ROOT / "docs/models.md").read_text()
        for report in reports.values():
            assert f" {report.total / 1e6:,.1f} |" in page

    def test_other_sizes(self):
        counts = [
            count_multiply_adds(narrow_resnet(input_shape=shape), (64, 32, 3)).layers
            for shape in ((None, None, 3), (64, 32, 3))
        ]
        assert counts[0] == counts[1]

    @pytest.mark.parametrize("attention", ["gc", "nl", None])
    def test_cost_what_tensorflow_computes(self, attention, small, tensorflow_count):
        model = narrow_resnet(attention=attention) if attention else small
        computed = tensorflow_count(model, (1, 32, 32, 3))
        assert count_multiply_adds(model).total == computed

    def test_of_keras(self):
        model = keras.applications.MobileNetV2(weights=None, alpha=0.35)
        assert count_multiply_adds(model).total == 59_285_808  # 59 M in its paper

    def test_quantized(self):
        """As much as what was quantized: here no block, whose mobile form differs."""
        x = keras.Input((16, 16, 3))
        y = layers.Conv2D(8, 3, activation="relu")(x)
        y = layers.DepthwiseConv2D(3)(y)
        model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
        quantized = mobile.quantize(model, images(8, 16, 16, 3))
        total = count_multiply_adds(model).total
        assert count_multiply_adds(quantized).total == total > 0

    def test_video(self):
        x = keras.Input((4, 8, 8, 3))
        y = layers.Conv3D(6, (3, 1, 1), padding="same", name="conv")(x)
        y = keras_attention.DoubleAttention(name="a2")(y)
        found = count_multiply_adds(keras.Model(x, y)).layers
        assert found == {
            "conv": 4 * 8 * 8 * 6 * 9,
            "a2": 4 * 8 * 8 * (4 * 6 * 3 + 2 * 9),
        }


class TestBlocks:
    @pytest.mark.parametrize("shape", MAPS, ids=str)
    @pytest.mark.parametrize("name", FORMULAS)
    def test_costs_its_definition(self, name, shape):
        formula = FORMULAS[name]
        layer = keras_attention.get(name, **formula.arguments(shape[-1]))
        assert count_multiply_adds(layer, shape).total == formula.adds(*shape)
        assert not layer.built

    # What TensorFlow computes otherwise: dilated convolutions on padded pieces, groups
    # as runs of groups with zeros between them.
    OTHERWISE = {("bam", 14), ("sk", 56)}

    @pytest.mark.parametrize("shape", MAPS, ids=str)
    @pytest.mark.parametrize("name", FORMULAS)
    def test_opened_costs_what_tensorflow_computes(
        self, name, shape, tensorflow_count, monkeypatch
    ):
        monkeypatch.setattr(rules, "DEFINITIONS", {})
        layer = keras_attention.get(name, **FORMULAS[name].arguments(shape[-1]))
        opened = count_multiply_adds(layer, shape).total
        layer.build((None, *shape))
        computed = tensorflow_count(layer, (1, *shape))
        if name == "ema":  # a product of weights alone
            computed -= layer.spatial.kernel.shape[-1] ** 2 * 9
        if (name, shape[0]) in self.OTHERWISE:
            assert computed > 1.15 * opened
        else:
            assert opened == computed

    @pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
    @pytest.mark.parametrize("extent", [0, 4])
    def test_gather_excite(self, variant, extent):
        layer = keras_attention.GatherExcite(variant, extent)
        h, w, c = 8, 12, 32
        gathering = {
            ("theta_minus", 0): 0,
            ("theta_minus", 4): 0,
            ("theta", 0): h * w * c,
            ("theta", 4): 9 * c * (4 * 6 + 2 * 3),
        }
        cells = 6 if extent else 1
        expected = gathering[variant.replace("_plus", ""), extent]
        expected += 2 * cells * c * (c // 16) if variant == "theta_plus" else 0
        assert count_multiply_adds(layer, (h, w, c)).total == expected

    def test_channels_first(self):
        for name in ("ema", "coord", "ge"):
            options = {"data_format": "channels_first"}
            first = keras_attention.get(name, **options)
            last = keras_attention.get(name)
            assert (
                count_multiply_adds(first, (64, 7, 5)).total
                == count_multiply_adds(last, (7, 5, 64)).total
                > 0
            )

    def test_a_layer_is_listed_by_its_layers(self):
        found = count_multiply_adds(CoordAttention(), (14, 10, 64)).layers
        assert {name: count for name, count in found.items() if count} == {
            "reduce": 24 * 64 * 8,
            "expand_h": 14 * 64 * 8,
            "expand_w": 10 * 64 * 8,
        }

    def test_groups_cost_their_definition(self):
        h, w, c = 14, 14, 64
        expected = h * w * 9 * c * c // 32
        grouped = GroupedConv2D(c, 3, groups=32, padding="same")
        assert count_multiply_adds(grouped, (h, w, c)).total == expected
        x = keras.Input((h, w, c))
        model = keras.Model(x, grouped(x))
        assert count_multiply_adds(model).total == expected
        assert count_multiply_adds(mobile.deploy(model)).total == expected
        kernel = np.ones((3, 3, c // 32, c), "float32")
        dense = stock.convolution(kernel, groups=32, name="dense", padding="same")
        assert dense.kernel.shape == (3, 3, c, c)
        assert count_multiply_adds(dense, (h, w, c)).total == expected


class Gated(keras.layers.Layer):
    """A layer of others, one of them a block, one called twice, one never."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units)
        self.unused = layers.Dense(units)
        self.block = keras_attention.SqueezeExcite(2)
        self.activation = keras.activations.get("hard_swish")

    def build(self, x_shape, scale_shape=None):
        for layer in (self.block, self.dense, self.unused):
            layer.build(x_shape)

    def call(self, x, scale=None, training=None):
        """Returns x behind the block and twice behind the dense layer."""
        self.unused(x)
        y = self.dense(self.dense(self.block(x)))
        y = ops.dropout(y, 0.5) if training else y
        return self.activation(y) * scale

    def get_config(self):
        return super().get_config() | {"units": self.units}


class Plain(keras.Model):
    """A model that is neither functional nor Sequential."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(ops.mean(self.conv(x), axis=(1, 2)))


GATED = 2 * 8 * 4 + 2 * 35 * 64  # SE's two kernels, and Dense twice


class TestNesting:
    def test_composite_layers(self):
        x = keras.Input((5, 7, 8))
        scale = keras.Input((1, 1, 8), name="scale")
        y = Gated(8, name="gated")(x, scale=scale)
        model = keras.Model([x, scale], y)
        report = count_multiply_adds(model)
        assert report.layers == {"gated": GATED}
        assert report.input_shapes == ((5, 7, 8), (1, 1, 8))

    def test_models_in_models(self):
        x = keras.Input((5, 7, 8))
        inner = keras.Model(x, layers.Dense(8, name="dense")(x), name="inner")
        chain = keras.Sequential([layers.Conv2D(8, 1, name="conv"), inner], name="seq")
        y = inner(chain(inner(x)))
        y = layers.TimeDistributed(inner, name="each")(ops.expand_dims(y, 1))
        each = 5 * 7 * 64
        found = count_multiply_adds(keras.Model(x, y)).layers
        expand = next(name for name in found if name.startswith("expand_dims"))
        assert found == {
            "inner/dense": 2 * each,
            "seq/conv": each,
            "seq/inner/dense": each,
            expand: 0,
            "each": each,
        }

    def test_calls_of_a_shared_layer_add_up(self):
        dense = layers.Dense(8, name="dense")
        x = keras.Input((8,))
        model = keras.Model(x, dense(dense(x)) + dense(x))
        assert count_multiply_adds(model).layers["dense"] == 3 * 64

    def test_sequential_models(self):
        model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten()])
        assert count_multiply_adds(model, (5, 5, 2)).total == 9 * 4 * 18

    def test_subclassed_models(self):
        model = Plain()
        found = count_multiply_adds(model, (5, 5, 2)).layers
        assert (found["conv"], found["head"]) == (9 * 4 * 18, 8)
        assert not model.built

    def test_several_inputs_of_a_structure(self):
        x = {name: keras.Input((None, 4), name=name) for name in "ab"}
        y = layers.Dense(4)(layers.Dense(2)(x["b"]))
        model = keras.Model(x, ops.matmul(y, ops.transpose(x["a"], (0, 2, 1))))
        expected = 2 * 3 * 4 * 2 + 6 * 4 * 3  # of b, and of both
        assert count_multiply_adds(model, [(6, 4), (3, 4)]).total == expected
        listed = keras.Model(list(x.values()), model(x))
        outer = keras.Model(x, listed({"b": x["b"], "a": x["a"]}))
        assert count_multiply_adds(outer, [(6, 4), (3, 4)]).total == expected


class TestTheModelStays:
    def test_weights_names_and_files(self, tmp_path):
        x = keras.Input((8, 8, 8))
        shared = layers.Dense(8, name="shared")
        block = CoordAttention(name="block")
        y = Gated(8, name="gated")(block(shared(x)), scale=shared(x))
        model = keras.Model(x, y)

        def state():
            names = [w.path for w in model.weights]
            values = [keras.ops.convert_to_numpy(w) for w in model.weights]
            return names, values, model.to_json()

        before, drawn = state(), random.getstate()
        model.save(tmp_path / "before.keras")
        for _ in range(2):
            count_multiply_adds(model)
        after = state()
        assert before[0] == after[0] and before[2] == after[2]
        assert all(map(np.array_equal, before[1], after[1]))
        assert random.getstate() == drawn
        # no layer noted a call: those of a block have been called on arrays alone
        assert block.output is model.get_layer("gated").input[0]
        for layer in (block.reduce, model.get_layer("gated").dense):
            with pytest.raises(AttributeError, match="never been called"):
                _ = layer.output
        model.save(tmp_path / "after.keras")
        data = images(2, 8, 8, 8)
        for name in ("before", "after"):
            again = keras.saving.load_model(
                tmp_path / f"{name}.keras", custom_objects={"Gated": Gated}
            )
            assert again.to_json() == before[2]
            np.testing.assert_array_equal(again(data), model(data))

    def test_unbuilt_layers_stay_unbuilt(self):
        layer = layers.Conv2D(4, 3)
        assert count_multiply_adds(layer, (5, 5, 2)).total == 9 * 4 * 18
        assert not layer.built and not layer.weights


@pytest.fixture(scope="module")
def report():
    return count_multiply_adds(narrow_resnet())


class TestReport:
    def test_is_a_table(self, report):
        lines = str(report).splitlines()
        assert lines[0].split() == ["resnet50", "at", "32x32x3", "multiply-adds"]
        stem = 16 * 16 * 64 * 147
        share = f"{stem / report.total:.1%}"
        assert lines[1].split() == ["stem_conv", f"{stem:,}", share]
        assert lines[-1].split() == ["total", f"{report.total:,}"]
        counted = sum(map(bool, report.layers.values()))
        assert lines[-2].split() == [str(len(report.layers) - counted), "others", "0"]
        assert len(lines) == counted + 3
        assert len({len(line) for line in lines[1:-2]}) == 1

    def test_is_data(self, report):
        data = json.loads(json.dumps(report.to_dict()))
        assert data["total"] == report.total
        assert data["layers"] == report.layers

    def test_without_any(self):
        report = count_multiply_adds(layers.ReLU(name="relu"), (4, 4, 2))
        assert report.total == 0
        assert str(report).splitlines()[-1].split() == ["total", "0"]
