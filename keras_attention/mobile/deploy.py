"""From the model that was trained to the flat model that phones run well."""

from collections.abc import Sequence

import keras

from keras_attention import dtypes, image_input
from keras_attention import graph as graphs
from keras_attention.mobile import equivalents, fake_quant, folding
from keras_attention.mobile.flattening import Flattener

Shape = tuple[int | None, ...]


def deploy(
    model: keras.Model, input_shape: Shape | Sequence[Shape] | None = None
) -> keras.Model:
    """Returns a flat model that computes the same inference in stock operations.

    Nested models and composite layers are opened, blocks take their mobile form (their
    own `deploy`), batch normalization is folded into convolutions, layers that matter
    in training only are gone, everything is float32 and channels-last. Every trainable
    number of the result is the kernel or the bias of a stock convolution or Dense. The
    given model stays as it is; what is frozen in it is frozen in the result (a folded
    convolution when the convolution was).

    Args:
        model: a functional or Sequential model, built. It may hold nested models,
            composite layers, layers called more than once, several inputs and outputs.
        input_shape: shape of one input without the batch axis, for a model whose
            height or width is dynamic; a list of shapes for several inputs.

    Returns:
        A functional model of stock Keras layers and `keras.ops` operations. Its outputs
        differ from the model's by at most 1e-5 of the largest output.

    Raises:
        TypeError: `model` is no functional or Sequential model.
        ValueError: a dynamic height or width, a quantized model, a channels-first
            layer, or a weight that a composite layer uses in a way that can't be
            traced; each by the layer's name.
    """
    _check_model(model)
    shapes = _static_shapes(model, input_shape)
    tensors = [graphs.Tensor(shape, "float32") for shape in shapes]
    flattener = Flattener()
    # Sub-layers that a composite layer makes take the global policy.
    with dtypes.policy("float32"):
        outputs = flattener.model(model, tensors)
        sequential = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if sequential else model.input
        flat = graphs.Graph(tensors, outputs, flattener.nodes, structure)
        flat = folding.fold_batch_normalization(flat)
        flat = equivalents.rewrite(flat)
        inputs = [
            _new_input(old, shape, flattener.input_ranges.get(id(tensor)))
            for old, shape, tensor in zip(model.inputs, shapes, tensors, strict=True)
        ]
        return graphs.build_model(flat, inputs, name=model.name)


def _new_input(old, shape, input_range):
    if input_range is None:
        return graphs.new_input(old, shape, "float32")
    name = graphs.input_name(old)
    return image_input.make_input(shape[1:], input_range, name=name)


def _check_model(model):
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"Model '{model.name}' is not built: begin it with a keras.Input."
            )
    elif not graphs.is_functional(model):
        raise TypeError(
            f"{getattr(model, 'name', model)!r} is no functional or Sequential model. "
            "Wrap it: inputs = keras.Input(shape); keras.Model(inputs, model(inputs))."
        )
    for layer in model.layers:
        if isinstance(layer, fake_quant.QUANTIZING):
            raise ValueError(
                f"Model '{model.name}' is quantized already (layer '{layer.name}'): "
                "deploy or quantize the float model."
            )


def _static_shapes(model, input_shape):
    """Returns the shapes of the inputs, batch axis included, the others static."""
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if input_shape is not None:
        given = [input_shape] if isinstance(input_shape[0], int) else input_shape
        if len(given) != len(shapes):
            raise ValueError(
                f"input_shape must hold {len(shapes)} shapes, one per input of "
                f"'{model.name}'. Received: {input_shape}"
            )
        for shape, new in zip(shapes, given, strict=True):
            fits = len(new) == len(shape) - 1 and all(
                old in (None, size) for old, size in zip(shape[1:], new, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"input_shape {tuple(new)} does not fit the input of "
                    f"'{model.name}', which takes {shape[1:]}."
                )
        shapes = [(None, *new) for new in given]
    for shape in shapes:
        if None in shape[1:]:
            raise ValueError(
                f"The input {shape[1:]} of model '{model.name}' has a dynamic height "
                "or width; a phone needs it static. Pass input_shape=(H, W, C) to "
                "mobile.deploy and quantize what it returns."
            )
    return [(None, *shape[1:]) for shape in shapes]
