"""What a preset is: a network of a paper, its costs, what is published about it."""

import dataclasses

from keras_attention import registry
from keras_attention.report import Report

# How sure a published figure is: read in the source, or recalled from memory of it.
READ = "read"
HIGH, MEDIUM = "recalled, high", "recalled, medium"


@dataclasses.dataclass(frozen=True)
class Published:
    """What a paper or its authors publish about a network.

    Attributes:
        dataset: What the accuracies are measured on.
        top1: Accuracy in percent.
        top5: Accuracy in percent, or None.
        parameters: In millions, as printed, or None.
        multiply_adds: In millions, as printed, or None.
        source: Where that stands.
        certainty: "read", or "recalled" and how sure that is: then not to be quoted
            without a look into the source.
    """

    dataset: str
    top1: float
    top5: float | None
    parameters: float | None
    multiply_adds: float | None
    source: str
    certainty: str

    @classmethod
    def on_imagenet(cls, top1, top5, parameters, multiply_adds, source, certainty=READ):
        """Returns what is published of ImageNet, one crop."""
        figures = top1, top5, parameters, multiply_adds
        return cls("ImageNet", *figures, source, certainty)

    @classmethod
    def on_cifar(cls, top1, top5, parameters, source):
        """Returns what was read of CIFAR-100."""
        return cls("CIFAR-100", top1, top5, parameters, None, source, READ)


@dataclasses.dataclass(frozen=True)
class ByStage:
    """A value of `attention`: a block with one argument by the stage of a ResNet.

    Attributes:
        name: Registry name of the block.
        argument: Name of the argument.
        values: Its value in each stage.
    """

    name: str
    argument: str
    values: tuple

    def __call__(self, site):
        """Returns the block for a `Site`."""
        arguments = {self.argument: self.values[site.stage - 1], "name": site.name}
        return registry.get(self.name, **arguments)


@dataclasses.dataclass(frozen=True)
class Preset(Report):
    """A network of a paper.

    Attributes:
        name: For `models.preset`.
        title: Name in the literature.
        builder: Name of the builder in `keras_attention.models`.
        arguments: Of the builder, further ones.
        paper: arXiv number, or conference, of the block.
        input_shape: (H, W, C), or (T, H, W, C) of video.
        classes: Number of classes.
        parameters: Trainable parameters, exactly.
        multiply_adds: As of `models.count_multiply_adds`.
        published: What is published, or None where no figure is at hand.
        note: What differs from what is published, and what is not known.
    """

    name: str
    title: str
    builder: str
    arguments: dict
    paper: str
    parameters: int
    multiply_adds: int
    published: Published | None = None
    note: str = ""
    input_shape: tuple = (224, 224, 3)
    classes: int = 1000
