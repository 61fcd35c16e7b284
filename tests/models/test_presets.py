"""Presets: each network is what the table states, by exact counts."""

import importlib.util
import json
import pathlib

import pytest
from support.small_networks import trainable

import keras_attention
from keras_attention import ECA, models
from keras_attention.models import _building, efficientnet, mobilenet_v2

ROOT = pathlib.Path(keras_attention.__file__).parents[1]
PRESETS = models.presets()
# These take longer than 4 s to build: tests/nightly has them.
LARGE = {name for name, p in PRESETS.items() if p.builder == "ResNet101"}


def check(name):
    """Asserts that a preset's network is as large as the table states."""
    preset = PRESETS[name]
    model = models.preset(name)
    assert model.input_shape == (None, *preset.input_shape)
    assert model.output_shape == (None, preset.classes)
    assert trainable(model) == preset.parameters
    assert models.count_multiply_adds(model).total == preset.multiply_adds


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - LARGE))
def test_counts(name, monkeypatch):
    for module in _building, efficientnet, mobilenet_v2:
        monkeypatch.setattr(module, "normal", lambda mode: "zeros")  # saves time
    check(name)


class TestTable:
    @pytest.mark.parametrize("name", PRESETS)
    def test_entries(self, name):
        preset = PRESETS[name]
        assert preset.name == name
        assert json.loads(json.dumps(preset.to_dict()))["title"] in str(preset)
        assert callable(getattr(models, preset.builder))
        published = preset.published
        if published is None:
            return
        certainties = ("read", "recalled, high", "recalled, medium")
        assert published.certainty in certainties
        # a number from memory is not said to be read in somebody's README
        assert ("README" in published.source) == (published.certainty == "read")
        assert published.top5 is None or published.top1 < published.top5 < 100
        if published.parameters is not None:
            # equal to the last digit that is printed, or there is a note
            printed = str(published.parameters)
            digits = len(printed.partition(".")[2])
            assert f"{preset.parameters / 1e6:.{digits}f}" == printed or preset.note

    def test_every_network_of_the_papers_is_there(self):
        builders = {}
        for preset in PRESETS.values():
            builders.setdefault(preset.builder, []).append(preset.name)
        assert {name: len(names) for name, names in builders.items()} == {
            "MobileNetV2": 7,
            "MobileNeXt": 2,
            "EfficientNetB0": 1,
            "ResNet50": 16,
            "ResNet101": 3,
            "ResNet50_3D": 1,
            "ResNeXt50": 1,
        }

    def test_presets_is_a_copy(self):
        models.presets().clear()
        assert models.presets() == PRESETS

    def test_the_page_has_the_table(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        spec = importlib.util.spec_from_file_location(
            "presets_of_the_page", ROOT / "benchmarks/presets.py"
        )
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        page = (ROOT / "docs/models.md").read_text()
        assert "\n".join(script.preset_lines()) in page
        for *_, published, reason in script.BACKBONES:
            assert f" {published:,} | {reason} |" in page


class TestPreset:
    def test_arguments_of_the_builder(self):
        small = {"input_shape": (32, 32, 3), "classes": 5, "width": 0.35}
        model = models.preset("mobilenet_v2_coord", **small, name="mine")
        assert (model.name, model.output_shape) == ("mine", (None, 5))
        block = model.get_layer("block_2_attention")
        assert isinstance(block, keras_attention.CoordAttention)

    def test_kernels_by_stage(self):
        make = PRESETS["resnet50_eca"].arguments["attention"]
        where = {"backbone": "resnet", "position": "", "unit": 1, "shape": ()}
        sites = [models.Site(f"in_{n}", **where, stage=n) for n in (1, 2, 3, 4)]
        blocks = [make(site) for site in sites]
        assert [block.kernel_size for block in blocks] == [3, 5, 5, 7]
        assert [type(block) for block in blocks] == [ECA] * 4
        assert blocks[1].name == "in_2"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "mobilenetv2_coord",
                "unknown preset 'mobilenetv2_coord': did you mean mobilenet_v2_coord, ",
            ),
            ("xyzzy", r"unknown preset 'xyzzy': models.presets\(\) has all"),
            (None, "unknown preset None"),
        ],
    )
    def test_refuses_unknown_names(self, name, message):
        with pytest.raises(ValueError, match=message):
            models.preset(name)

    def test_refuses_what_the_builder_refuses(self):
        with pytest.raises(ValueError, match="classes must be a positive integer"):
            models.preset("resnet50_se", classes=0)
        with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
            models.preset("resnet50_se", width=0.5)
