"""How training images are changed: plain values, validated, without TensorFlow."""

import dataclasses
import math

CROPS = ("auto", "resized", "padded", "none")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed, in the order of the attributes.

    Every change is drawn from (seed, epoch, index of the image) alone.

    Attributes:
        crop: "resized": a random region, resized to the image size; "padded": as large
            as the image, after zeros were added on every side; "none": the image as it
            is in the test; "auto": the data set's own (digits are shifted by 2 of 32
            pixels, images of at most 64 pixels "padded", photos "resized").
        min_area: Smallest share of the image's area in a resized crop, in (0, 1].
        padding: Pixels added on every side for a padded crop.
        flip: Whether half of the images are mirrored left to right; None: the data
            set's own (coloured images yes, digits and grayscale ones no).
        color_jitter: Strength in [0, 1]: contrast and saturation change by a factor in
            [1 - c, 1 + c], brightness by up to c / 2 of the range.
        rand_augment: Magnitude in [0, 1] of RandAugment; 0: off.
        rand_augment_ops: Operations of RandAugment per image.
        random_erasing: Probability that a rectangle becomes noise.
        mixup: Alpha of the Beta distribution that mixup's weights are drawn from; 0:
            off.
        cutmix: Alpha likewise. With both, half of the pairs get one, half the other.

    Raises:
        ValueError: A value is not allowed; the message names its attribute.
    """

    crop: str = "auto"
    min_area: float = 0.35
    padding: int = 4
    flip: bool | None = None
    color_jitter: float = 0.0
    rand_augment: float = 0.0
    rand_augment_ops: int = 2
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        """Checks every attribute."""
        for name, (allowed, fits) in _RULES.items():
            value = getattr(self, name)
            if not fits(value):
                raise ValueError(f"{name} must be {allowed}, got {value!r}")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, and labels with them."""
        return bool(self.mixup or self.cutmix)


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_share(value) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_alpha(value) -> bool:
    # Below 0.01 the two gamma variates underflow, and all draws are 0 or 1 anyway.
    return _is_number(value) and (value == 0 or 0.01 <= value <= 100)


_SHARE = ("a number from 0 to 1", _is_share)
_ALPHA = ("0 or a number from 0.01 to 100", _is_alpha)
# Attribute -> what is allowed, in words and as a predicate.
_RULES = {
    "crop": (f"one of {', '.join(CROPS)}", lambda value: value in CROPS),
    "min_area": ("above 0 and at most 1", lambda value: _is_share(value) and value > 0),
    "padding": ("a positive integer", lambda value: _is_integer(value) and value > 0),
    "flip": (
        "true, false or null",
        lambda value: value is None or isinstance(value, bool),
    ),
    "color_jitter": _SHARE,
    "rand_augment": _SHARE,
    "rand_augment_ops": (
        "a positive integer",
        lambda value: _is_integer(value) and value > 0,
    ),
    "random_erasing": _SHARE,
    "mixup": _ALPHA,
    "cutmix": _ALPHA,
}
