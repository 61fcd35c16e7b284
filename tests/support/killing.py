"""Kills a training run with SIGKILL, again and again, and lets it go on."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
from support.distribution import tensorflow_hosts

SCRIPT = pathlib.Path(__file__).with_name("resumable_run.py")
TRAIN_COMMAND = SCRIPT.with_name("train_command.py")
ROOT = SCRIPT.parents[2]


def start(folder, *arguments, script=SCRIPT, errors="stderr.txt", **environment):
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, paths))
    with open(folder / errors, "w") as stderr:
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def kill_at(folder, word, count, delay):
    """Starts a run and kills it `delay` seconds after it said `word` `count` times.

    Returns the number of steps that it made, and files that it left half written.
    """
    steps = 0
    with start(folder) as process:
        for line in process.stdout:
            steps += line.startswith("step")
            count -= line.startswith(word)
            if not count:
                time.sleep(delay)
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL, errors(folder)
    return steps, list((folder / "checkpoints").glob("*.partial"))


def finish(folder):
    """Lets a run come to its end; returns where it began, and all it left."""
    process = start(folder)
    output, _ = process.communicate()
    assert process.returncode == 0, errors(folder)
    (begin,) = [line for line in output.splitlines() if line.startswith("begins at")]
    with np.load(folder / "final.npz") as file:
        return begin, dict(file)


def train_command(folder, options, kill_at=None):
    """Runs `keras-attention train`, and kills it while it writes a file.

    Args:
        folder: Of the run.
        options: Of the command.
        kill_at: (start of the name, n): the n-th file in `folder` whose name starts so.

    Returns:
        The names of the files in `folder` that it wrote or was about to write.
    """
    written = []
    with start(folder, *options, script=TRAIN_COMMAND) as process:
        for line in process.stdout:
            if line.startswith("writing "):
                path = pathlib.Path(line.removeprefix("writing ").strip())
                written.append(str(path.relative_to(folder)))
                begin, count = kill_at or ("", None)
                if sum(name.startswith(begin) for name in written) == count:
                    process.kill()
                    break
    assert process.returncode == (-signal.SIGKILL if kill_at else 0), errors(folder)
    return written


@contextlib.contextmanager
def two_workers(folder):
    """Starts a run on two hosts, which are this one."""
    hosts = enumerate(tensorflow_hosts(2))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                start(
                    folder, "multi_worker", errors=f"stderr{index}.txt", **environment
                )
            )
            for index, environment in hosts
        ]


def kill_worker(folder, index, steps):
    """Kills one of two workers in front of a step; the other one fails by itself."""
    with two_workers(folder) as workers:
        for line in workers[index].stdout:
            steps -= line.startswith("step")
            if not steps:
                break
        workers[index].kill()
        other = workers[1 - index]
        other.communicate(timeout=120)
    assert workers[index].returncode == -signal.SIGKILL
    assert other.returncode not in (0, None)


def finish_workers(folder):
    """Lets two workers come to their end; returns what `finish` does, of both."""
    with two_workers(folder) as workers:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    for index, worker in enumerate(workers):
        found = (folder / f"stderr{index}.txt").read_text()
        assert worker.returncode == 0, found
    begins = [
        line
        for output in outputs
        for line in output.splitlines()
        if line.startswith("begins at")
    ]
    with np.load(folder / "final.npz") as file:
        return begins, dict(file)


def errors(folder):
    return (folder / "stderr.txt").read_text()


def moments(number, seed):
    """Random moments (word, count, delay): every third while a file is written.

    One stretch of training after the other is shorter than what is left of the run.
    """
    draw = random.Random(seed)
    for index in range(number):
        if index % 3 == 1:
            yield "writing", draw.randint(2, 4), draw.uniform(0, 0.05)
        else:
            yield "step", draw.randint(1, 14), draw.uniform(0, 0.03)


def assert_equal_runs(found, expected, log_tolerance=0.0):
    """All variables to the last bit, the logs to a relative tolerance."""
    assert found.keys() == expected.keys()
    assert {"loss", "val_accuracy", "variable 0"} <= found.keys()
    for name, values in expected.items():
        if name.startswith("variable") or not log_tolerance:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, log_tolerance)
