"""Builds the fake-quantized model of a flat graph."""

from collections.abc import Collection, Mapping

import keras
from keras import ops, tree

from keras_attention import graph as graphs
from keras_attention import image_input
from keras_attention.mobile import placement as placing
from keras_attention.mobile import quantizers
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel
from keras_attention.mobile.overrides import Overrides
from keras_attention.mobile.schemes import Scheme


class Emitter:
    """Builds the fake-quantized model.

    Args:
        scheme: how tensors are rounded.
        placement: where.
        overrides: other quantizers than the scheme's.
        bounds: (low, high) of each range.
        freeze_after: training steps after which ranges stay.
        float_layers: names of the layers that are not rounded.
    """

    def __init__(
        self,
        scheme: Scheme,
        placement: placing.Placement,
        overrides: Overrides,
        bounds: Mapping[placing.Range, tuple[float, float]],
        freeze_after: int,
        float_layers: Collection[str] = (),
    ):
        self._scheme = scheme
        self._placement = placement
        self._overrides = overrides
        self._bounds = bounds
        self._freeze_after = freeze_after
        self._float_layers = float_layers
        self._once = graphs.Once()
        self._names = graphs.Names()
        self._outputs = []
        self._kernels = []

    def model(self, deployed: keras.Model, graph: graphs.Graph) -> keras.Model:
        """Returns the model.

        Args:
            deployed: what the graph was traced from.
            graph: flat graph of stock layers and operations.
        """
        for node in graph.nodes:
            self._names.unique(node.name)
        self._inputs = {id(tensor) for tensor in graph.inputs}
        inputs = [self._input(tensor) for tensor in graph.inputs]
        values = self._rounded(graph.inputs, inputs)
        model = graphs.build_model(graph, inputs, self._call, values, deployed.name)
        for layer, bounds in self._outputs:
            layer.set_range(*bounds)
        for layer in self._kernels:
            layer.fit_range()
        return model

    def _input(self, tensor):
        grid = self._placement.ranges.get(id(tensor))
        if grid is None or grid.fixed is None:
            return graphs.new_input(tensor, tensor.shape)
        name = graphs.input_name(tensor)
        return image_input.make_input(tensor.shape[1:], grid.fixed, name=name)

    def _call(self, node, copy, args, kwargs):
        rescaled = self._placement.rescaled.get(id(node))
        if rescaled:
            args, kwargs = self._rescale(node, args, kwargs, rescaled)
        outputs = self._quantizing(node, copy)(*args, **kwargs)
        return self._rounded(node.output_tensors, tree.flatten(outputs))

    def _rounded(self, olds, news):
        """Rounds tensors to the ranges of those for which they stand, if these have."""
        ranges = self._placement.ranges
        return [
            self._round(new, ranges[id(old)]) if id(old) in ranges else new
            for old, new in zip(olds, news, strict=True)
        ]

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
        if kind is None or node.name in self._float_layers:
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
            scheme, fixed = self._scheme, grid.fixed
            quantizer = self._overrides.get("output", *grid.names) or scheme.activation
            # The layer counts its calls: one per tensor and step.
            freeze_after = self._freeze_after * len(grid.tensors)
            bounds = scheme.widened(self._bounds[grid])
            if fixed is not None:
                bounds = scheme.grid(fixed, id(grid.tensors[0]) in self._inputs)
                quantizer = quantizers.fixed(scheme.bits, *bounds)
                freeze_after = 0
            layer = FakeQuantize(
                quantizer,
                freeze_after=freeze_after,
                shared=len(grid.tensors) > 1,
                positive=grid.positive,
                name=self._names.unique(f"{grid.name}_quant"),
            )
            self._outputs.append((layer, bounds))
            return layer

        return self._once(make, grid)(tensor)
