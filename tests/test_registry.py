import keras
import pytest

import keras_attention
from keras_attention import CoordAttention, registry


@pytest.fixture
def registered(monkeypatch):
    """Registers a class for the duration of one test."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))

    @keras_attention.register("twice")
    class Twice(keras.layers.Layer):
        pass

    return Twice


def test_get_passes_arguments_on():
    layer = keras_attention.get("coord", reduction=4, name="mine")
    assert type(layer) is CoordAttention
    assert (layer.reduction, layer.name) == (4, "mine")


def test_names_are_sorted(registered):
    names = ["a2", "aw", "bam", "cbam", "coord", "eca", "ema", "gam", "gc", "ge"]
    names += ["nam", "nl", "sa", "se", "sge", "simam", "sk", "sp", "triplet", "twice"]
    assert keras_attention.names() == names


def test_register_returns_the_class(registered):
    assert type(keras_attention.get("twice")) is registered
    assert registry.name_of(registered) == "twice"
    assert registry.name_of(CoordAttention) == "coord"
    assert registry.name_of(keras.layers.Dense) is None


def test_register_refuses_a_name_twice(registered):
    with pytest.raises(ValueError, match="'twice' is already registered for Twice"):
        keras_attention.register("twice")(CoordAttention)
    assert type(keras_attention.get("twice")) is registered


def test_get_refuses_an_unknown_name(registered):
    known = ", ".join(keras_attention.names())
    assert known.startswith("a2, aw, bam, ") and known.endswith("triplet, twice")
    message = f"unknown.*'cord'.*did you mean 'coord'.*Known names: {known}"
    with pytest.raises(ValueError, match=message):
        keras_attention.get("cord")
