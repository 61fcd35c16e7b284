"""Training: the schedule, what decays, what is refused, and learning from a teacher."""

import dataclasses
import traceback

import keras
import numpy as np
import pytest

from keras_attention import data, training


@pytest.fixture(scope="module")
def digits():
    # A linear model does not learn shifted digits.
    return data.load("digits", image_size=8, batch_size=64, augment=False)


def linear(classes=10, side=8):
    x = keras.Input((side, side, 3))
    return keras.Model(x, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def test_a_linear_model_learns_the_digits(digits, tmp_path):
    model = linear()
    log = training.fit_classifier(model, digits, epochs=6, label_smoothing=0.1)
    assert set(log) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in log.values()} == {6}
    assert all(type(value) is float for value in log["loss"])
    # A linear classifier is known to reach 96 % on these; 10 % is chance.
    assert log["val_accuracy"][-1] > 0.9
    assert log["val_accuracy"][-1] == pytest.approx(
        training.accuracy(model, digits.test), abs=1e-6
    )
    # One step per batch: a phantom step would shift the schedule.
    assert int(model.optimizer.iterations.numpy()) == 6 * digits.steps_per_epoch
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert training.accuracy(loaded, digits.test) == pytest.approx(
        log["val_accuracy"][-1], abs=1e-6
    )


def test_accuracy_counts_every_image_once(digits):
    model = linear()
    hits = total = 0
    for images, labels in digits.test.as_numpy_iterator():
        hits += int((model(images).numpy().argmax(-1) == labels).sum())
        total += len(labels)
    assert total == 360
    assert training.accuracy(model, digits.test) == hits / total


def test_rate_rises_linearly_and_falls_to_zero(digits):
    model, rates = linear(), []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))  # the next step's

    training.fit_classifier(
        model,
        digits,
        epochs=4,
        learning_rate=0.01,
        warmup_epochs=1,
        callbacks=[Record()],
    )
    steps = digits.steps_per_epoch
    at = {step + 1: rate for step, rate in enumerate(rates)}
    # Float32 arithmetic of the schedule.
    assert at[steps // 2] == pytest.approx(0.005, rel=1e-5)
    assert at[steps] == max(rates) == pytest.approx(0.01, rel=1e-5)
    assert at[steps * 5 // 2] == pytest.approx(0.005, rel=1e-5)
    assert at[steps * 4] == pytest.approx(0, abs=1e-8)


def test_kernels_decay_and_biases_do_not(digits):
    x = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(x)
    idle = keras.layers.Dense(10, bias_initializer="ones", name="idle")
    # Its gradients are zero, so that only the decay moves it.
    logits = keras.layers.Dense(10)(flat) + 0.0 * idle(flat)
    model = keras.Model(x, logits)
    kernel = idle.kernel.numpy()
    training.fit_classifier(
        model, digits, epochs=1, learning_rate=0.01, weight_decay=0.5
    )
    np.testing.assert_array_equal(idle.bias.numpy(), np.ones(10))
    ratio = idle.kernel.numpy() / kernel
    assert ratio.max() < 0.99
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_a_student_learns_from_the_teacher_and_not_from_labels(digits):
    teacher, student = linear(), linear()
    training.fit_classifier(teacher, digits, epochs=4)
    before = [weight.copy() for weight in teacher.get_weights()]
    wrong = dataclasses.replace(
        digits, train=digits.train.map(lambda x, y: (x, (y + 1) % 10))
    )
    log = training.finetune_quantized(
        student, teacher, wrong, epochs=6, learning_rate=3e-3
    )
    for weight, old in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    # Both are linear: the student can and does become the teacher, labels or not.
    assert log["accuracy"][-1] > 0.9
    assert log["val_accuracy"][-1] > 0.85
    answers = [
        np.concatenate([m.predict_on_batch(x) for x, _ in digits.test])
        for m in (teacher, student)
    ]
    assert (answers[0].argmax(-1) == answers[1].argmax(-1)).mean() > 0.9


def test_the_teacher_answers_outside_of_tf_data(digits):
    # Functions of tf.data run on the CPU only: the teacher must not be in one.
    teacher, student, where = linear(), linear(), []

    class Teacher(keras.Model):
        def call(self, x, training=None):
            files = [frame.filename for frame in traceback.extract_stack()]
            where.append((training, any(file.endswith("map_op.py") for file in files)))
            return teacher(x, training=training)

    spy = Teacher()
    spy.inputs, spy.outputs = teacher.inputs, teacher.outputs
    steps = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)

    training.finetune_quantized(student, spy, digits, epochs=3, callbacks=[Record()])
    # One trace, in inference mode, and not from Dataset.map.
    assert where == [(False, False)]
    assert steps == list(range(digits.steps_per_epoch)) * 3
    assert int(student.optimizer.iterations.numpy()) == 3 * digits.steps_per_epoch


def test_fine_tuning_twice_gives_the_same_weights():
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        images = data.load("digits", image_size=8, batch_size=64)
        teacher, student = linear(), linear()
        training.finetune_quantized(student, teacher, images, epochs=2)
        found.append(student.get_weights())
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def gray(side=8):
    x = keras.Input((side, side, 1))
    return keras.Model(x, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (gray, r"shape \(8, 8, 1\), .* \(8, 8, 3\): the model must take RGB$"),
        (lambda: linear(classes=7), r"has 7 outputs, the data 10 classes: 0, 1, 2"),
        (
            lambda: linear(side=9),
            r"takes images of shape \(9, 9, 3\), .* \(8, 8, 3\): choose",
        ),
        (
            lambda: keras.Model(
                (model := linear()).inputs, [*model.outputs, *model.outputs]
            ),
            "has one input and one output; .* has 1 and 2",
        ),
    ],
)
def test_mismatch_is_refused_before_training(digits, model, message):
    model = model()
    with pytest.raises(ValueError, match=message):
        training.fit_classifier(model, digits, epochs=1)
    with pytest.raises(ValueError, match=message):
        training.finetune_quantized(model, linear(), digits, epochs=1)
    assert not model.compiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": 1.5}, "epochs must be a positive integer, got 1.5"),
        ({"epochs": 1, "learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"epochs": 1, "learning_rate": float("nan")}, "learning_rate must be"),
    ],
)
def test_arguments_out_of_range(digits, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.fit_classifier(linear(), digits, **arguments)


def test_divergence_is_an_error(digits):
    with pytest.raises(ValueError, match="loss is not finite .* rate below 1e\\+30"):
        training.fit_classifier(linear(), digits, epochs=2, learning_rate=1e30)
