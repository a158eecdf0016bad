"""Clothing1M (Xiao et al. 2015): as it is released, or as the shards that `python -m mlnt_tf.prepare` makes of it."""

import pathlib

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.listing import Listing, data_directory, read_class_names, build_source
from mlnt_tf.data.sources.tfds_sets import prepared_builder, source_from_builder

NAMES, NOISY, CLEAN = "category_names_eng.txt", "noisy_label_kv.txt", "clean_label_kv.txt"
# Split: its key list, and the labels it is trained or scored with.
LISTS = {"train": ("noisy_train_key_list.txt", NOISY), "clean_train": ("clean_train_key_list.txt", CLEAN),
         "validation": ("clean_val_key_list.txt", CLEAN), "test": ("clean_test_key_list.txt", CLEAN)}


def load_clothing1m(config):
    """--dataset=clothing1m: noisy train, clean validation and test; --use_clean_train adds the clean training list."""
    added = ("clean_train",) if config.use_clean_train else ()
    root = pathlib.Path(config.data_dir)
    if (root / LISTS["train"][0]).exists() or not (root / "clothing1m").exists():
        class_names, listings = read_release(data_directory(config), "--data_dir")
        extra = listings.pop("clean_train")
        if added:
            listings["train"] = Listing(*(np.concatenate([getattr(listing, name) for listing in
                                                                (listings["train"], extra)])
                                                for name in ("paths", "labels", "true_labels")))
        return build_source(config, root.resolve(), class_names, listings)
    return source_from_builder(prepared_builder("clothing1m", config, title="prepared Clothing1M"), config,
                             true_label="true_label", record="key", added_to_train=added)


def read_release(root, flag):
    """The lists of the released tree: (class names, {split: Listing}).

    Args:
      root: a directory.
      flag: that named it, for errors.

    Raises:
      UserError: a list is missing or broken, a key has no label, or a label is out of range.
    """
    missing = [name for name in (NAMES, NOISY, CLEAN, *(keys for keys, _ in LISTS.values()))
               if not (root / name).is_file()]
    if missing:
        raise UserError(f"{flag}={root} lacks {', '.join(missing)}: Clothing1M as released has these lists beside its "
                        "images.")
    class_names = read_class_names(root / NAMES, flag=flag)
    labels = {name: read_labels(root / name, len(class_names), flag) for name in (NOISY, CLEAN)}
    listings = {}
    for split, (keys, table) in LISTS.items():
        rows, listed = [], {}
        for line, key in enumerate(read_lines(root / keys, flag), start=1):
            if listed.setdefault(key, line) != line:
                raise UserError(f"{flag}={root}: {keys}, line {line}: {key} is in line {listed[key]} already; remove one.")
            if key not in labels[table]:
                raise UserError(f"{flag}={root}: {keys}, line {line}: {key} has no label in {table}.")
            rows.append((key, labels[table][key], labels[CLEAN].get(key, -1)))
        if not rows:
            raise UserError(f"{flag}={root}: {keys} is empty.")
        listings[split] = Listing.of(rows)
    return class_names, listings


def read_labels(path, num_classes, flag):
    """{key: label} of a file of "key label" lines."""
    labels = {}
    for number, line in enumerate(read_lines(path, flag), start=1):
        key, _, label = line.rpartition(" ")
        if not key or not label.isdecimal():
            raise UserError(f"{flag}={path.parent}: {path.name}, line {number} is not a path and a label: {line!r}.")
        if int(label) >= num_classes:
            raise UserError(f"{flag}={path.parent}: {path.name}, line {number}: the label {label} is out of range: "
                            f"{NAMES} has {num_classes} classes, 0 to {num_classes - 1}.")
        labels[key] = int(label)
    return labels


def read_lines(path, flag):
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path.parent}: {path.name} cannot be read ({error}).") from error
