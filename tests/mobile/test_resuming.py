"""A quantized model that is saved, loaded and trained on, as if nothing had been."""

import keras
import numpy as np
import pytest
from support.mobile_nets import small
from support.quantizing import DATA

from keras_attention.mobile import convert, litert, quantize
from keras_attention.mobile.fake_quant import FakeQuantize

LABELS = np.arange(8) % 5


def train(model, data):
    """Takes two steps, always on the same batches."""
    model.fit(data, LABELS, batch_size=4, shuffle=False, verbose=0)


def numpy_of(model):
    """Returns {path: values} of weights, ranges, counters and the optimizer's state."""
    variables = (*model.variables, *model.optimizer.variables)
    return {v.path: keras.ops.convert_to_numpy(v) for v in variables}


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_resumed_training_is_the_same(scheme, tmp_path):
    # Ranges follow the data for 3 steps: they freeze in the second step after loading.
    model = quantize(small(), DATA, scheme=scheme, freeze_after=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # jit_compile: XLA rounds elsewhere. The rate decays: the step number counts, too.
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 8)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    train(model, DATA / 2)
    model.save(tmp_path / "half.keras")
    halfway = numpy_of(model)
    train(model, DATA)
    uninterrupted = numpy_of(model)

    resumed = keras.saving.load_model(tmp_path / "half.keras")
    for path, value in numpy_of(resumed).items():
        np.testing.assert_array_equal(value, halfway[path], err_msg=path)
    train(resumed, DATA)
    found = numpy_of(resumed)
    assert set(found) == set(uninterrupted)
    for path, value in found.items():  # The same operations on the same numbers.
        np.testing.assert_array_equal(value, uninterrupted[path], err_msg=path)
    moved = {path for path in found if (found[path] != halfway[path]).any()}
    assert moved >= {v.path for v in resumed.trainable_variables}
    assert "relu_quant/range_max" in moved
    steps = {int(x.steps) for x in resumed.layers if isinstance(x, FakeQuantize)}
    assert 4 in steps

    files = [tmp_path / f"{n}.tflite" for n in range(2)]
    for path, one in zip(files, (model, resumed), strict=True):
        convert(one, path)
    (ours,), (theirs,) = (litert.Runner(path)(DATA) for path in files)
    np.testing.assert_array_equal(ours, theirs)
