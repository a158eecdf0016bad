"""Builds review.html: suspicious labels with their images, neighbors and verdict buttons."""

import dataclasses
import json
import os
import pathlib
import shlex

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.splits import record_text
from mlnt_tf.files import artifacts, atomic
from mlnt_tf.labels.noise_rate import CLEAN_FLAGGED
from mlnt_tf.review import render, similar, tables, thumbnails

REVIEW_FILE, AUDIT_FILE = "review.html", "audit.html"
TOP = 500
PAGE_BYTES = 4_900_000  # Of a page with up to TOP images. Longer pages grow in proportion.
MAX_IMAGE_BYTES = 24_000
MIN_IMAGE_BYTES = 1_500
URI_BYTES = 4 / 3  # Characters of base64 text per byte.
BYTES_PER_PIXEL = 0.1  # Of a photograph that is compressed with medium quality.
MAX_SIDE = 512
MAX_LISTED = 120  # Images in each list of duplicates.
MAX_CLASSES_OF_MATRIX = 40
NUMBERS = ("label_score", "suggestion_score", "neighbor_agreement", "outlier_score",
           "probability_of_given")


@dataclasses.dataclass(frozen=True)
class Records:
    """The n images of records.csv, and where they are in the splits.

    Attributes:
      ids: int64 [n], unique.
      labels: int64 [n], given labels.
      places: int64 [n], rows of the concatenated splits.
      splits: dict of name to `Split`.
    """

    ids: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    splits: dict

    def digests(self):
        """Returns digests of the images, list of int [n], None for images in shards."""
        found = []
        for split in self.splits.values():
            digests = split.digests
            if digests is None and split.images.nbytes:
                digests = split.images.digests()
            found += [None] * len(split) if digests is None else digests.tolist()
        return [found[place] for place in self.places]


@dataclasses.dataclass
class Rows:
    """Chosen rows of the table in the order of the page, and where their images are.

    Attributes:
      items: list of dict, rows of label_issues.csv.
      positions: list of int, the row of each item in records.csv.
      indices: dict of int to int, the item at a row of records.csv.
    """

    items: list = dataclasses.field(default_factory=list)
    positions: list = dataclasses.field(default_factory=list)
    indices: dict = dataclasses.field(default_factory=dict)

    def add(self, row, position):
        """Adds a row unless it is there. Returns its index on the page."""
        if position not in self.indices:
            self.indices[position] = len(self.items)
            self.items.append(row)
            self.positions.append(position)
        return self.indices[position]


def write_review_page(directory, splits, class_names, *, top=TOP, class_name="", split="", audit=0,
                      seed=0):
    """Writes the page that shows the most suspicious labels, or a random sample of all labels.

    The directory holds label_issues.csv and records.csv. If they are there, the page also uses
    features.npy (neighbors, near duplicates), bad_images.csv and `label_noise` of
    label_noise.json or results.json.

    Args:
      directory: pathlib.Path or str, of a run or of `check --label_issues`.
      splits: dict of name to `Split`, with ids that are unique over all splits. They provide the
        images of records.csv, whose order and division into splits may differ.
      class_names: tuple of str, in the order of the labels.
      top: int, the largest number of suspicious labels: first those that are worth a look, then
        those with the lowest scores.
      class_name: str, show only images whose given or suggested label this is.
      split: str, show only images of this split.
      audit: int, the size of the random sample. 0 shows the most suspicious labels instead.
      seed: int, the seed of the random sample.

    Returns:
      pathlib.Path of review.html, or of audit.html for a random sample.

    Raises:
      UserError: a file cannot be read, or does not fit the data.
      OSError: the page cannot be written.
    """
    directory = pathlib.Path(directory)
    records = _locate(directory, splits)
    audit_ids = None
    if audit:
        audit_ids = tables.draw_audit(directory, audit, class_name=class_name, split=split,
                                      seed=seed)
    features = _open_features(directory, len(records.ids))
    exact, near = ([], []) if audit else _duplicates(records, features)
    others = {int(records.ids[row]) for group in (*exact, *near) for row in group}
    chosen = tables.choose(directory, top=top, class_name=class_name, split=split,
                           audit_ids=audit_ids, others=others)
    if not chosen.suspects and not chosen.reviewed:
        raise UserError(f"{directory / tables.ISSUES_FILE} has no image with --class="
                        f"{class_name or 'any'} and --split={split or 'any'}. Choose others.")
    rows = Rows()
    lists = _lists(rows, chosen, exact, near, records, audit=bool(audit))
    _check_records(directory, rows, records)
    content = _content(directory, chosen, rows, lists, class_names, audit=bool(audit))
    neighbors = _add_neighbors(content, rows, records, features)
    text = render.render(content, _encode(content, rows, neighbors, records))
    path = directory / (AUDIT_FILE if audit else REVIEW_FILE)
    atomic.write_text(path, text)
    return path


def _locate(directory, splits):
    """Returns the `Records` of a directory. Raises UserError unless the splits have all of them."""
    ids, labels = tables.read_records(directory)
    present = np.concatenate([split.ids for split in splits.values()])
    order = np.argsort(present, kind="stable")
    found = np.searchsorted(present, ids, sorter=order)
    places = order[np.minimum(found, len(order) - 1)]
    if not len(ids) or (present[places] != ids).any():
        raise UserError(f"{directory / tables.RECORDS_FILE} lists {len(ids)} images, but the data "
                        f"now have {len(present)}, or others. Write the label issues again.")
    return Records(ids=ids, labels=labels, places=places, splits=splits)


def _check_records(directory, rows, records):
    """Raises UserError unless the chosen images have the names that the table gives them."""
    names = np.concatenate([split.records for split in records.splits.values()])
    for row, position in zip(rows.items, rows.positions):
        present = record_text(names[records.places[position]])
        present = present.encode("utf-8", "backslashreplace").decode()  # As tables are written.
        if present != row["record"]:
            raise UserError(f"{directory / tables.ISSUES_FILE} has the record {row['record']!r} "
                            f"where the data now have {present!r}. Write the label issues again.")


def _open_features(directory, count):
    """Returns features.npy as a memory map, or None if there is none or only one row."""
    path = directory / "features.npy"
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except artifacts.UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}). Write the label issues "
                        "again.") from error
    if features.ndim != 2 or len(features) != count:
        raise UserError(f"{path} has shape {features.shape}, but {tables.RECORDS_FILE} has {count} "
                        "rows. Write the label issues again.")
    return features if count > 1 else None


def _duplicates(records, features):
    """Returns the groups of equal images with different labels, and those of similar images."""
    exact = similar.conflicting_duplicates(records.digests(), records.labels)
    if features is None or len(features) > similar.MAX_COMPARED:
        return exact, []
    everything = np.arange(len(features))
    groups = similar.near_duplicates(everything, *similar.nearest_rows(features, everything, 1))
    known = set(map(tuple, exact))
    return exact, [group for group in groups if tuple(group) not in known]


def _lists(rows, chosen, exact, near, records, *, audit):
    """Adds the images to `rows`. Returns the lists of the page, each with indices of items."""
    position_of = {row_id: position for position, row_id in enumerate(records.ids.tolist())}

    def add(row):
        return rows.add(row, position_of[int(row["id"])])

    lists = [{"key": "suspects", "groups": None, "items": list(map(add, chosen.suspects))}]
    if audit:
        return lists
    for key, groups in (("duplicates", exact), ("near", near)):
        indices, numbers = [], []
        # Groups with different labels come first: one of the labels must be wrong.
        labeled = [[chosen.by_id[int(records.ids[row])] for row in group]
                   for group in groups]
        labeled.sort(key=lambda group: len({row["given_class"] for row in group}) == 1)
        for number, group in enumerate(labeled, start=1):
            if len(indices) + len(group) > MAX_LISTED:
                break
            indices += map(add, group)
            numbers += [number] * len(group)
        lists.append({"key": key, "groups": numbers, "items": indices})
    lists.append({"key": "outliers", "groups": None, "items": list(map(add, chosen.outliers))})
    return lists


def _content(directory, chosen, rows, lists, class_names, *, audit):
    """Returns the data of the page without the images, a dict that JSON can represent."""
    label_of = {name: label for label, name in enumerate(class_names)}
    noise = tables.read_label_noise(directory)
    file = "corrections_audit.csv" if audit else "corrections.csv"
    run = shlex.quote(str(directory))
    return {
        "run": record_text(os.fsencode(directory.resolve().name)), "digest": _digest(directory),
        "sample": "audit" if audit else "review", "file": file,
        "command": f"python -m mlnt_tf.relabel {run} --corrections={file} --output=labels.csv",
        "auditCommand": f"python -m mlnt_tf.review {run} --audit=100",
        "classes": list(class_names),
        "items": [_item(row, label_of) for row in rows.items], "lists": lists,
        "bad": _read_bad_images(directory), "nearDistance": similar.NEAR_DISTANCE,
        "reviewed": chosen.reviewed, "matching": chosen.matching, "total": chosen.total,
        "flagged": chosen.flagged, "cleanFlagged": CLEAN_FLAGGED,
        "perClass": [[name, *counts] for name, counts in chosen.per_class.items()],
        "noise": {
            "rate": noise.get("estimated_rate"), "interval": noise.get("interval"),
            "perClass": noise.get("per_class") or {}, "pairs": noise.get("confused_pairs") or [],
            "matrix": noise.get("matrix") if len(class_names) <= MAX_CLASSES_OF_MATRIX else None}}


def _digest(directory):
    """Returns the key of the progress that a browser stores: it depends on the given labels."""
    return artifacts.file_digest(directory / tables.RECORDS_FILE)


def _item(row, label_of):
    """Returns one image of the page. Classes are indices, and missing numbers are None.

    Every row of the table has a suggested class, which is the best alternative to the given one. It
    is advice only if the label is worth a look and the given class is not the predicted one.
    """
    item = {"id": int(row["id"]), "record": row["record"], "split": row["split"],
            "issue": tables.read_flag(row.get("is_label_issue"))}
    for key in ("given", "suggested", "predicted"):
        item[key] = label_of.get(row.get(f"{key}_class"))
    if not item["issue"] or item["predicted"] == item["given"]:
        item["suggested"] = None
    for name in NUMBERS:
        if row.get(name):
            item[name] = tables.read_number(row[name])
    if row.get("filter_kept"):
        item["filter_kept"] = tables.read_flag(row["filter_kept"])
    if row.get("true_label"):
        item["true"] = int(float(row["true_label"]))
    return item


def _read_bad_images(directory):
    path = directory / "bad_images.csv"
    if not path.exists():
        return []
    return [[row.get("record", ""), row.get("reason", "")] for row in tables.read_table(path)]


def _add_neighbors(content, rows, records, features):
    """Adds the nearest neighbors to each item, as [row, given label, distance].

    Returns:
      list of int, the rows of the neighbors that are not items themselves, in order.
    """
    if features is None or not rows.items:
        return []
    neighbors, distances = similar.nearest_rows(features, rows.positions)
    for item, found, far in zip(content["items"], neighbors.tolist(), distances.tolist()):
        item["neighbors"] = [[row, int(records.labels[row]), round(distance, 3)]
                             for row, distance in zip(found, far)]
    return sorted(set(neighbors.ravel().tolist()) - set(rows.indices))


def _encode(content, rows, neighbors, records):
    """Encodes the images. Replaces the rows in the content by indices of the images.

    Returns:
      list of str, data URIs.
    """
    count = max(len(rows.items), 1)
    taken = (len(json.dumps(content)) + sum(map(len, render.read_assets().values()))
             + URI_BYTES * (thumbnails.NEIGHBOR_BYTES + 40) * len(neighbors))
    budget = PAGE_BYTES * max(1, count / TOP) - taken
    limit = int(min(max(budget / count / URI_BYTES - 40, MIN_IMAGE_BYTES), MAX_IMAGE_BYTES))
    side = min(int((limit / BYTES_PER_PIXEL) ** 0.5), MAX_SIDE)
    place_of = {row: int(records.places[row]) for row in (*rows.positions, *neighbors)}
    sides, limits = {}, {}
    for wanted, pixels, size in ((rows.positions, side, limit), (
            neighbors, thumbnails.NEIGHBOR_SIDE, thumbnails.NEIGHBOR_BYTES)):
        sides |= {place_of[row]: pixels for row in wanted}
        limits |= {place_of[row]: size for row in wanted}
    encoded, content["pixelated"] = thumbnails.encode_thumbnails(records.splits, sides, limits)
    index_of_place = {place: index for index, place in enumerate(encoded)}
    index_of = {row: index_of_place[place] for row, place in place_of.items()}
    for item, position in zip(content["items"], rows.positions):
        item["image"] = index_of[position]
        for neighbor in item.get("neighbors", ()):
            neighbor[0] = index_of[neighbor[0]]
    return list(encoded.values())
