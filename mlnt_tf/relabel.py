"""python -m mlnt_tf.relabel RUN --corrections=FILE --output=labels.csv: writes corrected labels.

The original data are never changed. Neither is anything written if a correction has a mistake.
"""

import collections
import contextlib
import csv
import json
import os
import pathlib
import shlex
import shutil
import sys

from mlnt_tf import cli
from mlnt_tf.config import CHECK_SECTIONS, UserError, config_class, flags
from mlnt_tf.experiment.corrected_table import corrected_rows
from mlnt_tf.experiment.record import FLAGS_FILE
from mlnt_tf.files import atomic
from mlnt_tf.files.cells import restore_cell
from mlnt_tf.files.corrections import read_corrections, read_table
from mlnt_tf.labels.noise_rate import wilson_interval

ISSUES_FILE, RECORDS_FILE = "label_issues.csv", "records.csv"
FORBIDDEN = ("", ".", "..")  # Class names that cannot be directories.


def main(argv=None):
    """Writes the corrected labels. Returns the exit code: 0, or 2 after a mistake of the user."""
    return cli.run_command(relabel, argv)


def relabel(argv):
    """Writes a table, and with --tree a directory of images, with the corrected labels."""
    parser = flags.Parser(
        "relabel", "Writes the labels of a run with the corrections of review.html, as a table "
        "that --dataset=csv trains on. The original data stay as they are.",
        examples=("runs/pets --corrections=corrections.csv --output=labels.csv",
                  "runs/pets --auto=0.95 --output=labels.csv",
                  "runs/pets --corrections=review.csv --corrections=audit.csv --output=labels.csv "
                  "--tree=~/pets_corrected --copy"))
    parser.add_argument("run", metavar="RUN", help="output directory of a training, or of "
                        "`python -m mlnt_tf.check --label_issues`")
    parser.add_argument("--corrections", action="append", default=[], metavar="FILE",
                        help="the corrections.csv that review.html saves; may be repeated")
    parser.add_argument("--output", required=True, metavar="FILE", help="the table to write")
    parser.add_argument("--auto", type=_share, metavar="SCORE", help="also take every suggestion "
                        "whose suggestion_score is above this, without looking at the image")
    parser.add_argument("--tree", metavar="DIR", help="also make a directory of images, "
                        "DIR/SPLIT/CLASS/image, for --dataset=folder")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--links", action="store_true", help="let the tree hold links (default)")
    kind.add_argument("--copy", action="store_true", help="let the tree hold copies")
    arguments = parser.parse_args(argv[1:])
    if not arguments.corrections and arguments.auto is None:
        raise UserError("relabel needs --corrections=FILE or --auto=0.95. --help explains both.")
    if arguments.copy and not arguments.tree:
        raise UserError("--copy is read with --tree only. Add --tree=DIR.")
    directory = pathlib.Path(arguments.run).expanduser()
    config, issues, class_names = read_run(directory)
    output = _check_output(arguments.output, config)
    paths = [os.path.expanduser(path) for path in arguments.corrections]
    corrections = read_corrections(paths, issues, class_names)
    columns, header, rows, counts = corrected_rows(
        config, issues, class_names, corrections, threshold=arguments.auto,
        directory=output.parent.resolve())
    with contextlib.ExitStack() as stack:
        if arguments.tree:
            tree = _check_tree(arguments.tree)
            stack.enter_context(_new_tree(tree, rows, columns, copy=arguments.copy))
        output.parent.mkdir(parents=True, exist_ok=True)
        names = _write_class_names(output, config, class_names)
        _write_table(output, header, rows)
    _print_summary(rows, counts, arguments, output)
    _print_audit(corrections)
    print("Train on the corrected labels:\n  "
          + _next_command(directory, config, columns, output, names))


def _share(text):
    """Returns a number from 0 to below 1. argparse reports the ValueError with the flag's name."""
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError
    return value


_share.__name__ = "number from 0 to below 1"  # argparse names the type in its error.


def read_run(directory):
    """Reads the settings and the label issues of a directory.

    Args:
      directory: pathlib.Path of a run or of `check --label_issues`.

    Returns:
      (Config, {id: row of label_issues.csv} in the order of records.csv, tuple of class names).

    Raises:
      UserError: a file is missing or cannot be read.
    """
    for name in (FLAGS_FILE, ISSUES_FILE, RECORDS_FILE, "label_noise.json"):
        if not (directory / name).is_file():
            raise UserError(f"RUN={directory} has no {name}. Name the directory of a finished "
                            "run, or of `python -m mlnt_tf.check --label_issues`.")
    config = flags.parse(["relabel", f"--flagfile={directory / FLAGS_FILE}"],
                         settings=config_class(CHECK_SECTIONS))
    _, records = read_table(directory / RECORDS_FILE)
    _, rows = read_table(directory / ISSUES_FILE)
    by_id = {row["id"]: {name: restore_cell(cell) for name, cell in row.items()}
             for row in rows}
    try:
        issues = {record["id"]: by_id[record["id"]] for record in records}
        class_names = _class_names(directory)
    except (KeyError, ValueError) as error:
        raise UserError(f"RUN={directory} has {RECORDS_FILE} and {ISSUES_FILE} that do not belong "
                        f"together ({error}). Write the label issues again.") from error
    return config, issues, class_names


def _class_names(directory):
    content = json.loads((directory / "label_noise.json").read_text(encoding="utf-8"))
    return tuple(content["class_names"])


def _check_output(text, config):
    """Returns the path of --output. Raises UserError if it would replace the original table."""
    output = pathlib.Path(text).expanduser()
    if output.is_dir():
        raise UserError(f"--output={text} is a directory. Name a file, for example labels.csv.")
    if config.dataset == "csv" and output.resolve() == pathlib.Path(config.data_dir).resolve():
        raise UserError(f"--output={text} is the table that the run has read. Choose another file, "
                        "so that the original labels stay.")
    return output


def _check_tree(text):
    """Returns the path of --tree. Raises UserError unless it is new or empty."""
    tree = pathlib.Path(text).expanduser()
    if tree.exists() and (not tree.is_dir() or any(tree.iterdir())):
        raise UserError(f"--tree={text} already exists. Choose a new directory.")
    return tree


@contextlib.contextmanager
def _new_tree(tree, rows, columns, *, copy):
    """Makes DIR/SPLIT/CLASS/image of links or copies. It appears complete at the end of the block.

    Images of one class and split with the same file name get a number.
    """
    tree = tree.absolute()
    scratch = tree.with_name(atomic.SCRATCH_PREFIX + tree.name)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        taken = collections.Counter()
        for row, file in rows:
            if not os.path.isfile(file):  # An image that the run could not read either.
                continue
            name = row[columns.label]
            if name in FORBIDDEN or "/" in name or "\0" in name:
                raise UserError(f"--tree cannot have a directory for the class {name!r}. Leave out "
                                "--tree, and train on the table.")
            folder = scratch / (row[columns.split] or "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            path = pathlib.Path(file)
            place = folder / path.name
            while place.exists() or place.is_symlink():
                taken[folder / path.name] += 1
                place = folder / f"{path.stem}_{taken[folder / path.name]}{path.suffix}"
            if copy:
                shutil.copyfile(path, place)
            else:
                place.symlink_to(path)
        yield
        if tree.exists():
            tree.rmdir()  # It is empty.
        tree.parent.mkdir(parents=True, exist_ok=True)
        scratch.rename(tree)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_table(output, header, rows):
    """Writes the table as --dataset=csv reads it: cells like formulas are not marked."""
    with (atomic.replacing(output) as scratch,
          open(scratch, "w", newline="", encoding="utf-8") as file):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([row[name] for name in header] for row, _ in rows)


def _write_class_names(output, config, class_names):
    """Returns the path of a file with the class names, which keeps their order and empty classes.

    That of the run is kept. None if a name cannot be a line of a file.
    """
    if config.dataset == "csv" and config.class_names:
        return pathlib.Path(config.class_names)
    if any(name.strip() != name or name.splitlines() != [name] for name in class_names):
        return None
    path = output.with_name(f"{output.stem}_classes.txt")
    atomic.write_text(path, "".join(f"{name}\n" for name in class_names))
    return path


def _print_summary(rows, counts, arguments, output):
    """Prints what has been written."""
    print(f"{shlex.quote(str(output))}: {len(rows)} images. {counts['corrected']} labels were "
          f"corrected, {counts['kept']} confirmed, {counts['undecided']} are undecided, and "
          f"{counts['dropped']} images are left out.")
    if arguments.auto is not None:
        test = ""
        if counts["auto test"]:
            test = (f" {counts['auto test']} of them are test images, whose accuracy now measures "
                    "agreement with the suggestions.")
        print(f"--auto={arguments.auto:g} replaced {counts['auto']} labels that nobody has looked "
              f"at by their suggestions.{test}")
    if arguments.tree:
        print(f"{shlex.quote(arguments.tree)}: the same images as "
              f"{'copies' if arguments.copy else 'links'}, by split and class.")


def _print_audit(corrections):
    """Prints the rate of wrong labels among the images that were drawn at random."""
    audited = collections.Counter(correction.verdict for correction in corrections.values()
                                  if correction.sample == "audit")
    wrong = audited["correct"] + audited["none"]
    judged = wrong + audited["keep"]
    if not judged:
        return
    low, high = wilson_interval(wrong, judged)
    others = sum(audited.values()) - judged
    left_out = f" {others} without a verdict of right or wrong are left out." if others else ""
    print(f"Audit: {wrong} of {judged} labels drawn at random are wrong, {wrong / judged:.1%} "
          f"(95 % interval {low:.1%} to {high:.1%}).{left_out}")


def _next_command(directory, config, columns, output, names):
    """Returns the command that trains on the new table."""
    words = ["python", "-m", "mlnt_tf.train"]
    if config.label_issues:  # Its flags.txt holds flags that a training does not have.
        words.append(f"--image_size={config.image_size}")
    else:
        words.append(f"--flagfile={directory / FLAGS_FILE}")
    words += ["--dataset=csv", f"--data_dir={output}"]
    if columns.flag:
        words.append(columns.flag)
    if names is not None:
        words.append(f"--class_names={names}")
    if config.noise_source.is_injected:
        words.append("--noise=none")
    words.append(f"--output_dir={directory}_relabeled")
    return " ".join(map(shlex.quote, words))


if __name__ == "__main__":
    sys.exit(main())
