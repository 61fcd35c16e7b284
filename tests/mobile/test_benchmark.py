"""Latencies: how they are taken and summed up, on a clock that the test turns."""

import json
import pathlib
import sys
import types

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import ops
from support.int8_nets import attentive_net, photo_bytes, scaled, small_net

from keras_attention.mobile import benchmark, convert, litert

MODULE = sys.modules[benchmark.__module__]
IMAGES = scaled(photo_bytes(8, 8))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    int8 = {"precision": "int8", "calibration": IMAGES}
    return {
        "int8": convert(small_net(), folder / "int8.tflite", **int8).path,
        "uint8": str(folder / "int8_uint8.tflite"),
        "float32": convert(small_net(), folder / "float32.tflite").path,
        "other": convert(attentive_net(), folder / "other.tflite").path,
    }


class Clock:
    """Stands in for the interpreters and for both clocks; notes who runs."""

    def __init__(self, costs):
        self.costs = costs  # milliseconds of the runs, by the file's name
        self.ran, self.seconds, self.resolution = [], 0.0, 1e-9

    def load(self, path, num_threads):
        return Interpreter(self, pathlib.Path(path).name)

    def get_clock_info(self, name):
        assert name == "thread_time"
        return types.SimpleNamespace(resolution=self.resolution)

    def thread_time(self):
        return self.seconds

    def perf_counter(self):
        return 10 * self.seconds


class Interpreter:
    def __init__(self, clock, name):
        self.clock, self.name = clock, name

    def get_input_details(self):
        return []

    def invoke(self):
        self.clock.ran.append(self.name)
        self.clock.seconds += next(self.clock.costs[self.name]) / 1e3


@pytest.fixture
def clock(monkeypatch):
    def install(**costs):
        clock = Clock({f"{name}.tflite": iter(ms) for name, ms in costs.items()})
        monkeypatch.setattr(litert, "load", clock.load)
        monkeypatch.setattr(MODULE, "time", clock)
        return clock

    return install


def test_files_take_turns(paths, clock):
    a, b = "int8.tflite", "float32.tflite"
    watch = clock(int8=[1] * 99, float32=[1] * 99)
    benchmark(paths["int8"], baseline=paths["float32"], runs=3, warmup=2)
    # Warm-up, then one uncounted and one counted run each, who is first alternating.
    assert watch.ran == [a, a, b, b] + [a, a, b, b] + [b, b, a, a] + [a, a, b, b]


def test_figures(paths, clock):
    uncounted = 1000
    watch = clock(
        int8=[uncounted, uncounted, 3, uncounted, 2, uncounted, 4, uncounted, 8],
        float32=[uncounted, uncounted, 2, uncounted, 1, uncounted, 8, uncounted, 4],
    )
    report = benchmark(paths["int8"], baseline=paths["float32"], runs=4, warmup=1)
    assert len(watch.ran) == 2 * (1 + 2 * 4)
    assert report.times_ms == pytest.approx((3, 2, 4, 8))
    assert report.baseline_times_ms == pytest.approx((2, 1, 8, 4))
    latency = report.latency
    assert latency.path == paths["int8"]
    assert (latency.min_ms, latency.max_ms) == (pytest.approx(2), pytest.approx(8))
    assert latency.mean_ms == pytest.approx(17 / 4)
    assert latency.median_ms == pytest.approx(3.5)
    # Linear between the sorted runs 2, 3, 4, 8: 0.3 and 2.7 steps from the first.
    assert latency.p10_ms == pytest.approx(2.3)
    assert latency.p90_ms == pytest.approx(4 + 0.7 * 4)
    assert latency.wall_ms == pytest.approx(35)
    assert report.clock == "thread"
    # Ratios of the turns: 1.5, 2, 0.5, 2.
    assert report.ratio.median == pytest.approx(1.75)
    assert report.ratio.p10 == pytest.approx(0.5 + 0.3 * 1)
    assert report.ratio.p90 == pytest.approx(2)
    assert 0.5 <= report.ratio.low <= 1.75 <= report.ratio.high <= 2 + 1e-9


@pytest.mark.parametrize(("threads", "resolution"), [(2, 1e-9), (1, 1 / 64)])
def test_where_the_wall_clock_counts(paths, clock, threads, resolution):
    clock(int8=[2] * 9).resolution = resolution
    report = benchmark(paths["int8"], num_threads=threads, runs=2, warmup=0)
    assert report.clock == "wall"
    assert report.latency.median_ms == report.latency.wall_ms == pytest.approx(20)


def test_the_interval_holds_the_median_that_repeats(paths, clock):
    """Of 200 turns of ratios 1 to 2, the median's standard error is about 0.035."""
    ratios = np.random.default_rng(0).uniform(1, 2, 200)
    runs = [1.0] + [ms for ratio in ratios for ms in (1, ratio)]
    clock(int8=runs, float32=[1] * 999)
    ratio = benchmark(
        paths["int8"], baseline=paths["float32"], runs=200, warmup=1
    ).ratio
    assert ratio.low < ratio.median < ratio.high
    # Four standard errors wide, within a factor of two for this sample.
    assert 0.07 <= ratio.high - ratio.low <= 0.28
    assert ratio.p10 == pytest.approx(np.quantile(ratios, 0.1))
    assert ratio.p90 == pytest.approx(np.quantile(ratios, 0.9))


@pytest.mark.parametrize("name", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("threads", [1, 2])
def test_real_files(paths, name, threads):
    report = benchmark(paths[name], num_threads=threads, runs=5, warmup=1)
    assert (report.threads, report.runs, report.warmup) == (threads, 5, 1)
    assert report.baseline is report.ratio is report.baseline_times_ms is None
    latency = report.latency
    assert 0 < latency.min_ms <= latency.p10_ms <= latency.median_ms
    assert latency.median_ms <= latency.p90_ms <= latency.max_ms
    assert len(report.times_ms) == 5
    assert latency.median_ms == pytest.approx(np.median(report.times_ms))


def test_a_baseline_of_another_net(paths):
    report = benchmark(paths["int8"], baseline=paths["other"], runs=5, warmup=0)
    assert report.baseline.path == paths["other"]
    ratios = np.divide(report.times_ms, report.baseline_times_ms)
    assert report.ratio.median == pytest.approx(np.median(ratios))
    assert ratios.min() <= report.ratio.low <= report.ratio.high <= ratios.max()


def test_report(paths):
    report = benchmark(paths["int8"], baseline=paths["float32"], runs=3, warmup=0)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["latency"]["path"] == paths["int8"]
    assert len(stored["times_ms"]) == len(stored["baseline_times_ms"]) == 3
    assert set(stored["ratio"]) == {"median", "low", "high", "p10", "p90"}
    titles, first, second, ratio, conditions = str(report).splitlines()
    assert titles.split() == "ms median p10 p90 min max mean wall".split()
    assert first.startswith(paths["int8"])
    assert second.startswith(paths["float32"])
    assert ratio.startswith(f"ratio {report.ratio.median:.3f}, 95 % interval ")
    assert conditions == "processor time, threads 1, runs 3, warm-up 0"
    alone = str(benchmark(paths["int8"], runs=2, warmup=0)).splitlines()
    assert len(alone) == 3


class Inputs:
    """An interpreter that keeps what it is given."""

    def __init__(self, *dtypes):
        self.dtypes, self.given = dtypes, []

    def get_input_details(self):
        return [
            {"name": f"x{i}", "index": i, "shape": np.array([40, 50]), "dtype": dtype}
            for i, dtype in enumerate(self.dtypes)
        ]

    def set_tensor(self, index, values):
        self.given.append(values)

    def invoke(self):
        pass


def given(monkeypatch, path, *dtypes, seed=0):
    inputs = Inputs(*dtypes)
    monkeypatch.setattr(litert, "load", lambda *_: inputs)
    benchmark(path, runs=1, seed=seed)
    return inputs.given


def test_inputs(paths, monkeypatch):
    dtypes = (np.int8, np.uint8, np.int16, np.float32, np.int32, np.int64, np.bool_)
    values = given(monkeypatch, paths["int8"], *dtypes)
    assert [array.dtype for array in values] == list(dtypes)
    assert {array.shape for array in values} == {(40, 50)}
    int8, uint8, int16, floats, *indices = values
    # 2,000 values: each of 256 is missing with a probability of 4e-4.
    assert (int8.min(), int8.max()) == (-128, 127)
    assert (uint8.min(), uint8.max()) == (0, 255)
    assert int16.min() < -32000 and int16.max() > 32000
    assert -1 <= floats.min() < -0.99 and 0.99 < floats.max() < 1
    for array in indices:
        assert sorted(np.unique(array).tolist()) == [0, 1]
    again = given(monkeypatch, paths["int8"], *dtypes)
    other = given(monkeypatch, paths["int8"], *dtypes, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(values, again, strict=True))
    assert not np.array_equal(values[0], other[0])


def test_inputs_without_numbers(paths, monkeypatch):
    with pytest.raises(ValueError, match=r"int8\.tflite: input 'x0': no random values"):
        given(monkeypatch, paths["int8"], np.bytes_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "runs must be an integer of at least 1. Received: 0"),
        ({"runs": 2.5}, "runs must be an integer of at least 1. Received: 2.5"),
        ({"warmup": -1}, "warmup must be an integer of at least 0. Received: -1"),
        ({"num_threads": 0}, "num_threads must be an integer of at least 1. Rec.*: 0"),
    ],
)
def test_arguments(paths, arguments, message):
    with pytest.raises(ValueError, match=message):
        benchmark(paths["int8"], **arguments)


def test_missing_files(paths, tmp_path):
    missing = tmp_path / "nothing.tflite"
    with pytest.raises(FileNotFoundError, match=r"nothing\.tflite"):
        benchmark(missing)
    with pytest.raises(FileNotFoundError, match=r"nothing\.tflite"):
        benchmark(paths["int8"], baseline=missing)


def test_damaged_files(paths, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"a\.tflite is no \.tflite file"):
        benchmark(path)
    path.write_bytes(pathlib.Path(paths["int8"]).read_bytes()[:400])
    with pytest.raises(ValueError, match=r"a\.tflite is a damaged \.tflite file"):
        benchmark(paths["int8"], baseline=path)


def test_a_file_that_cannot_be_run(tmp_path):
    image = keras.Input((4, 4, 2), name="image")
    report = convert(keras.Model(image, ops.absolute(image)), tmp_path / "a.tflite")
    model = litert.File(report.path).model
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf"
    pathlib.Path(report.path).write_bytes(litert.pack(model))
    with pytest.raises(ValueError, match=r"a\.tflite can't be run: .*FlexErf"):
        benchmark(report.path)
