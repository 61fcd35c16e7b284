"""ImageNet on many GPUs, on paper: storage, decoding, links, where it stops scaling.

    python benchmarks/scaling.py [--write docs/scaling.md] [--per-core 960]

Nothing is measured here. Every figure follows from the inputs at the head of this file,
each with its source, by the formulas below. All-reduce times are lower bounds: peak
rates of the links, no latency.
"""

import argparse
import dataclasses
import math

import _page
from formulas import FORMULAS

IMAGES = 1_281_167  # ILSVRC 2012, training part
JPEG_BYTES = 110e3  # their mean size
# Decoded, cropped and flipped per second and core; `input_pipeline` measures it.
PER_CORE = 960
GRADIENT_BYTES = 4  # float32, also under mixed precision: the variables are float32
BACKWARD = 2 / 3  # of a step: two convolutions' worth of work to the forward's one
# Goyal et al. 2017 (arXiv 1706.02677): the largest batch without a loss of accuracy.
LARGEST_BATCH = 8192

# Of one A100 with 80 GB, mixed precision, ResNet-50 v1.5: NVIDIA/DeepLearningExamples
# at 291f0d0, PyTorch/Classification/ConvNets/resnet50v1.5/README.md.
RESNET50_IMAGES_PER_SECOND = 2470
# Published by timm (results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv): training
# on an RTX 3090, images/s of resnet50, seresnet50 and mobilenetv2_100.
TIMM = {"resnet50": 1218.01, "seresnet50": 971.79, "mobilenetv2_100": 2313.10}
# Assumed, until `gpu` has measured it: any attention costs what SE costs in ResNet-50.
ATTENTION = TIMM["seresnet50"] / TIMM["resnet50"]
MOBILE = TIMM["mobilenetv2_100"] / TIMM["resnet50"]

RESNET50_PARAMETERS = 25_557_032
# Output channels and number of ResNet-50's units, each with its block.
RESNET50_UNITS = ((256, 3), (512, 4), (1024, 6), (2048, 3))


def in_resnet50(block):
    """Returns the parameters of a block in every unit, which no map's size changes."""
    count = FORMULAS[block].parameters
    return sum(units * count(1, 1, channels) for channels, units in RESNET50_UNITS)


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        name: for the tables.
        parameters: trainable ones.
        images_per_second: that one GPU trains on.
    """

    name: str
    parameters: int
    images_per_second: float


NETWORKS = (
    Network("ResNet-50", RESNET50_PARAMETERS, RESNET50_IMAGES_PER_SECOND),
    *(
        Network(
            f"ResNet-50 + {block.upper()}",
            RESNET50_PARAMETERS + in_resnet50(name),
            RESNET50_IMAGES_PER_SECOND * ATTENTION,
        )
        for block, name in (("ema", "ema"), ("ca", "coord"))
    ),
    Network(
        "MobileNetV2 + CA", 3_950_648, RESNET50_IMAGES_PER_SECOND * MOBILE * ATTENTION
    ),
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """GPUs in a ring.

    Attributes:
        gpus: how many.
        links: {name: bytes per second in one direction, of the ring's slowest link}.
    """

    gpus: int
    links: dict[str, float]

    @property
    def batch(self):
        """Images per GPU: 256, but fewer where all would exceed `LARGEST_BATCH`."""
        return min(256, LARGEST_BATCH // self.gpus)


CLUSTERS = (
    Cluster(8, {"NVLink 3, 300 GB/s": 300e9, "PCIe 4.0 x16, 31.5 GB/s": 31.5e9}),
    Cluster(
        64,
        {
            "100 Gb/s a host": 12.5e9,
            "200 Gb/s a host": 25e9,
            "400 Gb/s a host": 50e9,
            "8 x 200 Gb/s a host": 200e9,
        },
    ),
)


def all_reduce_bytes(parameters, gpus):
    """Returns the bytes that each GPU sends in a step: a ring, out and back.

    Each of n parts of the gradient is passed on n - 1 times until it is a sum, and
    n - 1 times until all have it.
    """
    return 2 * (gpus - 1) / gpus * parameters * GRADIENT_BYTES


def all_reduce_seconds(network, gpus, rate):
    """Returns the least time of an all-reduce over links of so many bytes per second.

    Hosts with several GPUs are one ring, which enters and leaves each host once.
    """
    return all_reduce_bytes(network.parameters, gpus) / rate


def step_seconds(network, batch):
    """Returns the time that a GPU computes on so many images."""
    return batch / network.images_per_second


def efficiency(network, batch, gpus, rate):
    """Returns the share of a step that is computing if nothing overlaps."""
    compute = step_seconds(network, batch)
    return compute / (compute + all_reduce_seconds(network, gpus, rate))


def smallest_batch(network, gpus, rate):
    """Returns the images per GPU below which the all-reduce outlasts the backward pass.

    Behind it the gradients can't be hidden, however well both overlap.
    """
    seconds = all_reduce_seconds(network, gpus, rate)
    return math.ceil(seconds / BACKWARD * network.images_per_second)


def demand_lines(per_core):
    """Returns the table of what storage and processors have to deliver."""
    head = (
        *("network", "GPUs", "images/s of one", "images/s of all"),
        *("from storage, GB/s", "cores that decode", "of these per GPU", "epoch, s"),
    )
    rows = []
    for network in NETWORKS:
        for cluster in CLUSTERS:
            wanted = network.images_per_second * cluster.gpus
            cores = wanted / per_core
            rows.append(
                (
                    *(network.name, cluster.gpus, f"{network.images_per_second:,.0f}"),
                    *(f"{wanted:,.0f}", f"{wanted * JPEG_BYTES / 1e9:.2f}"),
                    *(f"{math.ceil(cores)}", f"{cores / cluster.gpus:.1f}"),
                    f"{IMAGES / wanted:.0f}",
                )
            )
    return _page.table(head, rows)


def link_lines():
    """Returns the table of all-reduces."""
    head = (
        *("network", "parameters", "GPUs", "link", "sent per GPU and step, MB"),
        *("all-reduce, ms", "images per GPU", "computing, ms"),
        *(
            "efficiency without overlap",
            "images per GPU below which it can't be hidden",
        ),
    )
    rows = []
    for network in NETWORKS:
        for cluster in CLUSTERS:
            gpus, batch = cluster.gpus, cluster.batch
            for link, rate in cluster.links.items():
                sent = all_reduce_bytes(network.parameters, gpus)
                rows.append(
                    (
                        *(network.name, f"{network.parameters:,}", gpus, link),
                        f"{sent / 1e6:.1f}",
                        f"{1e3 * all_reduce_seconds(network, gpus, rate):.2f}",
                        *(batch, f"{1e3 * step_seconds(network, batch):.1f}"),
                        f"{efficiency(network, batch, gpus, rate):.1%}",
                        smallest_batch(network, gpus, rate),
                    )
                )
    return _page.table(head, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-core", type=float, default=PER_CORE, metavar="IMAGES")
    parser.add_argument("--write", metavar="PAGE", help="where the tables go")
    arguments = parser.parse_args()
    tables = {"demand": demand_lines(arguments.per_core), "links": link_lines()}
    for mark, lines in tables.items():
        print(*lines, "", sep="\n")
        if arguments.write:
            _page.put(arguments.write, mark, lines)


if __name__ == "__main__":
    main()
