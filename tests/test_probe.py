"""The noise-corrected probe."""

import numpy as np
import pytest

from mlnt_tf.labels import probe


def blobs(count=900, flip=.4, seed=0):
    """Returns features, given and true labels of three classes. Some 0s are labeled 1."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, 3, count)
    centers = generator.normal(0, 1, [3, 20])
    features = centers[true] + generator.normal(0, 1, [count, 20])
    given = np.where((true == 0) & (generator.random(count) < flip), 1, true)
    return features.astype(np.float32), given, true


@pytest.mark.parametrize("given, expected", [
    (0, [.7 - .56 / .60, .2 - .04 / .60, .1]), (1, [.321622, -.340541, .018919])])
def test_forward_gradient_by_hand(given, expected):
    matrix = np.array([[.8, .2, 0], [.2, .8, 0], [0, .3, .7]])
    if given == 1:  # The example of the paper's baseline, with a zero in T.
        matrix = np.array([[.8, .2, 0], [0, 1, 0], [0, .3, .7]])
    with np.errstate(divide="ignore"):
        log_column = np.log(matrix)[:, given]
    gradient = probe.forward_gradient(np.log([[.7, .2, .1]]), log_column[None])
    np.testing.assert_allclose(gradient, [expected], atol=1e-6)


def test_forward_gradient_with_the_identity_is_that_of_cross_entropy():
    with np.errstate(divide="ignore"):
        log_identity = np.log(np.eye(3))
    gradient = probe.forward_gradient(np.log([[.7, .2, .1]]), log_identity[[1]])
    np.testing.assert_allclose(gradient, [[.7, .2 - 1, .1]])


def test_two_steps_of_the_head_by_hand(monkeypatch):
    monkeypatch.setattr(probe, "EPOCHS", 2)
    inputs = np.array([[3, 1], [-1, 1]], np.float32)
    first = np.random.default_rng(7).normal(0, .01, [2, 2])
    first[1] = 0

    def gradient(weights):
        logits = inputs @ weights
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return inputs.T @ (p - np.eye(2)) / 2 + 1e-4 * weights

    velocity = gradient(first)
    second = first - .5 * velocity
    average = .1 * first + .9 * second  # decay (1 + 0) / (10 + 0)
    velocity = .9 * velocity + gradient(second)
    third = second - .25 * velocity  # The cosine halves the rate at half of the steps.
    average = 2 / 11 * average + 9 / 11 * third
    weights = probe.fit_head(inputs, np.array([0, 1]), np.eye(2), rate=.5,
                             generator=np.random.default_rng(7))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, average, atol=1e-6)


def test_projection_by_hand():
    # Both features are the same after standardization, so the first component is (1, 1) / √2.
    features = np.array([[0, 10], [1, 30], [2, 50], [3, 70]])
    projection = probe.fit_projection(features)
    np.testing.assert_allclose(projection.mean, [1.5, 40])
    np.testing.assert_allclose(projection.deviation, [np.sqrt(1.25), np.sqrt(500)], rtol=1e-6)
    np.testing.assert_allclose(projection.components[:, 0], [np.sqrt(.5)] * 2, rtol=1e-5)
    projected = projection.project(projection.standardize(features))
    np.testing.assert_allclose(projected[:, 0], [-12, -12, 12, 12], rtol=1e-5)


def test_components_are_the_directions_of_largest_variance():
    features, _, _ = blobs()
    wide = np.concatenate([features, features @ np.ones([20, 40]) / 5], axis=1)
    projection = probe.fit_projection(wide)
    standardized = projection.standardize(wide)
    _, singular, components = np.linalg.svd(standardized, full_matrices=False)
    expected = np.abs(components[:2] @ projection.components[:, :2])
    np.testing.assert_allclose(expected, np.eye(2), atol=1e-3)


def test_features_in_chunks_give_the_same_probe(monkeypatch):
    features, given, _ = blobs()
    expected = probe.fit_probe(features, given, 3)
    monkeypatch.setattr(probe, "CHUNK", 128)
    fitted = probe.fit_probe(features, given, 3)
    np.testing.assert_allclose(np.abs(np.sum(
        fitted.projection.components * expected.projection.components, axis=0)), 1, rtol=1e-3)
    np.testing.assert_allclose(fitted.probabilities(features), expected.probabilities(features),
                               atol=1e-3)


@pytest.mark.parametrize("count, size, expected", [
    (100, 300, 32), (800, 300, 50), (6000, 300, 256), (10, 300, 10), (100, 4, 4)])
def test_number_of_components(count, size, expected):
    features = np.random.default_rng(0).normal(size=[count, size])
    assert probe.fit_projection(features).components.shape == (size, expected)


def test_constant_features_and_equal_images_are_harmless():
    features, given, _ = blobs(60)
    features[:, 3] = 5
    features[7] = features.mean(axis=0)
    fitted = probe.fit_probe(features, given, 3)
    assert np.isfinite(fitted.probabilities(features)).all()
    assert np.isfinite(probe.fit_probe(np.ones([60, 4]), given, 3).weights).all()


def test_equal_seeds_give_equal_weights():
    features, given, _ = blobs()
    one, same, other = [probe.fit_probe(features, given, 3, seed=seed).weights
                        for seed in (1, 1, 2)]
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_probe_corrects_one_sided_noise():
    features, given, true = blobs(flip=.45)
    plain = probe.fit_cross_entropy_probe(features, given, 3)
    corrected = probe.fit_probe(features, given, 3)
    errors = [(fitted.probabilities(features).argmax(axis=1) != true).mean()
              for fitted in (plain, corrected)]
    assert errors[1] < errors[0] / 2
    np.testing.assert_array_equal(plain.transition_matrix, np.eye(3))
    # The true row is (.55, .45, 0) and the mean diagonal .85, so half-shrunk (.7, .2625, .0375).
    np.testing.assert_allclose(corrected.transition_matrix[0], [.7, .2625, .0375], atol=.05)


def test_probe_returns_probabilities_of_images_not_seen():
    features, given, _ = blobs()
    probabilities = probe.fit_probe(features, given, 3).probabilities(features[:5] + 1)
    assert probabilities.shape == (5, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_class_without_labels_is_hardly_predicted():
    features, given, _ = blobs()
    probabilities = probe.fit_probe(features, given, 4).probabilities(features)
    assert (probabilities.argmax(axis=1) != 3).all()


@pytest.mark.parametrize("features, labels, num_classes, message", [
    (np.ones([2, 3]), np.array([0, 1]), 1, "num_classes must be at least 2. Received: 1"),
    (np.ones([2, 3]), np.array([0, 2]), 2, "Received: labels from 0 to 2"),
    (np.ones([3, 3]), np.array([0, 1]), 2, "Received: 2 labels, 3 features"),
    (np.ones([2]), np.array([0, 1]), 2, "Received: shape \\(2,\\)"),
    (np.full([2, 3], np.inf), np.array([0, 1]), 2, "Received: 2 rows with NaN or infinity")])
def test_invalid_input_is_refused_with_what_was_received(features, labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        probe.fit_probe(features, labels, num_classes)
