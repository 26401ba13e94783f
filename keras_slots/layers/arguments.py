"""The arguments of slot layers: signature, `Args` section of the docstring, and errors about unknown names.

Signature and `Args` are derived from the Keras layer, so they match the installed version of Keras.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

#: Descriptions of the arguments about a kernel; those of other arguments are taken from Keras.
_OF_KERNELS = {
    "initializer": "Distribution of the values if `bank_initializer` is None.",
    "regularizer": "Keras regularizer of the greedily selected values.",
    "constraint": "Must be None: the values are fixed.",
}
#: Other arguments of Keras layers that can have only one value.
_FIXED = {"weights": "Must be None: the values are fixed."}
#: Arguments of Keras layers that are refused.
_REFUSED = ("lora_rank", "lora_alpha", "quantization_config", "gptq_unpacked_column_size")
# Other names that people use for slot arguments, too different to be found by spelling.
_OTHER_NAMES = {
    "bank": "bank_initializer",
    "k": "num_values",
    "lever_regularizer": "move_regularizer",
    "mode": "score_mode",
    "num_slots": "num_values",
    "random_seed": "seed",
    "rule": "selection",
    "scores": "score_initializer",
    "slots": "num_values",
    "values": "num_values",
    "values_initializer": "bank_initializer",
}


def signature(plain_class: type, slot_layer: type) -> inspect.Signature:
    """All parameters of the Keras layer, the slot arguments as keyword-only ones, then its `**kwargs` if any."""
    plain = _parameters(plain_class)
    names = {p.name for p in plain}
    ours = [p for p in _parameters(slot_layer) if p.kind is p.KEYWORD_ONLY and p.name not in names]
    return inspect.Signature(sorted([*plain, *ours], key=attrgetter("kind")))


def described(docstring: str | None) -> dict[str, str]:
    r"""Name -> description, from the `Args` section of a docstring.

    Example:

    >>> described("Adds.\n\nArgs:\n    x: A number,\n        or two.\n    y: Another.\n\nRaises: ...")
    {'x': 'A number, or two.', 'y': 'Another.'}
    """
    _, _, section = inspect.cleandoc(docstring or "").partition("Args:\n")
    section = re.split(r"\n\n(?=\S)", section)[0]
    items = re.findall(r"^ {4,5}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def args_section(plain_class: type, slot_layer: type, kernel_arguments: Sequence[str]) -> str:
    """The `Args` section of a slot layer: every argument of its Keras layer, then the slot arguments."""
    theirs, ours = described(plain_class.__doc__), described(slot_layer.__doc__)
    theirs = {name: _FIXED.get(name, text) for name, text in theirs.items() if name not in _REFUSED}
    of_kernels = {f"{k}_{part}": text for k in kernel_arguments for part, text in _OF_KERNELS.items()}
    lines = [f"{name}: {text}" for name, text in (theirs | of_kernels | ours).items()]
    wrapped = (textwrap.fill(x, 111, initial_indent=" " * 8, subsequent_indent=" " * 12) for x in lines)
    return "Args:\n" + "\n".join(wrapped)


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters that a constructor accepts by name, including those it passes on to its base class."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _parameters(base)
        named = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = {p.name: p for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def unknown_argument_error(cls: type, given: Mapping[str, Any], error: Exception) -> ValueError | None:
    """An error that suggests names for the arguments that Keras' `error` calls unknown; None without a guess."""
    known = {p.name for base in cls.__mro__[:-1] for p in _parameters(base)}
    unknown = [name for name in given if name not in known and f"'{name}'" in str(error)]
    lines: list[str] = []
    suggestions: list[str] = []
    for name in unknown:
        meant = _OTHER_NAMES.get(name.lower())
        near = [meant] if meant else difflib.get_close_matches(name.lower(), sorted(known), n=1)
        lines += [f"{cls.__name__} has no argument `{name}`.", *(f"Did you mean `{x}`?" for x in near)]
        suggestions += near
    received = ", ".join(f"{name}={given[name]!r}" for name in unknown)
    return ValueError(f"{' '.join(lines)} Received: {received}.") if suggestions else None


def _parameters(cls: type) -> list[inspect.Parameter]:
    """The parameters of the constructor, including `self`."""
    return list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]
