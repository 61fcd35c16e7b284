"""What the authors call the parts of each block: one table.

First by the blocks' registry names. Then keys are names in the authors' PyTorch code
(or, where there is none, this project's choice), of modules or of single parameters;
values are attributes of the Keras layer. Parts that a layer is built without are left
out by `torch_state`.
"""

from keras_attention import registry

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
    "nam": {"Channel_Att.bn2": "norm"},
    "se": {
        "fc1": "reduce",
        "fc2": "expand",
    },
    "eca": {"conv": "conv"},
    "cbam": {
        "ChannelGate.mlp.1": "reduce",
        "ChannelGate.mlp.3": "expand",
        "SpatialGate.spatial.conv": "spatial",
        "SpatialGate.spatial.bn": "norm",
    },
    "triplet": {
        "cw.conv.conv": "convs.0",
        "cw.conv.bn": "norms.0",
        "hc.conv.conv": "convs.1",
        "hc.conv.bn": "norms.1",
        "hw.conv.conv": "convs.2",
        "hw.conv.bn": "norms.2",
    },
    "bam": {
        "channel_att.gate_c.gate_c_fc_0": "channel_reduce",
        "channel_att.gate_c.gate_c_bn_1": "channel_norm",
        "channel_att.gate_c.gate_c_fc_final": "channel_expand",
        "spatial_att.gate_s.gate_s_conv_reduce0": "spatial_convs.0",
        "spatial_att.gate_s.gate_s_bn_reduce0": "spatial_norms.0",
        "spatial_att.gate_s.gate_s_conv_di_0": "spatial_convs.1",
        "spatial_att.gate_s.gate_s_bn_di_0": "spatial_norms.1",
        "spatial_att.gate_s.gate_s_conv_di_1": "spatial_convs.2",
        "spatial_att.gate_s.gate_s_bn_di_1": "spatial_norms.2",
        "spatial_att.gate_s.gate_s_conv_final": "spatial_expand",
    },
    "gam": {
        "channel_attention.0": "channel_reduce",
        "channel_attention.2": "channel_expand",
        "spatial_attention.0": "spatial_reduce",
        "spatial_attention.1": "reduce_norm",
        "spatial_attention.3": "spatial_expand",
        "spatial_attention.4": "expand_norm",
    },
    "sp": {
        "spm.conv1": "conv_h",
        "spm.bn1": "norm_h",
        "spm.conv2": "conv_w",
        "spm.bn2": "norm_w",
        "spm.conv3": "mix",
    },
    "gc": {
        "conv_mask": "mask",
        "channel_add_conv.0": "_adding.reduce",
        "channel_add_conv.1.weight": "_adding.gamma",
        "channel_add_conv.1.bias": "_adding.beta",
        "channel_add_conv.3": "_adding.expand",
        "channel_mul_conv.0": "_multiplying.reduce",
        "channel_mul_conv.1.weight": "_multiplying.gamma",
        "channel_mul_conv.1.bias": "_multiplying.beta",
        "channel_mul_conv.3": "_multiplying.expand",
    },
    "simam": {},
    "ge": {
        "gather.conv1": "convs.0",
        "gather.norm1": "norms.0",
        "gather.conv2": "convs.1",
        "gather.norm2": "norms.1",
        "gather.conv3": "convs.2",
        "gather.norm3": "norms.2",
        "mlp.fc1": "reduce",
        "mlp.fc2": "expand",
    },
    "nl": {
        "theta": "theta",
        "phi": "phi",
        "g": "g",
        "out": "out",
        "bn": "norm",
    },
    "sge": {"weight": "gamma", "bias": "beta"},
    "sk": {
        **{f"paths.{i}.conv": f"convs.{i}" for i in range(8)},
        **{f"paths.{i}.bn": f"conv_norms.{i}" for i in range(8)},
        "attn.fc_reduce": "reduce",
        "attn.bn": "reduce_norm",
        "attn.fc_select": "select",
    },
    "sa": {
        "cweight": "channel_scale",
        "cbias": "channel_shift",
        "sweight": "spatial_scale",
        "sbias": "spatial_shift",
        "gn.weight": "gamma",
        "gn.bias": "beta",
    },
}

# Parts that have other names in the networks of which authors published weights.
IN_NETWORKS = {
    # landskape-ai/triplet-attention, folder MODELS
    "triplet": {
        "ChannelGateH.spatial.conv": "convs.0",
        "ChannelGateH.spatial.bn": "norms.0",
        "ChannelGateW.spatial.conv": "convs.1",
        "ChannelGateW.spatial.bn": "norms.1",
        "SpatialGate.spatial.conv": "convs.2",
        "SpatialGate.spatial.bn": "norms.2",
    },
    # implus/PytorchInsight
    "se": {"fc.0": "reduce", "fc.2": "expand"},
}


def block_of(layer):
    """Returns the registry name of a block or of what it is derived from, or None."""
    registered = map(registry.name_of, type(layer).__mro__)
    return next((name for name in registered if name in NAMES), None)


def part_of(layer, path):
    """Returns the sub-layer or weight at a path such as "paths.0.conv", or None."""
    for key in path.split("."):
        if layer is None:
            return None
        if key.isdigit():
            layer = layer[int(key)] if int(key) < len(layer) else None
        else:
            layer = getattr(layer, key, None)
    return layer
