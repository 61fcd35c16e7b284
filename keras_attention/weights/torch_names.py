"""What the authors call the parts of each block: one table.

First by the blocks' registry names. Then keys are names in the authors' PyTorch code
(or, where there is none, this project's choice), of modules or of single parameters;
values are attributes of the Keras layer. Parts that a layer is built without are left
out by `torch_state`.
"""

NAMES = {
    "coord": {
        "conv1": "reduce",
        "bn1": "norm",
        "conv_h": "expand_h",
        "conv_w": "expand_w",
    },
    "ema": {
        "conv1x1": "pointwise",
        "conv3x3": "spatial",
        "gn.weight": "gamma",
        "gn.bias": "beta",
    },
    "a2": {
        "convA": "value",
        "convB": "gather",
        "convV": "distribute",
        "conv_reconstruct": "extend",
        "bn": "norm",
    },
    "aw": {
        "weight": "kernel",
        "bias": "bias",
        "pw1": "reduce",
        "bn1": "reduce_norm",
        "pw2": "expand",
        "bn2": "expand_norm",
    },
}
