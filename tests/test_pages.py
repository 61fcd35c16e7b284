"""What the README and the pages of docs/ show is so: links, commands, code."""

import pathlib
import re
import shlex

import keras
import numpy as np
import pytest
import typer.main
import yaml
from support.command_line import small_net
from support.pages import PAGES, blocks, docs

from keras_attention import CoordAttention, cli, data, mobile, models
from keras_attention.training import Recipe, strategy


def python(name):
    return blocks(docs(name), "python")


def lines(path):
    """The shell's lines on a page, those that end with a backslash joined."""
    text = "".join(blocks(path, "sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def commands():
    found = (line for path in PAGES for line in lines(path))
    return sorted({line for line in found if line.startswith("keras-attention")})


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line)
    for argument in arguments:
        if argument.endswith((".keras", ".tflite")):  # must exist to be accepted
            pathlib.Path(argument).parent.mkdir(exist_ok=True)
            pathlib.Path(argument).touch()
    command = typer.main.get_command(cli.app).commands[name]
    context = command.make_context(name, list(arguments))
    given = {word for word in arguments if word.startswith("--")}
    assert given <= {option for entry in command.params for option in entry.opts}
    assert context.params
    with pytest.raises(Exception, match="No such option: --no-such"):
        command.make_context(name, [*arguments, "--no-such"])
    if "--recipe" in arguments:
        recipe = Recipe.load(arguments[arguments.index("--recipe") + 1])
        values = zip(arguments, arguments[1:], strict=False)
        changes = [value for option, value in values if option == "--set"]
        assert (recipe.replace(changes) != recipe) == bool(changes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text("utf-8"))
    for target, anchor in links:
        if not target.startswith("http"):
            found = page.parent / target if target else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), (target, anchor)


def test_every_page_is_linked():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    for page in PAGES[1:]:
        assert re.search(rf"\]\([^)]*\b{page.name}[)#]", text), page


def anchors(page):
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def digits(monkeypatch, expected):
    """Lets `data.load` take digits of 16 x 16 pixels for the reader's data."""
    load = data.load

    def of_digits(spec, **arguments):
        assert spec == expected
        return load("digits", **{**arguments, "image_size": 16})

    monkeypatch.setattr(data, "load", of_digits)


def test_python_for_data(monkeypatch):
    digits(monkeypatch, "tfds:cifar10")
    model = small_net((16, 16, 3), 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    [code] = python("data")
    names = {"model": model}
    exec(code.replace("epochs=10", "epochs=1, verbose=0"), names)
    assert model.optimizer.iterations == (1797 - 360) // 128
    augmentation = names["images"].augmentation
    assert (augmentation.color_jitter, augmentation.random_erasing) == (0.4, 0.25)


def test_python_for_distribution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    images = data.load("digits", image_size=16)
    names = {
        "recipe": None,
        "build": lambda: small_net((16, 16, 3), 10),
        "optimizer": keras.optimizers.Adam,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "images": images,
        "start_epoch": 0,
        "start_step": 0,
    }
    [code] = python("distribution")
    exec(code.replace("validation_data", "verbose=0, validation_data"), names)
    assert names["trained"].optimizer.iterations == images.steps_per_epoch
    saved = keras.saving.load_model("model.keras")
    for got, expected in zip(saved.weights, names["model"].weights, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_environments_of_several_hosts(monkeypatch):
    counted = []
    for code in blocks(docs("scaling"), "sh"):
        words = shlex.split(code, comments=True)
        exported = [word for word in words if "=" in word and word[0].isupper()]
        for name, _, value in (word.partition("=") for word in exported):
            monkeypatch.setenv(name, value)
        if exported:
            counted.append((strategy.workers(), strategy.jax_processes()))
    assert counted == [(2, 1), (2, 2)]


def test_python_for_evaluation(tmp_path, monkeypatch, capsys):
    digits(monkeypatch, "folder:photos")
    monkeypatch.chdir(tmp_path)
    pathlib.Path("run").mkdir()
    images = data.load("folder:photos", image_size=16)
    path = "run/model.tflite"
    quantized = mobile.quantize(small_net((16, 16, 3), 10), images.calibration)
    mobile.convert(quantized, path, labels=images.labels)
    [code] = python("evaluation")
    names = {}
    exec(code, names)
    report = names["report"]
    assert report.confusion.sum() == 360
    assert report.top1 == np.trace(report.confusion) / 360
    assert f"{report.top1:.6g}" in capsys.readouterr().out


def test_python_for_an_operation_of_your_own():
    class MyOperation(keras.layers.Layer):
        def call(self, x):
            return keras.ops.relu(x)

    [code] = python("int8")
    names = {"mobile": mobile, "MyOperation": MyOperation}
    exec(code, names)
    try:
        x = keras.Input((4,))
        y = MyOperation(name="own")(keras.layers.Dense(4)(x))
        quantized = mobile.quantize(keras.Model(x, y), np.eye(4, dtype="float32"))
        assert "own" in [layer.name for layer in quantized.layers]
    finally:
        mobile.register_rule(MyOperation, None)


def test_python_for_models():
    builder, insertion, presets, count = python("models")
    names = {"keras": keras}
    for code, parameters in ((builder, 25.6e6), (insertion, 2e6)):
        exec(code, names)
        assert names["model"].count_params() > parameters
        found = [type(layer) for layer in names["model"].layers]
        assert found.count(CoordAttention) == 16, code
    exec(presets, names)
    assert names["model"].output_shape == (None, 10)
    names["model"] = models.MobileNetV2((32, 32, 3), 10)
    exec(count, names)
    # 3 x 3 x 3 x 32 kernels at 16 x 16 positions
    assert names["report"].layers["stem_conv"] == 27 * 32 * 256


def test_python_and_yaml_for_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [mine] = blocks(docs("recipes"), "yaml")
    pathlib.Path("mine.yaml").write_text(mine)
    [code] = python("recipes")
    names = {}
    exec(code, names)
    recipe = names["recipe"]
    assert recipe == Recipe.load("recipe.yaml")
    given = yaml.safe_load(mine)
    assert recipe.data == given["data"]
    assert recipe.epochs == given["epochs"]
    assert recipe.model.attention == given["model"]["attention"]
    assert (recipe.optimizer.lr, recipe.augment.mixup) == (0.05, 0.2)
    assert names["model"].output_shape == (None, 100)


def test_errors_of_recipes_are_those_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = docs("recipes").read_text().splitlines()
    pathlib.Path("mine.yaml").write_text(
        "epochs: 30\nschedule: {name: step, milestones: [10, 30]}\n"
    )
    for attempt in (
        lambda: Recipe.load("mine.yaml"),
        lambda: Recipe().replace(["optimizer.name=adam"]),
    ):
        with pytest.raises(ValueError) as error:
            attempt()
        assert str(error.value) in shown


def test_every_python_block_of_the_docs_is_run_here():
    with_python = {page.stem for page in PAGES[1:] if blocks(page, "python")}
    assert with_python == {
        *("data", "distribution", "evaluation", "int8", "models", "recipes")
    }
