"""ImageNet networks on the photos of Imagenette: who is right, and what changes."""

import pathlib
import tempfile

import numpy as np

from keras_attention import mobile
from keras_attention.mobile import litert

# ImageNet's numbers of the classes of Imagenette, by their WordNet numbers.
CLASSES = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


class Judge:
    """Compares answers with the labels of the test photos and the float network's.

    Args:
        model: the float network, Keras 3.
        photos: what `data.load` returned.
    """

    def __init__(self, model, photos):
        self.numbers = np.array([CLASSES[name] for name in photos.labels])
        batches = zip(*photos.test.as_numpy_iterator(), strict=True)
        self.images, labels = map(np.concatenate, batches)
        self.labels = self.numbers[labels]
        self.expected = self._classes(model.predict(self.images, verbose=0))

    def of_float(self):
        """Returns what a call returns, for the float network."""
        return self._compare(self.expected)

    def __call__(self, file):
        """Returns accuracy, broken, repaired of all classes; of ten; and agreement.

        Broken are photos that the float network has right and the file wrong.
        """
        outputs = litert.Runner(file, num_threads=2)(self.images)[0]
        return self._compare(self._classes(outputs))

    def _classes(self, outputs):
        ten = self.numbers[outputs[:, self.numbers].argmax(-1)]
        return outputs.argmax(-1), ten

    def _compare(self, classes):
        numbers = []
        for found, expected in zip(classes, self.expected, strict=True):
            right, wanted = found == self.labels, expected == self.labels
            numbers += [right.mean(), (wanted & ~right).sum(), (right & ~wanted).sum()]
        return np.array([*numbers, (classes[0] == self.expected[0]).mean()])


def int8_file(quantized):
    """Returns the int8 file of a model of this package."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        mobile.convert(quantized, path)
        return path.read_bytes()
