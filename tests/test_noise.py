"""Transition matrices and the label noise drawn from them."""

import numpy as np
import pytest

from mlnt_tf.config import UserError, parse_noise
from mlnt_tf.data import noise

IDS = np.arange(1000)
LABELS = (IDS % 10).astype(np.int32)


def transition_matrix(source, *args, **kwargs):
    return noise.transition_matrix(parse_noise(source), *args, **kwargs)


def corrupt(matrix, *, ids=IDS, labels=LABELS, seed=0, sampling="exact"):
    return noise.corrupt_labels(labels, ids, matrix, seed=seed, sampling=sampling)


def test_symmetric_matrix_includes_true_class():
    matrix = transition_matrix("symmetric", .5, 10)
    np.testing.assert_allclose(np.diag(matrix), .55)
    np.testing.assert_allclose(matrix[~np.eye(10, dtype=bool)], .05)


def test_symmetric_matrix_without_true_class():
    matrix = transition_matrix("symmetric", .45, 10, symmetric_includes_true=False)
    np.testing.assert_allclose(matrix, transition_matrix("symmetric", .5, 10), atol=1e-12)


@pytest.mark.parametrize("dataset", ["cifar10", "tfds:cifar10", "tfds:cifar10:3.0.2"])
def test_asymmetric_matrix_of_cifar10_has_its_own_pairs(dataset):
    matrix = transition_matrix("asymmetric", .4, 10, dataset=dataset)
    for true, wrong in {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}.items():
        assert (matrix[true, true], matrix[true, wrong]) == (.6, .4)
    unchanged = [0, 1, 6, 7, 8]
    np.testing.assert_array_equal(matrix[unchanged], np.eye(10)[unchanged])


def test_asymmetric_matrix_of_other_data_uses_next_class():
    np.testing.assert_allclose(transition_matrix("asymmetric", .3, 3),
                               [[.7, .3, 0], [0, .7, .3], [.3, 0, .7]])


def test_no_noise_leaves_labels_unchanged():
    np.testing.assert_array_equal(corrupt(transition_matrix("none", .5, 10)), LABELS)


def test_exact_sampling_realizes_the_matrix():
    given = corrupt(transition_matrix("symmetric", .5, 10))
    assert noise.realized_rate(LABELS, given) == pytest.approx(.45)
    counts = np.zeros([10, 10])
    np.add.at(counts, (LABELS, given), 1)
    np.testing.assert_array_equal(np.diag(counts), 55)
    np.testing.assert_array_equal(counts[~np.eye(10, dtype=bool)], 5)


def test_bernoulli_sampling_is_close_to_the_matrix():
    ids = np.arange(40_000)
    labels = (ids % 10).astype(np.int32)
    matrix = transition_matrix("symmetric", .5, 10)
    given = corrupt(matrix, ids=ids, labels=labels, sampling="bernoulli")
    assert noise.realized_rate(labels, given) == pytest.approx(.45, abs=.01)


@pytest.mark.parametrize("sampling", ["exact", "bernoulli"])
def test_noise_depends_on_id_and_not_on_reading_order(sampling):
    matrix = transition_matrix("symmetric", .5, 10)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = corrupt(matrix, ids=IDS[order], labels=LABELS[order], sampling=sampling)
    np.testing.assert_array_equal(shuffled, corrupt(matrix, sampling=sampling)[order])


def test_bernoulli_noise_of_a_subset_is_that_of_all_examples():
    matrix = transition_matrix("symmetric", .5, 10)
    subset = corrupt(matrix, ids=IDS[::3], labels=LABELS[::3], sampling="bernoulli")
    np.testing.assert_array_equal(subset, corrupt(matrix, sampling="bernoulli")[::3])


def test_another_seed_gives_other_noise():
    matrix = transition_matrix("symmetric", .5, 10)
    assert (corrupt(matrix) != corrupt(matrix, seed=1)).mean() > .3


@pytest.mark.parametrize("name, text", [
    ("t.csv", "0.6,0.4\n0,1\n"), ("t.txt", "0.6 0.4\n\n0, 1\n")])
def test_matrix_is_read_from_text_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    matrix = transition_matrix(f"matrix:{tmp_path / name}", .5, 2)
    np.testing.assert_array_equal(matrix, [[.6, .4], [0, 1]])


def test_matrix_is_read_from_npy_file(tmp_path):
    np.save(tmp_path / "t.npy", np.eye(3))
    matrix = transition_matrix(f"matrix:{tmp_path / 't.npy'}", .5, 3)
    np.testing.assert_array_equal(matrix, np.eye(3))


@pytest.mark.parametrize("text, message", [
    ("1 0\n0 1\n0 1\n", "square"), ("1 0 0\n0 1\n", "square"),
    ("1 0 0\n0 1 0\n0 0 1\n", "2 by 2"), ("", "square"), (".6 .3\n0 1\n", "row 0 sums to 0.9"),
    ("1.5 -.5\n0 1\n", "below 0"), ("nan 1\n0 1\n", "not a number"),
    ("one 0\n0 1\n", "cannot be read")])
def test_invalid_matrix_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        transition_matrix(f"matrix:{tmp_path / 't.txt'}", .5, 2)
    assert "--noise=matrix:" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"no array"])
def test_damaged_npy_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(UserError, match="--noise=matrix:.*cannot be read") as error:
        transition_matrix(f"matrix:{tmp_path / 't.npy'}", .5, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("array", [
    np.eye(2) * 1.5j, np.zeros([2, 2], [("a", "f4")]), np.array([["a"] * 2] * 2)])
def test_npy_file_without_real_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(UserError, match="cannot be read"):
        transition_matrix(f"matrix:{tmp_path / 't.npy'}", .5, 2)


def test_rows_with_sums_within_tolerance_are_normalized(tmp_path):
    (tmp_path / "t.txt").write_text("0.5 0.5000009\n0 1\n")
    matrix = transition_matrix(f"matrix:{tmp_path / 't.txt'}", .5, 2)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-15)
    assert noise.apportion(matrix[0], 4_000_000).sum() == 4_000_000


def test_uniform_draw_depends_only_on_seed_salt_and_id():
    draws = noise.uniform_draws(IDS, seed=3, salt=5)
    assert (0 <= draws).all() and (draws < 1).all()
    np.testing.assert_array_equal(noise.uniform_draws([17, 4], seed=3, salt=5), draws[[17, 4]])
    assert (draws != noise.uniform_draws(IDS, seed=3, salt=6)).all()
    assert (draws != noise.uniform_draws(IDS, seed=4, salt=5)).all()


@pytest.mark.parametrize("shares, count, expected", [
    ([.5, .5], 3, [2, 1]), ([.55, .45 / 2, .45 / 2], 100, [55, 23, 22]), ([1.0, 0.0], 7, [7, 0])])
def test_apportion_gives_remainder_to_largest_fractions(shares, count, expected):
    np.testing.assert_array_equal(noise.apportion(shares, count), expected)


def test_realized_rate_leaves_out_unknown_true_labels():
    assert noise.realized_rate([0, 1, -1, -1], [0, 2, 1, 1]) == .5
    assert noise.realized_rate([-1, -1], [0, 1]) is None
