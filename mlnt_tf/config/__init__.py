"""The settings of a run, with their defaults, limits and help texts.

Nothing in this package imports TensorFlow or Keras, so a mistake in a flag is reported at once. To
add a section, write it in a file of this package and add it to SECTIONS. Its flags, its heading in
--help and the warning about flags without effect follow from it.
"""

from mlnt_tf.config.data import (
    CIFAR10_N_LABELS, DATASETS, DataSettings, Noise, NoiseSettings, parse_noise)
from mlnt_tf.config.devices import DeviceSettings, OutputSettings
from mlnt_tf.config.errors import (
    DataLost, DiskError, NonFiniteLoss, OutOfMemory, Terminated, UserError, WorkerLost)
from mlnt_tf.config.label_issues import IssueScoreSettings, LabelIssueSettings
from mlnt_tf.config.meta import ConsistencySettings, MetaSettings
from mlnt_tf.config.methods import (
    PRIORS, TRANSITIONS, CnnCrfSettings, ElrSettings, GceSettings, JointSettings, LogisticSettings,
    PriorSettings, TransitionSettings)
from mlnt_tf.config.network import MODELS, NetworkSettings
from mlnt_tf.config.recipes import RecipeSettings
from mlnt_tf.config.settings import (
    Section, config_class, ineffective_flags, setting, setting_fields,
    unread_flags)
from mlnt_tf.config.teacher import IterationSettings, RepairSettings, TeacherSettings
from mlnt_tf.config.training import (
    METHODS, TRAINED_METHODS, LossSettings, RunSettings, ScheduleSettings, UpdateSettings,
    WarmUpSettings)
from mlnt_tf.config.user_functions import (
    call_function, check_name, import_function, parse_arguments)

SECTIONS = (  # In the order of --help and flags.txt.
    RecipeSettings, DataSettings, NoiseSettings, NetworkSettings, RunSettings, WarmUpSettings,
    IterationSettings, RepairSettings, MetaSettings, ConsistencySettings, UpdateSettings,
    ScheduleSettings, LossSettings, TeacherSettings, TransitionSettings, PriorSettings, GceSettings,
    ElrSettings, LogisticSettings, JointSettings, CnnCrfSettings, IssueScoreSettings,
    DeviceSettings, OutputSettings)


# `check` has one more section, which no run reads.
CHECK_SECTIONS = (*SECTIONS, LabelIssueSettings)


class Config(config_class(SECTIONS)):
    """The settings of one run, named like the flags.

    The defaults are those of configs/digits.flags.

    Raises:
      UserError: a value is outside its choices or limits, or values contradict each other.

    Example:

    ```python
    config = mlnt_tf.Config(method="mlnt", iterations=2, num_synthetic=2)
    assert config.tau > 0  # every setting has the flag's name and default
    ```
    """


# Flags that do not change the results of a run, so that they may differ when it is resumed.
WITHOUT_EFFECT = tuple(
    name for name, field in setting_fields(Config).items()
    if not field.metadata["changes_results"])
