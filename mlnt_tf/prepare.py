"""python -m mlnt_tf.prepare clothing1m --source_dir=RELEASED --data_dir=SHARDS [--check]: a released set into TFDS shards."""

import os
import pathlib
import sys

from absl import flags, logging

from mlnt_tf.cli import set_up_logging
from mlnt_tf.config import UserError

USAGE = "python -m mlnt_tf.prepare clothing1m --source_dir=DIR --data_dir=DIR [--check] [--max_bad_images=0.001]"


def main(argv=None):
    """Prepares, or with --check only looks; the exit code: 0 done and all there, 2 a mistake or something missing, 130
    interrupted."""
    set_up_logging()
    values = flags.FlagValues()
    flags.DEFINE_string("source_dir", "", "The released tree: its lists, and its images in sub-folders.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "Where the shards go, as --data_dir of the training.", flag_values=values)
    flags.DEFINE_bool("check", False, "Only look: which lists and images are missing, which images are bad.",
                      flag_values=values)
    flags.DEFINE_float("max_bad_images", 0.001, "Share of images that may be left out.", flag_values=values)
    try:
        try:
            rest = values(sys.argv if argv is None else argv)[1:]
        except flags.Error as error:
            raise UserError(f"{' '.join(str(error).split())} ({USAGE})") from error
        if rest != ["clothing1m"]:
            raise UserError(f"{' '.join(rest) or 'nothing'} cannot be prepared: {USAGE}")
        if not values.source_dir or not (values.data_dir or values.check):
            raise UserError(f"--source_dir and --data_dir are needed: {USAGE}")
        source_dir, data_dir = (pathlib.Path(os.path.expanduser(path)) for path in (values.source_dir, values.data_dir))
        if values.check:
            return check(source_dir)
        prepare(source_dir, data_dir, values.max_bad_images)
    except UserError as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlnt_tf: interrupted; the same command begins again.", file=sys.stderr)
        return 130
    return 0


def check(source_dir):
    """Tells of every missing list, and of the images that are missing or bad; 0 if all is well."""
    from mlnt_tf.data.images.scan import scan_files
    from mlnt_tf.data.images.storage import FileImages
    from mlnt_tf.data.sources.clothing1m import read_release

    class_names, listings = read_release(source_dir, "--source_dir")
    wrong = 0
    for split, listing in listings.items():
        images = FileImages(listing.paths, root=str(source_dir), size=(1, 1))
        bad = scan_files(images).bad_images(images)
        missing = [path for path, reason in bad if reason == os.strerror(2)]
        print(f"{split}: {len(images)} images listed, {len(class_names)} classes, {len(missing)} missing, "
              f"{len(bad) - len(missing)} that do not decode")
        for path, reason in bad[:5]:
            print(f"  {path}: {reason}")
        if bad[5:]:
            print(f"  and {len(bad) - 5} more")
        wrong += len(bad)
    return 2 if wrong else 0


def prepare(source_dir, data_dir, max_bad_images):
    """Writes the shards; all images are looked at first."""
    import tensorflow_datasets as tfds

    from mlnt_tf.data.images.scan import check_bad_images, scan_files
    from mlnt_tf.data.images.storage import FileImages
    from mlnt_tf.data.sources.clothing1m import read_release
    from mlnt_tf.data.sources.clothing1m_tfds import Clothing1m

    builder = Clothing1m(data_dir=str(data_dir))
    if builder.data_path.exists():
        logging.info("%s is there already: nothing to prepare", builder.data_path)
        return
    _, listings = read_release(source_dir, "--source_dir")
    bad, count = [], 0
    for listing in listings.values():
        images = FileImages(listing.paths, root=str(source_dir), size=(1, 1))
        bad, count = bad + scan_files(images).bad_images(images), count + len(images)
    check_bad_images(bad, count, max_bad_images, lists="python -m mlnt_tf.prepare … --check counts them")
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(source_dir)))
    except OSError as error:
        raise UserError(f"--data_dir={data_dir} cannot be written ({error.strerror or error}): name another.") from error
    logging.info("prepared: train with --dataset=clothing1m --data_dir=%s", data_dir)


if __name__ == "__main__":
    sys.exit(main())
