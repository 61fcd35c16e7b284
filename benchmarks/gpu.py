"""What training costs on a GPU in bfloat16: ResNet-50 with attention; every block.

    python benchmarks/gpu.py [--part networks] [--part blocks] [--only coord ema]
                             [--results FILE] [--write docs/scaling.md]

- networks: ResNet-50 with the CIFAR stem on 32x32 images, Keras on JAX, without
  attention, with EMA and with CoordAttention: the whole training step.
- blocks: forward and backward in training of each block, Keras on JAX, beside the
  PyTorch restatement of what its paper publishes (`_torch_blocks`) under torch.compile,
  on the same shapes, weights and precision; both are first held to the same numbers.

Needs JAX and PyTorch, not TensorFlow. What is compared runs in turns, a time is one of
many calls between two synchronizations, a figure is a median (quartiles). Times are
kept in --results as they come; a second call goes on where the first one stopped.
Without a GPU everything is small: that shows that it runs, and nothing about GPUs.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import tempfile

import _machine
import _page
import _turns
import _workers
from formulas import FORMULAS

HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = {"none": None, "ema": "ema", "coord": "coord"}
PARTS = ("networks", "blocks")
# Both share the GPU's memory. What either does on the CPU is done by one thread:
# PyTorch's wait for each other, hundreds of times as long as they compute where other
# programs want the cores, too.
JAX_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        builder: of the networks.
        size: side of their images.
        batches: sizes of their batches.
        maps: (H, W, C) of the blocks' inputs and the batch; so many samples that the
            device takes longer to compute than the host to call.
        seconds: that a measurement lasts at least.
        turns: how often each is measured.
    """

    builder: str
    size: int
    batches: tuple[int, ...]
    maps: tuple[tuple[tuple[int, int, int], int], ...]
    seconds: float
    turns: int


LARGE = Scale(
    builder="ResNet50",
    size=32,
    batches=(256,),
    maps=(((56, 56, 96), 256), ((14, 14, 384), 1024)),
    seconds=0.2,
    turns=9,
)
SMALL = Scale(
    builder="ResNet18",
    size=16,
    batches=(8,),
    maps=(((14, 14, 64), 8),),
    seconds=0.2,
    turns=5,
)


class Results:
    """Measured times in a file, of one device and one scale.

    Args:
        path: of the file; it need not be there.
        setup: what must be the same for all times in it.

    Raises:
        SystemExit: The file holds times of something else.
    """

    def __init__(self, path, setup):
        self.path = pathlib.Path(path)
        self.data = {"setup": setup, "networks": {}, "blocks": {}}
        if self.path.exists():
            self.data = json.loads(self.path.read_text())
            if self.data["setup"] != setup:
                raise SystemExit(f"{path} is of {self.data['setup']}, this is {setup}")

    def keep(self, part, key, **values):
        """Stores what was measured."""
        print(f"{part}: {key}", values.get("error", "done"), flush=True)
        self.data[part][key] = values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1))


def calls_for(measure, seconds):
    """Returns how many calls, one behind the other, last about so many seconds."""
    calls = 1
    while (spent := measure(calls)) < seconds / 4:
        calls *= 4
    return math.ceil(calls * seconds / spent)


def in_turns(steps, scale):
    """Measures steps of workers in turns.

    Args:
        steps: {name: (worker, name of the step there)}.
        scale: how long and how often.

    Returns:
        {name: list of seconds per call}.
    """

    def task(worker, step):
        def measure(calls):
            return worker("seconds", name=step, calls=calls)

        calls = calls_for(measure, scale.seconds)
        return lambda: measure(calls) / calls

    tasks = {name: task(*step) for name, step in steps.items()}
    return _turns.take_turns(tasks, scale.turns)


def networks(jax, scale, results):
    """Measures the networks of each batch size."""
    for batch in scale.batches:
        if str(batch) in results.data["networks"]:
            continue
        parameters = {
            name: jax(
                "network",
                name=name,
                builder=scale.builder,
                size=scale.size,
                batch=batch,
                attention=attention,
            )
            for name, attention in NETWORKS.items()
        }
        times = in_turns({name: (jax, name) for name in NETWORKS}, scale)
        for name in NETWORKS:
            jax("forget", name=name)
        results.keep("networks", str(batch), parameters=parameters, seconds=times)


def blocks(jax, torch, kinds, scale, results):
    """Measures blocks; one that fails is kept with its message."""
    for shape, batch in scale.maps:
        for kind in kinds:
            key = f"{kind} {'x'.join(map(str, shape))} {batch}"
            if "seconds" not in results.data["blocks"].get(key, ()):
                try:
                    times = _block(jax, torch, kind, shape, batch, scale)
                except _workers.WorkerError as error:
                    results.keep("blocks", key, error=str(error))
                else:
                    results.keep("blocks", key, seconds=times)


def _block(jax, torch, kind, shape, batch, scale):
    try:
        _compile(jax, torch, kind, shape, batch)
        return in_turns({"jax": (jax, kind), "torch": (torch, kind)}, scale)
    finally:
        for worker in (jax, torch):
            worker("forget", name=kind)


def _compile(jax, torch, kind, shape, batch):
    """Makes the step `kind` in both halves, each held to the same numbers."""
    own = {"name": kind, "kind": kind, "batch": batch}
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor() as together,
    ):
        path = str(pathlib.Path(folder) / "numbers.npz")
        jax("numbers", kind=kind, shape=shape, path=path)
        halves = [
            together.submit(jax, "block", shape=shape, **own),
            together.submit(torch, "block", path=path, **own),
        ]
        for half in halves:
            half.result()


def lines_of(data):
    """Returns the lines of the page."""
    setup = data["setup"]
    versions = ", ".join(
        f"{name} {version}" for name, version in setup["versions"].items()
    )
    lines = [f"Measured on {setup['device']}; {versions}."]
    if setup["platform"] == "cpu":
        lines += ["", "No GPU: small shapes that show that the script runs, no more."]
    if data["networks"]:
        lines += ["", *_network_lines(data["networks"], setup)]
    if data["blocks"]:
        lines += ["", *_block_lines(data["blocks"])]
    return lines


def _network_lines(measured, setup):
    head = (
        *("attention", "parameters", "batch", "step, ms", "images/s"),
        "step to that without attention",
    )
    rows = []
    for batch, values in measured.items():
        for name, times in values["seconds"].items():
            step = _milliseconds(times)
            overhead = _turns.ratio(times, values["seconds"]["none"])
            rows.append(
                (
                    *(name, f"{values['parameters'][name]:,}", batch, f"{step:.2f}"),
                    f"{1e3 * int(batch) / step.median:,.0f}",
                    f"{overhead:.3f}" if name != "none" else "-",
                )
            )
    size = setup["size"]
    title = f"### {setup['builder']}, CIFAR stem, {size}x{size}, one step of training"
    return [title, "", *_page.table(head, rows)]


def _block_lines(measured):
    head = (
        *("block", "map", "batch", "Keras on JAX, ms", "PyTorch compiled, ms"),
        *("Keras to PyTorch", "Keras to its 3x3 convolution"),
    )
    rows, failures = [], []
    for key, values in measured.items():
        kind, shape, batch = key.split()
        if "error" in values:
            failures.append(f"- `{kind}`, {shape}: {values['error']}")
            continue
        times = values["seconds"]
        own, other = (_milliseconds(times[half]) for half in ("jax", "torch"))
        conv = measured.get(f"conv {shape} {batch}", {}).get("seconds")
        to_conv = (
            f"{own.median / _milliseconds(conv['jax']).median:.2f}" if conv else "-"
        )
        compared = _turns.ratio(times["jax"], times["torch"])
        rows.append(
            (
                *(kind, shape, batch, f"{own:.3f}", f"{other:.3f}", f"{compared:.2f}"),
                to_conv,
            )
        )
    lines = ["### Blocks, forward and backward in training", ""]
    lines += _page.table(head, rows)
    return [*lines, "", "Not measured:", "", *failures] if failures else lines


def _milliseconds(times):
    return _turns.spread([1e3 * seconds for seconds in times])


def processor():
    """Returns the name of the processor and how many cores there are."""
    return f"{_machine.processor()}, {os.cpu_count()} cores"


def setup_of(jax, torch, scale):
    """Returns what all times of a file have in common.

    Raises:
        SystemExit: The halves would not run on the same device.
    """
    found = [jax("device"), torch("device")]
    gpus = [half["platform"] != "cpu" for half in found]
    if gpus[0] != gpus[1]:
        raise SystemExit(f"not on one device: {found}")
    return {
        "platform": "gpu" if gpus[0] else "cpu",
        "device": found[0]["name"] if gpus[0] else processor(),
        "versions": found[0]["versions"] | found[1]["versions"],
        "builder": scale.builder,
        "size": scale.size,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--only", nargs="+", choices=list(FORMULAS), metavar="BLOCK")
    parser.add_argument("--small", action="store_true", help="also on a GPU")
    parser.add_argument("--results", default="build/gpu.json", metavar="FILE")
    parser.add_argument("--write", metavar="PAGE", help="where the tables go")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    with (
        _workers.Worker(HERE / "_gpu_jax.py", **JAX_ENVIRONMENT) as jax,
        _workers.Worker(HERE / "_gpu_torch.py", OMP_NUM_THREADS="1") as torch,
    ):
        small = arguments.small or jax("device")["platform"] == "cpu"
        scale = SMALL if small else LARGE
        results = Results(arguments.results, setup_of(jax, torch, scale))
        if "networks" in parts:
            networks(jax, scale, results)
        if "blocks" in parts:
            kinds = ["conv", *(arguments.only or FORMULAS)]
            blocks(jax, torch, kinds, scale, results)
    lines = lines_of(results.data)
    print(*lines, sep="\n")
    if arguments.write:
        _page.put(arguments.write, "gpu", lines)


if __name__ == "__main__":
    main()
