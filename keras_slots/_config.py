"""Objects that are defined by their configuration."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from typing import Any


class EqualByConfig(ABC):
    """Base of distributions, scores and rules. Two objects of one class are equal if their configurations are."""

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of an equal object."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        text = json.dumps(self.get_config(), sort_keys=True, default=repr)
        return hash((type(self), text))


def check_config(thing: Any, argument: str) -> None:
    """Refuses a value of a layer's `argument` whose `get_config` omits an argument of the constructor.

    Different objects would be equal. Equal objects share their compiled programs, and a file holds only the
    configuration.
    """
    missing = [name for name in _constructor_arguments(type(thing)) if name not in thing.get_config()]
    if missing:
        name = type(thing).__name__
        raise ValueError(
            f"`{argument}` must have a `get_config` that returns every argument of its constructor: objects of "
            "one class and configuration are treated as equal, and a saved model holds only that. "
            f"Received: {argument}={name}, whose configuration {thing.get_config()!r} lacks {missing}. "
            f"Give the class {name} a `get_config` that returns its arguments."
        )


def _constructor_arguments(cls: type) -> list[str]:
    names: list[str] = []
    open_ended: list[str] = []
    for base in cls.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        open_ended = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names += [p.name for p in parameters if p.name not in open_ended]
        if not open_ended:
            return names
    # Without `*args` or `**kwargs` no argument reaches the base class.
    return names or open_ended
