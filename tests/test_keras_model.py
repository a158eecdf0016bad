"""Networks, compile arguments and step modes that a Keras user expects to work, or to be refused.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

import tiny

X = np.random.default_rng(0).normal(size=[12, 4]).astype(np.float32)
Y = np.arange(12, dtype=np.int32) % 3


def new_model(network=None, *, compiled=None, **kwargs):
    model = mlnt_tf.MLNT(network or tiny.dense(), **{"num_synthetic": 1, **kwargs})
    model.compile(**{"learning_rate": .1, "meta_rate": .1, **(compiled or {})})
    return model


def fit(model, **kwargs):
    return model.fit(X, Y, **{"batch_size": 4, "verbose": 0, **kwargs})


@keras.saving.register_keras_serializable(package="test_keras_model")
class Subclassed(keras.Model):
    """A subclassed network, which is built when it is first called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(5, activation="relu")
        self.drop = keras.layers.Dropout(.3)
        self.head = keras.layers.Dense(3)

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((shape[0], 5))

    def call(self, images, training=False):
        return self.head(self.drop(self.hidden(images), training=training))


def functional():
    inputs = keras.Input([4])
    hidden = keras.layers.Dense(5)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden + keras.layers.Dense(5)(inputs)))


def subclassed():
    network = Subclassed()
    network.build([None, 4])
    return network


def convolutional():
    return keras.Sequential([
        keras.Input([4]), keras.layers.Reshape([2, 2, 1]), keras.layers.RandomFlip(),
        keras.layers.Conv2D(3, 2), keras.layers.Flatten(), keras.layers.LayerNormalization(),
        keras.layers.Dropout(.3), keras.layers.Dense(3)])


@pytest.mark.parametrize("build", [functional, subclassed, convolutional])
def test_every_kind_of_network_trains_and_keeps_a_teacher(build):
    keras.utils.set_random_seed(0)
    model = new_model(build(), ema_decay=.5, compiled=dict(run_eagerly=True))
    start = tiny.weights(model.student)
    fit(model)
    for network in model.networks.values():
        assert any((one != other).any() for one, other in zip(tiny.weights(network), start))


def test_all_passes_of_a_step_share_one_random_draw():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input([4]), keras.layers.Dropout(.5, seed=1),
                                keras.layers.Flatten()])
    from mlnt_tf.meta.pure_network import pure_network
    pure = pure_network(network, jit_compile=False)
    first, second = pure.forward([], X), pure.forward([], X)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, network(X, training=True))
    assert (np.asarray(first) != np.asarray(pure.forward([], X))).any()  # The next step's draw.


def test_the_teacher_is_updated_without_a_callback():
    model = new_model(ema_decay=0, compiled=dict(run_eagerly=True))
    fit(model)
    tiny.assert_equal_weights(model.teacher, model.student)


def test_the_callback_equals_the_argument():
    with_argument = new_model(ema_decay=.7)
    fit(with_argument)
    with_callback = new_model()
    fit(with_callback, callbacks=[mlnt_tf.EmaTeacher(.7)])
    tiny.assert_equal_weights(with_argument.teacher, with_callback.teacher)


def test_train_on_batch_equals_fit():
    model = new_model()
    logs = [model.train_on_batch(X[i:i + 4], Y[i:i + 4], return_dict=True) for i in (0, 4, 8)]
    fitted = new_model()
    fit(fitted, shuffle=False)
    tiny.assert_equal_weights(model.student, fitted.student)
    assert {"loss", "accuracy", "consistency"} <= set(logs[0])
    assert len(model.test_on_batch(X, Y)) == 3


@pytest.mark.parametrize("compiled", [
    dict(run_eagerly=True), dict(steps_per_execution=10), dict(jit_compile=True)],
    ids=["eager", "ten_steps", "xla"])
def test_step_modes_give_the_same_weights(compiled):
    expected = new_model()
    fit(expected)
    model = new_model(compiled=compiled)
    fit(model)
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-5)


def test_accumulated_gradients_get_new_synthetic_labels_in_each_step():
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(optimizer, meta_optimizer=0.0, run_eagerly=True)
    steps = []
    labels_of = model.synthetic_labels
    model.synthetic_labels = lambda batch, step: steps.append(int(step)) or labels_of(batch, step)
    fit(model)
    assert steps == [0, 1, 2]


def test_further_fits_do_not_trace_again():
    model = new_model()
    fit(model)
    function = model.train_function
    traces = []
    step = model.meta_gradients
    model.meta_gradients = lambda batch: traces.append(1) or step(batch)
    fit(model)
    assert model.train_function is function and not traces


def test_two_models_in_one_process_train_independently():
    expected = new_model()
    fit(expected)
    first, other = new_model(), new_model(tiny.dense(seed=5))
    fit(other)
    fit(first)
    tiny.assert_equal_weights(first.student, expected.student)


def test_parameters_are_counted_and_summarized():
    model = new_model()
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert any("student" in line or "sequential" in line for line in lines)
    assert model.count_params() >= 2 * model.student.count_params()


def test_an_unfrozen_body_is_trained_and_averaged_after_compiling_again():
    network = tiny.dense()
    network.layers[0].trainable = False
    model = new_model(network, ema_decay=.5, compiled=dict(run_eagerly=True))
    fit(model)
    start = network.layers[0].get_weights()
    np.testing.assert_array_equal(model.teacher.layers[0].get_weights()[0], start[0])
    network.layers[0].trainable = True
    average = tiny.weights(model.teacher)[-1]
    model.compile(learning_rate=.1, meta_rate=.1, run_eagerly=True)
    fit(model, epochs=0)
    np.testing.assert_array_equal(tiny.weights(model.teacher)[-1], average)  # It is kept.
    fit(model)
    for each in (network, model.teacher):
        assert np.abs(each.layers[0].get_weights()[0] - start[0]).max() > 0


def test_an_optimizer_of_other_variables_is_refused():
    network = tiny.dense()
    network.layers[0].trainable = False
    model = mlnt_tf.CrossEntropy(network)
    model.compile(optimizer := keras.optimizers.SGD(.1))
    network.layers[0].trainable = True
    with pytest.raises(ValueError, match="Pass a new one. Received: SGD"):
        model.compile(optimizer)


def test_metrics_are_measured_for_student_and_teacher():
    def margin(labels, logits):
        return tf.gather(logits, labels, axis=1, batch_dims=1)

    metrics = ["accuracy", "sparse_categorical_accuracy", margin,
               keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    model = new_model(compiled=dict(metrics=metrics))
    history = fit(model, validation_data=(X, Y)).history
    assert {"top2", "margin", "val_top2", "val_teacher_top2", "val_margin"} <= set(history)
    assert history["val_sparse_categorical_accuracy"] == history["val_accuracy"]
    assert history["val_teacher_sparse_categorical_accuracy"] == history["val_teacher_accuracy"]
    logits = model.teacher(X).numpy()
    assert history["val_teacher_margin"][-1] == pytest.approx(logits[range(12), Y].mean(), abs=1e-5)
    assert len(model.evaluate(X, Y, verbose=0)) == len(model.metrics_names) == 9


@pytest.mark.parametrize("arguments, message", [
    (dict(loss="mse"), "per_example_loss"), (dict(loss_weights=[1]), "The class defines its loss"),
    (dict(weighted_metrics=["accuracy"]), "The class defines its loss"),
    (dict(metrics=["sparse_categorical_crossentropy"]), "from_logits"),
    (dict(metrics=["AUC"]), "logits"), (dict(metrics="accuracy"), "must be a list"),
    (dict(metrics=[keras.metrics.SparseCategoricalCrossentropy()]), "from_logits=True"),
    (dict(metrics=[keras.metrics.Mean(name="loss")]), "name of its own"),
    (dict(metrics=[3]), "A metric is a name"),
])
def test_unusable_losses_and_metrics_are_refused(arguments, message):
    model = mlnt_tf.CrossEntropy(tiny.dense())
    with pytest.raises(ValueError, match=message) as error:
        model.compile(learning_rate=.1, **arguments)
    assert "Received: " in str(error.value)


def with_softmax(kind):
    layers = [keras.Input([4]), keras.layers.Dense(5)]
    if kind == "layer":
        layers += [keras.layers.Dense(3), keras.layers.Softmax()]
    if kind == "activation_layer":
        layers += [keras.layers.Dense(3), keras.layers.Activation("softmax")]
    if kind == "dense":
        layers.append(keras.layers.Dense(3, activation="softmax"))
    return keras.Sequential(layers)


@pytest.mark.parametrize("kind", ["layer", "activation_layer", "dense"])
def test_a_softmax_is_refused_and_removed_by_logits_of(kind):
    network = with_softmax(kind)
    with pytest.raises(ValueError, match=r"mlnt_tf\.logits_of\(network\)") as error:
        mlnt_tf.MLNT(network)
    assert "Received: " in str(error.value)
    logits = mlnt_tf.logits_of(network)
    np.testing.assert_allclose(tf.nn.softmax(logits(X)), network(X), rtol=1e-5, atol=1e-6)
    assert mlnt_tf.MLNT(logits).num_classes == 3


def test_logits_of_refuses_a_network_without_softmax():
    with pytest.raises(ValueError, match="end in a softmax. Received"):
        mlnt_tf.logits_of(tiny.dense())


def with_policy(policy):
    return keras.Sequential([keras.Input([4]), keras.layers.Dense(5, dtype=policy),
                             keras.layers.Dense(3, dtype="float32")])


def test_float16_is_refused():
    with pytest.raises(ValueError, match="float16 loses .* Received: layer"):
        mlnt_tf.MLNT(with_policy("mixed_float16"))


def test_bfloat16_trains():
    model = new_model(with_policy("mixed_bfloat16"), compiled=dict(run_eagerly=True))
    assert np.isfinite(fit(model).history["loss"]).all()


@pytest.mark.parametrize("network", [
    keras.layers.Dense(3), keras.Sequential([keras.layers.Dense(3)]),
    keras.Sequential([keras.Input([4, 4]), keras.layers.Dense(3)])],
    ids=["layer", "unbuilt", "rank_3"])
def test_what_is_not_a_classifier_is_refused(network):
    with pytest.raises(ValueError, match="Received: "):
        mlnt_tf.CrossEntropy(network)


@pytest.mark.parametrize("arguments", [
    dict(ema_decay=1.5), dict(teacher_statistics="none"), dict(num_neighbors=0)])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        mlnt_tf.MLNT(tiny.dense(), **arguments)
