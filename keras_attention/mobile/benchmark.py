"""How long a .tflite file takes on this computer, and against another file."""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_attention import report
from keras_attention.mobile import litert

_RESAMPLES = 2000
_CONFIDENCE = (0.025, 0.975)


@dataclasses.dataclass(frozen=True)
class Latency(report.Report):
    """Milliseconds of one inference, by the report's clock except for `wall_ms`.

    Attributes:
        path: the file.
        median_ms: median of the runs.
        p10_ms: a tenth of the runs is faster.
        p90_ms: a tenth of the runs is slower.
        min_ms: the fastest.
        max_ms: the slowest.
        mean_ms: mean of the runs.
        wall_ms: median by the wall clock. Far above `median_ms` of one thread, it
            says that other programs took the core.
    """

    path: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    max_ms: float
    mean_ms: float
    wall_ms: float


@dataclasses.dataclass(frozen=True)
class Ratio(report.Report):
    """Time of a file divided by that of the baseline in the same turn.

    Attributes:
        median: over the turns.
        low: lower end of the 95 % bootstrap interval of the median.
        high: its upper end.
        p10: a tenth of the turns has a smaller ratio.
        p90: a tenth of the turns has a larger one.
    """

    median: float
    low: float
    high: float
    p10: float
    p90: float


@dataclasses.dataclass(frozen=True)
class BenchmarkReport(report.Report):
    """What `benchmark` measured.

    Attributes:
        latency: of the file.
        baseline: of the baseline; None without.
        ratio: the file against the baseline; None without.
        clock: "thread", the processor time of the one thread; "wall" for several
            threads, and where the system tells processor times in coarse steps only.
        threads: threads of the interpreters.
        warmup: runs of each file before the first turn, not counted.
        runs: number of turns, with one counted run of each file.
        times_ms: milliseconds of the file, turn by turn. Not printed.
        baseline_times_ms: of the baseline; None without. Not printed.
    """

    latency: Latency
    baseline: Latency | None
    ratio: Ratio | None
    clock: str
    threads: int
    warmup: int
    runs: int
    times_ms: tuple[float, ...] = dataclasses.field(repr=False)
    baseline_times_ms: tuple[float, ...] | None = dataclasses.field(repr=False)

    def __str__(self) -> str:
        rows = [
            dataclasses.asdict(file) for file in (self.latency, self.baseline) if file
        ]
        names = [row.pop("path") for row in rows]
        width = max(map(len, names))
        titles = [name.removesuffix("_ms") for name in rows[0]]
        lines = [f"{'ms':{width}}" + "".join(f"{title:>9}" for title in titles)]
        for name, row in zip(names, rows, strict=True):
            lines.append(
                f"{name:{width}}" + "".join(f"{ms:9.4g}" for ms in row.values())
            )
        if self.ratio:
            lines.append(
                "ratio {median:.3f}, 95 % interval {low:.3f} to {high:.3f}; "
                "single turns: p10 {p10:.3f}, p90 {p90:.3f}".format(
                    **dataclasses.asdict(self.ratio)
                )
            )
        clock = {"thread": "processor time", "wall": "wall clock"}[self.clock]
        lines.append(
            f"{clock}, threads {self.threads}, runs {self.runs}, warm-up {self.warmup}"
        )
        return "\n".join(lines)


def benchmark(
    path: str | os.PathLike,
    *,
    baseline: str | os.PathLike | None = None,
    num_threads: int = 1,
    runs: int = 100,
    warmup: int = 10,
    seed: int = 0,
) -> BenchmarkReport:
    """Measures the latency of a .tflite file with LiteRT and XNNPACK, batch as stored.

    The figures hold for the computer that this runs on. They say little about a phone:
    not the milliseconds, and ratios only as far as the two processors are alike.

    With one thread, what counts is its processor time: that is the latency on a core
    that nobody else uses, and it can be compared on a busy computer, too, where wall
    clock times are mostly those of waiting. Several threads wait for each other, and
    only the wall clock sees that: let nothing else run.

    Files take turns, so that whatever else the computer does meets both: in each turn
    every file runs once uncounted, which brings its weights back into the caches, and
    once counted; who is first changes from turn to turn. The interval of the ratio
    covers what varies between turns. What stays for as long as a process lives, above
    all where in memory the tensors lie, it does not: two files of equal work can
    differ by percents. Repeat the call in new processes to see that.

    Args:
        path: the file.
        baseline: another file to compare with; its inputs may be others.
        num_threads: threads of each interpreter.
        runs: counted runs of each file.
        warmup: uncounted runs of each file at the beginning.
        seed: of the random inputs: all values of an integer dtype of up to 16 bits,
            real values in [-1, 1), 0 and 1 for bool, int32 and int64 (indices).

    Returns:
        A `BenchmarkReport`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .tflite file, or a damaged one, or one that can't be run
            here; an input of another dtype; `num_threads` or `runs` below 1, `warmup`
            below 0.
    """
    smallest = {"num_threads": 1, "runs": 1, "warmup": 0}
    given = {"num_threads": num_threads, "runs": runs, "warmup": warmup}
    for name, value in given.items():
        if not isinstance(value, int) or value < smallest[name]:
            raise ValueError(
                f"{name} must be an integer of at least {smallest[name]}. "
                f"Received: {value!r}"
            )
    paths = [path] if baseline is None else [path, baseline]
    invokes = [_prepare(one, num_threads, seed) for one in paths]
    for invoke in invokes:
        for _ in range(warmup):
            invoke()
    thread, wall = _turns(invokes, runs)
    # Windows counts processor time in steps of 16 ms.
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    clock = "thread" if num_threads == 1 and fine else "wall"
    times = {"thread": thread, "wall": wall}[clock]
    first, *others = map(_latency, paths, times, wall)
    return BenchmarkReport(
        latency=first,
        baseline=others[0] if others else None,
        ratio=_ratio(*times) if others else None,
        clock=clock,
        threads=num_threads,
        warmup=warmup,
        runs=runs,
        times_ms=tuple(times[0].tolist()),
        baseline_times_ms=tuple(times[1].tolist()) if others else None,
    )


def _prepare(path: str | os.PathLike, num_threads: int, seed: int) -> Callable:
    """Returns the function that runs a file once, its inputs filled."""
    litert.File(path)  # Its message for damaged files is better than LiteRT's.
    interpreter = litert.load(path, num_threads)
    rng = np.random.default_rng(seed)
    for tensor in interpreter.get_input_details():
        try:
            values = _random_values(rng, tensor["shape"], np.dtype(tensor["dtype"]))
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(path)}: input '{tensor['name']}': {error}"
            ) from error
        interpreter.set_tensor(tensor["index"], values)
    return interpreter.invoke


def _random_values(rng: np.random.Generator, shape: Any, dtype: np.dtype) -> np.ndarray:
    """Returns an input of a file, see `benchmark`.

    Raises:
        ValueError: the dtype is none of numbers.
    """
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    raise ValueError(f"no random values of the dtype {dtype} are known.")


def _turns(invokes: list[Callable], runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns milliseconds (files, runs) of the thread and by the wall clock."""
    thread, wall = np.empty((2, len(invokes), runs))
    for turn in range(runs):
        for offset in range(len(invokes)):
            index = (turn + offset) % len(invokes)
            invoke = invokes[index]
            invoke()
            begin = time.thread_time(), time.perf_counter()
            invoke()
            end = time.thread_time(), time.perf_counter()
            thread[index, turn] = 1e3 * (end[0] - begin[0])
            wall[index, turn] = 1e3 * (end[1] - begin[1])
    return thread, wall


def _latency(path: Any, times: np.ndarray, wall: np.ndarray) -> Latency:
    p10, median, p90 = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
    return Latency(
        path=os.fspath(path),
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        min_ms=float(times.min()),
        max_ms=float(times.max()),
        mean_ms=float(times.mean()),
        wall_ms=float(np.median(wall)),
    )


def _ratio(times: np.ndarray, baseline: np.ndarray) -> Ratio:
    ratios = times / baseline
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(ratios, len(ratios))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(medians, _CONFIDENCE).tolist()
    p10, median, p90 = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist()
    return Ratio(median=median, low=low, high=high, p10=p10, p90=p90)
