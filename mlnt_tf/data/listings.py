"""A user's own images: a folder with a directory for each class, or a table of paths and labels."""

import csv
import dataclasses
import os
import pathlib
import re

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images import FileImages, in_memory
from mlnt_tf.data.inspection import check_bad_images, inspect
from mlnt_tf.data.splits import TEST_SALT, Source, Split, hold_out

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
               "validation": "validation", "test": "test", "testing": "test"}


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files of one split: `paths` bytes [n], relative to the root; `labels`, `true_labels` int32 [n], -1 where
    unknown."""

    paths: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray

    @classmethod
    def of(cls, rows):
        """From (path, label, true label) rows."""
        paths, labels, true_labels = zip(*rows)
        return cls(np.array([os.fsencode(path) for path in paths]), np.array(labels, np.int32),
                   np.array(true_labels, np.int32))


def load_folder(config):
    """--dataset=folder: DIR/CLASS/…/image, or DIR/{train,val,test}/CLASS/…/image; classes in the order of their names."""
    root = directory_of(config)
    subdirectories = {entry: SPLIT_NAMES.get(entry.lower()) for entry in sorted(os.listdir(root))
                      if os.path.isdir(root / entry)}
    has_splits = any(name == "train" and any(entry.is_dir() for entry in os.scandir(root / directory))
                     for directory, name in subdirectories.items())  # not so where a class is called train
    trees = {name: entry for entry, name in subdirectories.items() if name} if has_splits else {"train": ""}
    twins = [entry for entry, name in subdirectories.items() if has_splits and name and trees[name] != entry]
    if twins:
        raise UserError(f"--data_dir={root} holds {trees[SPLIT_NAMES[twins[0].lower()]]} and {twins[0]}, one split under "
                        "two names: put them together in one directory.")
    classes = sorted({entry for tree in trees.values() for entry in os.listdir(root / tree)
                      if os.path.isdir(root / tree / entry) and not entry.startswith(".")})
    if len(classes) < 2:
        raise UserError(f"--data_dir={root}: found {len(classes)} class directories; lay the images out as "
                        "DIR/CLASS/image.jpg or DIR/train/CLASS/image.jpg, two classes at least.")
    listings = {}
    for name, tree in trees.items():
        try:
            rows = [(path, label, -1) for label, directory in enumerate(classes)
                    for path in image_files(root, os.path.join(tree, directory))]
        except OSError as error:
            raise UserError(f"--data_dir={root}: {error.filename} cannot be read ({error.strerror}): make it readable, "
                            "or move it away.") from error
        if rows:
            listings[name] = Listing.of(rows)
    return source_of_files(config, root, tuple(classes), listings)


def image_files(root, directory):
    """Paths, relative to the root, of the image files under a directory, sorted; each directory is entered once,
    however many links lead there."""
    found, waiting, entered = [], [directory], set()
    while waiting:
        current = waiting.pop()
        status = os.stat(root / current) if os.path.isdir(root / current) else None
        if status is None or (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(root / current), key=lambda entry: entry.name):
            path = os.path.join(current, entry.name)
            try:
                is_directory = entry.is_dir()
            except OSError:  # a link to itself
                continue
            if is_directory:
                waiting.append(path)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                found.append(path)
    return sorted(found)


def load_csv(config):
    """--dataset=csv: --data_dir names the table; paths count from its directory."""
    table = pathlib.Path(config.data_dir)
    names = [name.strip() for name in config.csv_columns.split(",")]
    if not config.data_dir or not table.is_file():
        raise UserError(f"--data_dir={config.data_dir} is no file: --dataset=csv takes a table of paths and labels.")
    if len(names) != 4:
        raise UserError(f"--csv_columns={config.csv_columns} must name four columns, of path, label, split and true "
                        "label; the last two need not be in the table.")
    path_column, label_column, split_column, true_column = names
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for column in (path_column, label_column):
                if column not in header:
                    raise UserError(f"--data_dir={table} has no column {column!r}, its header is {', '.join(header)!r}: "
                                    "name the columns of path, label, split and true label in --csv_columns.")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--data_dir={table} cannot be read ({error}): write a table in UTF-8.") from error
    if not rows:
        raise UserError(f"--data_dir={table} has no rows below its header.")

    def cell(row, column):
        return (row.get(column) or "").strip()

    for line, row in rows:
        if None in row:
            raise UserError(f"--data_dir={table}, line {line}: more cells than columns: quote a path that holds a comma.")
        if not cell(row, path_column) or not cell(row, label_column):
            raise UserError(f"--data_dir={table}, line {line}: the path or the label is empty.")
    class_names = read_class_names(config.class_names) if config.class_names else None
    number_of = label_numbers(table, [(line, cell(row, column)) for column in (label_column, true_column)
                                      for line, row in rows if cell(row, column)], class_names)
    listed, root = {}, table.parent.resolve()
    for line, row in rows:
        split = cell(row, split_column).lower()
        if split and split not in SPLIT_NAMES:
            raise UserError(f"--data_dir={table}, line {line}: the split {split!r} is not known: write one of "
                            f"{', '.join(SPLIT_NAMES)}, or nothing for train.")
        true = cell(row, true_column)
        path = cell(row, path_column)
        path = os.path.relpath(path, root) if os.path.isabs(path) else path
        listed.setdefault(SPLIT_NAMES.get(split, "train"), []).append(
            (path, number_of[cell(row, label_column)], number_of[true] if true else -1))
    text_of = {number: text for text, number in number_of.items()}
    names = class_names or tuple(text_of[number] for number in sorted(text_of))
    return source_of_files(config, root, names, {name: Listing.of(rows) for name, rows in listed.items()})


def label_numbers(table, cells, class_names):
    """{text of a label: its number} of (line, text) cells, by name or by number.

    Raises:
      UserError: a name or number beyond the classes, numbers with a gap.
    """
    texts = {text: line for line, text in reversed(cells)}
    if class_names and set(texts) <= set(class_names):
        return {text: class_names.index(text) for text in texts}
    if not all(re.fullmatch(r"-?\d+", text) for text in texts):
        if class_names:
            text = next(text for text in texts if text not in class_names)
            raise UserError(f"--data_dir={table}, line {texts[text]}: the label {text!r} is not among the "
                            f"{len(class_names)} names of --class_names.")
        return {text: number for number, text in enumerate(sorted(texts))}
    numbers = {text: int(text) for text in texts}
    count = len(class_names) if class_names else len(set(numbers.values()))
    for text, number in numbers.items():
        if not 0 <= number < count:
            raise UserError(f"--data_dir={table}, line {texts[text]}: the label {text} is out of range: {count} classes "
                            f"have the numbers 0 to {count - 1}; mend it, or name the classes in --class_names=FILE.")
    return numbers


def read_class_names(path, flag="--class_names"):
    """The lines of a file that a flag names."""
    try:
        names = tuple(line.strip() for line in pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
                      if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path} cannot be read ({error}): name a text file, a class a line.") from error
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"{flag}={path} must name two classes at least, each once.")
    return names


def directory_of(config):
    root = pathlib.Path(config.data_dir)
    if not config.data_dir or not root.is_dir():
        raise UserError(f"--data_dir={config.data_dir} is no directory: --dataset={config.dataset} needs one" + (
            ", DIR/CLASS/image or DIR/train/CLASS/image." if config.dataset == "folder" else "."))
    return root.resolve()


def source_of_files(config, root, class_names, listings):
    """A Source of {"train", "validation", "test": Listing}, bad images left out; what is missing is drawn from train.

    The test split is drawn the same for every seed.

    Raises:
      UserError: no training images, too many bad ones, or sizes that differ and no --image_size.
    """
    if len(class_names) < 2:
        raise UserError(f"--data_dir={config.data_dir}: all images are of one class: two are needed.")
    if "train" not in listings:
        raise UserError(f"--data_dir={config.data_dir}: there are no training images.")
    paths = np.concatenate([listing.paths for listing in listings.values()])
    everything = FileImages(paths, root=str(root), size=(1, 1))
    inspection = inspect(everything)
    bad = inspection.bad_images(everything)
    check_bad_images(bad, len(paths), config.max_bad_images)
    size = common_size(config, inspection.sizes[inspection.good])
    splits, start = {}, 0
    for name, listing in listings.items():
        rows = np.flatnonzero(inspection.good[start:start + len(listing.paths)])
        if not len(rows):
            raise UserError(f"--data_dir={config.data_dir}: none of the {name} images decodes.")
        images = FileImages(listing.paths[rows], root=str(root), size=size)
        splits[name] = Split(ids=rows, labels=listing.labels[rows], images=in_memory(images), records=images.paths,
                             true_labels=listing.true_labels[rows], digests=inspection.digests[start + rows])
        start += len(listing.paths)
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(splits["train"], fraction=config.test_fraction, seed=0,
                                                   salt=TEST_SALT)
        logging.info("no test split: %d of the training examples are set apart, the same for every seed",
                     len(splits["test"]))
    return Source(class_names, **splits, bad_images=tuple(bad), sizes=inspection.sizes[inspection.good])


def common_size(config, sizes):
    """(height, width) to store the images in: --image_size, or what all of them have."""
    if config.resized:
        return config.resized
    if not len(sizes):
        raise UserError(f"--data_dir={config.data_dir}: none of the images decodes.")
    least, most = sizes.min(axis=0), sizes.max(axis=0)
    if (least != most).any():
        raise UserError(f"the images differ in size, from {least[0]} x {least[1]} to {most[0]} x {most[1]} (height x "
                        "width): give one in --image_size, as --image_size=64.")
    return int(least[0]), int(least[1])
