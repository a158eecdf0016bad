"""Scores, suggestions and flags of label issues, by hand."""

import numpy as np
import pytest

from mlnt_tf.labels import issues, probe

COLUMNS = ["given_label", "predicted_label", "label_score", "is_label_issue", "suggested_label",
           "suggestion_score", "neighbor_agreement", "outlier_score"]


def blobs(count=600, seed=0):
    """Returns features, given and true labels of three classes, 20 % redrawn among the others."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, 3, count)
    features = 2 * generator.normal(0, 1, [3, 16])[true] + generator.normal(0, 1, [count, 16])
    wrong = generator.random(count) < .2
    return features, np.where(wrong, (true + generator.integers(1, 3, count)) % 3, true), true


def test_nearest_by_cosine_by_hand(monkeypatch):
    features = np.array([[1, 0], [10, 1], [0, 2], [1, 4.]])
    for similarities_at_once in (2**25, 4, 9):  # one block, one row per block, two rows per block
        monkeypatch.setattr(issues, "SIMILARITIES_AT_ONCE", similarities_at_once)
        neighbors, similarities = issues.nearest_by_cosine(features, 2)
        np.testing.assert_array_equal(neighbors, [[1, 3], [0, 3], [3, 1], [2, 1]])
        np.testing.assert_allclose(similarities[0], [10 / np.sqrt(101), 1 / np.sqrt(17)], rtol=1e-6)


def test_there_are_no_more_neighbors_than_other_rows():
    assert issues.nearest_by_cosine(np.eye(3), 20)[0].shape == (3, 2)
    with pytest.raises(ValueError, match="at least 2 rows. Received: 1 rows"):
        issues.nearest_by_cosine(np.ones([1, 3]), 20)


def test_smoothing_averages_an_image_with_the_mean_of_its_neighbors():
    probabilities = np.array([[.8, .2], [.6, .4], [0, 1]])
    smoothed = issues.smooth_over_neighbors(probabilities, np.array([[1, 2], [0, 2], [0, 1]]))
    np.testing.assert_allclose(smoothed[0], [.55, .45])  # (.8 + (.6 + 0) / 2) / 2


MATRIX = np.array([[.8, .1, .1], [.3, .6, .1], [0, .2, .8]])


def test_posterior_score_and_suggestion_by_hand():
    # M T[:, 0] = (.4 · .8, .5 · .3, .1 · 0) = (.32, .15, 0), which sums to .47.
    labels, probabilities = np.array([0]), np.array([[.4, .5, .1]])
    posterior = issues.posterior_of_true_label(labels, probabilities, MATRIX)
    np.testing.assert_allclose(posterior, [[.32 / .47, .15 / .47, 0]])
    np.testing.assert_allclose(issues.score_labels(labels, posterior), [.17 / .47])
    suggested = issues.suggest_labels(labels, posterior, probabilities)
    np.testing.assert_array_equal(suggested, [1])
    np.testing.assert_allclose(issues.score_suggestions(labels, suggested, posterior), [.15 / .47])


def test_a_label_without_any_posterior_falls_back_to_the_probabilities():
    probabilities = np.array([[0, 0, 1.]])
    posterior = issues.posterior_of_true_label(np.array([0]), probabilities, MATRIX)
    np.testing.assert_array_equal(posterior, probabilities)


def test_probabilities_decide_between_equal_suggestions():
    probabilities = np.array([[.5, .2, .3]])
    suggested = issues.suggest_labels(np.array([0]), np.array([[1., 0, 0]]), probabilities)
    np.testing.assert_array_equal(suggested, [2])


def test_the_lowest_share_of_scores_is_flagged():
    flags = issues.flag_lowest(np.array([.9, .1, .5, .2, .1]), .4)
    np.testing.assert_array_equal(flags, [False, True, False, False, True])
    assert not issues.flag_lowest(np.array([.1, .2]), 0).any()


def test_neighbor_agreement_and_outlier_score_by_hand():
    labels = np.array([0, 0, 1, 1])
    agreement = issues.neighbor_agreement(labels, np.array([[1, 2], [0, 3], [0, 1], [2, 1]]))
    np.testing.assert_allclose(agreement, [.5, .5, 0, .5])
    np.testing.assert_allclose(issues.outlier_score(np.array([[1, 1], [.5, -.5]])), [1, np.exp(-1)])


def test_probabilities_alone_by_hand():
    # Thresholds .6 and .6333. The confident joint is [[2, 1], [1, 2]], so T has rows (2/3, 1/3) and
    # (1/3, 2/3), and a third of the labels is flagged.
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[.9, .1], [.8, .2], [.1, .9], [.3, .7], [.2, .8], [.6, .4]])
    found = issues.find_label_issues(labels, probabilities)
    assert list(found) == COLUMNS
    np.testing.assert_array_equal(found["predicted_label"], [0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(found["suggested_label"], 1 - labels)
    np.testing.assert_array_equal(found["is_label_issue"], labels != found["predicted_label"])
    # Pseudo-counts turn T into rows (5/8, 3/8) and (3/8, 5/8). The third label has H proportional
    # to (.1 · 5, .9 · 3), so the score is −2.2/3.2.
    assert found["label_score"][2] == pytest.approx((1 - 2.2 / 3.2) / 2)
    assert found["suggestion_score"][2] == pytest.approx(2.7 / 3.2)
    assert np.isnan(found["neighbor_agreement"]).all() and np.isnan(found["outlier_score"]).all()


@pytest.mark.parametrize("recipe", ["probe", "posterior"])
def test_wrong_labels_are_found_in_the_order_of_the_input(recipe):
    features, given, true = blobs()
    probabilities = None
    if recipe == "posterior":
        probabilities = probe.fit_cross_entropy_probe(features, given, 3).probabilities(features)
    found = issues.find_label_issues(given, probabilities, features)
    wrong = given != true
    assert list(found) == COLUMNS and all(len(column) == len(given) for column in found.values())
    assert np.median(found["label_score"][wrong]) < np.quantile(found["label_score"][~wrong], .05)
    assert (found["is_label_issue"] == wrong).mean() > .9
    assert (found["suggested_label"] == true)[wrong].mean() > .9
    assert (found["suggested_label"] != given).all()
    assert found["neighbor_agreement"][wrong].mean() < found["neighbor_agreement"][~wrong].mean()
    for name in ("label_score", "suggestion_score", "neighbor_agreement", "outlier_score"):
        assert 0 <= found[name].min() and found[name].max() <= 1


def test_a_probe_of_the_training_images_judges_others():
    features, given, true = blobs()
    fitted = probe.fit_probe(features[:400], given[:400], 3)
    found = issues.find_label_issues(given, features=features, probe=fitted)
    assert (found["predicted_label"] == true)[400:].mean() > .9


def test_an_unusual_image_has_the_lowest_outlier_score():
    features, given, _ = blobs()
    features[17] = -20 * features.mean(axis=0) + 30 * np.random.default_rng(1).normal(size=16)
    assert issues.find_label_issues(given, features=features)["outlier_score"].argmin() == 17


def test_labels_of_one_class_among_several_are_all_kept():
    features, _, _ = blobs(60)
    found = issues.find_label_issues(np.zeros(60, int), features=features, num_classes=3)
    assert not found["is_label_issue"].any() and np.isfinite(found["label_score"]).all()


@pytest.mark.parametrize("arguments, message", [
    ({}, "Received: probabilities=None, features=None"),
    ({"features": np.ones([3, 2])}, "Received: 2 labels, 3 features"),
    ({"probabilities": np.eye(2), "num_classes": 3}, "Received: num_classes=3, probabilities="),
    ({"probabilities": np.eye(2), "probe": "p"}, "Received: probe, probabilities=shape \\(2, 2\\)"),
    ({"features": np.ones([2, 2]), "num_classes": 1}, "Received: labels from 0 to 1")])
def test_inputs_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        issues.find_label_issues(np.array([0, 1]), **arguments)


def test_few_wrong_labels_are_found_where_t_is_estimated_as_the_identity():
    """Without pseudo-counts every score would be 1."""
    draws = np.random.default_rng(0)
    true = draws.integers(3, size=1000)
    labels = true.copy()
    wrong = [3, 50, 700]
    labels[wrong] = (labels[wrong] + 1) % 3
    features = draws.normal(size=[1000, 40])
    features[:, :3] += 8 * np.eye(3)[true]
    columns = issues.find_label_issues(labels, features=features, num_classes=3)
    assert set(np.argsort(columns["label_score"])[:3]) == set(wrong)
    np.testing.assert_array_equal(columns["suggested_label"][wrong], true[wrong])


def test_pseudo_counts_keep_rows_that_sum_to_one():
    matrix = issues.add_pseudo_counts(np.eye(4), 96)
    np.testing.assert_allclose(matrix, 0.96 * np.eye(4) + 0.01)
