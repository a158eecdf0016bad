"""--dataset=folder: a directory of images for each class."""

import collections
import os
import pathlib
import stat

from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.class_names import format_some, read_class_names, resolve_labels
from mlnt_tf.data.sources.find_files import SUFFIXES
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, build_source, data_directory

# Directories that operating systems and tools leave behind, in lower case. Hidden ones are too.
IGNORED = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information",
           "__pycache__"}
# A directory with one of these pairs of files is the output of this package.
RUN_FILES = ({"flags.txt", "lock"}, {"flags.txt", "data.json"}, {"label_issues.csv", "records.csv"})


def load_folder(config):
    """Returns the `Source` of a directory tree of images.

    The tree is DIR/CLASS/…/image or DIR/{train,val,test}/CLASS/…/image. Classes are in the order of
    their names, or of those in --class_names.

    Raises:
      UserError: the tree has another layout or cannot be read; see also `build_source`.
    """
    return build_source(config, *list_folder(config))


def list_folder(config):
    """Lists the image files of a directory tree, without reading them. Logs what it leaves out.

    Returns:
      (root, class names, listings), the arguments of `build_source`.

    Raises:
      UserError: the tree has another layout or cannot be read.
    """
    root = data_directory(config)
    walk = _Walk(root, pathlib.Path(config.output_dir).resolve())
    directories = _split_directories(walk)
    images = {}
    try:
        for split, directory in directories.items():
            for name in walk.subdirectories(directory):
                images[split, name] = walk.image_files(os.path.join(directory, name))
            walk.note_loose_files(directory)
    except OSError as error:
        raise UserError(f"--data_dir={root}: {error.filename} cannot be read ({error.strerror}). "
                        "Make it readable, or move it elsewhere.") from error
    names = sorted({name for _, name in images})
    found = [name for name in names if any(images.get((split, name)) for split in directories)]
    walk.note_empty([name for name in names if name not in found])
    walk.report()
    if len(names) < 2:
        raise UserError(f"--data_dir={root} has {len(names)} class directories, but training "
                        f"needs at least two. {_advise_layout(walk, names)}")
    class_names, labels = _label_directories(config, root, found)
    listings = {}
    for split in directories:
        rows = [(path, labels[name], -1) for name in sorted(found, key=labels.get)
                for path in images.get((split, name), ())]
        if rows:
            listings[split] = Listing.from_rows(rows)
    return root, class_names, listings


def _label_directories(config, root, names):
    """Returns (class names, {directory: label}), by --class_names if it is given."""
    if not config.class_names:
        return tuple(names), {name: label for label, name in enumerate(names)}
    classes = read_class_names(config.class_names)
    class_names, labels = resolve_labels(
        {"directory": names}, classes, lambda column, name: f"--data_dir={root}: directory {name}")
    return class_names, labels["directory"]


def _advise_layout(walk, names):
    """Returns the fix for a tree without two class directories."""
    if names and len(walk.subdirectories(names[0])) > 1:
        return f"Did you mean --data_dir={walk.root / names[0]}?"
    return "Arrange the images as DIR/CLASS/image.jpg or DIR/train/CLASS/image.jpg."


def _split_directories(walk):
    """Returns {split: name of its directory}, or {"train": ""} if there are only classes.

    Raises:
      UserError: one split has two directories, such as val and valid.
    """
    entries = walk.subdirectories("")
    names = {entry: SPLIT_NAMES[entry.lower()] for entry in entries if entry.lower() in SPLIT_NAMES}
    # A class may be called "train". Unlike a split, its directory has no subdirectories.
    if not any(split == "train" and walk.subdirectories(entry)
               for entry, split in names.items()):
        return {"train": ""}
    directories = {}
    for entry, split in names.items():
        if split in directories:
            raise UserError(f"--data_dir={walk.root} holds {directories[split]} and {entry}, which "
                            f"are both names of the {split} split. Move the images into one of "
                            "them.")
        directories[split] = entry
    unused = [entry for entry in entries if entry not in names]
    if unused:
        logging.warning("--data_dir=%s: %s next to %s is not used, because it is no name of a "
                        "split. Splits are called %s.", walk.root, format_some(unused),
                        directories["train"], ", ".join(SPLIT_NAMES))
    return directories


class _Walk:
    """Lists images below a directory, and remembers what is left out.

    Args:
      root: pathlib.Path, absolute. Other paths are relative to it.
      output_dir: pathlib.Path, absolute, a directory to leave out.
    """

    def __init__(self, root, output_dir):
        self.root, self.output_dir = root, output_dir
        self.suffixes = collections.Counter()
        self.directories, self.runs, self.specials, self.loose = [], [], [], []
        self.empty = []

    def subdirectories(self, directory):
        """Returns the names of the subdirectories that are not ignored, sorted."""
        return sorted(entry for entry in os.listdir(self.root / directory)
                      if os.path.isdir(self.root / directory / entry)
                      and not self._is_ignored(os.path.join(directory, entry)))

    def _is_ignored(self, directory):
        """Returns whether a directory belongs to a tool or to a run."""
        name = os.path.basename(directory)
        path = self.root / directory
        if name.startswith(".") or name.lower() in IGNORED:
            kind = self.directories
        elif path == self.output_dir or any(
                all((path / file).exists() for file in files) for files in RUN_FILES):
            kind = self.runs
        else:
            return False
        if directory not in kind:
            kind.append(directory)
        return True

    def image_files(self, directory):
        """Returns the paths of the image files under a directory, sorted.

        A directory that several links lead to is listed once, so a loop of links ends.
        """
        paths, pending, visited = [], [directory], set()
        while pending:
            current = pending.pop()
            if not os.path.isdir(self.root / current):
                continue
            status = os.stat(self.root / current)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            for entry in sorted(os.scandir(self.root / current), key=lambda entry: entry.name):
                path = os.path.join(current, entry.name)
                try:
                    mode = entry.stat().st_mode
                except FileNotFoundError:  # A link to nothing: the scan reports it.
                    mode = stat.S_IFREG
                except OSError:  # A link to itself.
                    continue
                if stat.S_ISDIR(mode):
                    if not self._is_ignored(path):
                        pending.append(path)
                elif self._is_image(path, mode):
                    paths.append(path)
        return sorted(paths)

    def _is_image(self, path, mode):
        """Returns whether a file has the suffix of an image, and notes it if it has not."""
        name = os.path.basename(path)
        if name.startswith("."):
            return False
        if not stat.S_ISREG(mode):
            self.specials.append(path)
            return False
        if not name.lower().endswith(SUFFIXES):
            self.suffixes[os.path.splitext(name)[1] or "no suffix"] += 1
            return False
        return True

    def note_loose_files(self, directory):
        """Notes images that are next to the class directories."""
        with os.scandir(self.root / directory) as entries:
            self.loose += sorted(
                os.path.join(directory, entry.name) for entry in entries
                if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
                and entry.is_file())

    def note_empty(self, names):
        """Notes directories that are no classes, because they have no images."""
        self.empty = names

    def report(self):
        """Logs what was left out, if anything."""
        place = f"--data_dir={self.root}"
        if self.suffixes:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in self.suffixes.most_common())
            logging.warning("%s: %d files are not read, because their suffix is not that of a "
                            "supported image (%s). Convert images among them to PNG or JPEG.",
                            place, self.suffixes.total(), counts)
        if self.loose:
            logging.warning("%s: %d images are not in a class directory and are left out (%s).",
                            place, len(self.loose), format_some(self.loose))
        if self.empty:
            logging.warning("%s: %s has no images and is no class.", place, format_some(self.empty))
        if self.specials:
            logging.warning("%s: %s is not a regular file and is left out.", place,
                            format_some(self.specials))
        for kind, directories in (("a tool or an operating system", self.directories),
                                  ("runs of mlnt_tf", self.runs)):
            if directories:
                logging.info("%s: directories of %s are left out (%s).", place, kind,
                             format_some(directories))
