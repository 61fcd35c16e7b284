"""How many training images per second one core makes of JPEG files.

    python benchmarks/input_pipeline.py [--photos FOLDER] [--images 4096]

Without --photos it takes 256 generated JPEGs of 500x375 pixels, the usual size of
ImageNet's: smoothed noise at quality 90, 67 KB on average. The process runs on one core
alone and reads its images from the page cache. Each row is the pipeline of
`keras_attention.data` as it trains, from the file to normalized 224x224 batches of 64.

"Wall" counts by the clock. "CPU" counts by the time that the process was given, which
is what the core makes when nobody else uses it; on an idle machine both agree.

Decoding alone takes two thirds of the time of "crop, flip", bilinear resizing a
quarter. docs/data.md has figures; about five minutes.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

BATCH = 64
SIZE = (500, 375)
# Smaller shapes of noise on larger ones: (columns, amplitude).
OCTAVES = ((8, 60), (40, 40), (150, 25))

# Row -> fields of Augmentation.
ROWS = {
    "crop, flip (area 8 to 100 %)": {"min_area": 0.08},
    "crop, flip (area 35 to 100 %, the default)": {},
    "resized only": {"crop": "none", "flip": False},
    "crop, flip, mixup, cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "crop, flip, random erasing 0.25": {"random_erasing": 0.25},
    "crop, flip, colour jitter 0.4": {"color_jitter": 0.4},
    "crop, flip, RandAugment 0.3, 2 operations": {"rand_augment": 0.3},
}


def photo(seed: int) -> Image.Image:
    """A picture of smoothed noise with coarse and fine shapes."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIZE[1], SIZE[0], 3), 128, "float32")
    for columns, amplitude in OCTAVES:
        noise = rng.normal(0, amplitude, (3, columns * 3 // 4, columns))
        for channel, plane in enumerate(noise.astype("float32")):
            large = Image.fromarray(plane).resize(SIZE, Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(large)
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def write_photos(root: pathlib.Path, count: int = 256) -> None:
    for number in range(count):
        folder = root / f"class_{number % 2}"
        folder.mkdir(exist_ok=True)
        photo(number).save(folder / f"{number}.jpg", quality=90)


def measure(spec: str, fields: dict, count: int) -> tuple[float, float]:
    """Images per second by the clock and by CPU time, the best of three runs."""
    from keras_attention import data

    images = data.load(spec, batch_size=BATCH, augment=data.Augmentation(**fields))
    steps = max(1, count // images.batch_size)
    best = [0.0, 0.0]
    for run in range(3):
        batches = images.epochs(run).take(steps).as_numpy_iterator()
        next(batches)
        # What is prefetched behind the last batch is paid for but not counted.
        clocks = time.perf_counter(), time.process_time()
        done = sum(len(x) for x, _ in batches)
        spent = (time.perf_counter() - clocks[0], time.process_time() - clocks[1])
        best = [max(b, done / s) for b, s in zip(best, spent, strict=True)]
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="class folder to read instead")
    parser.add_argument("--images", type=int, default=4096, help="per run")
    arguments = parser.parse_args()
    # Before TensorFlow counts its threads.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        if arguments.photos is None:
            write_photos(pathlib.Path(folder))
        spec = f"folder:{arguments.photos or folder}"
        print("| training images | wall, images/s | CPU, images/s |\n|---|---|---|")
        for name, fields in ROWS.items():
            wall, cpu = measure(spec, fields, arguments.images)
            print(f"| {name} | {wall:,.0f} | {cpu:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
