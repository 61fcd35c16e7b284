"""What the layers' tests need on each Keras backend.

Files whose names end in _deploy, _forms or _tensorflow run on TensorFlow only, all
others on every backend.
"""

import contextlib
import os

import keras
import pytest

BACKEND = keras.backend.backend()

collect_ignore_glob = []
if BACKEND != "tensorflow":
    collect_ignore_glob += ["*_deploy.py", "*_forms.py", "*_tensorflow.py"]

# The profile for JAX: what every block has to pass, without what is particular to one.
FEW = os.environ.get("HYPOTHESIS_PROFILE") == "few"
FEW_TESTS = {
    "test_golden",
    "test_statistics_after_one_step",
    "test_equals_numpy",
    "test_dynamic_sizes",
    "test_mixed_precision",
    "test_frozen_layer_stays_as_it_is",
    "test_config_round_trip",
    "test_keras_file",
    "test_output_shape",
    "test_is_a_constant_times_its_input",
}

if BACKEND == "jax":
    import jax

    # Nearly all the time goes into compiling for shapes that are met once.
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_modifyitems(config, items):
    if FEW:
        mine = [item for item in items if item.path.parent.name == "layers"]
        others = [item for item in mine if item.originalname not in FEW_TESTS]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture(autouse=True)
def _no_graph():
    """Lets tests read results as arrays on PyTorch too; `gradients` makes a graph."""
    context = contextlib.nullcontext()
    if BACKEND == "torch":
        import torch

        context = torch.no_grad()
    with context:
        yield
