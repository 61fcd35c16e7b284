"""The commands that look at files: inspect and benchmark."""

import json

import pytest
from support.command_line import fails, invoke
from support.int8_nets import photo_bytes, scaled, small_net

from keras_attention import mobile


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An int8 file; its uint8 twin stands beside it."""
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    images = scaled(photo_bytes(8, 8))
    mobile.convert(small_net(), path, precision="int8", calibration=images)
    return path


@pytest.fixture(scope="module")
def twin(file):
    return file.with_name("net_uint8.tflite")


def run(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect(twin):
    lines = run("inspect", twin).splitlines()
    assert f"path             {twin}" in lines
    assert "partitions       1" in lines
    assert "undelegated      index 0, operator QUANTIZE, output image_int8" in lines
    assert not any("zero point" in line for line in lines)


def test_inspect_lists_tensors(file):
    lines = run("inspect", file, "--tensors").splitlines()
    title = lines.index("")
    rows = [line.split(maxsplit=6) for line in lines[title + 2 :]]
    assert len(rows) == len(mobile.inspect(file).tensors)
    image = next(line for line in lines[title + 2 :] if line.endswith(" image"))
    assert image.split() == ["int8", "0", "0.007812", "1x8x8x3", "image"]
    kernel = next(line for line in lines[title + 2 :] if " 8x3x3x3 " in line)
    dtype, zero_point, smallest, word, largest, *_ = kernel.split()
    assert (dtype, zero_point, word) == ("int8", "0", "to")
    assert float(smallest) < float(largest)


@pytest.mark.parametrize("options", [("--json",), ("--json", "--tensors")])
def test_inspect_as_json(file, options):
    stored = json.loads(run("inspect", file, *options))
    assert stored == json.loads(json.dumps(mobile.inspect(file).to_dict()))
    assert stored["multiply_adds"] == 16 * (8 * 27 + 8 * 9 + 8 * 8) + 8 * 5


def test_benchmark(file, twin):
    alone = run("benchmark", file, "--runs", 3, "--warmup", 1).splitlines()
    assert len(alone) == 3
    assert alone[-1] == "processor time, threads 1, runs 3, warm-up 1"
    options = ("--baseline", twin, "--runs", 3, "--threads", 2)
    both = run("benchmark", file, *options).splitlines()
    assert both[2].startswith(str(twin))
    assert both[3].startswith("ratio ")
    assert both[-1] == "wall clock, threads 2, runs 3, warm-up 10"


def test_benchmark_as_json(file, twin):
    stored = json.loads(
        run("benchmark", file, "--baseline", twin, "--runs", 4, "--json")
    )
    assert stored["latency"]["path"] == str(file)
    assert stored["baseline"]["path"] == str(twin)
    assert stored["ratio"]["low"] <= stored["ratio"]["high"]
    assert len(stored["times_ms"]) == 4


def test_files_that_are_none(tmp_path, file):
    text = tmp_path / "text.tflite"
    text.write_text("no model")
    for arguments in (
        ("inspect", text),
        ("benchmark", text),
        ("benchmark", file, "--baseline", text),
    ):
        assert "text.tflite is no .tflite file" in fails(*arguments)
    half = tmp_path / "half.tflite"
    half.write_bytes(file.read_bytes()[:400])
    assert "half.tflite is a damaged .tflite file" in fails("inspect", half)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nothing.tflite"), "does not exist"),
        (("benchmark", "nothing.tflite"), "does not exist"),
        (("benchmark", "FILE", "--baseline", "nothing.tflite"), "does not exist"),
        (("benchmark", "FILE", "--runs", "0"), "--runs"),
        (("benchmark", "FILE", "--threads", "0"), "--threads"),
        (("benchmark", "FILE", "--warmup", "-1"), "--warmup"),
        (("inspect",), "Missing argument"),
    ],
)
def test_wrong_command_lines(file, arguments, message):
    given = [str(file) if word == "FILE" else word for word in arguments]
    assert message in fails(*given, status=2)


def test_help():
    overview = invoke("--help").output
    for command in ("inspect", "benchmark"):
        assert command in overview
        assert "--json" in run(command, "--help")
