"""What differs between the Keras backends.

Each module has the same functions: `straight_through`, `compiled`, `eager_scope`, `initializer`, `from_host` and
`zero_gradient_at_zero`. This package re-exports those of the current Keras backend.
"""

import keras

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_slots._backend.tensorflow import (
        compiled,
        eager_scope,
        from_host,
        initializer,
        straight_through,
        zero_gradient_at_zero,
    )
elif _BACKEND == "jax":
    from keras_slots._backend.jax import (
        compiled,
        eager_scope,
        from_host,
        initializer,
        straight_through,
        zero_gradient_at_zero,
    )
else:
    raise ImportError(
        "keras_slots runs on the Keras backends 'tensorflow' and 'jax'. "
        f"Received: keras.backend.backend()={_BACKEND!r}. "
        "Set the environment variable KERAS_BACKEND to one of these before importing keras."
    )

__all__ = ["compiled", "eager_scope", "from_host", "initializer", "straight_through", "zero_gradient_at_zero"]
