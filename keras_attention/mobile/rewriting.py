"""Writes a flat graph call by call, on shapes alone: nothing is computed or copied."""

import re
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_attention import graph as graphs


class Rewriter:
    """Collects the nodes of a new graph.

    Tensors are bare `KerasTensor`s without a history. Operations stand in the nodes as
    they are; `graph.build_model` copies them later, each once.
    """

    def __init__(self):
        self.nodes: list[graphs.Node] = []
        self.once = graphs.Once()

    def add(self, op: keras.Operation, name: str, *args: Any, **kwargs: Any) -> Any:
        """Appends a call of `op` and returns its symbolic outputs."""
        outputs = op.compute_output_spec(*args, **kwargs)
        self.nodes.append(graphs.Node(op, args, kwargs, outputs, name))
        return outputs

    def inline(
        self,
        function: Callable,
        args: tuple,
        kwargs: dict,
        apply: Callable[[graphs.Node, tuple, dict], Any] | None = None,
        prefix: str = "",
    ) -> Any:
        """Calls a function of symbolic tensors and appends the calls that it makes.

        Args:
            function: takes `args` and `kwargs`, returns a structure of tensors.
            args: positional arguments.
            kwargs: keyword arguments.
            apply: handles each call; None adds it as it is.
            prefix: in front of the names of operations that are not layers: those
                have automatic names, which depend on what ran before in the process.

        Returns:
            What the function returned, on the tensors of this graph.
        """
        given = [
            leaf
            for leaf in tree.flatten((args, kwargs))
            if isinstance(leaf, graphs.Tensor)
        ]
        part = graphs.trace(given, function(*args, **kwargs))
        for node in part.nodes:
            if not isinstance(node.op, keras.Layer):
                node.name = prefix + re.sub(r"_\d+$", "", node.name)
        return graphs.replay(part, given, apply or self._add_as_is)

    def _add_as_is(self, node: graphs.Node, args: tuple, kwargs: dict) -> Any:
        return self.add(node.op, node.name, *args, **kwargs)
