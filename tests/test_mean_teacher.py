"""Mean teacher: the consistency loss without an inner step."""

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses

import tiny

RATES = dict(learning_rate=.2, meta_rate=.4, momentum=.9, weight_decay=1e-4)


def fit(model, steps=3, **kwargs):
    model.compile(**RATES, **kwargs)
    model.fit(tiny.dataset(steps), verbose=0, shuffle=False,
              callbacks=[mlnt_tf.EmaTeacher(.9)])
    return model


@pytest.mark.parametrize("kwargs", [dict(), dict(update_mode="joint"), dict(meta_every=2)])
def test_it_is_mlnt_with_an_inner_rate_of_zero(kwargs):
    expected = fit(mlnt_tf.MLNT(tiny.dense(), num_synthetic=1, inner_rate=0.0, **kwargs))
    model = fit(mlnt_tf.MeanTeacher(tiny.dense(), **kwargs))
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-6)
    tiny.assert_equal_weights(model.teacher, expected.teacher, atol=1e-6)


def test_meta_gradient_is_that_of_the_consistency_loss():
    model = mlnt_tf.MeanTeacher(tiny.dense())
    model.compile(**RATES)
    model.teacher.set_weights(tiny.dense(1).get_weights())
    images = tiny.batch()["image"]
    with tf.GradientTape() as tape:
        per_example = losses.kl_consistency(tf.nn.softmax(model.teacher(images)),
                                            model.student(images))
        expected_loss = tf.reduce_mean(per_example)
    expected = tape.gradient(expected_loss, model.student.trainable_variables)
    gradients, loss = model.meta_gradients(tiny.batch())
    assert float(loss) == pytest.approx(float(expected_loss), abs=1e-6)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_it_needs_no_neighbors():
    batch = {name: value for name, value in tiny.batch().items() if name != "neighbor_labels"}
    model = mlnt_tf.MeanTeacher(tiny.dense())
    model.compile(**RATES)
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    assert np.isfinite(tiny.weights(model.student)[0]).all()


def test_xla_takes_the_step_of_the_graph():
    model = fit(mlnt_tf.MeanTeacher(tiny.dense()), steps=1, jit_compile=True)
    expected = fit(mlnt_tf.MeanTeacher(tiny.dense()), steps=1)
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-6)
