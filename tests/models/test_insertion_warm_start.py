"""`models.insert(..., warm_start=True)`: outputs stay, and the blocks learn."""

import keras
import numpy as np
import pytest
from keras import layers
from support.gradients import gradients
from support.inserting import UNCHANGED, change
from support.small_networks import SMALL, images, narrow_resnet
from support.small_networks import randomize as randomize_network

from keras_attention import models, names

# SelectiveKernel is a convolution of its own, ShuffleAttention shuffles channels, SimAM
# has no weights.
NONE = ("sa", "simam", "sk")
# Fresh blocks of these two compute their input.
IDENTITY = ("gc", "nl")
# In the networks that are larger: what is around a block is the same for all of them.
SOME = ("a2", "aw", "cbam", "coord", "ema", "gc", "se", "sge")
PAIRS = [("resnet", block) for block in names() if block not in NONE]
PAIRS += [(net, block) for net in ("mobilenet_v2", "efficientnet") for block in SOME]


class TestPresets:
    @pytest.fixture(scope="class", params=["mobilenet_v2", "resnet", "efficientnet"])
    @staticmethod
    def case(request):
        """A plain network on random weights and statistics, its preset, images."""
        size = {"weights": None, "input_shape": (32, 32, 3), "include_top": False}
        if request.param == "mobilenet_v2":
            model = beginning(models.MobileNetV2(**SMALL), "block_6_project_bn")
        elif request.param == "resnet":
            model = narrow_resnet(units=(1, 2, 2, 1), channels=(8, 8, 8, 8))
        else:  # the fused units, and one of the others
            base = keras.applications.EfficientNetV2B0(**size)
            model = beginning(base, "block4a_project_bn")
        for layer in model.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0  # outputs in training mode are compared
        randomize_network(model)
        return model, request.param, images(4, 32, 32, 3)

    @pytest.mark.parametrize(("case", "block"), PAIRS, indirect=["case"])
    def test_the_output_stays(self, case, block):
        model, preset, x = case
        warm = models.insert(model, block, at=preset, warm_start=True)
        assert change(warm, model, x) <= UNCHANGED
        # What would change it is in place: without the warm start it does.
        if block not in IDENTITY:
            assert change(models.insert(model, block, at=preset), model, x) >= 0.05

    @pytest.mark.parametrize("block", NONE)
    def test_some_blocks_have_none(self, block):
        model = narrow_resnet()
        with pytest.raises(ValueError, match="_attention' has no warm start"):
            models.insert(model, block, at="resnet", warm_start=True)

    def test_several_blocks_one_after_the_other(self, case):
        """Constants multiply: in two layers, in one unit, in the same kernel."""
        model, preset, x = case
        result = model
        for block in ("coord", "se", "eca", "aw"):
            result = models.insert(result, block, at=preset, warm_start=True)
        assert change(result, model, x) <= UNCHANGED

    def test_the_output_stays_in_training_mode_too(self, case):
        """Batch statistics follow the constants as the moving statistics do."""
        model, preset, x = case
        warm = models.insert(model, "coord", at=preset, warm_start=True)
        off = [change(m, model, x, training=True) for m in (warm, model)]
        assert off[0] <= 1e-4 and off[1] == 0


def beginning(model, last):
    """A classifier of a network's map at a layer."""
    x = layers.GlobalAveragePooling2D()(model.get_layer(last).output)
    return keras.Model(model.input, layers.Dense(5, name="classifier")(x))


def test_the_last_kernels_learn():
    """As fresh ones: against these, gradients of at least 1e-2 of their size."""
    model = beginning(models.MobileNetV2(**SMALL), "block_6_project_bn")
    randomize_network(model)
    x, cotangent = images(4, 32, 32, 3), images(4, 5, seed=1)
    norms = []
    for start in (True, False):
        result = models.insert(model, "coord", at="mobilenet_v2", warm_start=start)
        _, _, found = gradients(result, x, cotangent, training=False)
        block = result.get_layer("block_5_depthwise_relu_attention")
        kernels = block.expand_h.kernel, block.expand_w.kernel
        norms.append([np.linalg.norm(found[id(kernel)]) for kernel in kernels])
    assert np.min(norms) > 0
    assert np.min(np.divide(*norms)) >= 1e-2


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = narrow_resnet()
    finally:
        keras.config.set_dtype_policy("float32")
    randomize_network(model)
    x = images(2, 32, 32, 3)
    # Powers of 2 do not round.
    result = models.insert(model, "coord", at="resnet", warm_start=True)
    assert change(result, model, x) <= 1e-2
