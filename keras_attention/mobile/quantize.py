"""From a float model to one that is trained and run as int8 will compute it."""

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_attention import graph as graphs
from keras_attention import image_input
from keras_attention.mobile import calibration as calibrating
from keras_attention.mobile import equalizing, quantizers
from keras_attention.mobile import placement as placing
from keras_attention.mobile.deploy import deploy
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel

_SCHEMES = ("int8",)
_TARGETS = ("kernel", "output")


def quantize(
    model: keras.Model,
    calibration: Any,
    *,
    scheme: str = "int8",
    input_range: tuple[float, float] | Mapping[str, tuple] | None = None,
    overrides: Mapping[str, Any] | None = None,
    calibration_batches: int = 32,
    freeze_after: int = 500,
) -> keras.Model:
    """Deploys a model and inserts fake quantization with calibrated ranges.

    The result is a Keras model: it is evaluated, fine-tuned with `compile` and `fit`,
    saved and loaded like any other, and `mobile.convert` makes an int8 file of it.

    Args:
        model: float model, deployed or not; it stays as it is.
        calibration: representative inputs: an array, a dataset of batches x or (x, y),
            or a list or dictionary of arrays for several inputs. They are run in
            inference mode; every range becomes [min, max] of what was seen.
        scheme: "int8": kernels per output channel (Dense: per tensor), symmetric;
            activations per tensor, asymmetric; biases int32.
        input_range: (low, high): the numbers that byte 0 and byte 255 of an image
            stand for, so that raw bytes are the input of the file. A dictionary by
            input name for several inputs. None, or an input that is not in it: the
            range that the input stores, or that of a model that it is fed to as it is
            (`image_input.ImageInput`; every builder of this package has one), or the
            calibrated one where none is stored.
        overrides: other quantizers, {pattern: {"kernel": quantizer, "output":
            quantizer}}; a tfmot `Quantizer` alone means "kernel". Patterns are regular
            expressions that match whole layer names of the deployed model; the last
            one that matches counts.
        calibration_batches: at most so many batches are run.
        freeze_after: number of training steps that activation ranges follow the data
            (a moving average); from then on they stay.

    Returns:
        A functional model, float32 on the TensorFlow backend.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        TypeError: an override is no tfmot `Quantizer`.
        ValueError: an operation that can't be quantized, by layer name; an input of
            rank 5 (video); a dynamic height or width; calibration data that is empty,
            not finite or outside of a fixed range; an input range of which byte steps
            are no exact int8 grid; an override that matches nothing.
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {_SCHEMES}. Received: {scheme!r}")
    quantizers.tfmot_quantizers()  # Says early if the backend can't.
    deployed = deploy(model)
    fixed = _input_ranges(deployed, input_range)
    _refuse_video(deployed)
    data = calibrating.batches(calibration, calibration_batches, len(deployed.inputs))
    if equalizing.equalizers(deployed):
        data = list(data)
        equalizing.equalize(deployed, data)
    graph = graphs.trace_model(deployed)
    placement = placing.place(graph, fixed)
    chosen = _Overrides(overrides or {}, graph, placement)
    bounds = _calibrate(deployed, placement, data)
    return _Emitter(placement, chosen, bounds, freeze_after).model(deployed, graph)


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
        bounds[grid] = (low, high)
    return bounds


class _Overrides:
    """Which quantizer the user wants where."""

    def __init__(self, overrides, graph, placement):
        self._patterns = []
        for pattern, given in overrides.items():
            given = given if isinstance(given, Mapping) else {"kernel": given}
            for target, quantizer in given.items():
                where = f"overrides[{pattern!r}][{target!r}]"
                if target not in _TARGETS:
                    raise ValueError(f"{where}: the target must be one of {_TARGETS}.")
                quantizers.check(quantizer, where)
                if target == "output" and getattr(quantizer, "per_axis", False):
                    raise ValueError(
                        f"{where} has per_axis=True, but TFLite knows one range per "
                        "activation tensor only."
                    )
                if not self._matches(pattern, target, graph, placement):
                    raise ValueError(f"{where} matches no {target} of the model.")
                self._patterns.append((re.compile(pattern), target, quantizer))

    @staticmethod
    def _matches(pattern, target, graph, placement):
        if target == "kernel":
            names = [n.name for n in graph.nodes if placement.rules[id(n.op)].kernel]
        else:
            free = [grid for grid in placement.all_ranges() if grid.fixed is None]
            names = [name for grid in free for name in grid.names]
        return any(re.fullmatch(pattern, name) for name in names)

    def get(self, target, *names):
        """Returns the quantizer for the kernel or the output of a layer, or None.

        Args:
            target: "kernel" or "output".
            *names: of the layer, or of all whose outputs share a range.
        """
        found = None
        for pattern, wanted, quantizer in self._patterns:
            if wanted == target and any(map(pattern.fullmatch, names)):
                found = quantizer
        return found


class _Emitter:
    """Builds the fake-quantized model."""

    def __init__(self, placement, overrides, bounds, freeze_after):
        self._placement = placement
        self._overrides = overrides
        self._bounds = bounds
        self._freeze_after = freeze_after
        self._once = graphs.Once()
        self._names = graphs.Names()
        self._outputs = []
        self._kernels = []

    def model(self, deployed, graph):
        for node in graph.nodes:
            self._names.unique(node.name)
        inputs = [self._input(tensor) for tensor in graph.inputs]
        values = [
            self._round(new, self._placement.ranges[id(old)])
            for old, new in zip(graph.inputs, inputs, strict=True)
        ]
        model = graphs.build_model(graph, inputs, self._call, values, deployed.name)
        for grid, layer in self._outputs:
            layer.set_range(*self._bounds[grid])
        for layer in self._kernels:
            layer.fit_range()
        return model

    def _input(self, tensor):
        name = graphs.input_name(tensor)
        fixed = self._placement.ranges[id(tensor)].fixed
        if fixed is None:
            return graphs.new_input(tensor, tensor.shape)
        return image_input.make_input(tensor.shape[1:], fixed, name=name)

    def _call(self, node, copy, args, kwargs):
        ranges = self._placement.ranges
        rescaled = self._placement.rescaled.get(id(node))
        if rescaled:
            args, kwargs = self._rescale(node, args, kwargs, rescaled)
        outputs = self._quantizing(node, copy)(*args, **kwargs)
        flat = [
            self._round(new, ranges[id(old)]) if id(old) in ranges else new
            for old, new in zip(node.output_tensors, tree.flatten(outputs), strict=True)
        ]
        return flat

    def _rescale(self, node, args, kwargs, rescaled):
        """Rounds inputs of a node once more, to another grid."""

        def convert(old, new):
            if id(old) not in rescaled:
                return new
            low, grid = rescaled[id(old)]
            # Changes nothing. The converter merges two roundings in a row into one,
            # and then finds unequal scales.
            name = self._names.unique(f"{node.name}_rescale")
            new = graphs.call_named(name, ops.maximum, new, low)
            return self._round(new, grid)

        olds = tree.flatten((node.args, node.kwargs))
        news = tree.flatten((args, kwargs))
        news = [convert(old, new) for old, new in zip(olds, news, strict=True)]
        return tree.pack_sequence_as((args, kwargs), news)

    def _quantizing(self, node, copy):
        """Wraps a layer with a kernel, once."""
        kind = self._placement.rules[id(node.op)].kernel
        if kind is None:
            return copy

        def wrap():
            quantizer = self._overrides.get("kernel", node.name)
            if quantizer is None and kind == "tensor":
                last_value = quantizers.tfmot_quantizers().LastValueQuantizer
                quantizer = last_value(8, False, symmetric=True, narrow_range=True)
            wrapped = QuantizedKernel(copy, quantizer, name=copy.name)
            wrapped.trainable = copy.trainable
            self._kernels.append(wrapped)
            return wrapped

        return self._once(wrap, node.op)

    def _round(self, tensor, grid):
        """Applies the fake quantization of a range."""

        def make():
            quantizer = self._overrides.get("output", *grid.names)
            if grid.fixed is not None:
                fixed_quantizer = quantizers.tfmot_quantizers().FixedQuantizer
                quantizer = fixed_quantizer(8, *grid.fixed, narrow_range=False)
            layer = FakeQuantize(
                quantizer,
                # The layer counts its calls: one per tensor and step.
                freeze_after=self._freeze_after * len(grid.tensors),
                shared=len(grid.tensors) > 1,
                positive=grid.positive,
                name=self._names.unique(f"{grid.name}_quant"),
            )
            if grid.fixed is None:
                self._outputs.append((grid, layer))
            return layer

        return self._once(make, grid)(tensor)
