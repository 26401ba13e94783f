"""The types of the arguments that slot layers have in common with their Keras layers."""

from collections.abc import Callable
from typing import Any

Tensor = Any
Shape = tuple[int | None, ...]

Activation = str | Callable[..., Any] | None
Initializer = str | Callable[..., Any] | dict[str, Any]
Regularizer = str | Callable[..., Any] | dict[str, Any] | None
Constraint = str | Callable[..., Any] | dict[str, Any] | None

Size1D = int | tuple[int] | list[int]
Size2D = int | tuple[int, int] | list[int]
Size3D = int | tuple[int, int, int] | list[int]
