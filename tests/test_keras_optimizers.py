"""`compile` takes any Keras optimizer, for the classification update and for the meta update."""

import keras
import numpy as np
import pytest

import mlnt_tf

import tiny

RATES = dict(learning_rate=.2, momentum=.9, weight_decay=1e-4)


def trained(*args, steps=3, **kwargs):
    """Returns an MLNT model after a few steps, compiled with these arguments."""
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(*args, **kwargs)
    model.fit(tiny.dataset(steps), verbose=0)
    return model


def test_a_name_of_an_optimizer_trains():
    model = trained("adam")
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert int(model.optimizer.iterations) == 3


def test_coupled_sgd_as_optimizer_equals_the_separate_arguments():
    optimizer = mlnt_tf.CoupledSGD(.2, momentum=.9, coupled_decay=1e-4)
    tiny.assert_equal_weights(trained(**RATES).student, trained(optimizer).student)


def test_without_meta_rate_adamw_trains_like_keras_itself():
    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.compile(keras.optimizers.AdamW(.01, weight_decay=.1))
    model.fit(tiny.dataset(3), verbose=0)
    network = tiny.dense()
    network.compile(keras.optimizers.AdamW(.01, weight_decay=.1),
                    keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(tiny.dataset(3).map(lambda batch: (batch["image"], batch["label"])), verbose=0)
    tiny.assert_equal_weights(model.student, network, atol=1e-6)


def test_meta_optimizer_as_a_number_equals_meta_rate():
    tiny.assert_equal_weights(trained(**RATES, meta_optimizer=.3).student,
                              trained(**RATES, meta_rate=.3).student)


def test_meta_optimizer_can_be_a_keras_optimizer():
    model = trained("sgd", meta_optimizer=keras.optimizers.Adam(.01))
    assert int(model.meta_optimizer.iterations) == 3
    assert np.abs(model.meta_optimizer.variables[2].numpy()).max() > 0


@pytest.mark.parametrize("args, kwargs, message", [
    (("adam",), dict(learning_rate=.1), "optimizer= excludes learning_rate="),
    (("adam",), dict(momentum=.5), "optimizer= excludes"),
    ((), {}, "compile needs an optimizer"),
    ((), dict(momentum=.5), "compile needs an optimizer"),
    (("adam",), dict(meta_optimizer=.1, meta_rate=.2), "meta_optimizer= excludes"),
    ((keras.optimizers.SGD(.1, use_ema=True),), {}, "use_ema"),
])
def test_contradicting_arguments_are_refused(args, kwargs, message):
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    with pytest.raises(ValueError, match=message) as error:
        model.compile(*args, **kwargs)
    assert "Received: " in str(error.value)
