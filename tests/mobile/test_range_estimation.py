"""Ranges from all values, from most of them, and with the smallest error."""

import keras
import numpy as np
import pytest
from keras import layers
from support.comparing import relative_error
from support.mobile_nets import randomize

from keras_attention import mobile
from keras_attention.mobile import range_estimation
from keras_attention.mobile.range_estimation import BINS, Histogram, estimator


def histogram(values):
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0])


def squared_error(values, low, high, bits=8):
    step = (high - low) / (2**bits - 1)
    grid = np.clip(np.round(values / step), round(low / step), round(high / step))
    return np.mean(np.square(grid * step - values))


@pytest.fixture(scope="module")
def values():
    """Values with a few far ones, as behind a block without a ReLU6."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=20000), [15.0, -4.5, 22.0]])


class TestEstimators:
    def test_percentile(self, values):
        low, high = estimator(("percentile", 99.9))(histogram(values), 8)
        bin_width = np.ptp(values) / BINS
        assert high == pytest.approx(np.percentile(values, 99.9), abs=2 * bin_width)
        assert low == pytest.approx(np.percentile(values, 0.1), abs=2 * bin_width)

    def test_all_values_are_the_hundredth_percentile(self, values):
        found = estimator(("percentile", 100))(histogram(values), 8)
        assert found == pytest.approx((values.min(), values.max()))

    def test_least_squares(self, values):
        values = np.random.default_rng(0).laplace(size=20000)
        low, high = estimator("mse")(histogram(values), 4)
        found = squared_error(values, low, high, 4)
        assert found <= 0.7 * squared_error(values, values.min(), values.max(), 4)
        # Nothing else is better by more than what the width of the bins makes.
        best = min(
            squared_error(values, low_share * values.min(), share * values.max(), 4)
            for share in np.linspace(0.2, 1, 41)
            for low_share in np.linspace(0.2, 1, 41)
        )
        assert found <= 1.1 * best

    def test_more_bits_clip_less(self, values):
        few, many = (estimator("mse")(histogram(values), bits) for bits in (4, 8))
        assert few[1] < many[1] <= values.max()

    def test_zero_is_always_inside(self, values):
        for chosen in ("mse", "percentile"):
            low, high = estimator(chosen)(histogram(values + 30), 8)
            assert low == 0 and high > 30
            low, high = estimator(chosen)(histogram(values - 30), 8)
            assert high == 0 and low < -30

    @pytest.mark.parametrize(
        "chosen", ["max", ("percentile", 40), ("percentile", 101), ("mse", 3), ()]
    )
    def test_others(self, chosen):
        with pytest.raises(
            ValueError, match="range_estimator must be 'min_max', 'mse'"
        ):
            estimator(chosen or ("",))


@pytest.fixture(scope="module")
def net():
    image = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(8, 3, padding="same", name="conv")(image)
    z = layers.Conv2D(8, 3, padding="same", name="other")(image)
    y = layers.Concatenate(name="both")([y, z])
    y = layers.Conv2D(4, 1, activation="sigmoid", name="last")(y)
    return randomize(keras.Model(image, y))


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    x[0] *= 20  # one image that is nothing like the others
    return x


def spans(model):
    return {
        layer.name: tuple(map(float, layer.get_range()))
        for layer in model.layers
        if layer.name.endswith("_quant")
    }


def test_models(net, data):
    """Ranges of a model are those of its tensors; two that share one are one."""
    found = spans(mobile.quantize(net, data, range_estimator=("percentile", 99)))
    watcher = keras.Model(
        net.input, [net.get_layer(n).output for n in ("conv", "other")]
    )
    both = np.concatenate([np.ravel(y) for y in watcher(data)])
    width = float(np.ptp(both)) / BINS
    low, high = found["conv_quant"]
    assert high == pytest.approx(np.percentile(both, 99), abs=2 * width)
    assert low == pytest.approx(np.percentile(both, 1), abs=2 * width)
    whole = spans(mobile.quantize(net, data))
    assert whole["conv_quant"][1] > 3 * high


def test_one_odd_image_costs_the_others_less(net, data):
    usual = data[1:]

    def error(quantized):
        return relative_error(quantized(usual), net(usual))

    assert error(
        mobile.quantize(net, data, range_estimator=("percentile", 99))
    ) <= 0.5 * error(mobile.quantize(net, data))


def test_histograms_count_every_value(net, data):
    output = net.get_layer("conv").output
    low, high = float(np.min(net(data))), 1.0
    (found,) = range_estimation.histograms(
        net, [([output], low, high)], [data[:32], data[32:]]
    )
    assert found.counts.sum() == 64 * 8 * 8 * 8
