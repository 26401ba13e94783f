"""The straight-through gradient, and how variables get their values, once per Keras backend.

Each module has the same functions, `straight_through_scores`, `straight_through_lever` and `initializer`; this one
re-exports those of the backend that Keras runs on.
"""

import keras

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_slots.backend.tensorflow import (
        initializer,
        straight_through_lever,
        straight_through_scores,
    )
elif _BACKEND == "jax":
    from keras_slots.backend.jax import (
        initializer,
        straight_through_lever,
        straight_through_scores,
    )
else:
    raise ImportError(
        "keras_slots runs on the Keras backends 'tensorflow' and 'jax'. "
        f"Received: keras.backend.backend()={_BACKEND!r}. "
        "Set the environment variable KERAS_BACKEND to one of these before importing keras."
    )

__all__ = ["initializer", "straight_through_lever", "straight_through_scores"]
