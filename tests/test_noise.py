import numpy as np
import pytest

from mlnt_tf.config import UserError, parse_noise
from mlnt_tf.data import noise

IDS = np.arange(1000)
LABELS = (IDS % 10).astype(np.int32)


def matrix_of(text, *args, **kwargs):
    return noise.transition_matrix(parse_noise(text), *args, **kwargs)


def corrupted(matrix, *, ids=IDS, labels=LABELS, seed=0, sampling="exact"):
    return noise.corrupt_labels(labels, ids, matrix, seed=seed, sampling=sampling)


def test_symmetric_includes_the_true_class():
    matrix = matrix_of("symmetric", .5, 10)
    np.testing.assert_allclose(np.diag(matrix), .55)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_symmetric_without_the_true_class():
    matrix = matrix_of("symmetric", .45, 10, symmetric_includes_true=False)
    np.testing.assert_allclose(matrix, matrix_of("symmetric", .5, 10), atol=1e-12)


@pytest.mark.parametrize("dataset", ["cifar10", "tfds:cifar10", "tfds:cifar10:3.0.2"])
def test_asymmetric_takes_cifar10s_pairs(dataset):
    matrix = matrix_of("asymmetric", .4, 10, dataset=dataset)
    for true, wrong in {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}.items():
        assert (matrix[true, true], matrix[true, wrong]) == (.6, .4)
    np.testing.assert_array_equal(matrix[[0, 1, 6, 7, 8]], np.eye(10)[[0, 1, 6, 7, 8]])


def test_asymmetric_elsewhere_takes_the_next_class():
    np.testing.assert_allclose(matrix_of("asymmetric", .3, 3),
                               [[.7, .3, 0], [0, .7, .3], [.3, 0, .7]])


def test_no_noise_changes_nothing():
    np.testing.assert_array_equal(corrupted(matrix_of("none", .5, 10)), LABELS)


def test_exact_sampling_meets_the_matrix():
    given = corrupted(matrix_of("symmetric", .5, 10))
    assert noise.realized_rate(LABELS, given) == pytest.approx(.45)
    counts = np.zeros([10, 10])
    np.add.at(counts, (LABELS, given), 1)
    np.testing.assert_array_equal(np.diag(counts), 55)
    assert counts[~np.eye(10, dtype=bool)].max() == 5


def test_independent_draws_come_near_the_matrix():
    ids = np.arange(40_000)
    labels = (ids % 10).astype(np.int32)
    given = corrupted(matrix_of("symmetric", .5, 10), ids=ids, labels=labels, sampling="bernoulli")
    assert noise.realized_rate(labels, given) == pytest.approx(.45, abs=.01)


@pytest.mark.parametrize("sampling", ["exact", "bernoulli"])
def test_noise_hangs_on_the_id_not_on_reading_order(sampling):
    matrix, order = matrix_of("symmetric", .5, 10), np.random.default_rng(0).permutation(1000)
    given = corrupted(matrix, sampling=sampling)
    shuffled = corrupted(matrix, ids=IDS[order], labels=LABELS[order], sampling=sampling)
    np.testing.assert_array_equal(shuffled, given[order])


def test_independent_draws_are_the_same_in_a_subset():
    matrix = matrix_of("symmetric", .5, 10)
    given = corrupted(matrix, sampling="bernoulli")
    np.testing.assert_array_equal(corrupted(matrix, ids=IDS[::3], labels=LABELS[::3], sampling="bernoulli"), given[::3])


def test_another_seed_gives_other_noise():
    matrix = matrix_of("symmetric", .5, 10)
    assert (corrupted(matrix) != corrupted(matrix, seed=1)).mean() > .3


@pytest.mark.parametrize("name, text", [("t.csv", "0.6,0.4\n0,1\n"), ("t.txt", "0.6 0.4\n\n0, 1\n")])
def test_a_matrix_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(matrix_of(f"matrix:{tmp_path / name}", .5, 2), [[.6, .4], [0, 1]])


def test_a_matrix_from_an_npy_file(tmp_path):
    np.save(tmp_path / "t.npy", np.eye(3))
    np.testing.assert_array_equal(matrix_of(f"matrix:{tmp_path / 't.npy'}", .5, 3), np.eye(3))


@pytest.mark.parametrize("text, message", [
    ("1 0\n0 1\n0 1\n", "square"), ("1 0 0\n0 1\n", "square"), ("1 0 0\n0 1 0\n0 0 1\n", "2 by 2"), ("", "square"),
    (".6 .3\n0 1\n", "row 0 sums to 0.9"), ("1.5 -.5\n0 1\n", "below 0"), ("nan 1\n0 1\n", "not a number"),
    ("one 0\n0 1\n", "cannot be read")])
def test_a_bad_matrix_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        matrix_of(f"matrix:{tmp_path / 't.txt'}", .5, 2)
    assert "--noise=matrix:" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"no array"])
def test_a_broken_npy_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(UserError, match="--noise=matrix:.*cannot be read") as caught:
        matrix_of(f"matrix:{tmp_path / 't.npy'}", .5, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.eye(2) * 1.5j, np.zeros([2, 2], [("a", "f4")]), np.array([["a"] * 2] * 2)])
def test_an_npy_file_of_no_real_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(UserError, match="cannot be read"):
        matrix_of(f"matrix:{tmp_path / 't.npy'}", .5, 2)


def test_rows_within_the_tolerance_are_made_to_sum_to_one(tmp_path):
    (tmp_path / "t.txt").write_text("0.5 0.5000009\n0 1\n")
    matrix = matrix_of(f"matrix:{tmp_path / 't.txt'}", .5, 2)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-15)
    assert noise.apportion(matrix[0], 4_000_000).sum() == 4_000_000


def test_the_uniform_of_an_id_hangs_on_seed_salt_and_id_alone():
    draws = noise.uniform_draws(IDS, seed=3, salt=5)
    np.testing.assert_array_equal(noise.uniform_draws([17, 4], seed=3, salt=5), draws[[17, 4]])
    assert (draws != noise.uniform_draws(IDS, seed=3, salt=6)).all() and (0 <= draws).all() and (draws < 1).all()


@pytest.mark.parametrize("shares, count, expected", [
    ([.5, .5], 3, [2, 1]), ([.55, .45 / 2, .45 / 2], 100, [55, 23, 22]), ([1.0, 0.0], 7, [7, 0])])
def test_apportion_gives_the_rest_to_the_largest_remainders(shares, count, expected):
    np.testing.assert_array_equal(noise.apportion(shares, count), expected)
