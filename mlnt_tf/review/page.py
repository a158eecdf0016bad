"""Builds review.html: suspicious labels with their images, neighbors and verdict buttons."""

import base64
import csv
import dataclasses
import hashlib
import html
import importlib.resources
import json
import pathlib
import re
import shlex

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.files import artifacts, atomic
from mlnt_tf.review import similar, tables, thumbnails

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
SCRIPTS = ("csv.js", "store.js", "dom.js", "filters.js", "choose.js", "single.js", "grid.js",
           "overview.js", "main.js")
NUMBERS = ("label_score", "suggestion_score", "neighbor_agreement", "outlier_score",
           "probability_of_given")


@dataclasses.dataclass
class Rows:
    """Chosen rows of the table in the order of the page, and where their images are.

    Attributes:
      items: list of dict, rows of label_issues.csv.
      positions: list of int, the row of each item in records.csv.
      places: dict of int to int, the item at a row of records.csv.
    """

    items: list = dataclasses.field(default_factory=list)
    positions: list = dataclasses.field(default_factory=list)
    places: dict = dataclasses.field(default_factory=dict)

    def add(self, row, position):
        """Adds a row unless it is there. Returns its place on the page."""
        if position not in self.places:
            self.places[position] = len(self.items)
            self.items.append(row)
            self.positions.append(position)
        return self.places[position]


def write_review_page(directory, splits, class_names, *, top=TOP, class_name="", split="", audit=0,
                      seed=0):
    """Writes the page that shows the most suspicious labels, or a random sample of all labels.

    The directory holds label_issues.csv and records.csv. If they are there, the page also uses
    features.npy (neighbors, near duplicates), bad_images.csv and `label_noise` of
    label_noise.json or results.json.

    Args:
      directory: pathlib.Path or str, of a run or of `check --label_issues`.
      splits: dict of name to `Split`, in the order of records.csv and with its ids.
      class_names: tuple of str, in the order of the labels.
      top: int, the number of suspicious labels.
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
    ids = tables.read_ids(directory)
    _check_ids(directory, ids, splits)
    audit_ids = None
    if audit:
        audit_ids = tables.draw_audit(directory, audit, class_name=class_name, split=split,
                                      seed=seed)
    features = _open_features(directory, len(ids))
    exact, near = ([], []) if audit else _duplicates(splits, features)
    others = {int(ids[row]) for group in (*exact, *near) for row in group}
    chosen = tables.choose(directory, top=top, class_name=class_name, split=split,
                           audit_ids=audit_ids, others=others)
    if not chosen.suspects and not chosen.reviewed:
        raise UserError(f"{directory / tables.ISSUES_FILE} has no image with --class="
                        f"{class_name or 'any'} and --split={split or 'any'}. Choose others.")
    rows = Rows()
    lists = _lists(rows, chosen, exact, near, ids, audit=bool(audit))
    _check_records(directory, rows, splits)
    content = _content(directory, chosen, rows, lists, class_names, audit=bool(audit))
    content["compared"] = ("" if features is None or len(ids) <= similar.MAX_COMPARED else
                           f"the {len(rows.items)} images of this page with all others")
    neighbors = _add_neighbors(content, rows, ids, features, splits)
    text = _render(content, _encode(content, rows, neighbors, splits))
    path = directory / (AUDIT_FILE if audit else REVIEW_FILE)
    atomic.write_text(path, text)
    return path


def _check_ids(directory, ids, splits):
    """Raises UserError unless the splits are those that the tables describe."""
    expected = np.concatenate([split.ids for split in splits.values()])
    if not np.array_equal(ids, expected):
        raise UserError(f"{directory / tables.RECORDS_FILE} lists {len(ids)} images, but the data "
                        f"now have {len(expected)}, or others. Write the label issues again.")


def _check_records(directory, rows, splits):
    """Raises UserError unless the chosen images have the names that the table gives them."""
    start = 0
    for split in splits.values():
        for row, position in zip(rows.items, rows.positions):
            if start <= position < start + len(split):
                one = split.take(np.array([position - start])).record_names()[0]
                if one != row["record"]:
                    raise UserError(f"{directory / tables.ISSUES_FILE} has the record "
                                    f"{row['record']!r} where the data now have {one!r}. Write the "
                                    "label issues again.")
        start += len(split)


def _open_features(directory, count):
    """Returns features.npy as a memory map, or None if there is none or only one row."""
    path = directory / "features.npy"
    if not path.exists():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except artifacts.UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}). Write the label issues again.") from error
    if features.ndim != 2 or len(features) != count:
        raise UserError(f"{path} has shape {features.shape}, but {tables.RECORDS_FILE} has {count} "
                        "rows. Write the label issues again.")
    return features if count > 1 else None


def _duplicates(splits, features):
    """Returns the groups of equal images with different labels, and those of similar images."""
    exact = similar.conflicting_duplicates(splits)
    if features is None or len(features) > similar.MAX_COMPARED:
        return exact, []
    everything = np.arange(len(features))
    groups = similar.near_duplicates(everything, *similar.nearest_rows(features, everything, 1))
    known = set(map(tuple, exact))
    return exact, [group for group in groups if tuple(group) not in known]


def _lists(rows, chosen, exact, near, ids, *, audit):
    """Adds the images to `rows`. Returns the lists of the page, each with places of images."""
    position_of = {int(row_id): position for position, row_id in enumerate(ids)}

    def add(row):
        return rows.add(row, position_of[int(row["id"])])

    lists = [{"key": "suspects", "groups": None, "items": list(map(add, chosen.suspects))}]
    if audit:
        return lists
    for key, groups in (("duplicates", exact), ("near", near)):
        places, numbers = [], []
        # Groups with different labels come first: one of the labels must be wrong.
        labeled = [[chosen.by_id[int(ids[row])] for row in group] for group in groups
                   if all(int(ids[row]) in chosen.by_id for row in group)]
        labeled.sort(key=lambda group: len({row["given_class"] for row in group}) == 1)
        for number, group in enumerate(labeled, start=1):
            if len(places) + len(group) > MAX_LISTED:
                break
            places += map(add, group)
            numbers += [number] * len(group)
        lists.append({"key": key, "groups": numbers, "items": places, "total": len(labeled)})
    lists.append({"key": "outliers", "groups": None, "items": list(map(add, chosen.outliers))})
    return lists


def _content(directory, chosen, rows, lists, class_names, *, audit):
    """Returns the data of the page without the images, a dict that JSON can represent."""
    places = {name: place for place, name in enumerate(class_names)}
    noise = tables.read_label_noise(directory)
    matrix = noise.get("matrix")
    is_square = (isinstance(matrix, list) and len(matrix) == len(class_names)
                 and all(isinstance(row, list) and len(row) == len(matrix) for row in matrix))
    if not is_square or len(class_names) > MAX_CLASSES_OF_MATRIX:
        matrix = None
    file = "corrections_audit.csv" if audit else "corrections.csv"
    run = shlex.quote(str(directory))
    return {
        "run": directory.resolve().name, "digest": _digest(directory),
        "sample": "audit" if audit else "review", "file": file,
        "command": f"python -m mlnt_tf.relabel {run} --corrections={file} --output=labels.csv",
        "auditCommand": f"python -m mlnt_tf.review {run} --audit=100",
        "classes": list(class_names),
        "items": [_item(row, places) for row in rows.items], "lists": lists,
        "bad": _read_bad_images(directory), "nearDistance": similar.NEAR_DISTANCE,
        "reviewed": chosen.reviewed, "matching": chosen.matching, "total": chosen.total,
        "flagged": chosen.flagged,
        "perClass": [[name, *counts] for name, counts in chosen.per_class.items()],
        "noise": {"rate": _number(noise.get("estimated_rate")),
                  "interval": noise.get("interval"), "matrix": matrix}}


def _number(value):
    return round(float(value), 4) if isinstance(value, (int, float)) else None


def _digest(directory):
    """Returns the key of the progress that a browser stores: it depends on the given labels."""
    return artifacts.file_digest(directory / tables.RECORDS_FILE)


def _item(row, places):
    """Returns one image of the page. Classes are indices, and missing numbers are None."""
    item = {"id": int(row["id"]), "record": row["record"], "split": row["split"],
            "issue": tables.read_flag(row.get("is_label_issue"))}
    for key in ("given", "suggested", "predicted"):
        item[key] = places.get(row.get(f"{key}_class"))
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


def _add_neighbors(content, rows, ids, features, splits):
    """Adds the nearest neighbors to each item, as [row, given label, distance].

    Returns:
      list of int, the rows of the neighbors that are not items themselves, in order.
    """
    if features is None or not rows.items:
        return []
    labels = np.concatenate([split.labels for split in splits.values()])
    neighbors, distances = similar.nearest_rows(features, rows.positions)
    for item, found, far in zip(content["items"], neighbors.tolist(), distances.tolist()):
        item["neighbors"] = [[row, int(labels[row]), round(distance, 3)]
                             for row, distance in zip(found, far)]
    return sorted(set(neighbors.ravel().tolist()) - set(rows.places))


def _encode(content, rows, neighbors, splits):
    """Encodes the images. Replaces the rows in the content by indices of the images.

    Returns:
      list of str, data URIs.
    """
    count = max(len(rows.items), 1)
    taken = (len(json.dumps(content)) + sum(map(len, _parts().values()))
             + URI_BYTES * (thumbnails.NEIGHBOR_BYTES + 40) * len(neighbors))
    budget = PAGE_BYTES * max(1, count / TOP) - taken
    limit = int(min(max(budget / count / URI_BYTES - 40, MIN_IMAGE_BYTES), MAX_IMAGE_BYTES))
    side = min(int((limit / BYTES_PER_PIXEL) ** 0.5), MAX_SIDE)
    sides = dict.fromkeys(neighbors, thumbnails.NEIGHBOR_SIDE) | dict.fromkeys(rows.positions, side)
    limits = (dict.fromkeys(neighbors, thumbnails.NEIGHBOR_BYTES)
              | dict.fromkeys(rows.positions, limit))
    encoded, content["pixelated"] = thumbnails.encode_thumbnails(splits, sides, limits)
    index_of = {row: index for index, row in enumerate(encoded)}
    for item, position in zip(content["items"], rows.positions):
        item["image"] = index_of[position]
        for neighbor in item.get("neighbors", ()):
            neighbor[0] = index_of[neighbor[0]]
    return list(encoded.values())


def _parts():
    """Returns the page's own files: markup, style and script."""
    files = importlib.resources.files("mlnt_tf.review") / "assets"
    scripts = [(files / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return {"page": (files / "page.html").read_text(encoding="utf-8"),
            "style": (files / "page.css").read_text(encoding="utf-8"),
            "script": '"use strict";\n' + "".join(scripts)}


def _render(content, images):
    """Returns the text of the page.

    The policy in its head forbids every access to the network, and every script but its own.
    """
    parts = _parts()
    policy = ("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
              f"script-src {_hash(parts['script'])}; style-src {_hash(parts['style'])}")
    kind = "Audit" if content["sample"] == "audit" else "Review"
    values = {"policy": html.escape(policy), "title": html.escape(f"{kind} of {content['run']}"),
              "style": parts["style"], "script": parts["script"],
              "content": embedded_json(content), "images": embedded_json(images)}
    # One pass, so that braces in the data are never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], parts["page"])


def _hash(text):
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def embedded_json(value):
    """Returns JSON that can stand inside a script element: no `<`, `>` or `&`, and ASCII only."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
