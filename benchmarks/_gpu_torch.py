"""The PyTorch half of `gpu`: a worker that runs blocks under torch.compile."""

import functools
import time

import _torch_blocks
import _workers
import numpy as np
import torch
from torch.nn import functional as F

# Of float32 results in another order of summation.
TOLERANCE = 1e-4
ON = "cuda" if torch.cuda.is_available() else "cpu"

_steps = {}


def _conv(x, p, training=False):
    return F.conv2d(x, p["weight"], padding=1)


FUNCTIONS = _torch_blocks.BLOCKS | {"conv": _conv}


def device():
    """Returns where PyTorch computes, and its version."""
    name = torch.cuda.get_device_name() if ON == "cuda" else "cpu"
    return {"platform": ON, "name": name, "versions": {"PyTorch": torch.__version__}}


def block(name, kind, batch, path):
    """Checks a block against the file of the Keras half; compiles it.

    Mixed precision as in Keras: parameters in float32, input and output in bfloat16;
    channels last, which convolutions in bfloat16 want.

    Raises:
        ValueError: It computes something else.
    """
    with np.load(path) as file:
        arrays = dict(file)
    function = FUNCTIONS[kind]
    given = {k.removeprefix("param/"): v for k, v in arrays.items() if "param/" in k}
    x, cotangent, *expected = (
        torch.tensor(arrays[name]).movedim(-1, 1)
        for name in ("x", "cotangent", "y_training", "dx_training")
    )
    y, dx, _ = _torch_blocks.forward_backward(
        function, x.requires_grad_(), _torch_blocks.tensors(given), cotangent
    )
    for actual, wanted in zip((y.detach(), dx), expected, strict=True):
        error = float((actual - wanted).abs().max() / wanted.abs().max())
        if not error <= TOLERANCE:
            raise ValueError(f"{kind} differs from the layer by {error:.1e}")

    def mixed(x, p, training):
        with torch.autocast(ON, torch.bfloat16):
            return function(x, p, training).to(x.dtype)

    shape = batch, *x.shape[1:]
    x, cotangent = (
        torch.randn(shape, device=ON).to(
            torch.bfloat16, memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    torch.compiler.reset()
    _steps[name] = functools.partial(
        _torch_blocks.forward_backward,
        torch.compile(mixed, fullgraph=True, dynamic=False),
        x.requires_grad_(),
        _torch_blocks.tensors(given, ON),
        cotangent,
    )
    seconds(name, 2)


def seconds(name, calls):
    """Returns how long so many calls take, until the last one's results are there."""
    step = _steps[name]
    begin = time.perf_counter()
    for _ in range(calls):
        step()
    if ON == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def forget(name):
    """Frees what a step holds, if there is such a step."""
    _steps.pop(name, None)
    if ON == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    _workers.serve(device=device, block=block, seconds=seconds, forget=forget)
