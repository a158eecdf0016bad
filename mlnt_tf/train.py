"""python -m mlnt_tf.train: trains on noisy labels, and writes everything to --output_dir."""

import pathlib
import shlex
import sys

from absl import logging

from mlnt_tf import cli, report
from mlnt_tf.config import flags
from mlnt_tf.experiment import record


def main(argv=None):
    """Trains. Returns the exit code (see `mlnt_tf.cli`)."""
    cli.set_up_logging()
    return cli.run_command(train, argv, resume="; the same command resumes the run.")


def train(argv):
    """Parses the flags, trains, and prints the table of results.

    The table of a finished run on built-in data is printed without importing TensorFlow. Other data
    are compared with those of the run first.
    """
    config = flags.parse(argv)
    results = finished = record.finished_results(config)
    if finished is None or may_have_changed(config):
        from mlnt_tf import runner  # Imports TensorFlow, after the flags have been checked.

        results = runner.run(config)
    if finished is not None:
        print(f"{config.output_dir}: this run has already finished; nothing to train.")
    if results is not None:  # None on a worker that is not the chief.
        output_dir = pathlib.Path(config.output_dir)
        issues = report.describe_issues(results, output_dir)
        if issues:
            print(issues + "\n")
        print(report.format_table(results))
        print(describe_output(output_dir))


def may_have_changed(config):
    """Returns whether the data of a finished run may be others now. Built-in data are not.

    Data that have been removed cannot be compared, so a warning is logged.
    """
    if config.dataset in ("digits", "cifar10", "cifar10_n"):
        return False
    if config.data_dir and not pathlib.Path(config.data_dir).exists():
        logging.warning("--data_dir=%s does not exist, so it is not compared with the data of the "
                        "run.", config.data_dir)
        return False
    return True


def describe_output(output_dir):
    """Returns the end of a run's output: its files, and how to inspect, serve and load it."""
    directory = shlex.quote(str(output_dir))
    model = shlex.quote(f"{(output_dir / 'saved_model').resolve()}:/models/mlnt")
    page = ""
    if (output_dir / "review.html").exists():
        page = "  review.html       the same with images, to correct the labels in a browser\n"
    text = f"""
Results are in {directory}:
  results.json      every accuracy
  label_issues.csv  every image, the labels that are most likely wrong first
{page}  noise.csv         the given labels, and the true labels where they are known
  saved_model/1     the exported network, which classifies image files
  network.keras     the same network for Keras, which takes arrays
  flags.txt         repeats the run with --flagfile
Inspect:  tensorboard --logdir {directory}
Serve:    docker run -p 8501:8501 -v {model} -e MODEL_NAME=mlnt tensorflow/serving"""
    keras_file = output_dir / "network.keras"
    if not keras_file.exists():  # The run was finished by an earlier version.
        return text
    return f"""{text}
Use in Python, with float images in 0 to 255 of shape network.input_shape:
  import keras
  network = keras.models.load_model({str(keras_file)!r})
  probabilities = keras.ops.softmax(network.predict(images))  # class_names in results.json"""


if __name__ == "__main__":
    sys.exit(main())
