"""Decides where a flat graph is fake-quantized, and which tensors share a range."""

import dataclasses

from keras_attention import graph as graphs
from keras_attention.mobile import rules


@dataclasses.dataclass(eq=False)
class Range:
    """A grid that one or more tensors stand on.

    Attributes:
        names: of the operations and inputs that write to it, in order.
        fixed: (low, high) where it is given, None where it follows the data.
        tensors: what is rounded to it.
        positive: whether values are kept from being rounded to 0.
    """

    names: list[str]
    fixed: tuple[float, float] | None = None
    tensors: list = dataclasses.field(default_factory=list)
    positive: bool = False

    @property
    def name(self) -> str:
        """Name of the first operation that writes to it."""
        return self.names[0]


@dataclasses.dataclass
class Placement:
    """Where a graph is fake-quantized.

    Attributes:
        rules: id(operation) -> its rule.
        ranges: id(tensor) -> the range it is rounded to, right where it is made.
            Tensors that are missing stand on the grid of what they were made from.
        rescaled: id(node) -> {id(input tensor): (a lower bound of its values, the range
            to which this node's input is rounded once more)}: a fixed grid met others
            that must be equal, or a tensor that may be 0 elsewhere must not be here.
    """

    rules: dict[int, rules.Rule]
    ranges: dict[int, Range]
    rescaled: dict[int, dict[int, tuple[float, Range]]]

    def all_ranges(self) -> list[Range]:
        """All ranges, each once, in the order of the graph."""
        rescaled = [common for d in self.rescaled.values() for _, common in d.values()]
        return list(dict.fromkeys([*self.ranges.values(), *rescaled]))


def place(
    graph: graphs.Graph, input_ranges: list[tuple[float, float] | None]
) -> Placement:
    """Places fake quantization in a flat graph by the rules.

    Args:
        graph: traced from a deployed model.
        input_ranges: fixed range of each input, or None.

    Raises:
        ValueError: an operation has no rule.
    """
    placement = Placement(
        {id(n.op): rules.rule_of(n.op, n.name) for n in graph.nodes}, {}, {}
    )
    readers = graph.consumers()
    grids = _Grids()
    for tensor, fixed in zip(graph.inputs, input_ranges, strict=True):
        name = graphs.input_name(tensor)
        placement.ranges[id(tensor)] = grids.new(tensor, Range([name], fixed))
    for node in graph.nodes:
        rule = placement.rules[id(node.op)]
        if rule.output == "same":
            rescaled = grids.join(node)
            if rescaled:
                placement.rescaled[id(node)] = rescaled
            continue
        fixed = rule.output if isinstance(rule.output, tuple) else None
        for tensor in node.output_tensors:
            following = readers.get(id(tensor), [])
            if rule.fuses and len(following) == 1 and following[0] is not None:
                if placement.rules[id(following[0].op)].fusible:
                    continue
            grid = grids.new(tensor, Range([node.name], fixed))
            placement.ranges[id(tensor)] = grid
    placement = grids.settle(placement)
    for node in graph.nodes:
        _keep_positive(node, placement, readers)
    return placement


def _keep_positive(node, placement, readers):
    """Keeps what is divided by, or the logarithm taken of, from being rounded to 0."""
    if not placement.rules[id(node.op)].positive:
        return
    tensor = node.input_tensors[-1]
    grid = placement.ranges.get(id(tensor))
    alone = grid and len(grid.tensors) == 1 and readers[id(tensor)] == [node]
    if alone and id(node) not in placement.rescaled:
        grid.positive = True
    else:
        own = Range([f"{node.name}_positive"], tensors=[tensor], positive=True)
        placement.rescaled[id(node)] = {id(tensor): (0.0, own)}


class _Grids:
    """Range of every tensor so far; ranges that must be equal are made one."""

    def __init__(self):
        self._of: dict[int, Range] = {}
        self._into: dict[Range, Range] = {}

    def new(self, tensor, grid):
        grid.tensors.append(tensor)
        self._of[id(tensor)] = grid
        return grid

    def find(self, grid):
        while grid in self._into:
            grid = self._into[grid]
        return grid

    def join(self, node):
        """Puts all inputs and outputs of a node on one grid.

        A fixed grid can't follow others. An input that stands on one is rounded once
        more, to the common grid; returns {id(tensor): (lower bound, common grid)}.
        """
        inputs = {id(t): (t, self.find(self._of[id(t)])) for t in node.input_tensors}
        found = list(dict.fromkeys(grid for _, grid in inputs.values()))
        free = [grid for grid in found if grid.fixed is None]
        rescaled = {}
        if len({grid.fixed for grid in found}) == 1 and not free:
            common = found[0]
        else:
            common = free[0] if free else Range([node.name])
            for other in free[1:]:
                common.tensors += other.tensors
                common.names += other.names
                self._into[other] = common
            for key, (tensor, grid) in inputs.items():
                if grid.fixed is not None:
                    common.tensors.append(tensor)
                    rescaled[key] = grid.fixed[0], common
        for tensor in node.output_tensors:
            self._of[id(tensor)] = common
        return rescaled

    def settle(self, placement):
        """Replaces ranges that were made one with others."""
        placement.ranges = {k: self.find(r) for k, r in placement.ranges.items()}
        placement.rescaled = {
            node: {k: (low, self.find(r)) for k, (low, r) in by_tensor.items()}
            for node, by_tensor in placement.rescaled.items()
        }
        return placement
