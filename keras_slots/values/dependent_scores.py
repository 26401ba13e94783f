"""What initial scores share that are made from the values, in place of a distribution of their own."""

from __future__ import annotations

from typing import Any, ClassVar

from keras_slots._config import EqualByConfig


class DependentScores(EqualByConfig):
    """Base of initial scores that depend on the values of their connection.

    A subclass with a `name`, as in `class NearestScores(DependentScores, name="nearest")`, can be given by that
    name as `score_initializer`.
    """

    #: Name -> subclass.
    named: ClassVar[dict[str, type[DependentScores]]] = {}

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.named[name] = cls

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DependentScores:
        """Returns the object that `get_config` described."""
        return cls(**config)
