"""What the commands leave, for the tests of both files; each worker makes it once."""

import numpy as np
import pytest
from PIL import Image
from support.command_line import invoke, small_net

from keras_attention import models


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Two classes that are told apart by their colour, and one damaged file."""
    root = tmp_path_factory.mktemp("photos")
    for name, colour in (("red", (200, 40, 40)), ("teal", (30, 160, 170))):
        (root / name).mkdir()
        for number in range(24):
            rng = np.random.default_rng(number)
            pixels = np.clip(rng.normal(colour, 40, (20, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(root / name / f"{number}.JPG")
    (root / "teal" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    return root


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory):
    """What `train` leaves."""
    out = tmp_path_factory.mktemp("trained") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MobileNetV2", small_net)
        result = invoke(
            *("train", "--data", f"folder:{photos}", "--out", out),
            *("--image-size", 16, "--epochs", 8, "--learning-rate", 0.02),
        )
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.fixture(scope="session")
def quantized(photos, trained):
    """The path of what `quantize --epochs 1` leaves."""
    target = trained[0] / "deeper" / "quantized.keras"
    result = invoke(
        *("quantize", trained[0] / "model.keras", "--data", f"folder:{photos}"),
        *("--out", target, "--epochs", 1),
    )
    assert result.exit_code == 0, result.output
    assert "Accuracy: float" in result.output
    return target
