"""Settings of devices and output."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import PathFormat, Section, setting


@dataclasses.dataclass(frozen=True)
class DeviceSettings(Section):
    """Devices and precision"""

    device: str = setting("auto", "Device to run on.", choices=("auto", "cpu", "gpu"))
    precision: str = setting(
        "auto", "Precision of the computation; auto means mixed_bfloat16 if the device multiplies "
        "bfloat16 natively, else float32.", choices=("auto", "float32", "mixed_bfloat16"))
    strategy: str = setting(
        "auto", "How devices share the work; auto means multi_worker if TF_CONFIG names several "
        "workers, else mirrored if there are several devices.",
        choices=("auto", "single", "mirrored", "multi_worker"))
    num_devices: int = setting(
        0, "Number of GPUs of this host to use; 0 means all.", minimum=0, changes_results=False)
    logical_devices: int = setting(
        0, "Split the CPU into this many logical devices, to rehearse a run on several; 0 means no "
        "split.", minimum=0, maximum=64, changes_results=False)
    worker_timeout: float = setting(
        300.0, "Number of seconds that workers wait for each other at the start.", above=0,
        changes_results=False)
    sync_batch_norm: bool = setting(
        False, "Compute batch-norm statistics over all replicas, like a single device.")
    jit_compile: str = setting(
        "auto", "Compile with XLA; auto means only on a GPU.", choices=("auto", "true", "false"))
    steps_per_execution: int = setting(
        1, "Number of steps in one call of the compiled function.", minimum=1)


@dataclasses.dataclass(frozen=True)
class OutputSettings(Section):
    """Output"""

    output_dir: str = setting(
        "runs/digits", "Directory for all files of the run. The default is named after the flag "
        "file, or else after the data set.", path=PathFormat(), changes_results=False)
    resume: str = setting(
        "auto", "Resume an interrupted run in --output_dir, or refuse a directory in use.",
        choices=("auto", "never"), changes_results=False)
    checkpoint_every: int = setting(
        0, "Number of steps between checkpoints within an epoch; 0 means only at the end of each "
        "epoch.", minimum=0, changes_results=False)

    def check(self):
        if not self.output_dir:
            raise UserError("--output_dir= is empty. Name a directory.")
        if "://" in self.output_dir:
            raise UserError(f"--output_dir={self.output_dir} is an address. Name a local directory "
                            "or a mounted one, and copy the results afterwards.")
