"""MobileNetV2 gives the logits of the authors' networks."""

import importlib.util
import re

import keras
import numpy as np
import pytest

from keras_attention import models


@pytest.fixture
def state_dict(shared_file):
    """The function that gives a golden network's weights."""
    path = shared_file("golden/networks/rule.py")
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule.state_dict


class TestGoldenNetworks:
    # two single-precision runs of such a net differ by up to 1e-4
    TOLERANCE = 5e-4

    def check(self, model, file, state, layer_of):
        assign(model, state, layer_of)
        outputs = {"logits": model.output}
        for unit in range(1, 18):
            names = [f"block_{unit}_add", f"block_{unit}_project_bn"]
            names = [n for n in names if n in {layer.name for layer in model.layers}]
            outputs[f"pooled/features.{unit}"] = model.get_layer(names[0]).output
        stem = model.get_layer("stem_relu").output
        found = keras.Model(model.input, outputs | {"pooled/features.0": stem})(
            file["x"]
        )
        for name in sorted(found, reverse=True):  # the stages first
            actual, expected = found[name].numpy(), file[name]
            if name != "logits":
                actual = actual.mean((1, 2))
            error = np.abs(actual - expected).max() / np.abs(expected).max()
            assert error <= self.TOLERANCE, name

    def test_authors_network_with_coord_attention(self, golden, state_dict):
        file = golden("networks/mobilenet_v2_coord")
        model = models.MobileNetV2((64, 64, 3), 10, attention="coord")

        def layer_of(name):
            if match := re.fullmatch(r"features\.(\d+)\.conv\.6\.(\w+)", name):
                parts = {"conv1": "reduce", "bn1": "norm"}
                parts |= {"conv2": "expand_h", "conv3": "expand_w"}
                block = model.get_layer(f"block_{match[1]}_attention")
                return getattr(block, parts[match[2]])
            if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d)", name):
                roles = ["expand_conv", "expand_bn", "", "depthwise_conv"]
                roles += ["depthwise_bn", "", "", "project_conv", "project_bn"]
                if match[1] == "1":  # nothing to expand, no attention
                    roles = roles[3:6] + roles[7:]
                return model.get_layer(f"block_{match[1]}_{roles[int(match[2])]}")
            names = {"features.0.0": "stem_conv", "features.0.1": "stem_bn"}
            names |= {"conv.0": "head_conv", "conv.1": "head_bn"}
            return model.get_layer((names | {"classifier.1": "classifier"})[name])

        self.check(model, file, state_dict(file), layer_of)

    def test_torchvision_network(self, golden, state_dict):
        file = golden("networks/mobilenet_v2_torchvision")
        model = models.MobileNetV2((64, 64, 3), 10, width=0.75)

        def layer_of(name):
            if match := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)", name):
                roles = {"0.0": "expand_conv", "0.1": "expand_bn"}
                roles |= {"1.0": "depthwise_conv", "1.1": "depthwise_bn"}
                roles |= {"2": "project_conv", "3": "project_bn"}
                if match[1] == "1":
                    roles = {"0.0": "depthwise_conv", "0.1": "depthwise_bn"}
                    roles |= {"1": "project_conv", "2": "project_bn"}
                return model.get_layer(f"block_{match[1]}_{roles[match[2]]}")
            names = {"features.0.0": "stem_conv", "features.0.1": "stem_bn"}
            names |= {"features.18.0": "head_conv", "features.18.1": "head_bn"}
            return model.get_layer((names | {"classifier.1": "classifier"})[name])

        self.check(model, file, state_dict(file), layer_of)


def assign(model, state, layer_of):
    """Gives a model the weights of a PyTorch state dict, each weight exactly once."""
    given = set()
    for name, value in state.items():
        path, kind = name.rsplit(".", 1)
        layer = layer_of(path)
        if isinstance(layer, keras.layers.BatchNormalization):
            kinds = {"weight": "gamma", "bias": "beta"}
            kinds |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
        else:
            kinds = {"weight": "kernel", "bias": "bias"}
        if value.ndim == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            value = value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        variable = getattr(layer, kinds[kind])
        variable.assign(value.T if value.ndim == 2 else value)
        given.add(variable.path)
    weights = [weight.path for weight in model.weights if "seed" not in weight.path]
    assert sorted(given) == sorted(weights)
