"""MobileNetV2 gives the logits of the authors' networks."""

import keras
import numpy as np

from keras_attention import models, weights


class TestGoldenNetworks:
    # two single-precision runs of such a net differ by up to 1e-4
    TOLERANCE = 5e-4

    def check(self, model, file, state):
        report = weights.load_torch(model, state)
        assert set(report.loaded) == set(state)
        assert len(report.loaded) == len(model.weights)
        outputs = {"logits": model.output}
        for unit in range(1, 18):
            names = [f"block_{unit}_add", f"block_{unit}_project_bn"]
            names = [n for n in names if n in {layer.name for layer in model.layers}]
            outputs[f"pooled/features.{unit}"] = model.get_layer(names[0]).output
        stem = model.get_layer("stem_relu").output
        found = keras.Model(model.input, outputs | {"pooled/features.0": stem})(
            file["x"]
        )
        for name in sorted(found, reverse=True):  # the stages first
            actual, expected = found[name].numpy(), file[name]
            if name != "logits":
                actual = actual.mean((1, 2))
            error = np.abs(actual - expected).max() / np.abs(expected).max()
            assert error <= self.TOLERANCE, name

    def test_authors_network_with_coord_attention(self, golden, state_dict):
        file = golden("networks/mobilenet_v2_coord")
        model = models.MobileNetV2((64, 64, 3), 10, attention="coord")
        self.check(model, file, state_dict(file))

    def test_torchvision_network(self, golden, state_dict):
        file = golden("networks/mobilenet_v2_torchvision")
        model = models.MobileNetV2((64, 64, 3), 10, width=0.75)
        self.check(model, file, state_dict(file))
