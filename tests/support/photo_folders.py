"""Class folders of generated photos."""

import numpy as np
from PIL import Image


def smooth(number, height=30, width=40):
    """A picture without fine detail, another one for every number."""
    noise = np.random.default_rng(number).integers(0, 256, (4, 5, 3)).astype("uint8")
    size = (width, height)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def fill(root, counts, suffix=".jpg", **options):
    """Writes `counts[name]` photos into the folder of each class name."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            path = root / name / f"{number:03}{suffix}"
            smooth(number, **options).save(path, quality=95)
            number += 1
    return root
