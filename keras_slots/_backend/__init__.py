"""What differs between the Keras backends.

Each module has the same functions: `straight_through`, `compiled`, `eager_scope`, `initializer`, `from_host` and
`at_rest`. This
one re-exports those of the backend that Keras runs on.
"""

import keras

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_slots._backend.tensorflow import (
        at_rest,
        compiled,
        eager_scope,
        from_host,
        initializer,
        straight_through,
    )
elif _BACKEND == "jax":
    from keras_slots._backend.jax import at_rest, compiled, eager_scope, from_host, initializer, straight_through
else:
    raise ImportError(
        "keras_slots runs on the Keras backends 'tensorflow' and 'jax'. "
        f"Received: keras.backend.backend()={_BACKEND!r}. "
        "Set the environment variable KERAS_BACKEND to one of these before importing keras."
    )

__all__ = ["at_rest", "compiled", "eager_scope", "from_host", "initializer", "straight_through"]
