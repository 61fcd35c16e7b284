"""ResNets of video compute what they are defined as."""

import keras
import numpy as np
import pytest
from support.comparing import difference
from support.small_networks import images, narrow_resnet, randomize
from support.small_resnet_3d import CLIP, narrow_resnet_3d


def convolve(x, kernel, strides):
    """A convolution with symmetric padding, by its definition."""
    sizes = kernel.shape[:3]
    x = np.pad(x, [(0, 0)] + [(k // 2, k // 2) for k in sizes] + [(0, 0)])
    counts = [
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:4], sizes, strides, strict=True)
    ]
    y = 0
    for offsets in np.ndindex(*sizes):
        window = [
            slice(o, o + (n - 1) * s + 1, s)
            for o, n, s in zip(offsets, counts, strides, strict=True)
        ]
        y = y + x[(slice(None), *window)] @ kernel[offsets]
    return y


def reference(model, x, units, halved, pool):
    """Returns the logits of a network without attention, in float64."""

    def conv(x, name, strides=(1, 1, 1), relu=True):
        kernel, *norm = (
            weight.astype("float64")
            for part in ("conv", "bn")
            for weight in model.get_layer(name.format(part)).get_weights()
        )
        gamma, beta, mean, variance = norm
        x = (convolve(x, kernel, strides) - mean) / np.sqrt(variance + 1e-5)
        x = x * gamma + beta
        return np.maximum(x, 0) if relu else x

    x = conv(x.astype("float64"), "stem_{}", (1, 2, 2))
    if pool:
        one = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
        height, width = x.shape[2:4]
        x = np.max(
            [
                one[:, :, i : i + height : 2, j : j + width : 2]
                for i, j in np.ndindex(3, 3)
            ],
            axis=0,
        )
    for stage, number in enumerate(units, 1):
        for unit in range(1, number + 1):
            prefix = f"stage_{stage}_unit_{unit}"
            size = 2 if stage > 1 and unit == 1 else 1
            strides = (2 if (stage, unit) == (halved, 1) else 1, size, size)
            y = conv(x, f"{prefix}_{{}}_1")
            y = conv(y, f"{prefix}_{{}}_2", strides)
            y = conv(y, f"{prefix}_{{}}_3", relu=False)
            if unit == 1:
                x = conv(x, f"{prefix}_shortcut_{{}}", strides, relu=False)
            x = np.maximum(x + y, 0)
    kernel, bias = model.get_layer("classifier").get_weights()
    return x.mean((1, 2, 3)) @ kernel + bias


@pytest.mark.parametrize(
    ("name", "halved", "pool"), [("ResNet26_3D", 1, False), ("ResNet50_3D", 2, True)]
)
@pytest.mark.parametrize("size", [(4, 32, 32), (5, 18, 33)])
def test_outputs_are_those_of_the_definition(name, halved, pool, size):
    model = narrow_resnet_3d(name, input_shape=(*size, 3))
    randomize(model)
    x = images(2, *size, 3)
    expected = reference(model, x, (2, 2, 1, 1), halved, pool)
    # float32 through 19 convolutions, each with a relative error of some 1e-7
    assert difference(model(x), expected) <= 2e-5


def test_one_frame_through_inflated_kernels_gives_the_image_networks_logits():
    """The kernels of a ResNet-50 in the middle of those of video, zeros around."""
    flat = narrow_resnet(units=(2, 2, 1, 1), channels=(4, 8, 12, 16))
    randomize(flat)
    video = narrow_resnet_3d("ResNet50_3D", stem=64)
    for layer in video.layers:
        if isinstance(layer, keras.layers.Conv3D):
            kernel = np.zeros(layer.kernel.shape, "float32")
            kernel[kernel.shape[0] // 2] = flat.get_layer(layer.name).kernel
            layer.set_weights([kernel])
        elif layer.weights:
            layer.set_weights(flat.get_layer(layer.name).get_weights())
    x = images(2, *CLIP[1:])
    clips = np.repeat(x[:, None], 4, axis=1)
    assert difference(video(clips), flat(x)) <= 1e-5
