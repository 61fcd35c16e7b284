"""The PyTorch restatements that benchmarks/gpu.py runs equal the golden files.

So what our blocks are timed beside computes what the papers' blocks do.
"""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
import torch
from support.comparing import CLOSE

import keras_attention

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = {
    "a2": ("double_attention", "double_attention_3d"),
    "aw": ("aw_conv2d", "aw_conv2d_1x1", "aw_conv2d_unshared"),
    "bam": ("bam",),
    "cbam": ("cbam",),
    "coord": ("coord_attention",),
    "eca": ("eca",),
    "ema": ("efficient_multiscale_attention",),
    "gam": ("gam",),
    "gc": ("global_context",),
    "ge": ("gather_excite", "gather_excite_free", "gather_excite_global"),
    "nam": ("nam",),
    "nl": ("non_local",),
    "sa": ("shuffle_attention",),
    "se": ("squeeze_excite",),
    "sge": ("spatial_group_enhance",),
    "simam": ("simam",),
    "sk": ("selective_kernel",),
    "sp": ("strip_pooling",),
    "triplet": ("triplet_attention",),
}


@pytest.fixture(scope="module")
def restated():
    """The module benchmarks/_torch_blocks.py."""
    path = ROOT / "benchmarks/_torch_blocks.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first(array):
    """Returns a channels-last array as a channels-first tensor."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def last(tensor):
    return tensor.detach().movedim(1, -1).numpy()


def part(file, prefix):
    """Returns what stands in the file under a prefix, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in file.items()
        if name.startswith(prefix)
    }


def difference(actual, expected, largest=None):
    """Returns the largest difference as a part of the largest expected value."""
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / (largest or np.abs(expected).max())


def test_every_block_is_restated(restated):
    assert sorted(restated.BLOCKS) == sorted(GOLDEN) == keras_attention.names()


@pytest.mark.parametrize(
    ("block", "name"),
    [(block, name) for block, names in GOLDEN.items() for name in names],
)
def test_equals_the_golden_file(block, name, golden, restated):
    file = golden(name)
    function = restated.BLOCKS[block]
    arguments = json.loads(str(file["config_json"]))
    parameters = restated.tensors(part(file, "param/"))
    x = first(file["x"]).requires_grad_()

    y = function(x, parameters, **arguments)
    assert difference(last(y), file["y_inference"]) <= CLOSE

    cotangent = first(file["cotangent"])
    y, dx, found = restated.forward_backward(
        function, x, parameters, cotangent, **arguments
    )
    assert difference(last(y), file["y_training"]) <= CLOSE
    assert difference(last(dx), file["dx_training"]) <= CLOSE
    gradients = part(file, "grad/")
    assert sorted(found) == sorted(gradients)
    # Against the largest of all: a bias in front of a normalization has gradient 0.
    largest = max((np.abs(g).max() for g in gradients.values()), default=None)
    for weight, gradient in gradients.items():
        assert difference(found[weight].numpy(), gradient, largest) <= CLOSE, weight
    for statistic, after in part(file, "after_step/").items():
        moved = parameters[statistic].numpy()
        assert difference(moved, after) <= CLOSE, statistic


def test_a_wrong_parameter_is_seen(golden, restated):
    file = golden("coord_attention")
    parameters = restated.tensors(part(file, "param/"))
    parameters["conv_h.bias"] = parameters["conv_h.bias"] + 1e-2
    y = restated.BLOCKS["coord"](first(file["x"]), parameters)
    assert difference(last(y), file["y_inference"]) > 100 * CLOSE
