"""Every private part of Keras that keras_slots uses, in one place, each with its reason.

`tests/interop/test_keras_internals.py` pins what is expected of each.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.layers.core.einsum_dense import _analyze_einsum_string

from keras_slots._backend import initializer as initializer_of

Shape = tuple[int | None, ...]
_ONE_AT_A_TIME = threading.RLock()


def einsum_shapes(layer: Any, input_shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...] | None, Shape]:
    """Shapes of kernel, bias and output of an `EinsumDense`; nothing public tells them before `build`."""
    kernel_shape, bias_shape, output_shape, *_ = _analyze_einsum_string(
        layer.equation, layer.bias_axes, input_shape, layer.partial_output_shape
    )
    bias_shape = None if bias_shape is None else tuple(bias_shape)
    return tuple(kernel_shape), bias_shape, tuple(output_shape)


def inner_layers(layer: Any) -> list[keras.layers.Layer]:
    """The layer and all layers inside it, at any depth; public attributes name those of models only."""
    return layer._flatten_layers()


def direct_layers(layer: Any) -> list[keras.layers.Layer]:
    """The layers right inside a layer, in the order in which it holds them."""
    return layer._flatten_layers(include_self=False, recursive=False)


def current_pass(layer: Any) -> Any:
    """An object that stands for the outermost call in progress, or None outside of one.

    All calls of one forward pass see the same object, so a layer that is called several times can tell.
    """
    scope = get_stateless_scope()
    if scope is not None:
        # `stateless_call`, by which `fit` trains on JAX, opens a scope for the pass in the place of a context.
        return scope
    context = layer._get_call_context()
    if context.entry_layer is layer:
        # Asking opened a context for this layer alone: close it again.
        layer._maybe_reset_call_context()
        return None
    return context


class _PassedOver(str):
    """Begins with two underscores for those who ask, and nobody else sees them."""

    def startswith(self, prefix: Any, *limits: Any) -> bool:
        return prefix == "__" or super().startswith(prefix, *limits)


def passed_over_when_saving(cls: type, names: Iterable[str]) -> list[str]:
    """What `__dir__` returns so that users see all names, and Keras does not compute a property when it saves.

    Keras reads every attribute that `dir` names, but for those that begin with two underscores. What it saves lies
    in ordinary attributes.
    """
    return [_PassedOver(name) if isinstance(getattr(cls, name, None), property) else name for name in names]


def copy_operation(operation: Any) -> Any:
    """A copy of an operation of a model, such as the sum of `x + y`, not called yet.

    Its configuration would lack what Keras cannot write to a file, such as `np.float32(0)`.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return new


def check_before_quantization(check: Callable[[Any, Any], None]) -> None:
    """Has `check(model, filters)` called before `model.quantize` changes a layer.

    Keras asks the layers one after the other, so that one that refuses comes too late for those before it.
    """
    quantize = keras.Model.quantize

    @wraps(quantize)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self, inspect.signature(quantize).bind(self, *args, **kwargs).arguments.get("filters"))
        return quantize(self, *args, **kwargs)

    keras.Model.quantize = checked


@contextmanager
def shapes_alone() -> Iterator[list[keras.Variable]]:
    """Models that are built in this context have variables of known shape without values, which take no memory.

    Gives a list that holds these variables when the context ends; `give_value` gives each its value.
    """
    name = "uninitialized_variables"  # Keras would give them values at the next occasion
    before = list(global_state.get_global_attribute(name) or [])
    created: list[Any] = []
    scope = keras.StatelessScope(initialize_variables=False)
    try:
        with _values_as_initializers(scope), scope:
            yield created
    finally:
        created += (global_state.get_global_attribute(name) or [])[len(before) :]
        global_state.set_global_attribute(name, before)
        for variable in created:
            value = scope.get_current_value(variable)
            if value is not None:  # that was assigned in the context
                variable._initializer = initializer_of(partial(_same, value))


@contextmanager
def _values_as_initializers(scope: keras.StatelessScope) -> Iterator[None]:
    """In `scope` a variable can be made of a value, as by stateful RNNs, where Keras asks for an initializer."""

    def init(self: Any, initializer: Any, shape: Any = None, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
        has_value = not (callable(initializer) or isinstance(initializer, str))
        # Other threads make variables meanwhile, but not in this scope.
        if has_value and get_stateless_scope() is scope:
            value = keras.ops.convert_to_tensor(initializer, dtype)
            initializer, shape, dtype = (initializer_of(partial(_same, value)), value.shape, value.dtype)
        honest(self, initializer, shape, dtype, *args, **kwargs)

    with _ONE_AT_A_TIME:
        honest = keras.Variable.__init__
        keras.Variable.__init__ = init
        try:
            yield
        finally:
            keras.Variable.__init__ = honest


def _same(value: Any) -> Any:
    return value


def give_value(variable: Any, array: Any = None) -> None:
    """Gives a variable of `shapes_alone` its first value: the array, or what its initializer says.

    Of large weights there is then one copy, never beside one that nobody asked for.
    """
    if array is not None:
        variable._initializer = initializer_of(lambda: array)
    variable._deferred_initialize()
