import numpy as np
import pytest

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
