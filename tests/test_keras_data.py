"""`fit` and `evaluate` take the data that Keras users have, and refuse unusable labels at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

import tiny

ROWS = 10
X = np.random.default_rng(0).normal(size=[ROWS, 4]).astype(np.float32)
Y = np.arange(ROWS, dtype=np.int32) % 3


def new_model(**kwargs):
    model = mlnt_tf.MLNT(tiny.dense(), **{"num_synthetic": 1, **kwargs})
    # A few eager steps are faster than tracing.
    model.compile(learning_rate=.1, meta_rate=.1, run_eagerly=True)
    return model


def plain_model():
    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.compile(learning_rate=.1, run_eagerly=True)
    return model


def trained(*args, model=None, **kwargs):
    model = model or new_model()
    model.fit(*args, verbose=0, **{"batch_size": 4, "shuffle": False, **kwargs})
    return model


def pairs(*columns):
    return tf.data.Dataset.from_tensor_slices(columns or (X, Y))


class Pairs(keras.utils.PyDataset):
    """Batches of (image, label), the last of which is smaller."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[4 * index:][:4], Y[4 * index:][:4]


@pytest.fixture(scope="module")
def expected():
    """The student after an epoch of arrays in order, in batches of 4, 4 and 2."""
    return trained(X, Y).student


@pytest.mark.parametrize("data", [
    pairs().batch(4), {"image": X, "label": Y}, {"image": X.astype(float), "label": Y.astype(int)},
    pairs(X, Y.astype(np.int64)).batch(4), Pairs(),
    tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).batch(4)],
    ids=["pairs", "arrays", "wide_arrays", "int64", "pydataset", "dicts"])
def test_every_form_of_the_data_gives_the_same_weights(data, expected):
    kwargs = {} if isinstance(data, dict) else {"batch_size": None}
    tiny.assert_equal_weights(trained(data, **kwargs).student, expected, atol=1e-6)


def test_a_generator_trains(expected):
    batches = ((X[i:i + 4], Y[i:i + 4]) for i in (0, 4, 8))
    model = trained(batches, batch_size=None, steps_per_epoch=3)
    tiny.assert_equal_weights(model.student, expected, atol=1e-6)


def test_a_last_partial_batch_equals_a_batch_of_static_size():
    neighbors = np.stack([Y, np.roll(Y, 1)], axis=1)
    model = new_model()
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        columns = {"image": X[rows], "label": Y[rows], "neighbor_labels": neighbors[rows]}
        data = tf.data.Dataset.from_tensors(columns)
        assert data.element_spec["label"].shape[0] is not None
        model.fit(data, verbose=0)
    unknown_size = trained({"image": X, "label": Y, "neighbor_labels": neighbors})
    tiny.assert_equal_weights(model.student, unknown_size.student, atol=1e-6)


def test_rho_of_a_tensor_equals_that_of_an_int():
    from mlnt_tf.meta.synthetic import transfer_count
    for batch in range(1, 12):
        for ratio in (0.1, 0.3, 0.5, 1.0):
            assert int(transfer_count(tf.constant(batch), ratio)) == transfer_count(batch, ratio)


def test_without_neighbors_they_are_the_nearest_in_the_batch_by_the_teachers_features():
    model = new_model(num_neighbors=2)
    features = mlnt_tf.feature_extractor(model.teacher)(X).numpy()
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = Y[np.argsort(distances, axis=1)[:, :2]]
    found = model.neighbor_labels({"image": tf.constant(X), "label": tf.constant(Y)})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size, columns", [(1, 1), (2, 1), (10, 9)])
def test_a_small_batch_has_as_many_neighbors_as_other_examples(size, columns):
    batch = {"image": tf.constant(X[:size]), "label": tf.constant(Y[:size])}
    assert new_model(num_neighbors=10).neighbor_labels(batch).shape == (size, columns)


def test_neighbors_of_fit_equal_with_neighbors():
    table = mlnt_tf.find_neighbors(X, num_neighbors=3, backend="exact")
    arrays = trained(X, Y, neighbors=table)
    data = mlnt_tf.with_neighbors(pairs(), Y, table).batch(4)
    tiny.assert_equal_weights(arrays.student, trained(data, batch_size=None).student, atol=1e-6)
    searched = trained(X, Y)
    assert any((one != other).any() for one, other in zip(
        tiny.weights(arrays.student), tiny.weights(searched.student)))


def test_with_neighbors_refuses_examples_in_another_order():
    table = mlnt_tf.find_neighbors(X, num_neighbors=3, backend="exact")
    with pytest.raises(tf.errors.InvalidArgumentError, match="order of labels"):
        list(mlnt_tf.with_neighbors(pairs(X[::-1], Y[::-1]), Y, table))


@pytest.mark.parametrize("steps_per_epoch", [None, 5])
def test_shuffled_order_is_a_function_of_seed_and_epoch(steps_per_epoch):
    from mlnt_tf.training.array_batches import ArrayBatches

    def order(seed, epoch):
        batches = ArrayBatches({"label": np.arange(ROWS)}, batch_size=4, shuffle=True, seed=seed,
                               steps_per_epoch=steps_per_epoch)
        batches.on_epoch_begin(epoch)
        return np.concatenate([batch["label"] for batch in batches.dataset()]).tolist()

    first = order(0, 0)
    assert first == order(0, 0) and len({tuple(order(0, epoch)) for epoch in range(4)}) == 4
    assert first != order(1, 0)
    assert sorted(first[:ROWS]) == list(range(ROWS))
    assert len(first) == (ROWS if steps_per_epoch is None else 18)


def test_resuming_at_an_epoch_sees_the_same_order():
    at_once = trained(X, Y, model=plain_model(), epochs=2, shuffle=True)
    resumed = plain_model()
    trained(X, Y, model=resumed, shuffle=True)
    trained(X, Y, model=resumed, shuffle=True, initial_epoch=1, epochs=2)
    tiny.assert_equal_weights(at_once.student, resumed.student)


def test_class_weight_equals_sample_weight():
    weights = np.array([2.0, 1.0, .5], np.float32)[Y]
    expected = trained(X, Y, model=plain_model(), sample_weight=weights).student
    by_class = dict(model=plain_model(), class_weight={0: 2.0, 2: .5})
    tiny.assert_equal_weights(trained(X, Y, **by_class).student, expected, atol=1e-6)
    for data, kwargs in ((pairs(X, Y, weights), {}), (pairs(), by_class)):
        kwargs = {**kwargs, "model": plain_model(), "batch_size": None}
        tiny.assert_equal_weights(trained(data.batch(4), **kwargs).student, expected, atol=1e-6)


def test_weights_of_zero_leave_the_meta_update():
    model = trained(X, Y, sample_weight=np.zeros(ROWS))
    assert max(np.abs(weight).max() for weight in tiny.weights(model.student)) > 0
    start = tiny.weights(tiny.dense())
    assert any((one != other).any() for one, other in zip(tiny.weights(model.student), start))
    without_meta = plain_model()
    trained(X, Y, model=without_meta, sample_weight=np.zeros(ROWS))
    tiny.assert_equal_weights(without_meta.student, tiny.dense())


def test_validation_split_takes_the_last_rows():
    history = plain_model().fit(X, Y, validation_split=.3, batch_size=4, verbose=0).history
    assert {"val_loss", "val_accuracy", "val_teacher_accuracy"} <= set(history)
    model = plain_model()
    history = model.fit(X, Y, validation_data=(X, Y), batch_size=4, verbose=0).history
    correct = model.student(X).numpy().argmax(axis=1) == Y
    assert history["val_accuracy"][-1] == pytest.approx(correct.mean())


def test_evaluate_returns_one_number_per_name():
    model = new_model()
    values = model.evaluate(X, Y, verbose=0)
    assert model.metrics_names == ["loss", "accuracy", "teacher_accuracy"]
    assert len(values) == 3
    correct = model.student(X).numpy().argmax(axis=1) == Y
    assert values[1] == pytest.approx(correct.mean())
    np.testing.assert_allclose(values, model.evaluate(pairs().batch(4), verbose=0), rtol=1e-6)
    named = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert sorted(named) == sorted(model.metrics_names)


def test_predict_gives_the_students_logits():
    model = new_model()
    expected = model.student(X)
    for data in (X, pairs().batch(4), {"image": X}):
        np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-6)


@pytest.mark.parametrize("arguments, message", [
    ((X, np.eye(3)[Y]), "not one-hot"), ((X, Y[:, None]), r"labels\[:, 0\]"),
    ((X, Y + 1), "0 to 2"), ((X, Y - 1), "0 to 2"), ((X, Y.astype(np.float32)), "integers"),
    ((X, Y[:-1]), "rows"), ((X,), "without label"), (({"images": X, "label": Y},), "without image"),
    ((X, Y, np.ones([ROWS, 2])), "one number per example"),
])
def test_unusable_labels_are_refused_in_one_sentence(arguments, message):
    x, y, weights = (*arguments, None, None)[:3]
    model = new_model()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message) as error:
            call(x, y, sample_weight=weights, verbose=0)
        assert "Received: " in str(error.value).splitlines()[-1]


@pytest.mark.parametrize("data, message", [
    (pairs(X, np.eye(3)[Y]), "not one-hot"), (pairs(X, Y[:, None]), r"labels\[:, 0\]"),
    (tf.data.Dataset.from_tensor_slices(X), "without label"),
    (tf.data.Dataset.from_tensor_slices({"image": X}), "neighbor_labels"),
])
def test_unusable_data_sets_are_refused_before_training(data, message):
    for call in (new_model().fit, new_model().evaluate):
        with pytest.raises(ValueError, match=message) as error:
            call(data.batch(4), verbose=0)
        assert "Received: " in str(error.value).splitlines()[-1]


def test_a_label_of_a_data_set_beyond_the_outputs_stops_the_training():
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must lie in 0 to 2"):
        plain_model().fit(pairs(X, Y + 1).batch(4), verbose=0)


@pytest.mark.parametrize("kwargs, message", [
    (dict(x=pairs().batch(4), y=Y), "need arrays"),
    (dict(x=pairs().batch(4), neighbors=np.zeros([ROWS, 1], int)), "with_neighbors"),
    (dict(x=X, y=Y, neighbors=np.zeros([3, 1], int)), "find_neighbors"),
    (dict(x=X, y=Y, neighbors=np.zeros([ROWS, 1], int), validation_split=.5), "validation_split"),
    (dict(x=X, y=Y, class_weight={3: 1.0}), "class_weight must be a dict"),
    (dict(x=X, y=Y, class_weight=[1, 2, 3]), "class_weight must be a dict"),
    (dict(x=X, y=Y, validation_split=1.0), "validation_split must leave"),
])
def test_contradicting_arguments_of_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        new_model().fit(verbose=0, **kwargs)
    assert "Received: " in str(error.value)
