"""python -m mlnt_tf.prepare clothing1m: converts a released data set to TFDS shards.

--check reports missing lists and damaged images instead of converting.
"""

import os
import pathlib
import sys

from absl import logging

from mlnt_tf import cli
from mlnt_tf.config import UserError, flags

MAX_LISTED = 5  # Bad images per split that --check prints.


def main(argv=None):
    """Takes the flags that --help lists. Returns the exit code.

    It is 0 if the data set is converted or complete, 2 for a mistake or a missing or damaged file,
    and 130 if interrupted.
    """
    cli.set_up_logging()
    return cli.run_command(run, argv, resume="; run the same command to start again.")


def run(argv):
    """Converts the data set, or only checks it. Returns the exit code."""
    values = _parse(argv)
    source_dir = pathlib.Path(os.path.expanduser(values.source_dir))
    if values.check:
        return check(source_dir)
    prepare(source_dir, pathlib.Path(os.path.expanduser(values.data_dir)), values.max_bad_images)
    return 0


def _parse(argv):
    """Returns the values of the flags. Raises UserError if they are incomplete or unknown."""
    parser = flags.Parser(
        "prepare", "Converts a released data set to TFDS shards, which train without being "
        "unpacked.",
        examples=("clothing1m --source_dir=~/Clothing1M --data_dir=~/shards",
                  "clothing1m --source_dir=~/Clothing1M --check"))
    parser.add_argument("data_set", nargs="?", metavar="clothing1m", help="name of the data set")
    parser.add_argument("--source_dir", default="", help="directory of the Clothing1M release: "
                        "list files and image subdirectories")
    parser.add_argument("--data_dir", default="", help="directory for the shards, later the "
                        "--data_dir of the training")
    parser.add_argument("--check", action="store_true", help="only report missing lists, missing "
                        "images and damaged images")
    parser.add_argument("--max_bad_images", type=float, default=0.001, help="refuse to convert if "
                        "more than this fraction of the images cannot be decoded")
    values = parser.parse_args(argv[1:])
    if values.data_set != "clothing1m":
        raise UserError(f"The data set {values.data_set or '(none)'} cannot be prepared, only "
                        "clothing1m. --help shows examples.")
    if not values.source_dir:
        raise UserError("--source_dir is missing. Name the directory of the release.")
    if not values.data_dir and not values.check:
        raise UserError("--data_dir is missing. Name a directory for the shards, or use --check.")
    return values


def check(source_dir):
    """Prints the number of images in each split, and those that are missing or damaged.

    Returns:
      int, 0 if every image can be decoded, else 2.

    Raises:
      UserError: a list is missing or damaged.
    """
    from mlnt_tf.data.sources.clothing1m import read_release

    class_names, listings = read_release(source_dir, "--source_dir")
    is_complete = True
    for split, listing in listings.items():
        bad_images = _find_bad_images(listing, source_dir)
        num_missing = sum(reason == os.strerror(2) for _, reason in bad_images)
        print(f"{split}: {len(listing.paths)} images listed, {len(class_names)} classes, "
              f"{num_missing} missing, {len(bad_images) - num_missing} cannot be decoded")
        for path, reason in bad_images[:MAX_LISTED]:
            print(f"  {path}: {reason}")
        if len(bad_images) > MAX_LISTED:
            print(f"  and {len(bad_images) - MAX_LISTED} more")
        is_complete = is_complete and not bad_images
    return 0 if is_complete else 2


def prepare(source_dir, data_dir, max_bad_images):
    """Scans all images, then writes the shards. Does nothing if they exist.

    Args:
      source_dir: pathlib.Path, the directory of the release.
      data_dir: pathlib.Path, the directory for the shards.
      max_bad_images: float, the largest fraction of images that cannot be decoded.

    Raises:
      UserError: too many images cannot be decoded, or `data_dir` cannot be written.
    """
    import tensorflow_datasets as tfds

    from mlnt_tf.data.images.scan import check_bad_images
    from mlnt_tf.data.sources.clothing1m import read_release
    from mlnt_tf.data.sources.clothing1m_tfds import Clothing1m

    builder = Clothing1m(data_dir=str(data_dir))
    if builder.data_path.exists():
        logging.info("%s exists already; nothing to prepare.", builder.data_path)
        return
    _, listings = read_release(source_dir, "--source_dir")
    bad_images = []
    for listing in listings.values():
        bad_images += _find_bad_images(listing, source_dir)
    count = sum(len(listing.paths) for listing in listings.values())
    check_bad_images(bad_images, count, max_bad_images,
                     lists="python -m mlnt_tf.prepare … --check lists them")
    download_config = tfds.download.DownloadConfig(manual_dir=str(source_dir))
    try:
        builder.download_and_prepare(download_config=download_config)
    except OSError as error:
        raise UserError(f"--data_dir={data_dir} cannot be written ({error.strerror or error}). "
                        "Choose another directory.") from error
    logging.info("The shards are complete. Train on them with --dataset=clothing1m --data_dir=%s.",
                 data_dir)


def _find_bad_images(listing, source_dir):
    """Returns the images of a listing that cannot be decoded: list of (path, reason)."""
    from mlnt_tf.data.images.scan import scan_files
    from mlnt_tf.data.images.storage import FileImages

    images = FileImages(listing.paths, root=str(source_dir), size=(1, 1))
    return scan_files(images).bad_images(images)


if __name__ == "__main__":
    sys.exit(main())
