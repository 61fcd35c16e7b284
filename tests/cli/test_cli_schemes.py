"""The other schemes and precisions on the command line."""

import numpy as np
import pytest
from support.command_line import fails, invoke

from keras_attention import mobile


@pytest.mark.parametrize(
    ("scheme", "ends"), [("int16x8", "int16"), ("weights", "float32")]
)
def test_quantize_and_convert(scheme, ends, photos, trained, tmp_path):
    quantized, file = tmp_path / "q.keras", tmp_path / "m.tflite"
    result = invoke(
        *("quantize", trained[0] / "model.keras", "--data", f"folder:{photos}"),
        *("--out", quantized, "--scheme", scheme),
    )
    assert result.exit_code == 0, result.output
    assert invoke("convert", quantized, "--out", file).exit_code == 0
    report = mobile.check(file)
    assert report.ok and report.inputs[0].dtype == ends
    result = invoke(
        "verify", file, "--against", quantized, "--data", f"folder:{photos}"
    )
    assert result.exit_code == 0, result.output


def test_convert_calibrates_for_int16x8(photos, trained, tmp_path):
    file = tmp_path / "m.tflite"
    result = invoke(
        *("convert", trained[0] / "model.keras", "--out", file),
        *("--precision", "int16x8", "--data", f"folder:{photos}"),
    )
    assert result.exit_code == 0, result.output
    assert np.unique([t.dtype for t in mobile.check(file).outputs]) == ["int16"]


def test_unknown_schemes(photos, trained, tmp_path):
    message = fails(
        *("quantize", trained[0] / "model.keras", "--data", f"folder:{photos}"),
        *("--out", tmp_path / "q.keras", "--scheme", "int4"),
    )
    assert "scheme must be one of" in message
