"""The convolution of [max; mean] maps to one channel, in a form that phones run well.

A convolution with one input and one output channel leaves the vector units of a
processor empty. Here B neighbouring columns become B channels, which costs a reshape
and no copy, and a k x 3 convolution B -> B computes B columns at a time: in int8 a
tenth of the time on maps of 28 columns and more. Its kernel is a Toeplitz matrix that
holds the k x k numbers B times; a constraint keeps it one in training.

The two maps are convolved apart and then added, as one int8 tensor of both would give
the narrow range of the means the steps of the wide one of the maxima.
"""

import keras
import numpy as np
from keras import ops

from keras_attention import stock

# Columns in a block. Measured in int8 on maps of 7 to 96 columns.
_MOST, _FEWEST = 16, 4


@keras.saving.register_keras_serializable(package="keras_attention")
class Toeplitz(keras.constraints.Constraint):
    """Keeps a kernel over blocks of columns equal to one k x k kernel.

    Entries of a kernel (k, 2r + 1, B, B) that connect columns at the same distance are
    set to their mean, and those that are further apart than (k - 1) / 2 to 0. All
    entries of a bias (B,) are set to their mean. A training step so moves each of the
    k x k numbers by the mean of the steps of its copies.
    """

    def __call__(self, w):
        """Returns the nearest such kernel or bias."""
        if len(w.shape) == 1:
            return ops.broadcast_to(ops.mean(w), w.shape)
        size, blocks, block, _ = w.shape
        distances = _distances(size, blocks, block).astype("float32")
        count = np.maximum(distances.sum(0), 1)
        means = ops.matmul(ops.reshape(w, (size, -1)), distances / count)
        return ops.reshape(ops.matmul(means, distances.T), w.shape)


def max_mean_convolution(conv, norm, *, name, transposed=False):
    """Returns norm(conv([maximum; mean])) at inference, of two one-channel maps.

    Args:
        conv: A built convolution, two channels to one, kernel k x k with k odd, no
            bias. It is not changed.
        norm: The batch normalization behind it.
        name: Of the new layers, which are called `<name>_max` and `<name>_mean`.
        transposed: Whether the function takes and gives maps (N, W, H, 1).

    Returns:
        A function of stock layers of two maps (N, H, W, 1), H and W static, to one. Its
        layers are made once, and anew for a width that asks for other blocks.
    """
    scale, shift = stock.batch_norm_affine(norm)
    kernel = conv.get_weights()[0].astype("float64") * scale
    kernel = np.swapaxes(kernel, 0, 1) if transposed else kernel
    names = f"{name}_max", f"{name}_mean"
    of_max = _convolution(kernel[:, :, 0, 0], shift, names[0], conv.trainable)
    of_mean = _convolution(kernel[:, :, 1, 0], None, names[1], conv.trainable)
    return lambda maximum, mean: of_max(maximum) + of_mean(mean)


def _convolution(kernel, bias, name, trainable):
    """Returns the convolution of (N, H, W, 1) with a kernel (k, k)."""
    layers = {}

    def function(x):
        _, height, width, _ = x.shape
        block = _block(width)
        if block not in layers:
            number = f"_{len(layers)}" if layers else ""
            layers[block] = _layer(
                kernel, bias, block, name=name + number, trainable=trainable
            )
        y = ops.reshape(x, (-1, height, width // block, block))
        return ops.reshape(layers[block](y), (-1, height, width, 1))

    return function


def _block(width):
    """Returns the number of columns in a block: all where nothing good divides them."""
    if width <= _MOST:
        return width
    return next((d for d in range(_MOST, _FEWEST - 1, -1) if width % d == 0), width)


def _layer(kernel, bias, block, *, name, trainable):
    size = len(kernel)
    # So many blocks even where there is but one: an output channel of each column has
    # all k x k numbers then, and all have one int8 scale. The converter relies on it,
    # which quantizes a bias of equal numbers by the scale of the first channel.
    blocks = 1 + 2 * -(-(size // 2) // block)
    wide = kernel @ _distances(size, blocks, block).T
    layer = keras.layers.Conv2D(
        block,
        (size, blocks),
        padding="same",
        use_bias=bias is not None,
        kernel_constraint=Toeplitz(),
        bias_constraint=None if bias is None else Toeplitz(),
        data_format="channels_last",
        dtype="float32",
        name=name,
        trainable=trainable,
    )
    weights = [wide.reshape(size, blocks, block, block)]
    weights += [] if bias is None else [np.repeat(bias, block)]
    return stock.filled(layer, (None, None, None, block), weights)


def _distances(size, blocks, block):
    """Returns a 0/1 matrix (blocks * block * block, size): which tap an entry is of.

    Rows are the entries of the last three axes of a kernel (size, blocks, block, block)
    and columns those of the second axis of a kernel (size, size).
    """
    taps, inputs, outputs = np.ix_(range(blocks), range(block), range(block))
    distance = (taps - blocks // 2) * block + inputs - outputs
    return distance.reshape(-1, 1) == np.arange(size) - size // 2
