import numpy as np
import pytest

from mlnt_tf import neighbors
from mlnt_tf.neighbors import find_neighbors, scann


def features(count=200, *, seed=0):
    return np.random.default_rng(seed).normal(size=[count, 6]).astype(np.float32)


def test_exact_search_sorts_all_distances():
    points = features()
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    table = find_neighbors(points, num_neighbors=5, backend="exact")
    np.testing.assert_array_equal(table.indices, distances.argsort(axis=1)[:, :5])
    assert (table.backend, table.recall, table.indices.dtype) == ("exact", 1.0, np.int32)


@pytest.mark.parametrize("backend", ["exact", "scann"])
def test_row_is_not_its_own_neighbor_but_its_duplicates_are(backend):
    points = np.repeat(features(8), 30, axis=0)
    indices = find_neighbors(points, num_neighbors=5, backend=backend).indices
    assert not (indices == np.arange(len(points))[:, None]).any()
    np.testing.assert_array_equal(points[indices], np.repeat(points[:, None], 5, axis=1))


@pytest.mark.parametrize("brute_force_below, minimum", [(10**9, 1.0), (0, .9)])
def test_scann_finds_the_neighbors_of_exact_search(monkeypatch, brute_force_below, minimum):
    monkeypatch.setattr(scann, "BRUTE_FORCE_BELOW", brute_force_below)
    points = features(3000)
    table = find_neighbors(points, num_neighbors=5, backend="scann")
    exact = find_neighbors(points, num_neighbors=5, backend="exact")
    assert table.backend == "scann"
    assert table.indices.shape == (3000, 5) and table.indices.min() >= 0
    recall = scann.recall(table.indices, exact.indices)
    assert recall >= minimum
    assert table.recall == pytest.approx(recall, abs=.03)


def raise_with_message():
    raise RuntimeError("undefined symbol: _ZN10tensorflow")


def raise_without_message():
    raise ImportError


@pytest.mark.parametrize("load, reason", [
    (raise_with_message, "undefined symbol"), (raise_without_message, "ImportError")])
def test_auto_without_scann_warns_and_searches_exactly(monkeypatch, load, reason):
    warnings = []
    monkeypatch.setattr(scann, "load_scann", load)
    monkeypatch.setattr(scann.logging, "log_first_n",
                        lambda level, text, n, *args: warnings.append(text % args))
    table = find_neighbors(features(), num_neighbors=3)
    assert table.backend == "exact"
    assert len(warnings) == 1 and reason in warnings[0]


def test_scann_backend_without_scann_is_refused(monkeypatch):
    monkeypatch.setattr(scann, "load_scann", raise_with_message)
    with pytest.raises(ValueError, match="Received: backend='scann' .*undefined symbol"):
        find_neighbors(features(), num_neighbors=3, backend="scann")


def test_as_many_neighbors_as_rows_are_refused():
    with pytest.raises(ValueError, match="Received: num_neighbors=10 with 10 rows"):
        find_neighbors(features(10), num_neighbors=10)


@pytest.mark.parametrize("points, kwargs, message", [
    (features()[0], {}, "images.reshape"), (features().reshape(-1, 2, 3, 1), {}, "images.reshape"),
    (features()[:0], {}, "one row per example"), (features(), dict(num_neighbors=0), "at least 1"),
    (features(), dict(num_neighbors=2.5), "integer"),
    (features(), dict(backend="faiss"), "backend must be one of 'auto', 'exact', 'scann'"),
])
def test_unusable_arguments_are_refused_by_their_names(points, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        find_neighbors(points, **kwargs)
    assert "Received: " in str(error.value) and "--" not in str(error.value)


def test_drop_self_drops_the_last_neighbor_of_a_displaced_row():
    indices = np.array([[0, 1, 2], [2, 0, 3]])
    np.testing.assert_array_equal(scann.drop_self(indices, np.arange(2)), [[1, 2], [2, 0]])


def test_exact_search_completes_rows_that_the_searched_leaves_cannot_fill(monkeypatch):
    monkeypatch.setattr(scann, "BRUTE_FORCE_BELOW", 0)
    indices = find_neighbors(features(1200), num_neighbors=1000, backend="scann").indices
    assert all(len(set(row)) == 1000 for row in indices[::100])


def test_common_offset_does_not_change_the_order():
    points = features(300).astype(np.float64)
    expected = find_neighbors(points, num_neighbors=5, backend="exact").indices
    shifted = find_neighbors(points + 100, num_neighbors=5, backend="exact").indices
    assert scann.recall(shifted, expected) > .99


def test_features_that_are_not_finite_are_refused():
    points = features(20)
    points[:3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 3 of 20 rows"):
        find_neighbors(points, num_neighbors=3)


def test_releasing_pages_of_a_memory_map_keeps_its_values(tmp_path, monkeypatch):
    points = np.random.default_rng(0).normal(size=[3000, 64]).astype(np.float32)
    np.save(tmp_path / "x.npy", points)
    monkeypatch.setattr(neighbors, "RELEASE_INTERVAL", 0.0)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    indices = find_neighbors(mapped, backend="exact").indices
    np.testing.assert_array_equal(indices, find_neighbors(points, backend="exact").indices)
    np.testing.assert_array_equal(mapped, points)
