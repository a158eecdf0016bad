"""python -m mlnt_tf.train: trains as the flags say, and leaves a SavedModel, tables and logs in --output_dir."""

import pathlib
import sys

from mlnt_tf import cli, report
from mlnt_tf.config import flags
from mlnt_tf.experiment import record


def main(argv=None):
    """Trains. Returns the exit code (see `mlnt_tf.cli`)."""
    cli.set_up_logging()
    return cli.run_command(train, argv, resume="; the same command resumes from the last checkpoint.")


def train(argv):
    """Parses the flags, runs, and prints the table; a finished run is printed without loading TensorFlow."""
    config = flags.parse(argv)
    results = record.finished_results(config)
    if results is not None:
        print(f"{config.output_dir}: this run has already finished; nothing to train.")
    else:
        from mlnt_tf import runner  # TensorFlow loads here, after the flags are known to be right

        results = runner.run(config)
    if results is not None:  # None on a worker that is not the chief
        print(report.format_table(results))
        print(describe_output(pathlib.Path(config.output_dir)))


def describe_output(output_dir):
    """Returns the end of a run's output: its files, and the commands that inspect and serve it."""
    model = (output_dir / "saved_model").resolve()
    return f"""
In {output_dir}: results.json, noise.csv (the labels given), suspects.csv (labels most likely wrong first),
the best networks of every stage (*.keras), saved_model/1, flags.txt (to repeat the run).
  look:   tensorboard --logdir {output_dir}
  serve:  docker run -p 8501:8501 -v {model}:/models/mlnt -e MODEL_NAME=mlnt tensorflow/serving"""


if __name__ == "__main__":
    sys.exit(main())
