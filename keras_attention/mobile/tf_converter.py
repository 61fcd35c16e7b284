"""Hands a flat Keras graph to TensorFlow's converter, and keeps it out of its traps."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Collection, Iterator

import keras
import numpy as np
from keras import tree

from keras_attention import graph as graphs
from keras_attention.mobile import int16, litert, rules
from keras_attention.mobile.fake_quant import FakeQuantize, QuantizedKernel


def check_ranges(
    graph: graphs.Graph, precision: str, float_layers: Collection[str] = ()
) -> None:
    """Refuses what the converter would turn into a wrong file, or crash on."""
    for node in graph.nodes:
        rounded = isinstance(node.op, QuantizedKernel) or node.name in float_layers
        if getattr(node.op, "kernel", None) is not None and not rounded:
            raise ValueError(
                f"The kernel of layer '{node.name}' is not quantized: name the layer "
                "in float_layers if it shall compute in float."
            )
        if not isinstance(node.op, FakeQuantize | QuantizedKernel):
            continue
        bits = getattr(node.op.quantizer, "num_bits", 8)
        wide = precision == "int16x8" and isinstance(node.op, FakeQuantize)
        wanted = 16 if wide else 8
        if bits != wanted:
            raise ValueError(
                f"Layer '{node.name}' is quantized to {bits} bits; an {precision} file "
                f"needs {wanted} there. Fewer bits are for experiments in Keras."
            )
        if isinstance(node.op, QuantizedKernel):
            _check_kernel_quantizer(node)
        bounds = node.op.get_range()
        if bounds is None:
            continue
        low, high = bounds
        # An empty kernel range is a dead channel, which `_kernel_ranges` mends.
        empty = isinstance(node.op, FakeQuantize) and not (low < high).all()
        finite = np.isfinite(bounds).all()
        if empty or not finite:
            raise ValueError(
                f"The range of layer '{node.name}' is "
                f"{'empty' if finite else 'not finite'}: [{np.min(low)}, "
                f"{np.max(high)}]. Calibrate on data that reach it."
            )


def _check_kernel_quantizer(node: graphs.Node) -> None:
    """Refuses quantizers whose kernels TFLite's integer operators do not take."""
    quantizer = node.op.quantizer
    if not getattr(quantizer, "symmetric", True):
        raise ValueError(
            f"The kernel of layer '{node.name}' is quantized with symmetric=False; an "
            "int8 file needs symmetric kernels."
        )
    dense = isinstance(node.op.layer, keras.layers.Dense)
    if dense and getattr(quantizer, "per_axis", False):
        raise ValueError(
            f"The kernel of layer '{node.name}' is quantized with per_axis=True; that "
            "of a Dense layer must have per_axis=False to be converted."
        )


def convert(
    graph: graphs.Graph,
    precision: str,
    softmax: bool,
    float_layers: Collection[str] = (),
) -> bytes:
    """Converts a flat graph to a file of one of `convert.PRECISIONS`.

    Tracing the calls on batch 1 and handing over the concrete function alone, whose
    variables the converter freezes itself, takes a third of the time of a SavedModel
    (MobileNetV2: 1.6 s against 4.4 s) and gives the same operators.
    """
    import tensorflow as tf

    integer = precision in ("int8", "int16x8")
    ranges = _kernel_ranges(graph) + _uneven_biases(graph) if integer else []
    grids = _int16_grids(graph) if precision == "int16x8" else {}
    if precision == "dynamic":
        ranges = _rounded_kernels(graph)
    ends = _float_ends(graph, float_layers) if integer else {}
    twice = _reshaped_twice(graph) if integer else {}

    def call(node, args, kwargs):
        if node in twice:
            # As it was in front of the reshape.
            x = tree.flatten(args)[0]
            y = tf.reshape(x, (1, *twice[node].shape[1:]))
            args = tree.map_structure(lambda z: y if z is x else z, args)
            return tf.reshape(compute(node, args, kwargs), x.shape)
        return compute(node, args, kwargs)

    def compute(node, args, kwargs):
        if node in ends:
            with tf.name_scope(ends[node]):
                args = (tf.reverse(args[0], [0]),)
        if node.op in grids:
            return grids[node.op](*args)
        if precision == "dynamic" and isinstance(node.op, QuantizedKernel):
            return node.op.layer(*args, **kwargs)
        is_sum = type(node.op).__name__ == "Add"
        if isinstance(node.op, keras.Layer) and not is_sum:
            return node.op(*args, **kwargs)
        # Layers name their scope themselves; messages need it for operations too.
        with tf.name_scope(node.name):
            if is_sum:
                # Keras takes (1, 1, 1, C) for a bias of any tensor with an axis of C.
                return tf.add(*tree.flatten((args, kwargs)))
            return node.op(*args, **kwargs)

    def infer(*inputs):
        with keras.StatelessScope(state_mapping=ranges):
            outputs = graphs.replay(graph, inputs, call)
        if softmax:
            outputs[0] = tf.nn.softmax(outputs[0])
            if integer:
                # The grid of TFLite's int8 softmax: scale 1/256, zero point -128.
                outputs[0] = tf.quantization.fake_quant_with_min_max_args(
                    outputs[0], 0.0, 255 / 256
                )
        return outputs

    signature = [tf.TensorSpec((1, *t.shape[1:]), t.dtype) for t in graph.inputs]
    function = tf.function(infer, signature, autograph=False).get_concrete_function()
    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if integer:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
            # Products of two computed matrices as FULLY_CONNECTED: a tenth of the time.
            # Its int16 kernel takes int8 matrices only.
            plain = _has_plain_products_only(graph)
            converter.unfold_batchmatmul = plain and precision == "int8"
        if precision in ("dynamic", "float16"):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            data = converter.convert()
        except Exception as error:
            raise RuntimeError(
                f"TensorFlow's converter failed: {str(error).strip()[:2000]}"
            ) from error
    if precision != "int16x8":
        return data
    file = litert.File(data)
    int16.widen(file)
    return litert.pack(file.model)


def _float_ends(graph: graphs.Graph, layers: Collection[str]) -> dict[graphs.Node, str]:
    """Returns the fake quantizations behind float layers, with the layers' names.

    Between two of them the converter computes in integers, whatever it is. Turning a
    batch of one around changes nothing, and for the converter it is float: in front of
    the second it keeps what stands between them in float.
    """
    producers, ends = graph.producers(), {}
    for node in graph.nodes:
        if not isinstance(node.op, FakeQuantize):
            continue
        maker = producers.get(id(node.input_tensors[0]))
        # A ReLU behind the layer becomes part of it.
        while maker is not None and maker.name not in layers:
            known = rules.RULES.get(rules.operation_name(maker.op))
            if known is None or not known.fusible:
                break
            maker = producers.get(id(maker.input_tensors[0]))
        if maker is not None and maker.name in layers:
            ends[node] = maker.name
    return ends


def _reshaped_twice(graph: graphs.Graph) -> dict[graphs.Node, graphs.Tensor]:
    """Returns the sums and products of a reshaped tensor with itself, and the tensor.

    The converter moves the reshape behind x + x and x * x, together with the scale of
    x, which the result does not have, and refuses what it has made.
    """
    producers, found = graph.producers(), {}
    for node in graph.nodes:
        if type(node.op).__name__ not in ("Add", "Multiply"):
            continue
        first, *others = node.input_tensors
        maker = producers.get(id(first))
        if others and all(x is first for x in others) and maker is not None:
            if type(maker.op).__name__ == "Reshape":
                found[node] = maker.input_tensors[0]
    return found


def _int16_grids(graph: graphs.Graph) -> dict[FakeQuantize, Callable]:
    """Returns what the converter gets to see of each fake quantization to 16 bits."""
    import tensorflow as tf

    producers = graph.producers()
    grids = {}
    for node in graph.nodes:
        if not isinstance(node.op, FakeQuantize):
            continue
        low, high = node.op.get_range()
        bounds = int16.narrow(high)
        maker = producers.get(id(node.input_tensors[0]))
        if maker is not None and not isinstance(maker.op, QuantizedKernel):
            output = rules.rule_of(maker.op, maker.name).output
            bounds = output if isinstance(output, tuple) else bounds

        def rounded(x, bounds=bounds, positive=node.op.positive):
            x = tf.quantization.fake_quant_with_min_max_args(x, *bounds)
            if not positive:
                return x
            x = tf.maximum(x, bounds[1] / 127)
            return tf.quantization.fake_quant_with_min_max_args(x, *bounds)

        grids[node.op] = rounded
    return grids


def _has_plain_products_only(graph: graphs.Graph) -> bool:
    """Whether no matrix product runs over several matrices, as attention heads do.

    Those would be unfolded into one product per matrix.
    """
    shapes = [
        node.output_tensors[0].shape[1:-2]
        for node in graph.nodes
        if type(node.op).__name__ == "Matmul"
    ]
    return all(np.prod(shape, initial=1) == 1 for shape in shapes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences remarks of the converter that do not concern this use of it."""

    def keep(record: logging.LogRecord) -> bool:
        # On handing over a function alone; on outputs that may stay float, for which
        # the file itself is checked.
        told = record.getMessage()
        return "trackable_obj" not in told and "inference_output_type" not in told

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs")
            yield
    finally:
        logger.removeFilter(keep)


def _kernel_ranges(graph: graphs.Graph) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns kernel ranges wide enough for the biases, where the given ones are not.

    A bias is stored in steps of input scale * kernel scale. In a channel whose kernel
    is (nearly) zero these are so small that a live bias overflows int32, silently. A
    kernel scale of at least |bias| / (input scale * 2^30) keeps it within 2^30. The
    steps that the kernel loses by it move the output by less than 1e-6 of the bias.

    Returns:
        (variable, value) for the bounds of every kernel range.
    """
    producers = graph.producers()
    mapping = []
    for calls in graph.calls().values():
        wrapper = calls[0].op
        if not isinstance(wrapper, QuantizedKernel) or wrapper.get_range() is None:
            continue
        steps = [_input_scale(node, producers) for node in calls]
        bias = getattr(wrapper.layer, "bias", None)
        if bias is None or None in steps:  # What stays float is found in the file.
            continue
        floor = 127 * np.abs(np.asarray(bias)) / (min(steps) * 2**30)
        low, high = wrapper.get_range()
        if np.ndim(low) == 0:
            floor = np.max(floor)
        variables = wrapper.range_variables
        mapping += [
            (variables["min_var"], np.minimum(low, -floor).astype("float32")),
            (variables["max_var"], np.maximum(high, floor).astype("float32")),
        ]
    return mapping


def _rounded_kernels(graph: graphs.Graph) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns (variable, value) for every kernel that is rounded."""
    wrappers = {
        id(n.op): n.op for n in graph.nodes if isinstance(n.op, QuantizedKernel)
    }
    return [
        (wrapper.layer.kernel, keras.ops.convert_to_numpy(wrapper.rounded_kernel()))
        for wrapper in wrappers.values()
    ]


def _uneven_biases(graph: graphs.Graph) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns biases of equal numbers with one of them moved by its last bit.

    The converter keeps equal numbers as one, and gives it the scale of the first
    channel, though each channel of the kernel has a scale of its own.

    Returns:
        (variable, value) for every such bias.
    """
    mapping = []
    for calls in graph.calls().values():
        layer = getattr(calls[0].op, "layer", None)
        bias = getattr(layer, "bias", None)
        if bias is None or not isinstance(calls[0].op, QuantizedKernel):
            continue
        values = keras.ops.convert_to_numpy(bias)
        if values.size > 1 and values[0] != 0 and (values == values[0]).all():
            values = values.copy()
            values[0] = np.nextafter(values[0], np.float32(0))
            mapping.append((bias, values))
    return mapping


def _input_scale(node, producers):
    """Returns the scale of the grid that the input of a call stands on, or None."""
    while node is not None and not isinstance(node.op, FakeQuantize):
        node = producers.get(id(node.input_tensors[0]))
    if node is None or node.op.get_range() is None:
        return None
    low, high = node.op.get_range()
    return float(high - low) / (2**node.op.quantizer.num_bits - 1)
