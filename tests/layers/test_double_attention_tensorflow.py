"""DoubleAttention: what TensorFlow's graphs of it hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.torch_weights import live

from keras_attention import DoubleAttention


class TestGraph:
    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    def test_sums_over_positions_are_float32(self, half):
        layer, _ = live(DoubleAttention(dtype=f"mixed_{half}"), (1, 6, 5, 16))
        function = tf.function(layer).get_concrete_function(
            tf.TensorSpec((1, 6, 5, 16))
        )
        dtypes = {"Softmax": [], "BatchMatMulV2": [], "Conv2D": []}
        for op in function.graph.get_operations():
            if op.type in dtypes:
                dtypes[op.type].append(op.outputs[0].dtype.name)
        assert dtypes == {
            "Softmax": ["float32"] * 2,
            "BatchMatMulV2": ["float32", half],  # gathering, distribution
            "Conv2D": [half] * 4,
        }

    def test_no_tensor_of_positions_by_positions(self):
        shape = (1, 13, 11, 8)
        positions = 13 * 11
        layer, _ = live(DoubleAttention(), shape)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            values = [variable.value for variable in layer.trainable_variables]
            return tape.gradient(y, [x, values])

        i = keras.Input(shape[1:])
        deployed = tf.function(keras.Model(i, layer.deploy()(i)))
        for function in (step, deployed):
            graph = function.get_concrete_function(tf.TensorSpec(shape)).graph
            graphs = [graph]
            graphs += [
                f.graph for f in graph._functions.values() if hasattr(f, "graph")
            ]
            shapes = [
                t.shape for g in graphs for op in g.get_operations() for t in op.outputs
            ]
            assert all(s.is_fully_defined() for s in shapes if s.rank and s.rank > 1)
            largest = max(np.prod(s) for s in shapes if s.is_fully_defined())
            assert largest == positions * 8  # the input: the walk did see the graph
