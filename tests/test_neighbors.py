import numpy as np
import pytest

from mlnt_tf import neighbors
from mlnt_tf.config import UserError
from mlnt_tf.neighbors import find_neighbors, scann


def features(count=200, *, seed=0):
    return np.random.default_rng(seed).normal(size=[count, 6]).astype(np.float32)


def test_exact_search_against_all_distances():
    points = features()
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    found = find_neighbors(points, num_neighbors=5, backend="exact")
    np.testing.assert_array_equal(found.indices, distances.argsort(axis=1)[:, :5])
    assert (found.backend, found.recall, found.indices.dtype) == ("exact", 1.0, np.int32)


@pytest.mark.parametrize("backend", ["exact", "scann"])
def test_a_row_is_never_its_own_neighbour_duplicates_are(backend):
    points = np.repeat(features(8), 30, axis=0)
    found = find_neighbors(points, num_neighbors=5, backend=backend).indices
    assert not (found == np.arange(len(points))[:, None]).any()
    np.testing.assert_array_equal(points[found], np.repeat(points[:, None], 5, axis=1))


@pytest.mark.parametrize("brute_force_below, least", [(10**9, 1.0), (0, .9)])
def test_exact_search_is_the_oracle_of_scann(monkeypatch, brute_force_below, least):
    monkeypatch.setattr(scann, "BRUTE_FORCE_BELOW", brute_force_below)
    points = features(3000)
    found = find_neighbors(points, num_neighbors=5, backend="scann")
    oracle = find_neighbors(points, num_neighbors=5, backend="exact")
    assert found.indices.shape == (3000, 5) and found.indices.min() >= 0
    assert scann.recall(found.indices, oracle.indices) >= least
    assert found.recall == pytest.approx(scann.recall(found.indices, oracle.indices), abs=.03)


def broken():
    raise RuntimeError("undefined symbol: _ZN10tensorflow")


def broken_without_a_word():
    raise ImportError


@pytest.mark.parametrize("broken", [broken, broken_without_a_word])
def test_without_scann_auto_says_so_and_searches_exactly(monkeypatch, caplog, broken):
    monkeypatch.setattr(scann, "load_scann", broken)
    with caplog.at_level("WARNING", logger="absl"):
        found = find_neighbors(features(), num_neighbors=3)
    assert found.backend == "exact"


def test_scann_asked_for_and_absent_is_refused(monkeypatch):
    monkeypatch.setattr(scann, "load_scann", broken)
    with pytest.raises(UserError, match="--neighbor_backend=scann"):
        find_neighbors(features(), num_neighbors=3, backend="scann")


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(UserError, match="--num_neighbors=10"):
        find_neighbors(features(10), num_neighbors=10)


def test_a_row_crowded_out_of_its_own_list_drops_the_last():
    found = np.array([[0, 1, 2], [2, 0, 3]])
    np.testing.assert_array_equal(scann.drop_self(found, np.arange(2)), [[1, 2], [2, 0]])


def test_leaves_that_hold_too_few_rows_are_made_up_for_exactly(monkeypatch):
    monkeypatch.setattr(scann, "BRUTE_FORCE_BELOW", 0)
    found = find_neighbors(features(3000), num_neighbors=2500, backend="scann").indices
    assert all(len(set(row)) == 2500 for row in found[::100])


def test_a_common_offset_does_not_blur_the_order():
    points = features(300).astype(np.float64)
    plain = find_neighbors(points, num_neighbors=5, backend="exact").indices
    shifted = find_neighbors(points + 100, num_neighbors=5, backend="exact").indices
    assert scann.recall(shifted, plain) > .99


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="3 of 20 examples are not finite"):
        find_neighbors(np.where(np.arange(20)[:, None] < 3, np.nan, features(20)), num_neighbors=3)


def test_a_memory_map_that_is_forgotten_while_it_is_read_gives_the_same(tmp_path, monkeypatch):
    points = np.random.default_rng(0).normal(size=[3000, 64]).astype(np.float32)
    np.save(tmp_path / "x.npy", points)
    monkeypatch.setattr(neighbors, "RELEASE_INTERVAL", 0.0)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = find_neighbors(mapped, backend="exact")
    np.testing.assert_array_equal(found.indices, find_neighbors(points, backend="exact").indices)
    np.testing.assert_array_equal(mapped, points)
