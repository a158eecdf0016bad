"""Functions of the user's own, which flags name as package.module:function."""

import ast
import importlib
import traceback

from mlnt_tf.config.errors import UserError

CLOSING = {"(": ")", "[": "]", "{": "}"}


def is_function_name(value):
    """Whether a flag's value has the form package.module:function."""
    module, colon, function = value.partition(":")
    names = [*module.split("."), function]
    return bool(colon) and all(name.isidentifier() for name in names)


def check_name(flag, value, known, *, prefix=None):
    """Checks a flag that takes a known name or package.module:function. Imports nothing.

    Args:
      flag, value: str, the flag's name and value.
      known: the known names.
      prefix: str, a prefix that any name may follow, such as "keras:", or None.

    Raises:
      UserError: the value is none of these.
    """
    if value in known or is_function_name(value):
        return
    if prefix and value.startswith(prefix) and value != prefix:
        return
    forms = [*known, f"{prefix}NAME"] if prefix else known
    raise UserError(f"--{flag}={value} is not known. Choose one of {', '.join(forms)}, or "
                    "package.module:function.")


def import_function(flag, name):
    """Returns the function that --flag=package.module:function names.

    Raises:
      UserError: the module cannot be imported, or has no such function.
    """
    module, _, function = name.partition(":")
    try:
        result = getattr(importlib.import_module(module), function)
    except Exception as error:  # The user's module may raise anything while it is imported.
        raise UserError(f"--{flag}={name} cannot be imported ({_describe(error)}). Write "
                        "package.module:function, and put its directory on PYTHONPATH.") from error
    if not callable(result):
        raise UserError(f"--{flag}={name} has type {type(result).__name__} instead of function. "
                        f"Name a function of {module}.")
    return result


def call_function(flag, name, **arguments):
    """Calls the function that --flag=package.module:function names, and returns its result.

    Raises:
      UserError: the function cannot be imported, or raises an exception.
    """
    function = import_function(flag, name)
    try:
        return function(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise failure(flag, name, error) from error


def failure(flag, name, error):
    """Returns a one-line UserError for an exception inside the function that a flag names."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return UserError(f"--{flag}={name} failed ({_describe(error)}, {frame.filename}, line "
                     f"{frame.lineno}). Fix the function.")


def parse_arguments(flag, text):
    """Parses the arguments of a user's function from the form "key=value,key=value".

    A value that is a Python literal, such as 0.5, True, None, (1, 2) or "a,b", becomes that value.
    Any other value is text. A comma inside brackets or quotes does not separate arguments.

    Args:
      flag: str, the flag's name, for errors.
      text: str, the flag's value. Empty means no arguments.

    Returns:
      dict of argument names to values.

    Raises:
      UserError: an argument without "=", without a valid name or given twice, or an unclosed
        bracket or quote.
    """
    arguments = {}
    for part in _split_at_commas(flag, text) if text else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UserError(f"--{flag}={text} has the part {part!r}, which is not of the form "
                            f"key=value. Write --{flag}=key=value,key=value.")
        if not name.isidentifier():
            raise UserError(f"--{flag}={text} has {name!r}, which is not a valid argument name. "
                            "Use letters, digits and underscores.")
        if name in arguments:
            raise UserError(f"--{flag}={text} gives {name} twice. Remove one of the two.")
        arguments[name] = _literal_or_text(value)
    return arguments


def _split_at_commas(flag, text):
    """Splits text at the commas that are outside brackets and quotes.

    Raises:
      UserError: a bracket or quote is unmatched.
    """
    parts, expected, quote = [""], [], ""  # `expected` holds the brackets that are still to come.
    matched = True
    for character in text:
        if character == "," and not expected and not quote:
            parts.append("")
            continue
        parts[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in CLOSING:
            expected.append(CLOSING[character])
        elif character in CLOSING.values():
            matched = matched and bool(expected) and expected.pop() == character
    if expected or quote or not matched:
        raise UserError(f"--{flag}={text} has an unmatched bracket or quote. Close it, or put "
                        "quotes around the value.")
    return parts


def _literal_or_text(value):
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _describe(error):
    """The type and message of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
