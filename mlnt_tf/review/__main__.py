"""python -m mlnt_tf.review RUN: writes the page on which suspicious labels are judged."""

import dataclasses
import pathlib
import sys

from mlnt_tf import cli
from mlnt_tf.config import CHECK_SECTIONS, UserError, config_class, flags

FLAGS_FILE = "flags.txt"


def main(argv=None):
    """Writes the page and prints its path. Returns the exit code: 0, or 2 after a mistake."""
    cli.set_up_logging()
    return cli.run_command(review, argv)


def review(argv):
    """Writes RUN/review.html, or RUN/audit.html with --audit."""
    parser = flags.Parser(
        "review", "Writes a page with the most suspicious labels of a run. It opens from disk in "
        "any browser. Judge the labels there, and save corrections.csv.",
        examples=("runs/pets", "runs/pets --top=1000 --class=cat --split=train",
                  "runs/pets --audit=100"),
        note="The images are read again from the data set that RUN/flags.txt names.")
    parser.add_argument("run", metavar="RUN", help="output directory of a training, or of "
                        "`python -m mlnt_tf.check --label_issues`")
    parser.add_argument("--top", type=_count, default=500, metavar="N",
                        help="the largest number of suspicious labels")
    parser.add_argument("--class", dest="class_name", default="", metavar="NAME",
                        help="show only images with this given or suggested label")
    parser.add_argument("--split", default="", metavar="NAME",
                        help="show only images of this split")
    parser.add_argument("--audit", type=_count, metavar="N", help="write audit.html with N random "
                        "images instead, to estimate how many labels are wrong")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random images")
    arguments = parser.parse_args(argv[1:])
    if arguments.seed < 0:
        raise UserError(f"--seed={arguments.seed} must be at least 0.")
    directory = pathlib.Path(arguments.run).expanduser()
    config = read_config(directory)
    from mlnt_tf.review.tables import ISSUES_FILE

    if not (directory / ISSUES_FILE).is_file():
        raise UserError(f"{directory} has no {ISSUES_FILE}. Name the directory of a finished run, "
                        "or of `python -m mlnt_tf.check --label_issues`.")
    path = write(directory, config, arguments)
    print(f"Open {path.resolve().as_uri()} in a browser.")


def _count(text):
    """Returns a positive whole number. argparse reports the ValueError with the flag's name."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_count.__name__ = "positive whole number"  # argparse names the type in its error.


def read_config(directory):
    """Returns the Config that RUN/flags.txt holds.

    Raises:
      UserError: the directory or the file is missing, or the file cannot be parsed.
    """
    flagfile = directory / FLAGS_FILE
    if not directory.is_dir():
        raise UserError(f"RUN={directory} is not a directory. Name the directory of a finished "
                        "run, or of `python -m mlnt_tf.check --label_issues`.")
    if not flagfile.is_file():
        raise UserError(f"{directory} has no {FLAGS_FILE}, which names the data set. Name the "
                        "directory of a finished run.")
    try:
        return flags.parse(["review", f"--flagfile={flagfile}"],
                           settings=config_class(CHECK_SECTIONS))
    except UserError as error:
        raise UserError(f"{flagfile} cannot be read by this version of mlnt_tf: {error}") from error


def write(directory, config, arguments):
    """Loads the data of a run, and writes the page. Returns its path."""
    from mlnt_tf.data.sources import load_source
    from mlnt_tf.experiment import label_issues
    from mlnt_tf.review.page import write_review_page

    if not config.image_size:  # Files of different sizes need one. Thumbnails ignore it.
        config = dataclasses.replace(config, image_size=label_issues.IMAGE_SIZE)
    source = load_source(dataclasses.replace(config, max_bad_images=1.0))
    if arguments.class_name and arguments.class_name not in source.class_names:
        raise UserError(f"--class={arguments.class_name} is not a class of --dataset="
                        f"{config.dataset}. Choose one of {_listed(source.class_names)}.")
    splits = label_issues.named_splits(source, config)
    if arguments.split and arguments.split not in splits:
        raise UserError(f"--split={arguments.split} is not a split of --dataset={config.dataset}. "
                        f"Choose one of {_listed(splits)}.")
    return write_review_page(
        directory, splits, source.class_names, top=arguments.top,
        class_name=arguments.class_name, split=arguments.split, audit=arguments.audit or 0,
        seed=arguments.seed)


def _listed(names, limit=10):
    names = list(names)
    others = f" and {len(names) - limit} others" if len(names) > limit else ""
    return ", ".join(names[:limit]) + others


if __name__ == "__main__":
    sys.exit(main())
