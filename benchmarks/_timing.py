"""Compares the latency of .tflite files on a machine that does other things, too.

What disturbs such a comparison, and what is done about it:

- other programs: what counts is processor time, which for one thread is the latency on
  a core that nobody else uses; files run in turns, and the fastest of their runs
  counts;
- the processor's clock, which changes in minutes: only times of one process, seconds
  apart, are compared;
- where in memory the tensors of a process happen to lie, which makes one file slower
  than another by percents for as long as the process lives: everything is repeated in
  fresh processes, and these are the sample.
"""

import collections
import dataclasses
import json
import pathlib
import random
import subprocess
import sys
import time

import _turns
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(path):
    """Returns an interpreter of one thread (XNNPACK), its inputs filled with noise."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        noise = rng.integers(-128, 128, tensor["shape"])
        if tensor["dtype"] == np.float32:
            noise = noise / 128
        interpreter.set_tensor(tensor["index"], noise.astype(tensor["dtype"]))
    return interpreter


def delegation(interpreter):
    """Returns the number of partitions, and a Counter of the operators outside."""
    # Not above: the processes that measure do without TensorFlow.
    from keras_attention.mobile.inspect import delegation as walk

    partitions, nodes = walk(interpreter)
    return partitions, collections.Counter(node["op_name"] for node in nodes)


def interleaved(paths, processes, rounds, runs):
    """Measures files in turns, in several processes, one after the other.

    In every round each file runs once to warm the caches, then `runs` times. The order
    moves on by one from round to round; in which order a process loads the files is
    drawn.

    Args:
        paths: dict by name.
        processes: number of processes.
        rounds: number of rounds per process.
        runs: number of runs per round and file.

    Returns:
        Dict by name of float64 arrays (processes,): milliseconds of the fastest run.
    """
    samples = []
    for seed in range(processes):
        task = json.dumps([list(paths.values()), seed, rounds, runs])
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), task]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        samples.append(json.loads(done.stdout))
    return dict(zip(paths, np.swapaxes(samples, 0, 1), strict=True))


def _measure(paths, seed, rounds, runs):
    """Returns a list of milliseconds, one per file, measured in this process."""
    count = len(paths)
    interpreters = [None] * count
    for index in random.Random(seed).sample(range(count), count):
        interpreters[index] = load(paths[index])

    def task(invoke):
        def fastest():
            invoke()
            seconds = []
            for _ in range(runs):
                begin = time.process_time()
                invoke()
                seconds.append(time.process_time() - begin)
            return min(seconds)

        return fastest

    tasks = {i: task(found.invoke) for i, found in enumerate(interpreters)}
    times = _turns.take_turns(tasks, rounds)
    return [1e3 * min(found) for found in times.values()]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A median over processes with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values, resamples=2000):
    """Returns the median of one value per process as an `Estimate`."""
    drawn = np.random.default_rng(0).choice(values, (resamples, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Estimate(float(np.median(values)), float(low), float(high))


if __name__ == "__main__":
    print(json.dumps(_measure(*json.loads(sys.argv[1]))))
