"""Objects that are what their configuration says."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any


class EqualByConfig(ABC):
    """Base of distributions, scores and rules: two of one class are equal when their configurations are."""

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal object."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        text = json.dumps(self.get_config(), sort_keys=True, default=repr)
        return hash((type(self), text))
