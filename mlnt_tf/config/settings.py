"""Settings with limits, sections of settings, and a settings class made of sections."""

import dataclasses
import math
import re

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.user_functions import is_function_name

# The largest numbers that every computation represents.
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 1e30
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # Control characters, such as line breaks.


@dataclasses.dataclass(frozen=True)
class PathFormat:
    """Says which values of a setting are paths.

    Attributes:
      prefix: str, text before the path, such as "matrix:". A value without it is not a path.
      words: tuple of str, values that are not paths, such as "none".
    """

    prefix: str = ""
    words: tuple = ()


def setting(default, help, *, choices=None, minimum=None, above=None, maximum=None, below=None,
            path=None, changes_results=True):
    """Returns a dataclass field that is also a command-line flag.

    Args:
      default: bool, int, float or str. A setting annotated as `float | str` is a number or a word.
      help: str, one or more sentences for --help.
      choices: the allowed values, or None. For a `float | str`, the words that are allowed in place
        of a number.
      minimum, maximum: inclusive limits, or None.
      above, below: exclusive limits, or None.
      path: `PathFormat` if the value is or may be a path, so that "~" is expanded and flags.txt
        holds absolute paths.
      changes_results: False for a flag that may differ when a run is resumed.
    """
    return dataclasses.field(default=default, metadata={
        "help": help, "choices": choices, "minimum": minimum, "above": above, "maximum": maximum,
        "below": below, "path": path, "changes_results": changes_results})


class Section:
    """Base class of a section: a frozen dataclass of settings that belong together.

    The first line of its docstring, without the final period, is its heading in --help. `defaults`
    and `check` are called with the complete `Config`, so they may read the settings of other
    sections.

    Attributes:
      METHODS: the values of --method that read this section, or None if every method does.
    """

    METHODS = None

    def defaults(self):
        """Returns {name: value} of settings that follow from others. They replace given values."""
        return {}

    def check(self):
        """Raises UserError if settings contradict each other. See `setting` for simple limits."""

    def ineffective(self):
        """Returns {name: reason} of settings that change nothing next to the others.

        A reason continues "has no effect", for example "with --noise=none".
        """
        return {}

    def is_read_too(self):
        """Returns whether the run reads the section although METHODS lacks its method."""
        return False


@dataclasses.dataclass(frozen=True)
class Settings:
    """The part of `Config` that is the same for any sections; see `config_class`.

    Attributes:
      SECTIONS: the sections, in the order of --help.
      explicit: frozenset of the settings given on the command line itself, without those given
        only by a flag file. None if the object was not made from a command line.
      given: frozenset of the settings given on the command line or in a flag file. None if the
        object was not made from a command line.
      from_recipe: frozenset of the settings whose value --recipe has set. None if no recipe has
        been applied yet.
    """

    SECTIONS = ()

    explicit: frozenset | None = dataclasses.field(default=None, compare=False, repr=False)
    given: frozenset | None = dataclasses.field(default=None, compare=False, repr=False)
    from_recipe: frozenset | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        for name, field in setting_fields(self).items():
            check_limits(field, getattr(self, name))
        for section in self.SECTIONS:
            for name, value in section.defaults(self).items():
                object.__setattr__(self, name, value)
        self.check()

    def check(self):
        """Raises UserError if any section's settings contradict each other."""
        for section in self.SECTIONS:
            section.check(self)


def config_class(sections):
    """Returns a frozen dataclass with the settings of all sections, in order.

    Args:
      sections: sequence of `Section` classes. One of them must have a setting named `method`.

    Raises:
      ValueError: two sections have a setting of the same name.
    """
    owners = {}
    for section in sections:
        for name in setting_fields(section):
            if name in owners:
                raise ValueError(f"Every setting needs a name of its own. Received: {name!r} in "
                                 f"{owners[name].__name__} and in {section.__name__}")
            owners[name] = section
    # Dataclass fields are collected from the last base to the first.
    bases = (Settings, *reversed(sections))
    return dataclasses.make_dataclass("Config", (), bases=bases, frozen=True,
                                      namespace={"SECTIONS": tuple(sections)})


def setting_fields(settings):
    """Returns {name: field} of the settings of a section or a Config, class or instance."""
    return {field.name: field for field in dataclasses.fields(settings) if "help" in field.metadata}


def heading(section):
    """Returns the heading of a section in --help."""
    return section.__doc__.partition("\n")[0].removesuffix(".")


def format_value(value):
    """Returns a setting's value as a flag's text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def map_path(field, value, function):
    """Applies a function to the path in a setting's value.

    A value without a path is returned unchanged, and so is a URL such as gs://bucket/data.

    Args:
      field: the dataclass field of the setting.
      value: the setting's value.
      function: function of a path, str, that returns the new path.

    Returns:
      The value with the new path.
    """
    form = field.metadata["path"]
    if form is None or not value.startswith(form.prefix):
        return value
    path = value.removeprefix(form.prefix)
    if path in ("", *form.words) or "://" in path:
        return value
    return f"{form.prefix}{function(path)}"


def unread_flags(config):
    """Returns the given flags that --method does not read, as ["--elr_lambda=1.0"].

    A method of the user's own is assumed to read every section. See `is_given`.
    """
    if is_function_name(config.method):
        return []
    unread = []
    for section in config.SECTIONS:
        if section.METHODS is None or config.method in section.METHODS:
            continue
        if section.is_read_too(config):
            continue
        unread += [f"--{name}={format_value(getattr(config, name))}"
                   for name in setting_fields(section) if is_given(config, name)]
    return unread


def ineffective_flags(config):
    """Returns the given flags that other settings make useless: list of sentences.

    See `unread_flags` for the flags that count as given.
    """
    values = {name: format_value(getattr(config, name)) for name in setting_fields(config)}
    return [f"--{name}={values[name]} has no effect {reason}." for section in config.SECTIONS
            for name, reason in section.ineffective(config).items() if is_given(config, name)]


def is_given(config, name):
    """Returns whether a setting is given: whether it is in `config.explicit`.

    If that is None, a setting counts as given if it differs from its default, unless --recipe has
    set it.
    """
    if config.explicit is not None:
        return name in config.explicit
    if name in (config.from_recipe or ()):
        return False
    return getattr(config, name) != setting_fields(config)[name].default


def check_limits(field, value):
    """Raises UserError unless a value is finite, one of its choices and within its limits."""
    name, limits = field.name, field.metadata
    if isinstance(value, str) and CONTROL.search(value):
        raise UserError(f"--{name}={value.encode('unicode_escape').decode()} contains a line break "
                        "or another control character, which flags.txt cannot hold. Remove it.")
    is_number = field.type == float | str and not isinstance(value, str)
    if limits["choices"] and not is_number and value not in limits["choices"]:
        if field.type == float | str:
            raise UserError(f"--{name}={value} must be a number or one of "
                            f"{', '.join(limits['choices'])}.")
        raise UserError(f"--{name}={value} is not known. Choose one of "
                        f"{', '.join(limits['choices'])}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name}={value} must be a finite number.")
    if isinstance(value, str):
        return
    largest = LARGEST_FLOAT if isinstance(value, float) else LARGEST_INT
    if abs(value) > largest:
        raise UserError(f"--{name}={value} is too large. It must be at most {largest:g}.")
    minimum, above = limits["minimum"], limits["above"]
    maximum, below = limits["maximum"], limits["below"]
    if minimum is not None and value < minimum:
        raise UserError(f"--{name}={value} is too small. It must be at least {minimum}.")
    if above is not None and value <= above:
        raise UserError(f"--{name}={value} is too small. It must be above {above}.")
    if maximum is not None and value > maximum:
        raise UserError(f"--{name}={value} is too large. It must be at most {maximum}.")
    if below is not None and value >= below:
        raise UserError(f"--{name}={value} is too large. It must be below {below}.")
