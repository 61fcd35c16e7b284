"""Which quantizers the user wants where, by layer names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_attention import graph as graphs
from keras_attention.mobile import placement as placing
from keras_attention.mobile import quantizers

_TARGETS = ("kernel", "output")


def named(patterns: Iterable[str], graph: graphs.Graph, argument: str) -> set[str]:
    """Returns the names of the layers whose whole names patterns match.

    Args:
        patterns: regular expressions.
        graph: whose nodes' names they match.
        argument: what the user calls the patterns.

    Raises:
        ValueError: a pattern matches nothing.
    """
    found = set()
    for pattern in patterns:
        matching = {n.name for n in graph.nodes if re.fullmatch(pattern, n.name)}
        if not matching:
            raise ValueError(f"{argument}: {pattern!r} matches no layer.")
        found |= matching
    return found


class Overrides:
    """Other quantizers than those of the scheme.

    Args:
        overrides: {pattern: a `Quantizer`, {"kernel": `Quantizer`, "output":
            `Quantizer`}, or a `QuantizeConfig`}, all of tfmot. Patterns match whole
            layer names; the last one that matches counts.
        graph: the flat graph that is quantized.
        placement: where it is.

    Raises:
        TypeError: a value is none of these.
        ValueError: a pattern matches nothing; a target has another name; a quantizer
            is none that TFLite has, or is for a weight that is no kernel.
    """

    def __init__(
        self,
        overrides: Mapping[str, Any],
        graph: graphs.Graph,
        placement: placing.Placement,
    ):
        self._patterns = []
        for pattern, given in overrides.items():
            if quantizers.is_config(given):
                found = _from_config(pattern, given, graph, placement)
            else:
                found = _from_quantizers(pattern, given, graph, placement)
            self._patterns += found

    def get(self, target: str, *names: str) -> Any:
        """Returns the quantizer for the kernel or the output of a layer, or None.

        Args:
            target: "kernel" or "output".
            *names: of the layer, or of all whose outputs share a range.
        """
        found = None
        for pattern, wanted, quantizer in self._patterns:
            if wanted == target and any(map(pattern.fullmatch, names)):
                found = quantizer
        return found


def _from_quantizers(pattern, given, graph, placement) -> Iterator[tuple]:
    """Yields (pattern, target, quantizer)."""
    names = {
        "kernel": [n.name for n in graph.nodes if placement.rules[id(n.op)].kernel],
        "output": [
            name
            for grid in placement.all_ranges()
            if grid.fixed is None
            for name in grid.names
        ],
    }
    given = given if isinstance(given, Mapping) else {"kernel": given}
    for target, quantizer in given.items():
        where = f"overrides[{pattern!r}][{target!r}]"
        if target not in _TARGETS:
            raise ValueError(f"{where}: the target must be one of {_TARGETS}.")
        _check(quantizer, target, where)
        if not any(re.fullmatch(pattern, name) for name in names[target]):
            raise ValueError(f"{where} matches no {target} of the model.")
        yield re.compile(pattern), target, quantizer


def _from_config(pattern, config, graph, placement) -> Iterator[tuple]:
    """Yields (pattern, target, quantizer) of each layer that a config speaks of.

    Where it has no quantizer, that of the scheme stays.
    """
    where = f"overrides[{pattern!r}]"
    nodes = [node for node in graph.nodes if re.fullmatch(pattern, node.name)]
    nodes = [node for node in nodes if placement.rules[id(node.op)].kernel]
    if not nodes:
        raise ValueError(f"{where} matches no layer with a kernel.")
    readers = graph.consumers()
    for node in nodes:
        for weight, quantizer in config.get_weights_and_quantizers(node.op):
            if weight is not node.op.kernel:
                raise ValueError(
                    f"{where} has a quantizer for a weight of layer '{node.name}' that "
                    "is not its kernel: an int8 file's biases are int32."
                )
            _check(quantizer, "kernel", where)
            yield re.compile(re.escape(node.name)), "kernel", quantizer
        outputs = list(config.get_output_quantizers(node.op))
        outputs += [q for _, q in config.get_activations_and_quantizers(node.op)]
        (tensor,) = node.output_tensors
        if id(tensor) not in placement.ranges:  # rounded behind the ReLU that follows
            (tensor,) = readers[id(tensor)][0].output_tensors
        for quantizer in outputs[:1]:
            _check(quantizer, "output", where)
            name = placement.ranges[id(tensor)].name
            yield re.compile(re.escape(name)), "output", quantizer


def _check(quantizer, target, where):
    quantizers.check(quantizer, where)
    if target == "output" and getattr(quantizer, "per_axis", False):
        raise ValueError(
            f"{where} has per_axis=True, but TFLite knows one range per activation "
            "tensor only."
        )
