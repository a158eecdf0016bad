"""Finds the image files that a table names, although it may spell them differently."""

import os
import unicodedata

from mlnt_tf.config import UserError

# Suffixes of the formats that are decoded, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
BASE_SAMPLE = 20  # Paths that must exist below a subdirectory before it becomes the base.


class FileFinder:
    """Finds files below a directory by the paths of a table.

    A path that does not exist as written is looked up without regard to letter case, to the form of
    Unicode and, if it has no suffix, to the suffix. Each directory is listed only once.

    Args:
      root: str, the directory that relative paths start from.

    Attributes:
      num_respelled: int, the paths found under another spelling so far.
    """

    def __init__(self, root):
        self.root = root
        self.num_respelled = 0
        self._listings = {}

    def find(self, path):
        """Returns the path of the file relative to the root, or None if there is none.

        Raises:
          UserError: two files fit equally well.
        """
        if os.path.isabs(path):
            path = os.path.relpath(path, self.root)
        if os.path.lexists(os.path.join(self.root, path)):
            return path
        found = self._match(path.replace("\\", "/") if "/" not in path else path)
        self.num_respelled += found is not None
        return found

    def find_base(self, paths):
        """Returns the only subdirectory of the root in which the first paths exist, or None."""
        try:
            entries = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except OSError:
            return None
        sample = [path for path in paths[:BASE_SAMPLE] if not os.path.isabs(path)]
        bases = [entry for entry in entries if sample and not entry.startswith(".")
                 and all(self._match(os.path.join(entry, path)) for path in sample)]
        return bases[0] if len(bases) == 1 else None

    def _match(self, path):
        """Returns the existing path that a path stands for, or None."""
        *directories, name = os.path.normpath(path).split(os.sep)
        current = ""
        for directory in directories:
            entry = directory
            if not os.path.isdir(os.path.join(self.root, current, directory)):
                entry = self._only_match(current, directory, path, by_stem=False)
            if entry is None:
                return None
            current = os.path.join(current, entry)
        if os.path.lexists(os.path.join(self.root, current, name)):
            return os.path.join(current, name)
        found = self._only_match(current, name, path, by_stem=False)
        if found is None and not name.lower().endswith(SUFFIXES):
            found = self._only_match(current, name, path, by_stem=True)
        return None if found is None else os.path.join(current, found)

    def _only_match(self, directory, name, path, *, by_stem):
        """Returns the entry of a directory that a name stands for, or None."""
        entries = self._listing(directory, by_stem).get(_normalize(name), [])
        if len(entries) > 1:
            raise UserError(f"{path} stands for several files: {', '.join(sorted(entries)[:3])}. "
                            "Write the complete name in the table.")
        return entries[0] if entries else None

    def _listing(self, directory, by_stem):
        """Returns {normalized name: entries}. By stem, images only and without their suffix."""
        key = directory, by_stem
        if key not in self._listings:
            listing = {}
            try:
                entries = os.listdir(os.path.join(self.root, directory))
            except OSError:
                entries = []
            for entry in entries:
                stem, suffix = os.path.splitext(entry)
                if by_stem and suffix.lower() in SUFFIXES:
                    listing.setdefault(_normalize(stem), []).append(entry)
                elif not by_stem:
                    listing.setdefault(_normalize(entry), []).append(entry)
            self._listings[key] = listing
        return self._listings[key]


def _normalize(name):
    return unicodedata.normalize("NFC", name).casefold()
