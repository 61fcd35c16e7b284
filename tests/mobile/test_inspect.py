"""What inspect finds in files: against numbers by hand and LiteRT's own memory plan."""

import json
import pathlib

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers, ops
from support.int8_nets import attentive_net, photo_bytes, randomized, scaled, small_net

from keras_attention import image_input
from keras_attention.mobile import convert, inspect, litert
from keras_attention.mobile.arena import arena_bytes

IMAGES = scaled(photo_bytes(8, 8))


def chain():
    """Every kind of convolution in a row, (8, 8, 3) -> (5,)."""
    image = image_input.make_input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(image)
    x = layers.DepthwiseConv2D((3, 1), padding="same", name="depthwise")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(5, name="dense")(x)
    return randomized(keras.Model(image, x, name="chain"))


def split():
    """ABS has no XNNPACK kernel for int8."""
    image = image_input.make_input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="before")(image)
    x = ops.absolute(x)
    x = layers.Conv2D(4, 3, name="after")(x)
    return randomized(keras.Model(image, x, name="split"))


def nothing_for_xnnpack():
    image = image_input.make_input((8, 8, 3), name="image")
    return keras.Model(image, ops.absolute(image), name="nothing")


def sums():
    """Results that may take the place of an input, and such that may not."""
    image = image_input.make_input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="a")(image)
    y = layers.Conv2D(4, 3, padding="same", name="b")(x)
    x = layers.Add(name="in_place")([y, x])
    y = ops.reshape(layers.Subtract(name="both_read")([x, y]), (-1, 16, 16))
    x = layers.Multiply(name="read_once")([ops.reshape(x, (-1, 16, 16)), y])
    x = layers.Conv1D(2, 3, padding="same", name="c")(x)
    return randomized(keras.Model(image, x, name="sums"))


NETS = {
    "sums": sums,
    "chain": chain,
    "small": small_net,
    "attentive": attentive_net,
    "split": split,
    "nothing": nothing_for_xnnpack,
}


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """Converts a net once; returns the path of its file."""
    folder, done = tmp_path_factory.mktemp("files"), {}

    def convert_once(name, precision, softmax=False):
        key = f"{name}_{precision}{softmax}"
        if key not in done:
            options = {"precision": precision, "softmax": softmax}
            if precision == "int8":
                options["calibration"] = IMAGES
            done[key] = convert(NETS[name](), folder / f"{key}.tflite", **options)
        return done[key].path

    return convert_once


@pytest.mark.parametrize("precision", ["int8", "float32", "float16"])
def test_multiply_adds_of_every_kind_of_convolution(path_of, precision):
    report = inspect(path_of("chain", precision))
    # 4x4 positions: 3x3x3 -> 8, then 3x1 of 8 channels, then each of 8 channels spread
    # over 3x3 of 4; then 8 * 8 * 4 values to 5.
    conv, depthwise = 16 * 8 * 27, 16 * 8 * 3
    transposed, dense = 16 * 8 * 9 * 4, 256 * 5
    assert report.multiply_adds == conv + depthwise + transposed + dense


def test_multiply_adds_of_matrix_products(tmp_path):
    image = keras.Input((6, 4, 3), name="image")
    x = ops.reshape(image, (-1, 24, 3))
    y = layers.Conv1D(5, 1, use_bias=False, name="widen")(x)
    y = ops.matmul(ops.transpose(x, (0, 2, 1)), y)  # (3, 24) by (24, 5)
    net = keras.Model(image, y, name="products")
    report = inspect(convert(net, tmp_path / "a.tflite").path)
    assert report.operators["BATCH_MATMUL"] == 1
    assert report.multiply_adds == 24 * 3 * 5 + 3 * 24 * 5


def test_multiply_adds_of_video(tmp_path):
    clip = keras.Input((4, 5, 6, 2), name="clip")
    net = keras.Model(clip, layers.Conv3D(3, (3, 2, 1), padding="same")(clip))
    report = inspect(convert(net, tmp_path / "a.tflite").path)
    assert report.multiply_adds == 4 * 5 * 6 * 3 * (3 * 2 * 1 * 2)


def test_parameter_bytes(path_of):
    # Kernels and biases; and the two axes of the mean, int32.
    kernels, biases = 216 + 72 + 64 + 40, 8 + 8 + 8 + 5
    assert inspect(path_of("small", "int8")).parameter_bytes == kernels + 4 * biases + 8
    floats = inspect(path_of("small", "float32")).parameter_bytes
    assert floats == 4 * (kernels + biases) + 8
    halves = inspect(path_of("small", "float16")).parameter_bytes
    assert halves == 2 * (kernels + biases) + 8


def planned(path):
    """Bytes between the ends of the file's tensors in LiteRT's arena.

    Among them the reference kernels' scratch memory may lie.
    """
    file = litert.File(path)
    main = file.model.subgraphs[0]
    used = {int(t) for op in main.operators for t in (*op.inputs, *op.outputs)}
    interpreter = Interpreter(
        model_path=path, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    begins, ends = [], []
    for index in used:
        data = file.model.buffers[main.tensors[index].buffer].data
        if data is not None and len(data):
            continue
        view = interpreter.tensor(index)()
        begin = view.__array_interface__["data"][0]
        begins.append(begin)
        ends.append(begin + -(-view.nbytes // 64) * 64)
    assert len(begins) > 2
    return max(ends) - min(begins)


@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("name", ["chain", "small", "split", "sums"])
def test_arena_is_what_litert_plans(path_of, name, precision):
    path = path_of(name, precision)
    assert inspect(path).arena_bytes == planned(path)


def test_arena_without_scratch_memory(path_of):
    """The reference kernel of a mean over one axis has 256 bytes here."""
    path = path_of("attentive", "int8")
    assert planned(path) - inspect(path).arena_bytes == 256


def test_arena_by_hand(path_of):
    # Image 192 bytes, kept to the end; 6 * 6 * 4 = 144 bytes before and after ABS, and
    # 4 * 4 * 4 = 64. Multiples of 64: 192 + 192 + 192.
    assert inspect(path_of("split", "int8")).arena_bytes == 576
    assert inspect(path_of("split", "float32")).arena_bytes == 768 + 2 * 576


def test_arena_without_unpacked_kernels(path_of):
    """float16 kernels are unpacked to float32 once, apart from the arena."""
    half, whole = (path_of("small", kind) for kind in ("float16", "float32"))
    assert inspect(half).operators["DEQUANTIZE"] > 0
    assert inspect(half).arena_bytes == inspect(whole).arena_bytes


def delegated(path):
    report = inspect(path)
    assert report.failure is None
    return report.partitions, [(op.index, op.operator) for op in report.undelegated]


def test_partitions(path_of):
    assert delegated(path_of("small", "int8")) == (1, [])
    assert delegated(path_of("attentive", "int8")) == (1, [])
    assert delegated(path_of("split", "int8")) == (2, [(1, "ABS")])
    assert delegated(path_of("split", "float32")) == (1, [])
    assert delegated(path_of("small", "int8", softmax=True)) == (1, [(6, "SOFTMAX")])
    assert delegated(path_of("nothing", "int8")) == (0, [(0, "ABS")])


def test_undelegated_operators_of_the_twin(path_of):
    path = path_of("split", "int8").replace(".tflite", "_uint8.tflite")
    report = inspect(path)
    assert report.partitions == 2
    assert [(op.index, op.operator) for op in report.undelegated] == [
        (0, "QUANTIZE"),
        (2, "ABS"),
        (4, "QUANTIZE"),
    ]
    assert [op.output for op in report.undelegated][::2] == ["image_int8", "after"]
    assert "absolute" in report.undelegated[1].output.lower()


def test_float16_kernels_are_unpacked_by_xnnpack(path_of):
    assert delegated(path_of("small", "float16")) == (1, [])


def test_scales(path_of):
    report = inspect(path_of("small", "int8"))
    image, *_ = [tensor for tensor in report.tensors if tensor.name == "image"]
    assert (image.dtype, image.shape, image.scales) == ("int8", (1, 8, 8, 3), 1)
    assert image.smallest_scale == image.largest_scale == 1 / 128
    assert (image.zero_point, image.constant) == (0, False)
    file = litert.File(report.path)
    kernels = {
        tensor.shape: tensor
        for tensor in report.tensors
        if tensor.constant and tensor.dtype == "int8"
    }
    assert set(kernels) == {(8, 3, 3, 3), (1, 3, 3, 8), (8, 1, 1, 8), (5, 8)}
    for shape, kernel in kernels.items():
        assert kernel.scales == (1 if len(shape) == 2 else 8)
        stored = next(
            raw.quantization.scale
            for raw in file.model.subgraphs[0].tensors
            if raw.name.decode() == kernel.name and list(raw.shape) == list(shape)
        )
        assert kernel.smallest_scale == pytest.approx(min(stored), rel=1e-12)
        assert kernel.largest_scale == pytest.approx(max(stored), rel=1e-12)
        assert kernel.zero_point == 0
    biases = [tensor for tensor in report.tensors if tensor.dtype == "int32"]
    assert sorted(tensor.scales for tensor in biases) == [1, 8, 8, 8]
    assert len(report.tensors) == sum(report.dtypes.values()) - 1  # the mean's axes
    assert inspect(path_of("small", "float32")).tensors == ()


def test_report(path_of):
    path = path_of("split", "int8")
    report = inspect(path)
    assert report.bytes == pathlib.Path(path).stat().st_size
    assert report.operators == {"CONV_2D": 2, "ABS": 1}
    assert report.inputs == litert.File(path).inputs
    assert report.outputs == litert.File(path).outputs
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["undelegated"][0]["operator"] == "ABS"
    assert len(stored["tensors"]) == len(report.tensors) > 5
    lines = str(report).splitlines()
    assert any(
        line.startswith("undelegated      index 1, operator ABS") for line in lines
    )
    assert any(line.split() == ["multiply", "adds", str(report.multiply_adds)]
               for line in lines)  # fmt: skip
    assert not any(line.startswith("tensors") for line in lines)


def edited(path, target, edit):
    model = litert.File(path).model
    edit(model)
    target.write_bytes(litert.pack(model))
    return target


def test_a_batch_that_may_vary_counts_as_one(path_of, tmp_path):
    def vary(model):
        main = model.subgraphs[0]
        main.tensors[main.inputs[0]].shapeSignature = [-1, 8, 8, 3]

    path = path_of("small", "int8")
    report = inspect(edited(path, tmp_path / "a.tflite", vary))
    assert report.inputs[0].shape == (-1, 8, 8, 3)
    wanted = inspect(path)
    assert report.multiply_adds == wanted.multiply_adds
    assert report.arena_bytes == wanted.arena_bytes


def test_a_file_that_cannot_be_run_is_described_all_the_same(path_of, tmp_path):
    def flex(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"FlexErf"

    path = path_of("split", "float32")
    report = inspect(edited(path, tmp_path / "flex.tflite", flex))
    assert report.operators == {"FlexErf": 2, "ABS": 1}
    assert (report.partitions, report.undelegated) == (None, None)
    assert "flex.tflite can't be run" in report.failure
    assert "failure" in str(report)
    assert report.arena_bytes == inspect(path).arena_bytes


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.tflite"):
        inspect(tmp_path / "nothing.tflite")


def test_no_tflite_file(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"PK" + bytes(99))
    with pytest.raises(ValueError, match=r"a\.tflite is no \.tflite file"):
        inspect(path)


@pytest.mark.parametrize("keep", [8, 400])
def test_damaged_file(path_of, keep, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(pathlib.Path(path_of("small", "int8")).read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.tflite is a damaged \.tflite file"):
        inspect(path)


def test_sub_byte_tensors_and_strings(path_of, tmp_path):
    """Sizes of dtypes that numpy does not know; such files need not be runnable."""
    path = path_of("small", "float32")
    sizes = {"FLOAT32": 4, "INT4": 0.5, "BFLOAT16": 2, "BOOL": 1, "STRING": 0}

    def arena(dtype):
        def cast(model):
            main = model.subgraphs[0]
            for index in range(len(main.tensors)):
                main.tensors[index].type = getattr(schema.TensorType, dtype)

        target = tmp_path / "a.tflite"
        return arena_bytes(litert.File(edited(path, target, cast)))

    # The image, 192 elements, and two maps of 4 * 4 * 8, each a multiple of 64 bytes;
    # the residual sum makes it three.
    wanted = {
        dtype: sum(-(-n * size // 64) * 64 for n in (192, 128, 128, 128))
        for dtype, size in sizes.items()
    }
    assert {dtype: arena(dtype) for dtype in sizes} == wanted
    assert np.all(np.diff([wanted["STRING"], wanted["INT4"], wanted["BOOL"]]) > 0)
