"""The moving average of the student: `StudentTeacher` with `EmaTeacher`."""

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

import tiny


def trained(steps=6, *, steps_per_execution=1, epochs=1, learning_rate=.2, **teacher):
    """A model trained with `EmaTeacher(**teacher)`, and the history of its logs."""
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=learning_rate, meta_rate=.1,
                  steps_per_execution=steps_per_execution)
    history = model.fit(tiny.dataset(steps).repeat(epochs), epochs=epochs, steps_per_epoch=steps,
                        verbose=0, shuffle=False, validation_data=tiny.dataset(1),
                        callbacks=[mlnt_tf.EmaTeacher(**teacher)]).history
    return model, history


def assert_equal_weights(network, expected, atol=0.0):
    for actual, weight in zip(tiny.weights(network), expected, strict=True):
        np.testing.assert_allclose(actual, weight, rtol=0, atol=atol)


def test_average_starts_at_the_weights_of_the_student():
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=1e-12, meta_rate=0.0)
    model.student.set_weights([weight + 1 for weight in model.student.get_weights()])
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.99)])
    assert_equal_weights(model.teacher, tiny.weights(model.student), atol=1e-5)


@pytest.mark.parametrize("steps_per_execution", [2, 3, 6])
def test_average_does_not_depend_on_steps_per_execution(steps_per_execution):
    expected, _ = trained(decay=.9)
    model, _ = trained(decay=.9, steps_per_execution=steps_per_execution)
    assert_equal_weights(model.teacher, tiny.weights(expected.teacher), atol=1e-6)


def test_decay_of_zero_copies_the_student_during_the_ramp():
    model, _ = trained(3, decay=.999, decay_start=0.0, ramp_steps=3)
    assert_equal_weights(model.teacher, tiny.weights(model.student))


def test_decay_changes_at_the_end_of_the_ramp():
    _, history = trained(3, epochs=2, decay=.999, decay_start=.5, ramp_steps=3)
    np.testing.assert_allclose(history["ema_decay"], [.5, .999], atol=1e-6)


def test_with_a_decay_of_one_the_teacher_is_never_updated():
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1, ema_decay=1)
    model.compile(learning_rate=.2, meta_rate=.1)
    model.fit(tiny.dataset(3), verbose=0)
    assert_equal_weights(model.teacher, tiny.weights(tiny.dense()))


def test_teacher_is_validated_next_to_the_student():
    model, history = trained(decay=.5)
    batch = tiny.batch()
    for name, network in (("val_accuracy", model.student),
                          ("val_teacher_accuracy", model.teacher)):
        predictions = network(batch["image"]).numpy().argmax(axis=1)
        accuracy = (predictions == batch["label"].numpy()).mean()
        assert history[name][-1] == pytest.approx(accuracy)


@pytest.mark.parametrize("kwargs", [
    dict(decay=1.0), dict(decay=.9, decay_start=-.1), dict(statistics="none")])
def test_ema_teacher_refuses_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="Received"):
        mlnt_tf.EmaTeacher(**kwargs)


class TwoStudents(mlnt_tf.CrossEntropy):
    """Two students, of which only the first is trained, each with a teacher."""

    def __init__(self, network, second, **kwargs):
        super().__init__(network, **kwargs)
        self.second = second
        self.second_teacher = tiny.dense(seed=8)

    @property
    def networks(self):
        return {**super().networks, "second": self.second, "second_teacher": self.second_teacher}

    @property
    def ema_pairs(self):
        return [*super().ema_pairs, (self.second_teacher, self.second)]


@pytest.mark.parametrize("called_before_compile", [False, True])
def test_every_network_is_validated_and_every_pair_averaged(called_before_compile):
    model = TwoStudents(tiny.dense(), tiny.dense(seed=5))
    if called_before_compile:  # Keras then refuses new tracked metrics.
        model(tiny.batch()["image"])
    model.compile(learning_rate=.2)
    history = model.fit(tiny.dataset(3), verbose=0, validation_data=tiny.dataset(2),
                        callbacks=[mlnt_tf.EmaTeacher(.9)]).history
    assert {name for name in history if name.startswith("val_")} == {
        "val_loss", "val_accuracy", "val_teacher_accuracy", "val_second_accuracy",
        "val_second_teacher_accuracy"}
    images = tf.concat([tiny.batch(seed=seed)["image"] for seed in (0, 1)], axis=0)
    labels = tf.concat([tiny.batch(seed=seed)["label"] for seed in (0, 1)], axis=0)
    for name, network in model.networks.items():
        monitor = "val_accuracy" if name == "student" else f"val_{name}_accuracy"
        correct = np.argmax(network(images), axis=1) == labels
        assert history[monitor][-1] == pytest.approx(np.mean(correct)), name
    # The second student is not trained, so its teacher still has its initial weights.
    assert_equal_weights(model.second_teacher, tiny.weights(tiny.dense(seed=5)), atol=1e-6)


def test_validation_metrics_are_reset_and_saved():
    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.compile(learning_rate=.2)
    model.compile(learning_rate=.1)
    names = [metric.name for metric in model.metrics]
    assert names[-3:] == ["loss", "accuracy", "teacher_accuracy"]
    assert names.count("teacher_accuracy") == 1
    before = len(model.metrics_variables)
    model.test_step(tiny.batch())
    assert len(model.metrics_variables) == before
    model.reset_metrics()
    assert all(float(metric.result()) == 0 for metric in model.metrics[-3:])


def test_configuring_the_teacher_of_a_resumed_run_keeps_its_average():
    model, _ = trained(3, decay=.9)
    before = tiny.weights(model.teacher)
    model.configure_teacher(decay=.99, decay_start=.5, ramp_steps=7, statistics="averaged")
    assert_equal_weights(model.teacher, before)
    assert float(model.decay_start) == pytest.approx(.5)
    assert float(model.decay_end) == pytest.approx(.99)
    assert int(model.decay_boundary) == 7 and model.teacher_statistics == "averaged"
