"""Bad input to the command line: one clear line, and nothing half-written."""

import keras
import numpy as np
import pytest
from support.command_line import fails, invoke, small_net

from keras_attention import cli_inputs, models
from keras_attention.data import images


class TestErrors:
    @pytest.fixture(autouse=True)
    def _nothing_is_left_behind(self, tmp_path, trained, quantized):
        folders = (tmp_path, trained[0], quantized.parent)
        before = [sorted(folder.rglob("*")) for folder in folders]
        self.mine = set()
        yield
        after = [sorted(set(folder.rglob("*")) - self.mine) for folder in folders]
        assert after == before

    def own(self, path):
        """A path that the test itself makes."""
        self.mine.add(path)
        return path

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("mnist", "tfds:NAME"),
            ("folder:/does/not/exist", "/does/not/exist"),
        ],
    )
    def test_unusable_data(self, tmp_path, trained, spec, message):
        out = tmp_path / "out"
        found = fails("train", "--data", spec, "--out", out)
        assert message in found and spec.partition(":")[2] in found
        model = trained[0] / "model.keras"
        target = tmp_path / "q.keras"
        assert message in fails("quantize", model, "--data", spec, "--out", target)

    def test_empty_folder(self, tmp_path):
        empty = self.own(tmp_path / "empty")
        empty.mkdir()
        message = fails("train", "--data", f"folder:{empty}", "--out", tmp_path / "o")
        assert "must hold at least two class folders" in message

    def test_damaged_image_when_strict(self, photos, tmp_path, quantized):
        spec = f"folder:{photos}"
        assert "torn.jpg" in fails(
            "train", "--data", spec, "--out", tmp_path / "out", "--strict"
        )
        assert "1 of 49 image files can't be read" in fails(
            *("quantize", quantized.parents[1] / "model.keras", "--data", spec),
            *("--out", tmp_path / "q.keras", "--strict"),
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--model", "VGG"), "unknown model 'VGG'; known models: EfficientNetB0"),
            (("--attention", "x"), "model.attention must be one of a2, aw, bam, cbam"),
            (("--width", 0), "width must be"),
            (("--model", "resnet18", "--width", 0.5), "model.arguments.width is no"),
            (("--model", "resnet18", "--stem-stride", 1), "arguments.stem_stride is"),
            (("--recipe", "digit"), "received 'digit': did you mean 'digits'?"),
            (("--set", "optimizer.rl=1"), "did you mean optimizer.lr?"),
            (("--set", "optimizer.lr=fast"), "optimizer.lr must be a number > 0"),
            (("--strategy", "miror"), "did you mean 'mirrored'?"),
            (("--strategy", "mirrored"), "needs several devices, here is 1 CPU"),
            (("--batch-size", 5000), "at most the number of training images, 1437"),
        ],
    )
    def test_recipes_that_cannot_be(self, options, message, tmp_path):
        assert message in fails("train", "--out", tmp_path / "out", *options)
        assert not (tmp_path / "out").exists()

    def test_places_that_cannot_be_written(self, tmp_path, trained, quantized):
        file = self.own(tmp_path / "file")
        file.write_text("")
        model = trained[0] / "model.keras"
        for arguments in (
            ("train", "--out", file / "out"),
            ("demo", "--out", file / "out"),
            ("quantize", model, "--data", "digits", "--out", file / "q.keras"),
            ("convert", quantized, "--out", file / "m.tflite"),
        ):
            message = fails(*arguments)
            assert "cannot write" in message
            assert str(file) in message

    def test_wrong_suffix(self, tmp_path, trained, quantized):
        model, wrong = trained[0] / "model.keras", tmp_path / "a.onnx"
        assert "--out must end in .keras, got" in fails(
            "quantize", model, "--data", "digits", "--out", wrong
        )
        assert "--out must end in .tflite, got" in fails(
            "convert", quantized, "--out", wrong
        )

    def test_missing_files_are_usage_errors(self, tmp_path):
        message = fails(
            "convert", tmp_path / "no.keras", "--out", tmp_path / "m.tflite", status=2
        )
        assert "does not exist" in message

    def test_a_file_that_is_no_model(self, tmp_path):
        text = self.own(tmp_path / "text.keras")
        text.write_text("no model")
        message = fails("convert", text, "--out", tmp_path / "m.tflite")
        assert "cannot load" in message
        assert "text.keras as a Keras model" in message

    def test_a_file_that_is_no_tflite(self, tmp_path, photos, quantized):
        text = self.own(tmp_path / "text.tflite")
        text.write_text("no model")
        message = fails(
            *("verify", text, "--against", quantized, "--data", f"folder:{photos}")
        )
        assert "text.tflite is no .tflite file" in message

    def test_class_count_and_class_order(self, tmp_path, photos, trained):
        message = fails(
            *("quantize", trained[0] / "model.keras", "--data", "digits"),
            *("--out", tmp_path / "q.keras"),
        )
        assert "the classes of the data are 0, 1, 2" in message
        assert "labels.txt are red, teal" in message
        other = self.own(tmp_path / "other")
        other.mkdir()
        small_net(classes=3).save(self.own(other / "model.keras"))
        message = fails(
            *("quantize", other / "model.keras", "--data", f"folder:{photos}"),
            *("--out", tmp_path / "q.keras"),
        )
        assert "small_net has 3 outputs, the data 2 classes: red, teal" in message
        labels = self.own(tmp_path / "names.txt")
        labels.write_text("a\nb\n")
        message = fails(
            *("convert", other / "model.keras", "--labels", labels),
            *("--out", tmp_path / "m.tflite"),
        )
        assert "2 labels" in message
        assert "3 classes" in message

    def test_input_ranges(self, tmp_path, photos, trained):
        spec = f"folder:{photos}"
        message = fails(
            *("quantize", trained[0] / "model.keras", "--data", spec),
            *("--out", tmp_path / "q.keras", "--input-range", -1, 1),
        )
        assert "nearest valid range" in message
        x = keras.Input((16, 16, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(x)
        unknown = self.own(tmp_path / "model.keras")
        keras.Model(x, keras.layers.Dense(2)(pooled)).save(unknown)
        message = fails(
            "quantize", unknown, "--data", spec, "--out", tmp_path / "q.keras"
        )
        assert "does not store its input range: pass --input-range LO HI" in message

    def test_convert_heeds_the_input_range(self, tmp_path, photos, trained):
        message = fails(
            *("convert", trained[0] / "model.keras", "--precision", "int8"),
            *("--data", f"folder:{photos}", "--out", tmp_path / "m.tflite"),
            *("--input-range", -1, 1),
        )
        assert "nearest valid range is (-1, 0.9921875)" in message

    @pytest.mark.parametrize(
        "given", [("--data", "digits"), ("--input-range", 0, 1), ("--strict",)]
    )
    def test_convert_refuses_what_it_would_ignore(
        self, tmp_path, trained, quantized, given
    ):
        out = ("--out", tmp_path / "m.tflite")
        for options in (given, (*given, "--precision", "float32")):
            message = fails("convert", trained[0] / "model.keras", *out, *options)
            assert "add --precision int8 or int16x8, or" in message
        for options in (given, (*given, "--precision", "int8")):
            message = fails("convert", quantized, *out, *options)
            assert "small_net is quantized already: leave them out" in message

    def test_convert_calibrates_with_data_only(self, tmp_path, trained):
        message = fails(
            *("convert", trained[0] / "model.keras", "--precision", "int8"),
            *("--input-range", 0, 1, "--out", tmp_path / "m.tflite"),
        )
        assert "takes --data, too" in message

    def test_damaged_image_when_convert_is_strict(self, photos, tmp_path, trained):
        assert "torn.jpg" in fails(
            *("convert", trained[0] / "model.keras", "--precision", "int8"),
            *("--data", f"folder:{photos}", "--out", tmp_path / "m.tflite"),
            "--strict",
        )

    def test_a_subclassed_model(self, tmp_path, photos):
        @keras.saving.register_keras_serializable("test_cli")
        class Subclassed(keras.Model):
            def __init__(self, **arguments):
                super().__init__(**arguments)
                self.dense = keras.layers.Dense(2)

            def call(self, x):
                return self.dense(x)

        model, path = Subclassed(), self.own(tmp_path / "model.keras")
        model(np.zeros((1, 4), "float32"))
        model.save(path)
        message = fails("convert", path, "--out", tmp_path / "m.tflite")
        assert "holds a Subclassed, which is no functional" in message

    def test_a_photo_that_vanishes(self, tmp_path, photos, trained, monkeypatch):
        def gone(path, size):
            raise FileNotFoundError(f"[Errno 2] No such file or directory: '{path}'")

        monkeypatch.setattr(images, "read_image", gone)
        message = fails(
            *("quantize", trained[0] / "model.keras", "--data", f"folder:{photos}"),
            *("--out", tmp_path / "q.keras"),
        )
        assert "No such file or directory" in message
        assert ".JPG" in message
        assert "--traceback" in message
        assert len(message) < 400

    def test_errors_of_no_agreed_kind(self, tmp_path, monkeypatch):
        def broken(name):
            raise AttributeError("no 'inputs'\nsecond line")

        monkeypatch.setattr(cli_inputs, "builder", broken)
        message = fails("train", "--out", tmp_path / "out", "--model", "x")
        assert "AttributeError: no 'inputs' (--traceback before" in message
        assert "second line" not in message

    def test_images_of_any_size(self, tmp_path, photos):
        model = self.own(tmp_path / "model.keras")
        small_net((None, None, 3)).save(model)
        message = fails(
            *("quantize", model, "--data", f"folder:{photos}"),
            *("--out", tmp_path / "q.keras"),
        )
        assert "must take images of one size" in message
        assert "(None, None, 3)" in message

    def test_a_quantized_model_is_not_float(self, tmp_path, quantized):
        message = fails(
            *("convert", quantized, "--precision", "float32"),
            *("--out", tmp_path / "m.tflite"),
        )
        assert "is quantized to int8 and can't be converted to 'float32'" in message

    def test_divergence(self, tmp_path, photos, monkeypatch):
        monkeypatch.setattr(models, "MobileNetV2", small_net)
        message = fails(
            *("train", "--data", f"folder:{photos}", "--out", tmp_path / "out"),
            *("--image-size", 16, "--epochs", 2, "--learning-rate", 1e30),
        )
        # The only step of the epoch is computed with the initial weights.
        found = "the loss is not finite in the validation after epoch 1: it began with"
        assert f"{found} the output of the layer attention/" in message
        assert not (tmp_path / "out" / "model.keras").exists()
        # What a run that broke off goes on from.
        self.mine.update((tmp_path / "out").rglob("*"), [tmp_path / "out"])

    def test_traceback_on_demand(self, tmp_path):
        arguments = ("train", "--data", "mnist", "--out", tmp_path / "out")
        result = invoke("--traceback", *arguments)
        assert isinstance(result.exception, ValueError)
