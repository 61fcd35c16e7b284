"""Recipes: what is refused and in which words, and the networks they build."""

import re

import keras
import numpy as np
import pytest

import keras_attention
from keras_attention import models
from keras_attention.data.augmentation import Augmentation
from keras_attention.training.recipe import (
    ModelSection,
    OptimizerSection,
    QuantizeSection,
    Recipe,
    ScheduleSection,
)

# Overrides of the default recipe -> what the error says, from its first word on.
REFUSED = {
    # numbers
    "optimizer.lr=-1": r"optimizer\.lr must be a number > 0; received -1",
    "optimizer.lr=fast": r"optimizer\.lr must be a number > 0; received 'fast'",
    "optimizer.lr=.inf": r"optimizer\.lr must be a number > 0; received inf",
    "optimizer.lr=.nan": r"optimizer\.lr must be a number > 0; received nan",
    "optimizer.lr=true": r"optimizer\.lr must be a number > 0; received True",
    "optimizer.lr=null": r"optimizer\.lr must be a number > 0; received None",
    "optimizer.momentum=1": r"optimizer\.momentum must be a number in \[0, 1\); .* 1",
    "optimizer.weight_decay=-1e-4": (
        r"optimizer\.weight_decay must be a number >= 0; received -0\.0001"
    ),
    "optimizer.clip_norm=0": (
        r"optimizer\.clip_norm must be a number > 0, or null; received 0"
    ),
    "optimizer.accumulate=0": (
        r"optimizer\.accumulate must be an integer >= 1; received 0"
    ),
    "schedule.warmup_epochs=-1": r"schedule\.warmup_epochs must be a number >= 0; .*-1",
    "schedule.factor=1": r"schedule\.factor must be a number in \(0, 1\); received 1",
    "schedule.final=2": r"schedule\.final must be a number in \[0, 1\]; received 2",
    "quantize.epochs=-1": r"quantize\.epochs must be an integer >= 0; received -1",
    "quantize.lr=0": r"quantize\.lr must be a number > 0; received 0",
    "epochs=0": r"epochs must be an integer >= 1; received 0",
    "epochs=2.0": r"epochs must be an integer >= 1; received 2\.0",
    "epochs=true": r"epochs must be an integer >= 1; received True",
    "batch_size=many": r"batch_size must be an integer >= 1; received 'many'",
    "label_smoothing=1": r"label_smoothing must be a number in \[0, 1\); received 1",
    "weight_ema=1": r"weight_ema must be a number in \[0, 1\); received 1",
    "seed=-1": r"seed must be an integer in \[0, 2\*\*32\); received -1",
    "seed=4294967296": r"seed must be an integer in \[0, 2\*\*32\); .*4294967296",
    "cache=1": r"cache must be true or false; received 1",
    "image_size=[1, 2, 3]": (
        r"image_size must be an integer >= 1 or \[height, width\], or null; "
        r"received \[1, 2, 3\]"
    ),
    "image_size=[32, 0]": r"image_size must be .*; received \[32, 0\]",
    "model.dropout=1": r"model\.dropout must be a number in \[0, 1\), or null; rec.* 1",
    "model.drop_path=-0.1": r"model\.drop_path must be a number in \[0, 1\); .*-0\.1",
    "schedule.milestones=3": r"schedule\.milestones must be a list of rising .*ived 3",
    "schedule.milestones=[3, 3]": r"schedule\.milestones must be .*received \[3, 3\]",
    # names
    "data=digit": (
        r"data must be one of digits, folder:PATH, tfrecord:PATH, tfds:NAME; received "
        r"'digit': did you mean 'digits'\?"
    ),
    "data='folder:'": r"data must be .*received 'folder:': did you mean 'folder:PATH'",
    "data=3": r"data must be one of digits, .*; received 3",
    "precision=fp16": (
        r"precision must be one of float32, bfloat16, float16; received 'fp16': did "
        r"you mean 'float16'\?$"
    ),
    "optimizer.name=adam": (
        r"optimizer\.name must be one of sgd, adamw, rmsprop; received 'adam': did you "
        r"mean 'adamw'\?"
    ),
    "schedule.name=cos": (
        r"schedule\.name must be one of cosine, step, constant; received 'cos': did "
        r"you mean 'cosine'\?"
    ),
    "quantize.scheme=int4": (
        r"quantize\.scheme must be one of int8, int16x8, weights; received 'int4': did "
        r"you mean 'int8'\?"
    ),
    "model.preset=resnet50-cifar-ema": (
        r"model\.preset must be a network of images of models\.presets\(\), or null; "
        r"received 'resnet50-cifar-ema': did you mean 'resnet50_cifar_ema'\?"
    ),
    "model.preset=resnet50_3d_a2": r"model\.preset must be a network of images.*_a2'\?",
    "model.backbone=resnet": (
        r"model\.backbone must be one of EfficientNetB0, .*, ResNet50, or null; "
        r"received 'resnet': did you mean 'ResNet\d+'\?"
    ),
    "model.backbone=ResNet50_3D": r"model\.backbone must be .*did you mean 'ResNet50'",
    "model.attention=kord": (
        r"model\.attention must be one of a2, aw, .*, triplet; received 'kord': did "
        r"you mean 'coord'\?"
    ),
    "model.attention={name: eco}": r"model\.attention\.name must be one of a2, .*'eca'",
    "model.attention=[aw, sel]": r"model\.attention\.1 must be one of a2, .*'se'\?",
    "model.attention={reduction: 4}": r"model\.attention must be a block's name, a map",
    "model.attention=[none]": r"model\.attention\.0 must be one of a2, .* 'none'",
    "model.attention=[]": r"model\.attention must be a block's name.*received \[\]",
    "model.attention=3": r"model\.attention must be a block's name.*received 3",
    "model.arguments=wide": r"model\.arguments must be a .* of plain values; .*wide",
    "model.weights=3": r'model\.weights must be "imagenet" or a path, or null; rec.* 3',
    # keys
    "epoch=3": r"epoch is no key; allowed are augment, .*: did you mean epochs\?",
    "optimizer.learning_rate=3": (
        r"optimizer\.learning_rate is no key; allowed are accumulate, clip_norm, lr, "
        r"momentum, name, nesterov, weight_decay: did you mean optimizer\.\w+\?"
    ),
    "optimiser.lr=3": r"optimiser is no key; .*: did you mean optimizer\?",
    "model.attention={name: coord, reducton: 4}": (
        r"model\.attention\.reducton is no key; allowed are activation, .*name, .*: "
        r"did you mean model\.attention\.reduction\?"
    ),
    "model.arguments.widht=0.5": (
        r"model\.arguments\.widht is no key; allowed are attention_position, name, "
        r"stem_stride, width: did you mean model\.arguments\.width\?"
    ),
    "model.arguments.dropout=0.5": (
        r"model\.arguments\.dropout is no key: set model\.dropout"
    ),
    "model.arguments.include_top=false": r"model\.arguments\.include_top is no key; ",
    "optimizer=sgd": (
        r"optimizer must be a mapping with keys name, lr, .*; received 'sgd'"
    ),
    # what does not go together
    "model.backbone=null": (
        r"model\.preset or model\.backbone must be given, one of the two and not both; "
        r"received preset None and backbone None"
    ),
    "model={preset: resnet50_se, backbone: ResNet50}": (
        r"model\.preset or model\.backbone must be given, .*; received preset "
        r"'resnet50_se' and backbone 'ResNet50'"
    ),
    "schedule.name=step": (
        r"schedule\.milestones must be a list of epochs for the schedule step, and "
        r"empty for others; received \[\] with schedule\.name step"
    ),
    "schedule.milestones=[3]": (
        r"schedule\.milestones must be .*empty for others; received \[3\] with "
        r"schedule\.name cosine"
    ),
    "schedule={name: step, milestones: [10, 30]}": (
        r"schedule\.milestones must be less than epochs, 30; received \[10, 30\]"
    ),
    "schedule={name: step, milestones: [2], warmup_epochs: 3}": (
        r"schedule\.warmup_epochs must be at most the first of schedule\.milestones, "
        r"2; received 3"
    ),
    "schedule={name: constant, final: 0.1}": (
        r"schedule\.final must be 0 unless schedule\.name is cosine; received 0\.1 "
        r"with constant"
    ),
    "schedule.warmup_epochs=30": (
        r"schedule\.warmup_epochs must be less than epochs, 30; received 30"
    ),
    "optimizer={name: adamw, nesterov: true}": (
        r"optimizer\.nesterov must be false unless optimizer\.name is sgd; received "
        r"true with adamw"
    ),
    "optimizer={momentum: 0, nesterov: true}": (
        r"optimizer\.nesterov must be false without momentum; received true with "
        r"optimizer\.momentum 0"
    ),
    # what the data part checks
    "augment.mixup=-1": r"augment\.mixup must be .*-1",
    "augment.crop=resize": (
        r"augment\.crop must be one of .*'resize': did you mean 'resized'\?"
    ),
    "augment.mix_up=1": r"augment\.mix_up is no key; .*: did you mean augment\.mixup\?",
    "augment=3": r"augment must be a mapping with keys crop, .*; received 3",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused(override):
    with pytest.raises(ValueError, match=f"^{REFUSED[override]}"):
        Recipe().replace([override])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSection(lr=0), r"optimizer\.lr must be a number > 0"),
        (lambda: ScheduleSection(name="poly"), r"schedule\.name must be one of"),
        (lambda: QuantizeSection(scheme="int4"), r"quantize\.scheme must be one of"),
        (lambda: ModelSection(), r"model\.preset or model\.backbone must be given"),
        (
            lambda: ModelSection(backbone="ResNet18", attention=lambda site: None),
            r"model\.attention must be a block's name, .* received <function",
        ),
        (
            lambda: ModelSection(backbone="ResNet18", arguments={"name": float("nan")}),
            r"model\.arguments must be a mapping of plain values; received .*nan",
        ),
        (
            lambda: ModelSection(backbone="ResNet18", arguments={1: 2}),
            r"model\.arguments must be a mapping of plain values; received \{1: 2\}",
        ),
        (
            lambda: Recipe(optimizer={"lr": 0.1}),
            r"optimizer must be of class OptimizerSection; received \{'lr': 0\.1\}",
        ),
        (
            lambda: Recipe.from_dict([1]),
            r"a recipe must be a mapping with keys data, model, .*; received \[1\]",
        ),
        (lambda: Recipe.from_dict({2: 3}), r"2 is no key; allowed are augment, "),
    ],
)
def test_refused_in_python(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_values_are_kept_in_one_form():
    recipe = Recipe(
        image_size=[np.int64(8), 9],
        model=ModelSection(
            backbone="ResNet18", attention=("aw", {"name": "se", "reduction": 4})
        ),
        optimizer=OptimizerSection(lr=1, momentum=np.float32(0.5)),
        schedule=ScheduleSection("step", milestones=[3, 5]),
    )
    assert recipe.image_size == (8, 9) and type(recipe.image_size[0]) is int
    assert recipe.model.attention == ["aw", {"name": "se", "reduction": 4}]
    assert type(recipe.optimizer.lr) is type(recipe.optimizer.momentum) is float
    assert recipe.schedule.milestones == (3, 5)
    assert recipe.augment == Augmentation()
    assert Recipe(weight_ema=0) == Recipe(weight_ema=0.0) != Recipe(weight_ema=0.5)


def test_sections_do_not_share_what_is_given():
    arguments = {"width": 0.5}
    section = ModelSection(backbone="MobileNetV2", arguments=arguments)
    arguments["width"] = 1.0
    assert section.arguments == {"width": 0.5}


@pytest.mark.parametrize(
    ("precision", "policy"),
    [
        ("float32", "float32"),
        ("bfloat16", "mixed_bfloat16"),
        ("float16", "mixed_float16"),
    ],
)
def test_policy(precision, policy):
    assert Recipe(precision=precision).policy() == policy
    assert keras.dtype_policies.get(policy).name == policy


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_a_backbone_is_built_with_everything():
    section = ModelSection(
        backbone="MobileNetV2",
        attention={"name": "coord", "reduction": 16},
        arguments={"width": 0.35, "stem_stride": 1},
        dropout=0.3,
        drop_path=0.2,
    )
    model = section.build([16, 16, 3], 7)
    expected = models.MobileNetV2(
        (16, 16, 3),
        7,
        width=0.35,
        stem_stride=1,
        attention={"name": "coord", "reduction": 16},
        dropout=0.3,
        drop_path=0.2,
    )
    assert model.output_shape == (None, 7)
    configs = (m.get_config()["layers"] for m in (model, expected))
    ours, theirs = ([layer["name"] for layer in config] for config in configs)
    assert ours == theirs
    assert model.count_params() == expected.count_params()
    assert model.get_layer("head_dropout").rate == 0.3
    rates = [layer.rate for layer in layers_of(model, keras.layers.Dropout)]
    assert max(rates[:-1]) < 0.2 and len(rates) == 11  # ten residual units


def test_a_preset_is_built_as_it_is_and_with_another_block():
    shape, coord = (32, 32, 3), keras_attention.CoordAttention
    kinds = keras_attention.EfficientMultiScaleAttention, coord
    name = "mobilenet_v2_ema"
    counts = {}
    for attention in (None, "none", "coord"):
        model = ModelSection(preset=name, attention=attention).build(shape, 10)
        counts[attention] = [len(layers_of(model, kind)) for kind in kinds]
    # After every projection; nowhere; behind every depthwise convolution of 16 units.
    assert counts == {None: [16, 0], "none": [0, 0], "coord": [0, 16]}
    place = [layer.name for layer in model.layers]
    first = next(i for i, name in enumerate(place) if "attention" in name)
    assert "depthwise" in place[first - 1]


def test_null_is_the_builders_own_block_and_dropout():
    own = ModelSection(backbone="EfficientNetB0").build((32, 32, 3), 10)
    plain = ModelSection(backbone="EfficientNetB0", attention="none")
    blocks = [
        len(layers_of(model, keras_attention.SqueezeExcite))
        for model in (own, plain.build((32, 32, 3), 10))
    ]
    assert blocks == [16, 0]
    assert own.get_layer("head_dropout").rate == 0.2


def test_what_only_the_builder_knows_is_refused_by_it():
    section = ModelSection(backbone="MobileNetV2", arguments={"width": -1})
    with pytest.raises(ValueError, match=r"^width must be a number > 0; received -1"):
        section.build((32, 32, 3), 10)


def test_weights_of_a_keras_file(tmp_path):
    section = ModelSection(backbone="MobileNetV2", arguments={"width": 0.1})
    model = section.build((32, 32, 3), 4)
    model.save(tmp_path / "model.keras")
    again = ModelSection(
        backbone="MobileNetV2",
        arguments={"width": 0.1},
        weights=tmp_path / "model.keras",
    )
    assert isinstance(again.weights, str)
    for ours, theirs in zip(
        again.build((32, 32, 3), 4).weights, model.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_pytorch_file_are_read_as_such(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"no checkpoint")
    section = ModelSection(backbone="ResNet18", weights=str(tmp_path / "model.pth"))
    with pytest.raises(ValueError, match=re.escape("model.pth")):
        section.build((32, 32, 3), 4)
