"""Which layers of a file differ most from Keras, and the file on other kernels."""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers
from support.mobile_nets import network, randomize, small
from support.quantizing import DATA

from keras_attention import graph as graphs
from keras_attention import image_input
from keras_attention.mobile import convert, litert, quantize, verify
from keras_attention.mobile.fake_quant import FakeQuantize
from keras_attention.mobile.layer_errors import layer_errors


def flat(data):
    return [np.asarray(array, "float32") for array in keras.tree.flatten(data)]


def rounded_tensors(model):
    """Returns how many tensors behind the inputs are rounded."""
    inputs = {id(tensor) for tensor in model.inputs}
    nodes = graphs.trace_model(model).nodes
    rounding = [node for node in nodes if isinstance(node.op, FakeQuantize)]
    return sum(id(node.input_tensors[0]) not in inputs for node in rounding)


class TestPairs:
    """Tensors are recognized: a wrong partner would be at about 0 dB."""

    @pytest.mark.parametrize(
        ("name", "scheme"),
        [("twice", "int8"), ("several", "int8"), ("composite", "int16x8")],
    )
    def test_every_rounded_tensor_of(self, name, scheme, tmp_path):
        model, data = network(name)  # layers called twice, inputs, outputs
        quantized = quantize(model, data, scheme=scheme)
        path = convert(quantized, tmp_path / "m.tflite").path
        found = layer_errors(path, quantized, flat(data))
        assert len(found) == rounded_tensors(quantized)
        # Kernels differ by steps, and a step is 1/255 or 1/32768 of the range.
        least = {"int8": 25, "int16x8": 60}[scheme]
        assert all(error.snr_db >= least for error in found)
        assert all(error.unit == "steps" for error in found)
        ratios = [error.snr_db for error in found]
        assert ratios == sorted(ratios)

    def test_float_files(self, tmp_path):
        model, data = network("residual")
        path = convert(model, tmp_path / "m.tflite").path
        found = layer_errors(path, model, flat(data))
        # Of 27; what is fused into the next layer is no tensor of the file.
        assert len(found) == 16
        assert all(error.snr_db >= 100 for error in found)
        assert {error.unit for error in found} == {"absolute"}
        assert "unit_0_conv_1" not in {error.layer for error in found}
        dynamic = convert(model, tmp_path / "d.tflite", precision="dynamic").path
        worst = layer_errors(dynamic, model, flat(data))[0]
        assert 20 <= worst.snr_db <= 50  # 8 bits, here and there

    def test_names_that_differ_by_a_number(self, tmp_path):
        """All on the same grid, so that names alone tell them apart."""
        gate, image = layers.Activation("sigmoid", name="gate"), keras.Input((8, 8, 3))
        x = gate(layers.Conv2D(6, 1, name="one")(image))
        x = layers.Activation("sigmoid", name="gate_1")(layers.Conv2D(6, 1)(x))
        x = gate(layers.Conv2D(6, 1, name="two")(x))
        x = layers.Activation("sigmoid", name="gate_1_1")(layers.Conv2D(6, 1)(x))
        model = randomize(keras.Model(image, layers.Conv2D(6, 1, name="last")(x)))
        quantized = quantize(model, DATA)
        path = convert(quantized, tmp_path / "m.tflite").path
        for against in (quantized, model):
            found = layer_errors(path, against, [DATA])
            gates = [error for error in found if error.operator == "LOGISTIC"]
            names = sorted(error.layer for error in gates)
            assert names == ["gate", "gate", "gate_1", "gate_1_1"]
            assert min(error.snr_db for error in gates) >= 25

    def test_the_uint8_twin(self, tmp_path):
        quantized = quantize(small(), DATA)
        report = convert(quantized, tmp_path / "m.tflite")
        found = layer_errors(report.path, quantized, [DATA])
        assert found == layer_errors(report.uint8_path, quantized, [DATA])
        assert len(found) == 4


def test_ratio_and_steps_of_one_layer(tmp_path):
    """On the grid k / 128, from a float model, so that only the input is rounded."""
    image = image_input.make_input((1, 1, 3), name="image")
    net = keras.Model(image, layers.Conv2D(3, 1, name="pass")(image))
    net.get_layer("pass").set_weights([np.eye(3)[None, None], np.zeros(3)])
    corners = np.array([-1, 127 / 128], "float32").reshape(2, 1, 1, 1).repeat(3, -1)
    path = convert(quantize(net, corners), tmp_path / "m.tflite").path
    steps = np.array([[5.25, 8, 100], [-7.4, 3, 20]], "float32")
    (error,) = layer_errors(path, net, [steps.reshape(2, 1, 1, 3) / 128])
    noise = 0.25**2 + 0.4**2
    # Both sides are float32.
    assert error.snr_db == pytest.approx(
        10 * np.log10((steps**2).sum() / noise), abs=1e-3
    )
    assert error.max_difference == pytest.approx(0.4, abs=1e-4)
    assert (error.layer, error.operator) == ("pass", "CONV_2D")
    (error,) = layer_errors(path, net, [np.round(steps).reshape(2, 1, 1, 3) / 128])
    assert (error.snr_db, error.max_difference) == (200.0, 0.0)


def test_a_layer_that_is_wrong_in_the_file_is_found(tmp_path):
    model, data = network("residual")
    quantized = quantize(model, data)
    path = tmp_path / "m.tflite"
    convert(quantized, path)
    before = {error.layer: error for error in layer_errors(path, quantized, [data])}
    file = litert.File(path)
    main = file.model.subgraphs[0]
    (conv,) = (
        op
        for op in main.operators
        if main.tensors[op.outputs[0]].name.startswith(b"unit_1_conv_2")
    )
    kernel = file.model.buffers[main.tensors[conv.inputs[1]].buffer]
    kernel.data = np.roll(kernel.data, 1)
    path.write_bytes(litert.pack(file.model))
    found = verify(path, against=quantized, data=data, worst_layers=4)
    assert found.worst_layers[0].layer == "unit_1_conv_2"
    assert found.worst_layers[0].snr_db <= 10 <= before["unit_1_conv_2"].snr_db - 15
    after = {error.layer: error for error in layer_errors(path, quantized, [data])}
    same = [name for name in before if after[name] == before[name]]
    assert set(same) == {
        *("stem_relu", "unit_0_relu_1", "unit_0_conv_2", "unit_0_relu_2"),
        *("unit_1_project", "unit_1_relu_1"),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quantized net of five classes, its data, and its file."""
    model, data = network("residual")
    quantized = quantize(model, data)
    path = convert(quantized, tmp_path_factory.mktemp("made") / "m.tflite").path
    return quantized, np.concatenate([data, data / 2, -data]), path


def on_reference_kernels(path, data):
    """Runs an int8 file with the interpreter alone."""
    kernels = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    (image,), (logits,) = (
        interpreter.get_input_details(),
        (interpreter.get_output_details()),
    )
    rows = []
    for sample in data:
        steps = np.floor(sample[None] * 128 + 0.5).clip(-128, 127).astype("int8")
        interpreter.set_tensor(image["index"], steps)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(logits["index"])[0].astype("int32"))
    return np.stack(rows)


def test_reference_kernels(made):
    quantized, data, path = made
    labels = np.arange(24) % 5
    report = verify(
        path, against=quantized, data=(data, labels), reference_samples=20
    ).reference
    assert report.samples == 20
    wanted = on_reference_kernels(path, data[:20])
    xnnpack = litert.Runner(path)(data[:20])[0].astype("int32")
    logits = quantized.predict(data[:20], verbose=0)
    for accuracy, answers in (
        (report.file_accuracy, wanted),
        (report.xnnpack_accuracy, xnnpack),
        (report.keras_accuracy, logits),
    ):
        assert accuracy == np.mean(answers.argmax(1) == labels[:20])
    right, ours = logits.argmax(1) == labels[:20], wanted.argmax(1) == labels[:20]
    assert report.broken == np.sum(right & ~ours)
    assert report.repaired == np.sum(ours & ~right)
    differences = np.abs(wanted - xnnpack)
    assert report.max_difference == pytest.approx(differences.max(), abs=1e-3)
    assert report.mean_difference == pytest.approx(differences.mean(), abs=1e-3)
    assert differences.max() >= 1  # They do differ.
    # Both round correctly; random logits of 24 images are seldom nearly equal.
    assert report.argmax_agreement >= 0.9 and report.xnnpack_agreement >= 0.9


def test_how_many_samples_and_layers(made, tmp_path):
    quantized, data, path = made
    report = verify(path, against=quantized, data=data)
    assert report.reference.samples == 24 and report.reference.file_accuracy is None
    assert report.compared_layers == 16 and len(report.worst_layers) == 5
    first = layer_errors(path, quantized, [data[:8]])
    assert list(report.worst_layers) == first[:5]
    in_threes = [data[at : at + 3] for at in range(0, 24, 3)]
    again = verify(path, against=quantized, data=in_threes, reference_samples=4)
    assert again.worst_layers[0].layer == first[0].layer
    assert again.reference.samples == 4
    short = verify(
        path, against=quantized, data=data, reference_samples=0, worst_layers=0
    )
    assert short.reference is None and short.worst_layers == ()
    assert short.compared_layers == 0 and short.outputs == report.outputs
    model = small()
    float32 = convert(model, tmp_path / "m.tflite").path
    assert verify(float32, against=model, data=DATA).reference is None
    asked = verify(float32, against=model, data=DATA, reference_samples=8).reference
    assert asked.xnnpack_agreement == 1.0 and asked.max_difference <= 1e-5


def test_report(made):
    quantized, data, path = made
    report = verify(path, against=quantized, data=data)
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(stored["worst_layers"][0]) == {
        *("layer", "operator", "snr_db", "max_difference", "unit")
    }
    text = str(report)
    print(text)
    worst = report.worst_layers[0]
    assert f"worst layers      layer {worst.layer}, operator" in text
    assert "\nreference         samples 24, " in text


@pytest.mark.parametrize("name", ["reference_samples", "worst_layers"])
def test_mistakes(made, name):
    quantized, data, path = made
    with pytest.raises(ValueError, match=f"{name} must not be negative. Received: -1"):
        verify(path, against=quantized, data=data, **{name: -1})
