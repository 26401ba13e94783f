"""The argument `move_regularizer`, and a short text of a regularizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Tensor = Any


def get_move_regularizer(
    identifier: Any, score_mode: str, measures_moves: bool
) -> Callable[[Tensor], Tensor] | None:
    """The regularizer of the moves of a kernel, or None; an error if the score mode does not measure moves."""
    if identifier is None:
        return None
    try:
        found = keras.regularizers.get(identifier)
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(
            "`move_regularizer` must be a Keras regularizer, its name, or None. Received: "
            f"move_regularizer={identifier!r}. Pass for example move_regularizer=keras.regularizers.L1(1e-5)."
        ) from error
    if not measures_moves:
        raise ValueError(
            f'`move_regularizer` must be None for score_mode="{score_mode}", in which no single number '
            f"measures how far a connection has moved. Received: move_regularizer={regularizer_text(found)}. Pass "
            'score_mode="per_connection", which trains such a number, or leave it out.'
        )
    return found


def regularizer_text(regularizer: Any) -> str | None:
    """A regularizer as a short text, such as `L1(l1=1e-05)`; the `repr` of Keras only shows an address."""
    if regularizer is None:
        return None
    if not hasattr(regularizer, "get_config"):
        return str(getattr(regularizer, "__name__", regularizer))
    numbers = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value!r}"
        for name, value in regularizer.get_config().items()
    )
    return f"{type(regularizer).__name__}({', '.join(numbers)})"
