"""What initial scores share that are made from the values, in place of a distribution of their own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar


class DependentScores(ABC):
    """Base of initial scores that depend on the values of their connection. Equal configurations are equal.

    A subclass with a `name`, as in `class NearestScores(DependentScores, name="nearest")`, can be given by that
    name as `score_initializer`.
    """

    #: Name -> subclass.
    named: ClassVar[dict[str, type[DependentScores]]] = {}

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.named[name] = cls

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal object."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DependentScores:
        """Returns the object that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(json.dumps(self.get_config(), sort_keys=True, default=repr))
