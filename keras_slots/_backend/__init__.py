"""What differs between the Keras backends: one module for each, with the same functions.

This one re-exports those of the module of the backend that Keras runs on.
"""

import importlib

import keras

#: Keras backend -> its module. On any other, `generic` computes what `keras.ops` alone can.
MODULES = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}

_module = importlib.import_module(f"{__name__}.{MODULES.get(keras.backend.backend(), 'generic')}")

at_rest = _module.at_rest
compiled = _module.compiled
eager_scope = _module.eager_scope
from_host = _module.from_host
initializer = _module.initializer
straight_through = _module.straight_through
