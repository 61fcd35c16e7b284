"""From a float model to one that is trained and run as int8 will compute it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_attention import graph as graphs
from keras_attention.mobile import calibration as calibrating
from keras_attention.mobile import (
    cross_layer,
    equalizing,
    quantizers,
    range_estimation,
    rules,
)
from keras_attention.mobile import placement as placing
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.emitting import Emitter
from keras_attention.mobile.overrides import Overrides, named
from keras_attention.mobile.schemes import SCHEMES


def quantize(
    model: keras.Model,
    calibration: Any,
    *,
    scheme: str = "int8",
    input_range: tuple[float, float] | Mapping[str, tuple] | None = None,
    overrides: Mapping[str, Any] | None = None,
    range_estimator: str | tuple[str, float] = "min_max",
    float_layers: Sequence[str] = (),
    equalize_kernels: bool = False,
    calibration_batches: int = 32,
    freeze_after: int = 500,
) -> keras.Model:
    """Deploys a model and inserts fake quantization with calibrated ranges.

    The result is a Keras model: it is evaluated, fine-tuned with `compile` and `fit`,
    saved and loaded like any other, and `mobile.convert` makes a file of it.

    Args:
        model: float model, deployed or not; it stays as it is.
        calibration: representative inputs: an array, a dataset of batches x or (x, y),
            or a list or dictionary of arrays for several inputs. They are run in
            inference mode. Not used for the scheme "weights".
        scheme: "int8": kernels per output channel (Dense: per tensor), symmetric;
            activations per tensor, asymmetric; biases int32. "int16x8": the same
            kernels, activations of 16 bits, symmetric. "weights": the same kernels,
            activations in float.
        input_range: (low, high): the numbers that byte 0 and byte 255 of an image
            stand for, so that raw bytes are the input of the file. A dictionary by
            input name for several inputs. None, or an input that is not in it: the
            range that the input stores, or that of a model that it is fed to as it is
            (`image_input.ImageInput`; every builder of this package has one), or the
            calibrated one where none is stored.
        overrides: other quantizers, {pattern: {"kernel": quantizer, "output":
            quantizer}}; a tfmot `Quantizer` alone means "kernel", a tfmot
            `QuantizeConfig` what it says of each layer with a kernel. Patterns are
            regular expressions that match whole layer names of the deployed model; the
            last one that matches counts.
        range_estimator: how activation ranges follow from what was seen: "min_max";
            "mse": the range that rounds with the smallest squared error; "percentile",
            or ("percentile", p): without the rarest 100 - p percent at each end, 0.01
            by default.
        float_layers: patterns like those of `overrides`, of layers that compute in
            float; `mobile.convert` must be told them, too.
        equalize_kernels: whether to balance the kernels of neighbouring convolutions
            with nothing but a ReLU between them (`cross_layer`). It helps where
            channels of a map differ wildly, and does nothing behind a ReLU6.
        calibration_batches: at most so many batches are run.
        freeze_after: number of training steps that activation ranges follow the data
            (a moving average); from then on they stay.

    Returns:
        A functional model, float32 on the TensorFlow backend.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        TypeError: an override is no tfmot `Quantizer`.
        ValueError: an unknown scheme or range estimator; an operation that can't be
            quantized, by layer name; an input of rank 5 (video) unless the scheme is
            "weights"; a dynamic height or width; calibration data that is empty,
            not finite or outside of a fixed range; an input range of which byte steps
            are no exact int8 grid; an override or a float layer that matches nothing.
    """
    if scheme not in SCHEMES:
        allowed = tuple(SCHEMES)
        raise ValueError(f"scheme must be one of {allowed}. Received: {scheme!r}")
    quantizers.tfmot_quantizers()  # Says early if the backend can't.
    estimate = range_estimation.estimator(range_estimator)
    plan = SCHEMES[scheme]
    deployed = deploy(model)
    if equalize_kernels:
        cross_layer.equalize(deployed)
    fixed = _input_ranges(deployed, input_range)
    if plan.bits is None:
        graph = graphs.trace_model(deployed)
        placement, bounds = placing.Placement(_kernel_rules(graph), {}, {}), {}
    else:
        _refuse_video(deployed)
        count = len(deployed.inputs)
        data = calibrating.batches(calibration, calibration_batches, count)
        if estimate or equalizing.equalizers(deployed):  # Which run them once more.
            data = list(data)
            equalizing.equalize(deployed, data)
        graph = graphs.trace_model(deployed)
        placement = placing.place(graph, fixed)
        bounds = _calibrate(deployed, placement, data)
        if estimate:
            bounds |= _estimated(estimate, plan.bits, deployed, bounds, data)
    floats = named(float_layers, graph, "float_layers")
    _unround_between(floats, graph, placement)
    chosen = Overrides(overrides or {}, graph, placement)
    emitter = Emitter(plan, placement, chosen, bounds, freeze_after, floats)
    return emitter.model(deployed, graph)


def check_input_range(low: float, high: float) -> tuple[float, float]:
    """Returns an input range if bytes stand on an exact int8 grid in it.

    Byte 0 is `low`, byte 255 is `high`; the zero point -low * 255 / (high - low) must
    be an integer, or 0 is no value of the grid and every byte lies on a rounding tie.

    Raises:
        ValueError: it is not; the message names the nearest valid range.
    """
    low, high = float(low), float(high)
    if not (np.isfinite([low, high]).all() and low <= 0 <= high and low < high):
        raise ValueError(
            f"input_range must be finite, low < high, and hold 0. Received: {low, high}"
        )
    zero = -low * 255 / (high - low)
    if abs(zero - round(zero)) > 1e-6:
        steps = max(1, round(zero))
        nearest = (low, low - low * 255 / steps)
        raise ValueError(
            f"input_range ({low:g}, {high:g}) is no grid of bytes: 0 would be byte "
            f"{zero:g}. The nearest valid range is ({nearest[0]:g}, {nearest[1]:.9g}), "
            f"where byte b is {-low / steps:.9g} * b - {-low:g}."
        )
    return low, high


def _refuse_video(model):
    for tensor in model.inputs:
        if len(tensor.shape) > 4:
            raise ValueError(
                f"Input '{graphs.input_name(tensor)}' of model '{model.name}' has the "
                f"shape {tuple(tensor.shape)}. Video can't be quantized to int8: "
                "TFLite's CONV_3D has no integer kernel, and its delegates take at "
                "most 4 axes. Convert the float model to 'float16' or 'float32'."
            )


def _input_ranges(model, input_range):
    """Returns the fixed range of each input, or None."""
    layers = [graphs.input_layer(tensor) for tensor in model.inputs]
    names = [layer.name for layer in layers]
    if input_range is not None and not isinstance(input_range, Mapping):
        input_range = dict.fromkeys(names, input_range)
    ranges = {layer.name: getattr(layer, "input_range", None) for layer in layers}
    unknown = set(input_range or {}) - set(names)
    if unknown:
        raise ValueError(f"input_range names {sorted(unknown)}; inputs are {names}.")
    ranges |= input_range or {}
    return [r if r is None else check_input_range(*r) for r in map(ranges.get, names)]


def _calibrate(deployed, placement, data):
    """Returns {range: (low, high)} of what the float model computes."""
    ranges = placement.all_ranges()
    tensors = list({id(t): t for r in ranges for t in r.tensors}.values())
    found = calibrating.extremes(deployed, tensors, data)
    seen = {id(t): bounds for t, bounds in zip(tensors, found, strict=True)}
    inputs = {id(t) for t in deployed.inputs}
    bounds = {}
    for grid in ranges:
        lows, highs = zip(*(seen[id(t)] for t in grid.tensors), strict=True)
        low, high = min(lows), max(highs)
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"The output of layer '{grid.name}' is not finite on the calibration "
                f"data: [{low}, {high}]."
            )
        if grid.fixed and inputs & {id(t) for t in grid.tensors}:
            slack = 1e-6 * (grid.fixed[1] - grid.fixed[0])
            if low < grid.fixed[0] - slack or high > grid.fixed[1] + slack:
                raise ValueError(
                    f"Calibration data of input '{grid.name}' lies in [{low:g}, "
                    f"{high:g}], outside of its fixed range [{grid.fixed[0]:g}, "
                    f"{grid.fixed[1]:g}]: feed the data that the model was trained "
                    "on, or pass another input_range."
                )
        if grid.positive and low < 0:
            raise ValueError(
                f"Layer '{grid.name}' gives values down to {low:g} on the calibration "
                "data, by which something is divided, or of which the logarithm is "
                "taken: in int8, that must be positive."
            )
        if low == high == 0 and not grid.fixed:
            high = 1.0  # A dead tensor, of pruned or closed channels: any grid holds 0.
        bounds[grid] = (low, high)
    return bounds


def _estimated(estimate, bits, deployed, bounds, data):
    """Returns {range: (low, high)} of the ranges that are not given."""
    grids = [
        grid for grid, (low, high) in bounds.items() if not grid.fixed and low < high
    ]
    groups = [(grid.tensors, *bounds[grid]) for grid in grids]
    found = range_estimation.histograms(deployed, groups, data)
    return {
        grid: estimate(histogram, bits)
        for grid, histogram in zip(grids, found, strict=True)
    }


def _kernel_rules(graph):
    """Returns {id(operation): rule} where activations, of which none is rounded."""
    kernels = {}
    for node in graph.nodes:
        try:
            kernels[id(node.op)] = rules.rule_of(node.op, node.name)
        except ValueError:  # It can't be rounded, and need not be.
            kernels[id(node.op)] = rules.Rule()
    return kernels


def _unround_between(floats, graph, placement):
    """Takes the ranges away of what float layers hand to float layers alone."""
    readers = graph.consumers()
    for node in graph.nodes:
        for tensor in node.output_tensors:
            following = readers.get(id(tensor), [])
            inside = all(reader and reader.name in floats for reader in following)
            grid = placement.ranges.get(id(tensor))
            if node.name in floats and inside and grid and grid.tensors == [tensor]:
                del placement.ranges[id(tensor)]
