"""The mobile form of GAM, made of stock layers.

What is done to the attention map costs a pass over the full map. The shuffle of its
channels is therefore an order of the output channels of the convolution in front.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import grouped, stock


@keras.saving.register_keras_serializable(package="keras_attention")
class ShuffledBlockDiagonal(grouped.BlockDiagonal):
    """As `BlockDiagonal`, with the output channels of the groups dealt out in turn."""

    def __call__(self, w):
        """Returns `w`, shape (..., in, out), with zeros between different groups."""
        order = shuffled(w.shape[-1], self.groups)
        w = super().__call__(ops.take(w, np.argsort(order), axis=-1))
        return ops.take(w, order, axis=-1)


def shuffled(channels, groups):
    """Returns which channel stands where after the shuffle of `groups` equal runs."""
    return np.arange(channels).reshape(groups, -1).T.ravel()


def mobile_form(layer):
    """Returns what a built, channels-last `GAM` computes at inference.

    Args:
        layer: The `GAM`.

    Returns:
        A function of (N, H, W, C), all but N static, to the same shape. Its layers are
        called `<layer>_<role>`, as the layer's own.
    """
    name = layer.name
    reduce = stock.pointwise_copy(layer.channel_reduce, name=f"{name}_channel_reduce")
    expand = stock.pointwise_copy(layer.channel_expand, name=f"{name}_channel_expand")
    narrow, wide = (
        stock.folded(conv, norm, name=f"{name}_{conv.name}")
        for conv, norm in (
            (layer.spatial_reduce, layer.reduce_norm),
            (layer.spatial_expand, layer.expand_norm),
        )
    )
    if layer.groups > 1:
        wide = _with_shuffled_outputs(wide, layer.groups)
    gate = None
    if layer.channel_gate:
        gate = stock.activation(layer.channel_gate, name=f"{name}_gate_channel")
    gate_spatial = stock.activation("sigmoid", name=f"{name}_gate_spatial")

    def function(x):
        g = expand(ops.relu(reduce(x)))
        u = x * (gate(g) if gate else g)
        return u * gate_spatial(wide(ops.relu(narrow(u))))

    return function


def _with_shuffled_outputs(conv, groups):
    """Returns a copy of a convolution with groups of outputs dealt out in turn."""
    constraint = ShuffledBlockDiagonal(groups)
    config = conv.get_config() | {"kernel_constraint": constraint}
    order = shuffled(conv.filters, groups)
    weights = [weight[..., order] for weight in conv.get_weights()]
    shape = (None, None, None, conv.kernel.shape[2])
    return stock.filled(keras.layers.Conv2D.from_config(config), shape, weights)
