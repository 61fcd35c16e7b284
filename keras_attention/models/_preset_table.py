"""The networks of the papers: a table.

Parameters and multiply-adds are counts of these networks as they are built here
(`benchmarks/presets.py` counts them again); what is published stands beside them.
"""

from keras_attention.models._preset import HIGH, MEDIUM, ByStage, Preset, Published

_CA, _CA_README = "2103.02907", "houqb/CoordAttention, README"
_CA_PAPER = f"arXiv {_CA}"
_EMA, _EMA_README = "2305.13563", "YOLOonMe/EMA-attention-module, README"
_AW, _AW_PAPER = "2108.08205", "arXiv 2108.08205"
_CBAM_README = "Jongchan/attention-module, README"
_SE24 = {"name": "se", "reduction": 24, "activation": "relu6"}
_CIFAR = {"input_shape": (32, 32, 3), "classes": 100}
_EMA_NOTE = (
    "The authors' released block has 10c^2 + 4c parameters. The published 23.85 and "
    "42.96 M are those of 7c^2 + 5c, a lighter 3x3 branch, which is not released."
)
_CA_CIFAR_NOTE = "Why the README of EMA prints fewer parameters is not known."
_AW_NOTE = (
    "That the 3x3 convolutions are the replaced ones, and the gates' sharing, follow "
    "from the recalled number of parameters of AW-ResNet-50."
)

_ROWS = (
    Preset(
        name="mobilenet_v2_coord",
        title="CA-MobileNetV2",
        builder="MobileNetV2",
        arguments={"attention": "coord"},
        paper=_CA,
        parameters=3_950_648,
        multiply_adds=306_666_368,
        published=Published.on_imagenet(74.3, None, 3.95, 310, _CA_README),
    ),
    Preset(
        name="mobilenet_v2_075_coord",
        title="CA-MobileNetV2 0.75",
        builder="MobileNetV2",
        arguments={"width": 0.75, "attention": "coord"},
        paper=_CA,
        parameters=2_891_631,
        multiply_adds=212_648_864,
        published=Published.on_imagenet(72.1, None, 2.89, 210, _CA_PAPER, HIGH),
    ),
    Preset(
        name="mobilenet_v2_050_coord",
        title="CA-MobileNetV2 0.5",
        builder="MobileNetV2",
        arguments={"width": 0.5, "attention": "coord"},
        paper=_CA,
        parameters=2_095_568,
        multiply_adds=99_002_688,
        published=Published.on_imagenet(67.0, None, 2.1, 100, _CA_PAPER, HIGH),
    ),
    Preset(
        name="mobilenet_v2_se",
        title="SE-MobileNetV2",
        builder="MobileNetV2",
        arguments={"attention": _SE24},
        paper=_CA,
        parameters=3_888_208,
        multiply_adds=301_150_208,
        published=Published.on_imagenet(73.5, None, 3.89, 300, _CA_README),
        note="The rival in the paper of CA: reduction 24, ReLU6.",
    ),
    Preset(
        name="mobilenet_v2_075_se",
        title="SE-MobileNetV2 0.75",
        builder="MobileNetV2",
        arguments={"width": 0.75, "attention": _SE24},
        paper=_CA,
        parameters=2_855_386,
        multiply_adds=209_283_104,
        published=Published.on_imagenet(71.5, None, 2.86, 210, _CA_PAPER, HIGH),
    ),
    Preset(
        name="mobilenet_v2_050_se",
        title="SE-MobileNetV2 0.5",
        builder="MobileNetV2",
        arguments={"width": 0.5, "attention": _SE24},
        paper=_CA,
        parameters=2_067_086,
        multiply_adds=97_226_496,
        published=Published.on_imagenet(66.4, None, 2.1, 100, _CA_PAPER, HIGH),
    ),
    Preset(
        name="mobilenet_v2_ema",
        title="EMA-MobileNetV2",
        builder="MobileNetV2",
        arguments={
            "attention": {"name": "ema", "groups": 8},
            "attention_position": "after_project",
        },
        paper=_EMA,
        parameters=3_541_156,
        multiply_adds=328_384_064,
        published=Published.on_imagenet(74.32, 91.82, 3.55, 306, _EMA_README),
        note=(
            "The published placement can't be recovered: no place and number of groups "
            "gives 3.55 M. 8 groups at the units' outputs come nearest, and cost more "
            "multiply-adds."
        ),
    ),
    Preset(
        name="mobilenext_coord",
        title="CA-MobileNeXt",
        builder="MobileNeXt",
        arguments={"attention": {"name": "coord", "reduction": 24}},
        paper=_CA,
        parameters=4_108_336,
        multiply_adds=317_779_456,
        published=Published.on_imagenet(75.2, None, 4.09, 330, _CA_README),
        note="Reduction 24 is what the published number of parameters fits.",
    ),
    Preset(
        name="mobilenext_se",
        title="SE-MobileNeXt",
        builder="MobileNeXt",
        arguments={"attention": _SE24},
        paper=_CA,
        parameters=3_913_557,
        multiply_adds=311_713_600,
        published=Published.on_imagenet(74.7, None, 3.89, 300, _CA_README),
        note="Reduction 24 is what the published number of parameters fits.",
    ),
    Preset(
        name="efficientnet_b0_coord",
        title="CA-EfficientNet-B0",
        builder="EfficientNetB0",
        arguments={"attention": "coord"},
        paper=_CA,
        parameters=5_381_804,
        multiply_adds=394_014_048,
        published=Published.on_imagenet(76.9, None, 5.4, 400, _CA_PAPER, HIGH),
        note="CA in the place of SE, in every unit.",
    ),
    Preset(
        name="resnet50_cifar_ema",
        title="EMA-ResNet-50, CIFAR",
        builder="ResNet50",
        arguments={"stem": "cifar", "attention": "ema"},
        paper=_EMA,
        parameters=23_903_620,
        multiply_adds=1_611_341_824,
        published=Published.on_cifar(80.69, 95.59, 23.85, _EMA_README),
        note=_EMA_NOTE,
        **_CIFAR,
    ),
    Preset(
        name="resnet101_cifar_ema",
        title="EMA-ResNet-101, CIFAR",
        builder="ResNet101",
        arguments={"stem": "cifar", "attention": "ema"},
        paper=_EMA,
        parameters=43_072_004,
        multiply_adds=3_155_501_056,
        published=Published.on_cifar(80.86, 95.75, 42.96, _EMA_README),
        note=_EMA_NOTE,
        **_CIFAR,
    ),
    Preset(
        name="resnet50_cifar_coord",
        title="CA-ResNet-50, CIFAR",
        builder="ResNet50",
        arguments={"stem": "cifar", "attention": "coord"},
        paper=_EMA,
        parameters=25_623_084,
        multiply_adds=1_313_480_704,
        published=Published.on_cifar(80.17, 94.94, 25.57, _EMA_README),
        note=_CA_CIFAR_NOTE,
        **_CIFAR,
    ),
    Preset(
        name="resnet101_cifar_coord",
        title="CA-ResNet-101, CIFAR",
        builder="ResNet101",
        arguments={"stem": "cifar", "attention": "coord"},
        paper=_EMA,
        parameters=46_322_828,
        multiply_adds=2_543_460_352,
        published=Published.on_cifar(80.01, 94.78, 46.22, _EMA_README),
        note=_CA_CIFAR_NOTE,
        **_CIFAR,
    ),
    Preset(
        name="resnet50_a2",
        title="A2-Net-50",
        builder="ResNet50",
        arguments={"attention": "a2"},
        paper="1810.11579",
        parameters=32_907_304,
        multiply_adds=6_658_195_456,
        published=Published.on_imagenet(
            77.0, 93.5, 33.0, 6500, "table of ECA-Net, arXiv 1910.03151", HIGH
        ),
        note=(
            "Two blocks in c3 and three in c4, m = n = C/2: the layout that the "
            "published costs fit."
        ),
    ),
    Preset(
        name="resnet50_3d_a2",
        title="A2-Net-50, video",
        builder="ResNet50_3D",
        arguments={"attention": "a2"},
        paper="1810.11579",
        parameters=35_393_744,
        multiply_adds=39_916_830_720,
        published=Published(
            "Kinetics", 74.6, 91.5, None, 40_800, "arXiv 1810.11579", MEDIUM
        ),
        note="The paper's table of the network was not found; see models/resnet_3d.py.",
        input_shape=(8, 224, 224, 3),
        classes=400,
    ),
    Preset(
        name="resnet50_aw",
        title="AW-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "aw"},
        paper=_AW,
        parameters=25_722_240,
        multiply_adds=4_090_598_912,
        published=Published.on_imagenet(76.62, 93.21, 25.72, 3870, _AW_PAPER, MEDIUM),
        note=_AW_NOTE,
    ),
    Preset(
        name="resnet101_aw",
        title="AW-ResNet-101",
        builder="ResNet101",
        arguments={"attention": "aw"},
        paper=_AW,
        parameters=44_862_880,
        multiply_adds=7_804_073_472,
        published=Published.on_imagenet(77.62, 93.79, 44.95, 7580, _AW_PAPER, MEDIUM),
        note="No one rule gives both recalled numbers; used is AW-ResNet-50's.",
    ),
    Preset(
        name="resnet50_aw_se",
        title="AW-SE-ResNet-50",
        builder="ResNet50",
        arguments={"attention": ["aw", "se"]},
        paper=_AW,
        parameters=28_253_232,
        multiply_adds=4_093_113_856,
        published=Published.on_imagenet(77.28, 93.53, 28.25, 3880, _AW_PAPER, MEDIUM),
        note=_AW_NOTE,
    ),
    Preset(
        name="resnet50_aw_cbam",
        title="AW-CBAM-ResNet-50",
        builder="ResNet50",
        arguments={"attention": ["aw", "cbam"]},
        paper=_AW,
        parameters=28_254_832,
        multiply_adds=4_096_987_766,
        published=Published.on_imagenet(77.18, 93.59, 28.25, 3890, _AW_PAPER, MEDIUM),
        note=_AW_NOTE,
    ),
    Preset(
        name="resnet50_se",
        title="SE-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "se"},
        paper="1709.01507",
        parameters=28_088_024,
        multiply_adds=4_091_699_200,
        published=Published.on_imagenet(
            77.63, 93.64, None, None, "hujie-frank/SENet, README"
        ),
    ),
    Preset(
        name="resnet50_cbam",
        title="CBAM-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "cbam"},
        paper="1807.06521",
        parameters=28_089_624,
        multiply_adds=4_095_573_110,
        published=Published.on_imagenet(77.622, 93.948, None, None, _CBAM_README),
    ),
    Preset(
        name="resnet50_bam",
        title="BAM-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "bam"},
        paper="1807.06514",
        parameters=25_915_099,
        multiply_adds=4_171_331_328,
        published=Published.on_imagenet(76.860, 93.416, 25.92, None, _CBAM_README),
        note=(
            "The two gates are added as in the paper; the authors' code multiplies "
            'them (combine="product").'
        ),
    ),
    Preset(
        name="resnet50_eca",
        title="ECA-ResNet-50, k = 3, 5, 5, 7",
        builder="ResNet50",
        arguments={"attention": ByStage("eca", "kernel_size", (3, 5, 5, 7))},
        paper="1910.03151",
        parameters=25_557_112,
        multiply_adds=4_089_270_528,
        published=Published.on_imagenet(
            77.42, None, None, None, "BangguWu/ECANet, README"
        ),
        note="The kernels of the official runs, which are not the formula's.",
    ),
    Preset(
        name="resnet50_gc",
        title="GC-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "gc"},
        paper="1904.11492",
        parameters=28_078_773,
        multiply_adds=4_097_896_448,
        note="In c3 to c5, ratio 1/16.",
    ),
    Preset(
        name="resnet50_nl",
        title="NL-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "nl"},
        paper="1711.07971",
        parameters=32_915_496,
        multiply_adds=5_560_545_280,
        note="Two blocks in res3, three in res4, of images; the paper's are of video.",
    ),
    Preset(
        name="resnet50_simam",
        title="SimAM-ResNet-50",
        builder="ResNet50",
        arguments={"attention": {"name": "simam", "e_lambda": 0.1}},
        paper="ICML 2021",
        parameters=25_557_032,
        multiply_adds=4_089_184_256,
        published=Published.on_imagenet(
            77.45, None, None, None, "ZjjConan/SimAM, README"
        ),
        note="Lambda is 0.1 in the authors' commands and 1e-4 in their code's default.",
    ),
    Preset(
        name="resnet50_triplet",
        title="Triplet-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "triplet"},
        paper="2010.03045",
        parameters=25_561_832,
        multiply_adds=4_135_500_918,
        published=Published.on_imagenet(
            77.48, 93.674, None, None, "landskape-ai/triplet-attention, README"
        ),
    ),
    Preset(
        name="resnet50_sa",
        title="SA-Net-50",
        builder="ResNet50",
        arguments={"attention": "sa"},
        paper="2102.00240",
        parameters=25_557_740,
        multiply_adds=4_089_184_256,
        published=Published.on_imagenet(
            77.88, 93.89, None, None, "wofmanaf/SA-Net, README"
        ),
    ),
    Preset(
        name="resnet50_sge",
        title="SGE-ResNet-50",
        builder="ResNet50",
        arguments={"attention": "sge"},
        paper="1905.09646",
        parameters=25_559_080,
        multiply_adds=4_089_184_256,
        published=Published.on_imagenet(
            77.584, None, None, None, "implus/PytorchInsight, README"
        ),
    ),
    Preset(
        name="sknet50",
        title="SKNet-50",
        builder="ResNeXt50",
        arguments={"attention": "sk"},
        paper="1903.06586",
        parameters=27_494_888,
        multiply_adds=4_462_710_784,
        published=Published.on_imagenet(
            79.21, None, 27.5, 4470, "implus/SKNet, README"
        ),
        note=(
            "Widths of ResNeXt-50 32x4d, M = 2, G = 32, r = 16. Published costs are "
            "recalled."
        ),
    ),
)

PRESETS = {row.name: row for row in _ROWS}
