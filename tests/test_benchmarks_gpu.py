"""What benchmarks/gpu.py is made of, without a GPU, JAX or PyTorch."""

import importlib
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = """
import os
import _workers

def double(number):
    print("what a library says")
    os.system("echo what a compiler says")
    return 2 * number

def fail():
    raise ValueError("too large\\nand more")

_workers.serve(double=double, fail=fail, leave=lambda: os._exit(3))
"""


@pytest.fixture
def benchmark(monkeypatch):
    """Imports modules of the folder benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").exists():
            del sys.modules[name]


class TestWorker:
    @pytest.fixture
    def worker(self, benchmark, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        workers = benchmark("_workers")
        with workers.Worker(script, PYTHONPATH=str(ROOT / "benchmarks")) as worker:
            yield worker

    def test_answers_are_apart_from_what_is_printed(self, worker):
        assert worker("double", number=21) == 42
        assert worker("double", number=0.5) == 1.0

    def test_goes_on_after_an_error(self, worker, benchmark):
        error = benchmark("_workers").WorkerError
        with pytest.raises(error, match="^ValueError: too large$"):
            worker("fail")
        assert worker("double", number=1) == 2

    def test_end_is_seen(self, worker, benchmark):
        with pytest.raises(benchmark("_workers").WorkerError, match=r"ended \(3\)"):
            worker("leave")


class TestTurns:
    def test_order_moves_on(self, benchmark):
        asked = []
        tasks = {name: lambda name=name: asked.append(name) or 1.0 for name in "abc"}
        times = benchmark("_turns").take_turns(tasks, 3)
        assert "".join(asked) == "abcbcacab"
        assert times == dict.fromkeys("abc", [1.0] * 3)

    def test_ratio_is_of_turns(self, benchmark):
        # The second turn was twice as slow for both: that is no spread.
        found = benchmark("_turns").ratio([2.0, 4.0, 2.2], [1.0, 2.0, 1.0])
        assert (found.low, found.median, found.high) == pytest.approx((2.0, 2.0, 2.1))
        assert f"{found:.2f}" == "2.00 (2.00-2.10)"

    def test_calls_last_long_enough(self, benchmark):
        calls_for = benchmark("gpu").calls_for
        # 1 ms a call and 5 ms for the last one's results
        calls = calls_for(lambda calls: 5e-3 + 1e-3 * calls, 0.2)
        assert 5e-3 + 1e-3 * calls == pytest.approx(0.2, rel=0.1)
        assert calls_for(lambda calls: 3.0 * calls, 0.2) == 1


class TestTables:
    setup = {
        "platform": "gpu",
        "device": "some GPU",
        "versions": {"JAX": "1.2"},
        "builder": "ResNet50",
        "size": 32,
    }

    def test_lines(self, benchmark):
        data = {
            "setup": self.setup,
            "networks": {
                "256": {
                    "parameters": {"none": 1000, "ema": 1100},
                    "seconds": {"none": [0.02, 0.04, 0.02], "ema": [0.03, 0.06, 0.03]},
                }
            },
            "blocks": {
                "conv 14x14x64 8": {
                    "seconds": {"jax": [2e-3] * 2, "torch": [1e-3] * 2}
                },
                "se 14x14x64 8": {"seconds": {"jax": [1e-3] * 2, "torch": [4e-3] * 2}},
                "sk 14x14x64 8": {"error": "ValueError: no memory"},
            },
        }
        text = "\n".join(benchmark("gpu").lines_of(data))
        assert "Measured on some GPU; JAX 1.2." in text
        assert "No GPU" not in text
        # 256 images in 20 and in 30 ms, 1.5 times as long in each turn
        assert "| none | 1,000 | 256 | 20.00 (20.00-30.00) | 12,800 | - |" in text
        assert "| 8,533 | 1.500 (1.500-1.500) |" in text
        assert (
            "| se | 14x14x64 | 8 | 1.000 (1.000-1.000) | 4.000 (4.000-4.000) "
            "| 0.25 (0.25-0.25) | 0.50 |"
        ) in text
        assert "- `sk`, 14x14x64: ValueError: no memory" in text

    def test_results_of_another_device_are_not_mixed(self, benchmark, tmp_path):
        path = tmp_path / "deeper" / "gpu.json"
        gpu = benchmark("gpu")
        gpu.Results(path, self.setup).keep("blocks", "se 14x14x64 8", seconds={})
        again = gpu.Results(path, self.setup)
        assert again.data["blocks"] == {"se 14x14x64 8": {"seconds": {}}}
        with pytest.raises(SystemExit, match="gpu.json is of .*some GPU.*, this is"):
            gpu.Results(path, self.setup | {"device": "another GPU"})
        assert json.loads(path.read_text())["setup"] == self.setup
