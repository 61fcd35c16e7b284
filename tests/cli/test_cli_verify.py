"""The figures of `verify` for people and for programs."""

import json

from support.command_line import fails, invoke


def test_verify_as_json(photos, quantized, tmp_path):
    file = tmp_path / "m.tflite"
    assert invoke("convert", quantized, "--out", file).exit_code == 0
    arguments = (
        *("verify", file, "--against", quantized, "--data", f"folder:{photos}"),
        *("--layers", 2, "--reference-samples", 3),
    )
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)  # nothing else is printed there
    assert "torn.jpg" in result.stderr
    assert figures["reference"]["samples"] == 3 < figures["samples"]
    assert 0 <= figures["reference"]["file_accuracy"] <= 1
    assert len(figures["worst_layers"]) == 2 < figures["compared_layers"]
    text = invoke(*arguments).stdout
    assert f"layer {figures['worst_layers'][1]['layer']}, operator" in text
    assert "--layers" in fails(*arguments, "--layers", -1, status=2)
