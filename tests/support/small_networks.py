"""A small MobileNetV2, small ResNets, random weights and random images."""

import dataclasses

import numpy as np
import pytest

from keras_attention import models
from keras_attention.models import resnet

SMALL = {"input_shape": (32, 32, 3), "classes": 5, "width": 0.35}


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def randomize(model, seed=0):
    """Gives every weight a random value with which signals keep their size."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = weight.path.rsplit("/", 1)[-1], weight.shape
        if name == "kernel":
            depthwise = "depthwise" in weight.path
            inputs = np.prod(shape[:2] if depthwise else shape[:-1])
            weight.assign(rng.normal(0, np.sqrt(2 / inputs), shape))
        elif name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif name in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.2, shape))


def narrow_resnet(
    build="ResNet50", units=(2, 1, 1, 1), channels=(4, 8, 12, 16), **arguments
):
    """A ResNet of few units and channels, from a builder; 2 groups in a ResNeXt."""
    family = resnet.FAMILIES[build]
    small = dataclasses.replace(family, units=units, groups=min(2, family.groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.FAMILIES, build, small)
        patch.setattr(resnet, "STAGE_CHANNELS", channels)
        size = {"input_shape": (32, 32, 3), "classes": 5}
        return getattr(models, build)(**size | arguments)
