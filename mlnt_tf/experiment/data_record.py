"""The data of a run, recorded so that it is not resumed on other data.

A run is its data as well as its settings. For each image, data.npz holds digests of its record and
its content, and its label. The path of the data and modification times do not matter, so the same
data in another directory resume the run.
"""

import hashlib
import os
import pathlib

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.splits import record_text
from mlnt_tf.experiment import record
from mlnt_tf.files import artifacts

DATA_TABLE = "data.npz"
SPLITS = ("train", "validation", "test")
MAX_RECORDS = 2  # Records that a message names.


def describe_data(config, examples):
    """Returns the identity of a run's data.

    Args:
      config: a Config.
      examples: `Examples`.

    Returns:
      dict of arrays with one row per image, in the order of train, validation and test: "split"
      (position in SPLITS), "id", "label", "true_label", "record" and "content" (both digests). It
      also has "class_names", str [classes].
    """
    splits = [getattr(examples, name) for name in SPLITS]
    root = os.path.abspath(config.data_dir)
    if not os.path.isdir(root):
        root = os.path.dirname(root)  # --data_dir names a table.

    def column(values, dtype):
        return np.concatenate([np.asarray(values(split), dtype) for split in splits])

    return {
        "split": np.repeat(np.arange(len(splits), dtype=np.int8), [len(split) for split in splits]),
        "id": column(lambda split: split.ids, np.int64),
        "label": column(lambda split: split.labels, np.int32),
        "true_label": column(lambda split: split.true_labels, np.int32),
        "record": column(lambda split: [_record_digest(entry, root) for entry in split.records],
                         np.int64),
        "content": column(lambda split: split.images.digests() if split.digests is None
                          else split.digests, np.int64),
        "class_names": np.array(examples.class_names, str)}


def _record_digest(entry, root):
    """Returns a digest of a record. An absolute path counts relative to the directory of the data.

    The same data at another path then have the same records.
    """
    name = os.fsencode(entry if isinstance(entry, bytes) else str(entry))
    if os.path.isabs(name):
        name = os.path.relpath(name, os.fsencode(root))
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), signed=True)


def find_changes(old, new, records):
    """Returns how two results of `describe_data` differ: list of str, empty if they are the same.

    Args:
      old, new: dicts, see `describe_data`.
      records: list of str, the records of `new`.
    """
    changes = []
    if not np.array_equal(old["class_names"], new["class_names"]):
        changes.append(f"the classes are {', '.join(new['class_names'].tolist())}, not "
                       f"{', '.join(old['class_names'].tolist())}")
    missing = np.count_nonzero(~np.isin(old["record"], new["record"]))
    if missing:
        changes.append(f"{missing} images are missing")
    added = np.flatnonzero(~np.isin(new["record"], old["record"]))
    if len(added):
        changes.append(f"{len(added)} images are new{_examples(added, records)}")
    old_rows, new_rows = _common_rows(old, new)
    for key, text in (("label", "the labels of {} images differ"),
                      ("true_label", "the true labels of {} images differ"),
                      ("content", "the contents of {} images differ"),
                      ("split", "{} images are in another split"),
                      ("id", "the positions of {} images differ")):
        if changes and key in ("split", "id"):
            break  # Other changes cause these.
        different = new_rows[old[key][old_rows] != new[key][new_rows]]
        if len(different):
            changes.append(text.format(len(different)) + _examples(different, records))
    if not changes and len(old["record"]) != len(new["record"]):
        changes.append(f"there are {len(new['record'])} images instead of {len(old['record'])}")
    return changes


def _common_rows(old, new):
    """Returns the rows of the images that both have: (rows of old, rows of new).

    Of several images with the same record, the n-th matches the n-th.
    """
    keys = []
    for table in (old, new):
        order = np.lexsort((table["id"], table["record"]))
        ranked = table["record"][order]
        starts = np.append(True, ranked[1:] != ranked[:-1])
        rank = np.arange(len(ranked)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
        keys.append({key: row for key, row in zip(zip(ranked.tolist(), rank.tolist()),
                                                  order.tolist())})
    common = [key for key in keys[1] if key in keys[0]]
    return (np.array([keys[0][key] for key in common], int),
            np.array([keys[1][key] for key in common], int))


def _examples(rows, records):
    names = ", ".join(records[row] for row in sorted(rows)[:MAX_RECORDS])
    return f" (such as {names})" if names else ""


def check_data(config, examples):
    """Raises UserError if --output_dir holds a run on other data.

    Args:
      config: a Config.
      examples: `Examples`.
    """
    stored = _read(config)
    if stored is None:
        return
    records = [record_text(entry) for name in SPLITS for entry in getattr(examples, name).records]
    changes = find_changes(stored, describe_data(config, examples), records)
    if changes:
        raise UserError(f"--output_dir={config.output_dir} holds a run on other data: "
                        f"{'; '.join(changes)}. Restore the data to resume it, or train on these "
                        f"with --output_dir={_free_name(config.output_dir)}")


def _read(config):
    """Returns the recorded `describe_data`, or None if nothing usable has been recorded."""
    stored = artifacts.read(pathlib.Path(config.output_dir) / DATA_TABLE,
                            inputs=record.identity(config))
    return None if stored is None else stored[0]


def _free_name(output_dir):
    """Returns the path of a directory that does not exist yet: runs/pets_2, for example."""
    number = 2
    while os.path.exists(f"{output_dir}_{number}"):
        number += 1
    return f"{output_dir}_{number}"


def write_data(config, examples):
    """Records the data of the run in --output_dir, unless that has been done."""
    if _read(config) is None:
        artifacts.write(pathlib.Path(config.output_dir) / DATA_TABLE,
                        describe_data(config, examples), inputs=record.identity(config))
