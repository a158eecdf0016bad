"""--dataset=clothing1m: Clothing1M (Xiao et al. 2015).

It is read as released, or from the shards that `python -m mlnt_tf.prepare` makes of the release.
"""

import pathlib

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.class_names import read_class_names
from mlnt_tf.data.sources.listing import Listing, build_source, data_directory
from mlnt_tf.data.sources.tfds_sets import prepared_builder, source_from_builder

CLASS_NAMES = "category_names_eng.txt"
NOISY_LABELS = "noisy_label_kv.txt"
CLEAN_LABELS = "clean_label_kv.txt"
# {split: (file with its keys, file with its labels)}. A key is the path of an image.
LISTS = {"train": ("noisy_train_key_list.txt", NOISY_LABELS),
         "clean_train": ("clean_train_key_list.txt", CLEAN_LABELS),
         "validation": ("clean_val_key_list.txt", CLEAN_LABELS),
         "test": ("clean_test_key_list.txt", CLEAN_LABELS)}


def load_clothing1m(config):
    """Returns the `Source` of Clothing1M: noisy training, clean validation and clean test labels.

    --use_clean_train adds the clean training list to the training split.

    Raises:
      UserError: --data_dir holds neither the release nor the prepared shards, or they are damaged.
    """
    root = pathlib.Path(config.data_dir)
    is_released = (root / LISTS["train"][0]).exists()
    if (root / "clothing1m").exists() and not is_released:
        builder = prepared_builder("clothing1m", config, title="prepared Clothing1M")
        added_to_train = ("clean_train",) if config.use_clean_train else ()
        return source_from_builder(builder, config, true_label="true_label", record="key",
                                   added_to_train=added_to_train)
    class_names, listings = read_release(data_directory(config), "--data_dir")
    clean_train = listings.pop("clean_train")
    if config.use_clean_train:
        listings["train"] = listings["train"].concatenate(clean_train)
    return build_source(config, root.resolve(), class_names, listings)


def read_release(root, flag):
    """Reads the lists of the release. Does not read the images.

    Args:
      root: pathlib.Path, the directory of the release.
      flag: str, the flag that names the directory, for errors.

    Returns:
      (tuple of class names, dict of split to `Listing`). The splits are the keys of LISTS.

    Raises:
      UserError: a list is missing or damaged, a key has no label, or a label is out of range.
    """
    key_lists = [keys for keys, _ in LISTS.values()]
    missing = [name for name in (CLASS_NAMES, NOISY_LABELS, CLEAN_LABELS, *key_lists)
               if not (root / name).is_file()]
    if missing:
        raise UserError(f"{flag}={root} lacks {', '.join(missing)}. Copy all lists of the released "
                        "Clothing1M there, next to its images.")
    class_names = read_class_names(root / CLASS_NAMES, flag=flag).names
    labels = {name: _read_labels(root / name, len(class_names), flag)
              for name in (NOISY_LABELS, CLEAN_LABELS)}
    return class_names, {split: _read_listing(root, split, labels, flag) for split in LISTS}


def _read_listing(root, split, labels, flag):
    """Returns the `Listing` of a split. `labels` is {name of the label file: {key: label}}."""
    keys, table = LISTS[split]
    rows, line_of_key = [], {}
    for line, key in enumerate(_read_lines(root / keys, flag), start=1):
        if key in line_of_key:
            raise UserError(f"{flag}={root}: {keys}, line {line} repeats {key} of line "
                            f"{line_of_key[key]}. Remove one of them.")
        if key not in labels[table]:
            raise UserError(f"{flag}={root}: {keys}, line {line}: {key} has no label in {table}. "
                            "Add its label, or remove the line.")
        line_of_key[key] = line
        rows.append((key, labels[table][key], labels[CLEAN_LABELS].get(key, -1)))
    if not rows:
        raise UserError(f"{flag}={root}: {keys} is empty. Copy it from the release again.")
    return Listing.from_rows(rows)


def _read_labels(path, num_classes, flag):
    """Returns {key: label} of a file with one key and one label per line."""
    labels = {}
    for number, line in enumerate(_read_lines(path, flag), start=1):
        place = f"{flag}={path.parent}: {path.name}, line {number}"
        key, _, label = line.rpartition(" ")
        if not key or not label.isdecimal():
            raise UserError(f"{place} is not a path and a label: {line!r}. Correct the line.")
        if int(label) >= num_classes:
            raise UserError(f"{place} has the label {label}, which is out of range: {CLASS_NAMES} "
                            f"has {num_classes} classes, 0 to {num_classes - 1}. Correct the line.")
        labels[key] = int(label)
    return labels


def _read_lines(path, flag):
    """Returns the lines of a text file, without white space at the ends and without empty lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path.parent}: {path.name} cannot be read ({error}). Copy it from "
                        "the release again.") from error
    return [line.strip() for line in lines if line.strip()]
