import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

import tiny


def fitted(steps=6, *, steps_per_execution=1, epochs=1, learning_rate=.2, **teacher):
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=learning_rate, meta_rate=.1, steps_per_execution=steps_per_execution)
    history = model.fit(tiny.dataset(steps).repeat(epochs), epochs=epochs, steps_per_epoch=steps, verbose=0, shuffle=False,
                        validation_data=tiny.dataset(1), callbacks=[mlnt_tf.EmaTeacher(**teacher)]).history
    return model, history


def test_it_starts_at_the_students_weights():
    model, _ = fitted(learning_rate=1e-12, decay=0.5)
    model.compile(learning_rate=1e-12, meta_rate=0.0)
    model.student.set_weights([weight + 1 for weight in model.student.get_weights()])
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.99)])
    for mine, theirs in zip(tiny.weights(model.teacher), tiny.weights(model.student)):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("steps_per_execution", [2, 3, 6])
def test_it_is_right_at_any_steps_per_execution(steps_per_execution):
    expected, model = fitted(decay=.9)[0], fitted(decay=.9, steps_per_execution=steps_per_execution)[0]
    for mine, theirs in zip(tiny.weights(model.teacher), tiny.weights(expected.teacher)):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_gamma_changes_at_the_end_of_the_ramp():
    """Decay 0 copies the student until step 3; afterwards the teacher lags behind it."""
    early = fitted(3, decay=.999, decay_start=0.0, ramp_steps=3)[0]
    for mine, theirs in zip(tiny.weights(early.teacher), tiny.weights(early.student)):
        np.testing.assert_array_equal(mine, theirs)
    _, history = fitted(3, epochs=2, decay=.999, decay_start=.5, ramp_steps=3)
    np.testing.assert_allclose(history["ema_decay"], [.5, .999], atol=1e-6)


def test_without_the_callback_the_teacher_stands_still():
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=.2, meta_rate=.1)
    model.fit(tiny.dataset(3), verbose=0)
    for mine, theirs in zip(tiny.weights(model.teacher), tiny.weights(tiny.dense())):
        np.testing.assert_array_equal(mine, theirs)


def test_it_is_validated_beside_the_student():
    model, history = fitted(decay=.5)
    batch = tiny.batch()
    predicted = model.teacher(batch["image"]).numpy().argmax(axis=1)
    assert history["val_teacher_accuracy"][-1] == pytest.approx((predicted == batch["label"].numpy()).mean())


@pytest.mark.parametrize("kwargs", [dict(decay=1.0), dict(decay=.9, decay_start=-.1), dict(statistics="none")])
def test_bad_arguments_are_refused(kwargs):
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
def test_every_network_is_validated_and_averaged(called_before_compile):
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
    for mine, theirs in zip(tiny.weights(model.second_teacher), tiny.weights(tiny.dense(seed=5))):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)  # It took its student's weights.


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
    model, _ = fitted(3, decay=.9)
    before = tiny.weights(model.teacher)
    model.configure_teacher(decay=.99, decay_start=.5, ramp_steps=7, statistics="averaged")
    for mine, theirs in zip(tiny.weights(model.teacher), before):
        np.testing.assert_array_equal(mine, theirs)
    assert float(model.decay_start) == pytest.approx(.5)
    assert float(model.decay_end) == pytest.approx(.99)
    assert int(model.decay_boundary) == 7 and model.teacher_statistics == "averaged"
