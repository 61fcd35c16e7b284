"""Blocks in the place of convolutions: which, with what arguments, what they keep."""

import keras
from keras import ops

from keras_attention.layers._grouped_conv import GroupedConv2D
from keras_attention.models import placement

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, GroupedConv2D)
# What `keras.layers.Conv2D` and `DepthwiseConv2D` have in common, as in their configs.
_OPTIONS = (
    "kernel_size",
    "strides",
    "padding",
    "dilation_rate",
    "activation",
    "use_bias",
    "bias_initializer",
    "bias_regularizer",
    "bias_constraint",
    "activity_regularizer",
)
_OF_KERNEL = ("initializer", "regularizer", "constraint")


def refusal(node, block):
    """Returns why a block can't take the place of a convolution, or None."""
    conv = node.op
    kinds = ", ".join(kind.__name__ for kind in CONVOLUTIONS)
    if type(conv) not in CONVOLUTIONS:
        return f"it is a {type(conv).__name__}, and must be one of {kinds}"
    if not isinstance(conv.kernel, keras.Variable):
        return "its kernel is quantized, or has a low-rank update"
    if block not in placement.PADDING:
        if getattr(conv, "depthwise_constraint", None) is not None:
            return "its constraint is one of a depthwise kernel's shape"
        return None
    if max(conv.kernel_size) == 1 or conv.kernel_size[0] != conv.kernel_size[1]:
        return f"it must be k x k with k > 1, and is {conv.kernel_size}"
    inputs, outputs = node.input_tensors[0].shape[-1], node.output_tensors[0].shape[-1]
    if inputs != outputs:
        return f"it must have as many outputs as inputs, and has {inputs} -> {outputs}"
    if conv.activation not in (keras.activations.linear, keras.activations.relu):
        return "its activation is neither none nor a ReLU"
    return None


def conv_arguments(conv):
    """Returns the arguments of a `Conv2D` that computes what a convolution does."""
    config = conv.get_config()
    arguments = {name: config[name] for name in _OPTIONS}
    depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
    kernel = "depthwise" if depthwise else "kernel"
    for what in _OF_KERNEL:
        arguments[f"kernel_{what}"] = config[f"{kernel}_{what}"]
    for name in ("kernel_size", "strides", "dilation_rate"):
        value = set(config[name])
        arguments[name] = value.pop() if len(value) == 1 else tuple(config[name])
    channels = conv.kernel.shape[2]
    multiplier = config["depth_multiplier"] if depthwise else None
    arguments["groups"] = channels if depthwise else conv.groups
    arguments["filters"] = channels * multiplier if depthwise else conv.filters
    return arguments


def keep_kernel(conv, block):
    """Gives a convolution's kernel and bias to the one in its place."""
    # Channel c's output m of a depthwise kernel, (h, w, C, M), is number c * M + m.
    block.kernel.assign(ops.reshape(conv.kernel, block.kernel.shape))
    pairs = [(conv.kernel, block.kernel)]
    if conv.use_bias:
        block.bias.assign(conv.bias)
        pairs.append((conv.bias, block.bias))
    for old, new in pairs:
        new.trainable = old.trainable
