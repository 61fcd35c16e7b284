"""Every block in PyTorch, written down from its paper's formulas.

For comparisons: of speed under torch.compile (`gpu`), of numbers with the golden files
(tests/backends). Each function takes x (N, C, H, W), a dict of parameters under the
authors' names and in their layouts, and whether it is trained, which moves the running
statistics in that dict. Widths, groups and branches follow from the parameters' shapes.
Means over whole maps are reductions and not poolings, which torch.compile fuses.
"""

import math

import torch
from torch.nn import functional as F

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_SPATIAL = (2, 3)


def _conv(x, p, name, **options):
    kernel = p[f"{name}.weight"]
    return _CONVOLUTIONS[kernel.ndim](x, kernel, p.get(f"{name}.bias"), **options)


def _linear(x, p, name):
    """Applies a matrix (out, in[, 1, 1]) to the last axis."""
    return F.linear(x, p[f"{name}.weight"].flatten(1), p.get(f"{name}.bias"))


def _norm(x, p, name, training, momentum=0.1):
    statistics = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    scale, shift = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.batch_norm(x, *statistics, scale, shift, training, momentum, 1e-5)


def _over_map(gates):
    """Returns (N, C) as (N, C, 1, 1)."""
    return gates[:, :, None, None]


def coord(x, p, training=False, **_):
    """Coordinate attention, 2103.02907."""
    strips = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
    f = F.hardswish(_norm(_conv(torch.cat(strips, 2), p, "conv1"), p, "bn1", training))
    f_h, f_w = f.split(x.shape[2:], 2)
    g_h = _conv(f_h, p, "conv_h").sigmoid()  # (N, C, H, 1)
    g_w = _conv(f_w.transpose(2, 3), p, "conv_w").sigmoid()  # (N, C, 1, W)
    return x * g_w * g_h


def ema(x, p, training=False, **_):
    """Efficient multi-scale attention, 2305.13563."""
    c = len(p["gn.weight"])
    y = x.reshape(-1, c, *x.shape[2:])  # (N G, c, H, W)
    strips = y.mean(3, keepdim=True), y.mean(2, keepdim=True).transpose(2, 3)
    s_h, s_w = _conv(torch.cat(strips, 2), p, "conv1x1").split(x.shape[2:], 2)
    gated = y * s_h.sigmoid() * s_w.transpose(2, 3).sigmoid()
    x_1 = F.group_norm(gated, c, p["gn.weight"], p["gn.bias"], 1e-5)
    x_2 = _conv(y, p, "conv3x3", padding=1)
    a_1, a_2 = (t.mean(_SPATIAL).softmax(1)[:, None] for t in (x_1, x_2))  # (N G, 1, c)
    logits = a_1 @ x_2.flatten(2) + a_2 @ x_1.flatten(2)  # (N G, 1, H W)
    gate = logits.sigmoid().reshape(-1, 1, *x.shape[2:])
    return (y * gate).reshape(x.shape)


def a2(x, p, training=False, **_):
    """Double attention, 1810.11579; images or video."""
    values = _conv(x, p, "convA").flatten(2)  # (N, m, L)
    where = _conv(x, p, "convB").flatten(2).softmax(2)  # (N, n, L), over positions
    which = _conv(x, p, "convV").flatten(2).softmax(1)  # (N, n, L), over descriptors
    z = (values @ where.transpose(1, 2)) @ which
    z = z.reshape(*z.shape[:2], *x.shape[2:])
    return x + _conv(z, p, "conv_reconstruct")


def aw(x, p, training=False, **_):
    """AW-convolution, 2108.08205, stride 1, "same": a group for each sample."""
    kernel, count = p["weight"], len(x)
    filters, channels, *size = kernel.shape
    f = F.adaptive_avg_pool2d(x, size)
    f = _norm(_conv(f, p, "pw1"), p, "bn1", training).relu()
    gates = _norm(_conv(f, p, "pw2"), p, "bn2", training).sigmoid()
    gates = gates.reshape(count, filters, -1, 1, *size)
    runs = gates.shape[2]  # of adjacent input channels that share a gate
    a = gates.expand(-1, -1, -1, channels // runs, -1, -1)
    kernels = kernel + a.reshape(count, *kernel.shape) * kernel
    y = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        kernels.reshape(-1, *kernel.shape[1:]),
        padding="same",
        groups=count,
    )
    return y.reshape(count, filters, *x.shape[2:])


def se(x, p, training=False, **_):
    """Squeeze and excitation, 1709.01507."""
    z = _linear(x.mean(_SPATIAL), p, "fc1").relu()
    return x * _over_map(_linear(z, p, "fc2").sigmoid())


def _pooled_gate(x, p, name, training):
    """Returns the gate (N, 1, A, B) of x (N, pooled, A, B): largest and mean."""
    pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    reach = p[f"{name}.conv.weight"].shape[-1] // 2
    scores = _conv(pooled, p, f"{name}.conv", padding=reach)
    return _norm(scores, p, f"{name}.bn", training, momentum=0.01).sigmoid()


def cbam(x, p, training=False, **_):
    """CBAM, 1807.06521."""

    def logits(z):
        z = _linear(z, p, "ChannelGate.mlp.1").relu()
        return _linear(z, p, "ChannelGate.mlp.3")

    channel = (logits(x.mean(_SPATIAL)) + logits(x.amax(_SPATIAL))).sigmoid()
    u = x * _over_map(channel)
    return u * _pooled_gate(u, p, "SpatialGate.spatial", training)


def bam(x, p, training=False, *, dilation=4, combine="sum", **_):
    """BAM, 1807.06514."""
    gate = "channel_att.gate_c.gate_c_"
    z = _linear(x.mean(_SPATIAL), p, f"{gate}fc_0")
    z = _norm(z, p, f"{gate}bn_1", training).relu()
    channel = _over_map(_linear(z, p, f"{gate}fc_final"))
    gate = "spatial_att.gate_s.gate_s_"
    y = _conv(x, p, f"{gate}conv_reduce0")
    y = _norm(y, p, f"{gate}bn_reduce0", training).relu()
    for part in ("di_0", "di_1"):
        y = _conv(y, p, f"{gate}conv_{part}", padding=dilation, dilation=dilation)
        y = _norm(y, p, f"{gate}bn_{part}", training).relu()
    spatial = _conv(y, p, f"{gate}conv_final")
    logits = channel + spatial if combine == "sum" else channel * spatial
    return x * (1 + logits.sigmoid())


def eca(x, p, training=False, **_):
    """ECA, 1910.03151."""
    means = x.mean(_SPATIAL)[:, None]  # (N, 1, C)
    logits = _conv(means, p, "conv", padding=p["conv.weight"].shape[-1] // 2)
    return x * _over_map(logits[:, 0].sigmoid())


def gc(x, p, training=False, **_):
    """Global context, fused by addition, 1904.11492."""
    weights = _conv(x, p, "conv_mask").flatten(2).softmax(2)  # (N, 1, L)
    context = (x.flatten(2) @ weights.transpose(1, 2))[..., None]  # (N, C, 1, 1)
    h = _conv(context, p, "channel_add_conv.0")
    affine = [p[f"channel_add_conv.1.{part}"] for part in ("weight", "bias")]
    affine = [vector.reshape(h.shape[1:]) for vector in affine]
    h = F.layer_norm(h, h.shape[1:], *affine, 1e-5).relu()
    return x + _conv(h, p, "channel_add_conv.3")


def nl(x, p, training=False, **_):
    """Non-local, embedded Gaussian, pooled and scaled, 1711.07971."""
    pooled = F.max_pool2d(x, 2)
    theta = _conv(x, p, "theta").flatten(2).transpose(1, 2)  # (N, L, m)
    phi = _conv(pooled, p, "phi").flatten(2)  # (N, m, L / 4)
    g = _conv(pooled, p, "g").flatten(2).transpose(1, 2)
    y = (theta @ phi * phi.shape[1] ** -0.5).softmax(2) @ g
    y = y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
    return x + _norm(_conv(y, p, "out"), p, "bn", training)


def simam(x, p, training=False, *, e_lambda=1e-4, **_):
    """SimAM, PMLR 139, 11863."""
    d = (x - x.mean(_SPATIAL, keepdim=True)) ** 2
    v = d.sum(_SPATIAL, keepdim=True) / max(math.prod(x.shape[2:]) - 1, 1)
    return x * (d / (4 * (v + e_lambda)) + 0.5).sigmoid()


# Branch: the axes of (N, C, H, W) that bring the pooled one to the second place; each
# order is its own inverse.
_ROTATIONS = {"cw": (0, 2, 1, 3), "hc": (0, 3, 2, 1), "hw": (0, 1, 2, 3)}


def triplet(x, p, training=False, **_):
    """Triplet attention, 2010.03045."""
    total = 0
    for branch, order in _ROTATIONS.items():
        rotated = x.permute(order)
        gate = _pooled_gate(rotated, p, f"{branch}.conv", training)
        total = total + (rotated * gate).permute(order)
    return total / 3


def nam(x, p, training=False, **_):
    """NAM, 2111.12419."""
    scales = p["Channel_Att.bn2.weight"].detach().abs()
    y = _norm(x, p, "Channel_Att.bn2", training)
    return x * (y * (scales / scales.sum())[:, None, None]).sigmoid()


def sa(x, p, training=False, **_):
    """Shuffle attention, 2102.00240."""
    w = {name: p[name].reshape(1, -1, 1, 1) for name in p if not name.startswith("gn")}
    half = w["cweight"].numel()
    a, b = x.reshape(-1, 2 * half, *x.shape[2:]).chunk(2, 1)
    means = a.mean(_SPATIAL, keepdim=True)
    a = a * (w["cweight"] * means + w["cbias"]).sigmoid()
    normalized = F.group_norm(b, half, p["gn.weight"], p["gn.bias"], 1e-5)
    b = b * (w["sweight"] * normalized + w["sbias"]).sigmoid()
    y = torch.cat([a, b], 1).reshape(len(x), 2, -1, *x.shape[2:])
    return y.transpose(1, 2).reshape(x.shape)


def sge(x, p, training=False, **_):
    """Spatial group-wise enhancement, 1905.09646."""
    groups = p["weight"].numel()
    y = x.reshape(len(x), groups, -1, *x.shape[2:])  # (N, G, c, H, W)
    t = (y * y.mean((3, 4), keepdim=True)).sum(2).flatten(2)  # (N, G, H W)
    t = t - t.mean(2, keepdim=True)
    t = t / (t.std(2, keepdim=True) + 1e-5)
    logits = t * p["weight"].reshape(-1, 1) + p["bias"].reshape(-1, 1)
    gate = logits.sigmoid().reshape(len(x), groups, 1, *x.shape[2:])
    return (y * gate).reshape(x.shape)


def gam(x, p, training=False, *, channel_gate="sigmoid", **_):
    """GAM without groups, 2112.05561."""
    z = _linear(x.permute(0, 2, 3, 1), p, "channel_attention.0").relu()
    gates = _linear(z, p, "channel_attention.2").permute(0, 3, 1, 2)
    u = x * (gates.sigmoid() if channel_gate else gates)
    y = _conv(u, p, "spatial_attention.0", padding=3)
    y = _norm(y, p, "spatial_attention.1", training).relu()
    y = _conv(y, p, "spatial_attention.3", padding=3)
    return u * _norm(y, p, "spatial_attention.4", training).sigmoid()


def ge(x, p, training=False, *, variant="theta_plus", extent=0, **_):
    """Gather and excite, 1810.12348."""
    z, number = x, 1
    if variant == "theta_minus":
        size = 2 * extent - 1
        z = (
            F.avg_pool2d(x, size, extent, extent - 1, count_include_pad=False)
            if extent
            else x.mean(_SPATIAL, keepdim=True)
        )
    while f"gather.conv{number}.weight" in p:
        z = z.relu() if number > 1 else z
        options = {"stride": 2, "padding": 1} if extent else {}
        z = _conv(z, p, f"gather.conv{number}", groups=x.shape[1], **options)
        z = _norm(z, p, f"gather.norm{number}", training)
        number += 1
    if variant == "theta_plus":
        z = _conv(_conv(z, p, "mlp.fc1").relu(), p, "mlp.fc2")
    gates = z.sigmoid()
    return x * (F.interpolate(gates, x.shape[2:], mode="nearest") if extent else gates)


def sk(x, p, training=False, *, strides=1, **_):
    """Selective kernel, 1903.06586."""
    branches = []
    while f"paths.{len(branches)}.conv.weight" in p:
        path, dilation = f"paths.{len(branches)}", len(branches) + 1
        options = {"stride": strides, "padding": dilation, "dilation": dilation}
        options["groups"] = x.shape[1] // p[f"{path}.conv.weight"].shape[1]
        u = _conv(x, p, f"{path}.conv", **options)
        branches.append(_norm(u, p, f"{path}.bn", training).relu())
    s = sum(branches).mean(_SPATIAL, keepdim=True)
    z = _norm(_conv(s, p, "attn.fc_reduce"), p, "attn.bn", training).relu()
    scores = _conv(z, p, "attn.fc_select")
    a = scores.reshape(len(x), len(branches), -1, 1, 1).softmax(1)
    return sum(u * a[:, i] for i, u in enumerate(branches))


def sp(x, p, training=False, **_):
    """Strip pooling, 2003.13328."""
    rows = _conv(x.mean(3, keepdim=True), p, "spm.conv1", padding=(1, 0))
    columns = _conv(x.mean(2, keepdim=True), p, "spm.conv2", padding=(0, 1))
    rows = _norm(rows, p, "spm.bn1", training)  # (N, C, H, 1)
    columns = _norm(columns, p, "spm.bn2", training)  # (N, C, 1, W)
    return x * _conv((rows + columns).relu(), p, "spm.conv3").sigmoid()


BLOCKS = {
    function.__name__: function
    for function in (
        *(a2, aw, bam, cbam, coord, eca, ema, gam, gc, ge, nam, nl, sa, se, sge, simam),
        *(sk, sp, triplet),
    )
}


def tensors(arrays, device="cpu"):
    """Returns {name: float32 tensor}; running statistics need no gradient."""
    made = {}
    for name, array in arrays.items():
        made[name] = torch.tensor(array, dtype=torch.float32, device=device)
        made[name].requires_grad_("running_" not in name)
    return made


def forward_backward(function, x, p, cotangent, **arguments):
    """Returns y in training, and the gradients of sum(y * cotangent).

    Args:
        function: one of `BLOCKS`, or what torch.compile made of it.
        x: (N, C, H, W), with requires_grad.
        p: parameters, see `tensors`.
        cotangent: of the shape of y.
        **arguments: of the function.

    Returns:
        y, the gradient of x, {name: gradient} of the parameters that have one.
    """
    y = function(x, p, True, **arguments)
    trained = {name: tensor for name, tensor in p.items() if tensor.requires_grad}
    dx, *found = torch.autograd.grad(y, [x, *trained.values()], cotangent)
    return y, dx, dict(zip(trained, found, strict=True))
