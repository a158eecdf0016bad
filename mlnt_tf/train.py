"""python -m mlnt_tf.train: trains on noisy labels, and writes everything to --output_dir."""

import pathlib
import shlex
import sys

from mlnt_tf import cli, report
from mlnt_tf.config import flags
from mlnt_tf.experiment import record


def main(argv=None):
    """Trains. Returns the exit code (see `mlnt_tf.cli`)."""
    cli.set_up_logging()
    return cli.run_command(train, argv, resume="; the same command resumes the run.")


def train(argv):
    """Parses the flags, trains, and prints the table of results.

    The table of a finished run is printed without importing TensorFlow.
    """
    config = flags.parse(argv)
    results = record.finished_results(config)
    if results is not None:
        print(f"{config.output_dir}: this run has already finished; nothing to train.")
    else:
        from mlnt_tf import runner  # Imports TensorFlow, after the flags have been checked.

        results = runner.run(config)
    if results is not None:  # None on a worker that is not the chief.
        print(report.format_table(results))
        print(describe_output(pathlib.Path(config.output_dir)))


def describe_output(output_dir):
    """Returns the end of a run's output: its files, and how to inspect, serve and load it."""
    model = shlex.quote(f"{(output_dir / 'saved_model').resolve()}:/models/mlnt")
    text = f"""
Results are in {output_dir}:
  results.json   every accuracy
  suspects.csv   training examples, the labels that are most likely wrong first
  noise.csv      the given labels, and the true labels where they are known
  saved_model/1  the exported network, which classifies image files
  network.keras  the same network for Keras, which takes arrays
  flags.txt      repeats the run with --flagfile
Inspect:  tensorboard --logdir {shlex.quote(str(output_dir))}
Serve:    docker run -p 8501:8501 -v {model} -e MODEL_NAME=mlnt tensorflow/serving"""
    keras_file = output_dir / "network.keras"
    if not keras_file.exists():  # The run was finished by an earlier version.
        return text
    return f"""{text}
Use in Python, with float images in 0 to 255 of shape network.input_shape:
  import keras
  network = keras.models.load_model({str(keras_file)!r})
  probabilities = keras.ops.softmax(network.predict(images))"""


if __name__ == "__main__":
    sys.exit(main())
