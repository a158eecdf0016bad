"""A script as a Keras user writes it: a Keras Application, callbacks, saving, label issues."""

import keras
import numpy as np
import pytest

import mlnt_tf


@pytest.mark.slow
def test_a_notebook_from_data_to_label_issues(tmp_path):
    # Data: three classes of colored 32 x 32 images. A third of the training labels is wrong.
    draws = np.random.default_rng(0)
    true_labels = draws.integers(3, size=96)
    images = draws.normal(.3, .1, size=[96, 32, 32, 3])
    images[np.arange(96), :, :, true_labels] += .4
    images = np.clip(255 * images, 0, 255).astype("float32")
    labels = np.where(draws.random(96) < .33, draws.integers(3, size=96), true_labels)
    x, y, x_val, y_val = images[:72], labels[:72], images[72:], true_labels[72:]

    # A network of Keras Applications with augmentation, ending in a softmax as usual.
    keras.utils.set_random_seed(0)
    body = keras.applications.MobileNet(
        input_shape=(32, 32, 3), alpha=.25, include_top=False, weights=None, pooling="avg")
    inputs = keras.Input([32, 32, 3])
    augmented = keras.layers.RandomFlip("horizontal")(inputs)
    outputs = keras.layers.Dense(3, activation="softmax")(body(augmented))
    classifier = keras.Model(inputs, outputs)

    # Wrap, compile, fit with neighbors of the complete training set.
    table = mlnt_tf.find_neighbors(x.mean(axis=(1, 2)), num_neighbors=5)
    model = mlnt_tf.MLNT(mlnt_tf.logits_of(classifier), num_synthetic=1, ema_decay=.5)
    model.compile(optimizer=keras.optimizers.SGD(.05, momentum=.9), meta_optimizer=.05,
                  metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")])
    best = tmp_path / "best.keras"
    history = model.fit(
        x, y, batch_size=36, epochs=2, validation_data=(x_val, y_val), verbose=0,
        class_weight={0: 1.0, 1: 1.0, 2: 1.5}, neighbors=table,
        callbacks=[
            keras.callbacks.ModelCheckpoint(best, monitor="val_teacher_accuracy", mode="max",
                                            save_best_only=True),
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1),
            keras.callbacks.EarlyStopping(monitor="val_teacher_accuracy", mode="max", patience=5),
            keras.callbacks.CSVLogger(tmp_path / "log.csv")]).history
    assert {"consistency", "val_teacher_top2", "learning_rate"} <= set(history)

    # Load, evaluate, predict.
    loaded = keras.models.load_model(best)
    measured = loaded.evaluate(x_val, y_val, verbose=0, return_dict=True)
    assert measured["teacher_accuracy"] == pytest.approx(max(history["val_teacher_accuracy"]))
    logits = loaded.teacher.predict(x, verbose=0)
    assert logits.shape == (72, 3)

    # Label issues.
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    features = mlnt_tf.feature_extractor(loaded.teacher).predict(x, verbose=0)
    issues = mlnt_tf.find_label_issues(y, probabilities, features=features)
    assert issues["is_label_issue"].shape == (72,)
