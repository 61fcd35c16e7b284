"""Recipes as YAML: exact round trips, overrides, differences, the shipped ones."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_attention
from keras_attention import models
from keras_attention.data.augmentation import CROPS
from keras_attention.mobile.schemes import SCHEMES
from keras_attention.training import optimizers, recipe_files
from keras_attention.training.recipe import POLICIES, Recipe
from keras_attention.training.recipe_model import builders

ROOT = pathlib.Path(keras_attention.__file__).parents[1]

SHIPPED = {
    # name: parameters, steps per epoch, learning rates at steps of the training
    "cifar100-resnet101-aw": (43_011_100, 390, {0: 0.1, 390 * 60: 0.02, -1: 8e-4}),
    "cifar100-resnet101-ema": (43_072_004, 390, {0: 0.1, 390 * 60: 0.02, -1: 8e-4}),
    "cifar100-resnet50-aw": (23_870_460, 390, {0: 0.1, 390 * 120: 4e-3, -1: 8e-4}),
    "cifar100-resnet50-ema": (23_903_620, 390, {0: 0.1, 390 * 160: 8e-4, -1: 8e-4}),
    "digits": (2_682_458, 44, {0: 0.0, 66: 1.5e-3, 132: 3e-3, 726: 1.5e-3, -1: 0.0}),
    "imagenet-mobilenetv2-coord": (3_950_648, 5004, {0: 0.05, 500_400: 0.025, -1: 0}),
    "imagenet-mobilenetv2-ema-a": (3_541_156, 2502, {0: 0, 2502: 0.08, 12510: 0.4}),
    "imagenet-mobilenetv2-ema-b": (3_541_156, 5004, {0: 0.05, 500_400: 0.025, -1: 0}),
    "imagenet-mobilenext-coord": (4_108_336, 5004, {0: 0.05, 500_400: 0.025, -1: 0}),
    "imagenet-resnet101-aw": (44_862_880, 5004, {0: 0.1, 150_120: 0.01, -1: 1e-4}),
    "imagenet-resnet50-a2": (32_907_304, 5004, {0: 0.1, 300_240: 1e-3, -1: 1e-4}),
    "imagenet-resnet50-aw": (25_722_240, 5004, {0: 0.1, 450_360: 1e-4, -1: 1e-4}),
    "imagenet-resnet50-eca": (25_557_112, 5004, {0: 0.1, 150_119: 0.1, -1: 1e-4}),
    "imagenette-small": (None, 147, {0: 0.0, 147: 1.5e-3, 294: 3e-3, -1: 0.0}),
}
CLASSES = {"cifar100": 100, "imagenet": 1000}


def small(name):
    """The recipe's model and its classes, at a size at which all of it is there."""
    recipe = Recipe.load(name)
    classes = CLASSES.get(name.split("-")[0], 10)
    return recipe, recipe.model.build((32, 32, 3), classes)


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_names():
    assert Recipe.names() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    recipe, model = small(name)
    parameters, steps, rates = SHIPPED[name]
    if parameters:
        assert trainable(model) == parameters
    optimizer = optimizers.build(recipe, steps)
    for step, rate in rates.items():
        optimizer.iterations.assign(step % (recipe.epochs * steps))
        # The last step of the shortest of these trainings, one of 1,188 behind the
        # warm-up, is that close to the end of the cosine.
        expected = pytest.approx(rate, rel=1e-5, abs=3e-6 * recipe.optimizer.lr)
        assert float(optimizer.learning_rate) == expected, step


@pytest.mark.parametrize("name", SHIPPED)
def test_headers_and_keys(name):
    text = recipe_files.text_of(name)
    header, body = re.fullmatch(r"((?:#.*\n)+)\n([^#]*)", text).groups()
    assert re.search(r"^# Source: \S", header, re.MULTILINE)
    assert re.search(r"^# Published: \S", header, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 88
    recipe = Recipe.load(name)
    preset = models.presets().get(recipe.model.preset)
    if preset and preset.published:
        # What the table of presets says, and how sure that is.
        line = re.search(r"# Published: (.*(?:\n#   .*)*)", header)[1]
        if name.endswith("-b"):
            assert "72.55 %" in line  # the same network, trained more briefly
        else:
            assert f"top-1 {preset.published.top1:g}" in line.replace(".0 %", " %")
        assert f"({preset.published.certainty.split(',')[0]}" in line
    # Nothing in a file but what is read.
    assert set(recipe_files.parse(body)) <= set(recipe.to_dict())


def test_digits_is_the_default_but_for_the_optimizer():
    assert Recipe.load("digits").difference(Recipe()) == [
        "optimizer.name is adamw, was sgd",
        "optimizer.lr is 0.003, was 0.1",
        "optimizer.weight_decay is 0.01, was 0.0",
        "schedule.warmup_epochs is 3.0, was 0.0",
    ]


def test_recipes_are_packaged():
    text = (ROOT / "pyproject.toml").read_text()
    assert '\nkeras_attention = ["recipes/*.yaml"]\n' in text


WORDS = st.text(min_size=1, max_size=12)
FINITE = {"allow_nan": False, "allow_infinity": False}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(**FINITE) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
    ),
    max_leaves=5,
)
SHARE = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, **FINITE)


@st.composite
def recipes(draw):
    name = draw(st.sampled_from(["sgd", "adamw", "rmsprop"]))
    epochs = draw(st.integers(2, 1000))
    milestones = st.lists(st.integers(1, epochs - 1), min_size=1, unique=True)
    step = draw(st.booleans())
    attention = draw(
        st.none()
        | st.sampled_from(["none", *keras_attention.names()])
        | st.lists(st.sampled_from(["aw", "se"]), min_size=1)
        | st.fixed_dictionaries({"name": st.just("coord"), "gate": PLAIN})
    )
    return Recipe.from_dict(
        {
            "data": draw(st.just("digits") | WORDS.map("folder:{}".format)),
            "model": {
                "backbone": draw(st.sampled_from(sorted(builders()))),
                "attention": attention,
                "arguments": draw(st.fixed_dictionaries({}, optional={"name": PLAIN})),
                "dropout": draw(st.none() | SHARE),
                "weights": draw(st.none() | WORDS),
            },
            "epochs": epochs,
            "batch_size": draw(st.integers(1)),
            "image_size": draw(
                st.none() | st.integers(1) | st.tuples(st.integers(1), st.integers(1))
            ),
            "optimizer": {
                "name": name,
                "lr": draw(POSITIVE),
                "momentum": draw(SHARE),
                "clip_norm": draw(st.none() | POSITIVE),
            },
            "schedule": {
                "name": "step" if step else "cosine",
                "milestones": sorted(draw(milestones)) if step else [],
                "factor": draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
            },
            "augment": {
                "crop": draw(st.sampled_from(CROPS)),
                "flip": draw(st.sampled_from([None, True, False])),
                "mixup": draw(st.floats(0.01, 100)),
            },
            "precision": draw(st.sampled_from(sorted(POLICIES))),
            "quantize": {"scheme": draw(st.sampled_from(sorted(SCHEMES)))},
            "seed": draw(st.integers(0, 2**32 - 1)),
        }
    )


@given(recipe=recipes())
def test_round_trips_are_exact(recipe, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    recipe.save(path)
    again = Recipe.load(path)
    assert again == recipe
    assert again.to_dict() == recipe.to_dict()
    assert repr(again) == repr(recipe)  # 1 and 1.0, True and 1 are equal
    assert again.difference(recipe) == []


@given(values=st.dictionaries(WORDS, PLAIN, max_size=4))
def test_yaml_gives_back_what_it_was_given(values):
    assert repr(recipe_files.parse(recipe_files.dump(values))) == repr(values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-.5e-2", -5e-3),
        ("5.e+1", 50.0),
        ("0.1", 0.1),
        (".5", 0.5),
        ("3", 3),
        ("no", False),
        ("off", False),
        ("yes", True),
        ("null", None),
        ("", None),
        ("none", "none"),
        ("e3", "e3"),
        ("1e", "1e"),
        ("'1e-3'", "1e-3"),
        ("[30, 60]", [30, 60]),
        ("{name: coord, reduction: 16}", {"name": "coord", "reduction": 16}),
    ],
)
def test_values_as_people_write_them(text, value):
    found = recipe_files.parse(text)
    assert found == value and type(found) is type(value)


def test_overrides():
    recipe = Recipe().replace(
        [
            "optimizer.lr=1e-3",
            "model.attention=se",
            "augment.mixup=0.2",
            "augment.flip=off",
            "model.arguments.width=0.5",
            "model.dropout=0.2",
            "image_size=[64, 96]",
            "data=folder:/photos/a=b",
        ]
    )
    assert recipe.difference(Recipe()) == [
        "data is folder:/photos/a=b, was digits",
        "model.attention is se, was coord",
        "model.arguments.width is 0.5, was not set",
        "model.dropout is 0.2, was null",
        "image_size is [64, 96], was null",
        "optimizer.lr is 0.001, was 0.1",
        "augment.flip is false, was null",
        "augment.mixup is 0.2, was 0.0",
    ]
    assert recipe.replace(["model.dropout=null"]).model.dropout is None
    assert recipe.replace([]) == recipe
    # The last one counts; what came before it can be taken back.
    assert recipe.replace(["seed=3", "seed=4"]).seed == 4


def test_overrides_leave_the_recipe_as_it_is():
    recipe = Recipe.load("imagenette-small")
    recipe.replace(["model.arguments.width=1.0", "optimizer.lr=1"])
    assert recipe == Recipe.load("imagenette-small")


def test_another_network_replaces_the_one_before():
    recipe = Recipe.load("imagenette-small")
    preset = recipe.replace(["model.preset=resnet50_se", "model.dropout=0.1"]).model
    assert (preset.preset, preset.backbone) == ("resnet50_se", None)
    assert (preset.attention, preset.arguments, preset.dropout) == (None, {}, 0.1)
    with_block = recipe.replace(["model.attention=eca", "model.preset=resnet50_se"])
    assert with_block.model.attention == "eca"
    back = with_block.replace(["model.backbone=ResNet18"]).model
    assert (back.preset, back.backbone, back.attention) == (None, "ResNet18", "eca")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lr",
            r"an override must be KEY=VALUE, such as optimizer\.lr=0\.1; ",
        ),
        ("=3", r"an override must be KEY=VALUE.*received '=3'"),
        ("optimizer..lr=3", r"an override must be KEY=VALUE.*received"),
        ("model.attention=[se", r"model\.attention: no valid YAML: .*"),
        (
            "model.attention.reduction=16",
            r"model\.attention\.reduction can't be set: model\.attention is 'coord', "
            r"which has no keys; set model\.attention itself",
        ),
        ("optimizer.lr.x=1", r"optimizer\.lr\.x can't be set: optimizer\.lr is 0\.1"),
        ("nothing.lr=1", r"nothing is no key; allowed are augment, "),
    ],
)
def test_overrides_refused(override, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Recipe().replace([override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1", r"no valid YAML: .*line 1"),
        ("epochs: 1\nepochs: 2", r"no valid YAML: key epochs is given twice.*line 2"),
        ("epochs: -1", r"epochs must be an integer >= 1; received -1"),
        ("optimizer:\n  lrr: 1", r"optimizer\.lrr is no key; .* optimizer\.lr\?"),
        ("", r"a recipe must be a mapping with keys data, .*; received None"),
        ("? [a]\n: 1", r"no valid YAML: .*unhashable"),
        ("!!python/name:os.system x", r"no valid YAML: .*python/name:os\.system"),
    ],
)
def test_files_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {message}"):
        Recipe.load(path)


def test_names_refused(tmp_path):
    message = (
        r"^a recipe is the path of a \.yaml file or one of cifar100-.*; received "
        r"'digit': did you mean 'digits'\?"
    )
    with pytest.raises(ValueError, match=message):
        Recipe.load("digit")
    with pytest.raises(FileNotFoundError, match=r"missing\.yaml"):
        Recipe.load(tmp_path / "missing.yaml")
    with pytest.raises(
        ValueError, match=r"written to a \.yaml file; received .*\.json"
    ):
        Recipe().save(tmp_path / "recipe.json")


def test_a_file_needs_no_more_than_what_differs(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("optimizer: {lr: 1e-2}  # less\n")
    assert Recipe.load(path) == Recipe().replace(["optimizer.lr=0.01"])
    path.write_text("{}")
    assert Recipe.load(str(path)) == Recipe()


def test_saved_files_are_whole_and_plain(tmp_path):
    path = tmp_path / "new" / "recipe.yaml"
    Recipe().save(path)
    assert list(path.parent.iterdir()) == [path]
    assert "#" not in path.read_text() and "&" not in path.read_text()
    assert set(recipe_files.parse(path.read_text())) == {
        field.name for field in dataclasses.fields(Recipe)
    }


def flat(section, prefix=""):
    """(dotted key, default, what is allowed) of every field."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from flat(value, f"{prefix}{field.name}.")
        else:
            rule = field.metadata.get("rule")
            yield prefix + field.name, value, rule and rule.allowed


def test_the_documentation_has_every_key_and_recipe():
    text = (ROOT / "docs/recipes.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", text, re.MULTILINE))
    keys = {}
    for key, default, allowed in flat(Recipe()):
        keys[key] = allowed
        shown = recipe_files.parse(rows[key].split(" | ")[0].strip("`"))
        assert shown == (list(default) if isinstance(default, tuple) else default), key
        if allowed:
            assert rows[key].split(" | ")[1] == allowed, key
    assert set(rows) == {*keys, *Recipe.names()}
    for name in Recipe.names():
        recipe = Recipe.load(name)
        data, network, epochs, *_ = rows[name].split(" | ")
        assert data == f"`{recipe.data}`"
        assert network.startswith(f"`{recipe.model.preset or recipe.model.backbone}`")
        assert int(epochs) == recipe.epochs
