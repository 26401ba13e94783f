"""All private parts of Keras that keras_slots uses, and why.

`tests/interop/test_keras_internals.py` tests what is expected of each.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.layers.core.einsum_dense import _analyze_einsum_string
from keras.src.ops.function import map_graph
from keras.src.quantizers.utils import should_quantize_layer
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_slots._backend import initializer as initializer_of

Shape = tuple[int | None, ...]
_ONE_AT_A_TIME = threading.RLock()


def einsum_shapes(layer: Any, input_shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...] | None, Shape]:
    """Shapes of kernel, bias and output of an `EinsumDense`; no public API gives them before `build`."""
    kernel_shape, bias_shape, output_shape, *_ = _analyze_einsum_string(
        layer.equation, layer.bias_axes, input_shape, layer.partial_output_shape
    )
    bias_shape = None if bias_shape is None else tuple(bias_shape)
    return tuple(kernel_shape), bias_shape, tuple(output_shape)


def inner_layers(layer: Any) -> list[keras.layers.Layer]:
    """The layer and all layers inside it, at any depth; Keras has a public attribute for models only."""
    return layer._flatten_layers()


def direct_layers(layer: Any) -> list[keras.layers.Layer]:
    """The direct sub-layers of a layer, in order."""
    return layer._flatten_layers(include_self=False, recursive=False)


def receives_mask(layer: Any) -> bool:
    """Whether a mask reaches the layer in the graph of its model."""
    tensors = (tensor for node in layer._inbound_nodes for tensor in node.input_tensors)
    return any(get_keras_mask(tensor) is not None for tensor in tensors)


class _Everything(dict):
    """As if the configuration of every object had been written before."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: int) -> dict[str, Any]:
        return {}


@contextmanager
def writing_scope() -> Iterator[None]:
    """A context in which a layer in several places of a model is written as one layer, as in `.keras` files.

    Every object is written with its `id` as `"shared_object_id"`. Keras writes it from the second time on, and
    into the first configuration, which the class of a composite may have copied by then.
    """
    with ObjectSharingScope():
        global_state.set_global_attribute("shared_objects/id_to_config_map", _Everything())
        yield


@contextmanager
def reading_scope() -> Iterator[None]:
    """A context in which a layer in several places of a configuration is read as one layer.

    What a constructor writes and reads itself is not shared: the `id` of an object that is gone may come again.
    """
    with ObjectSharingScope():
        global_state.set_global_attribute("shared_objects/id_to_config_map", None)
        yield


def current_call(layer: Any) -> Any:
    """An object that identifies the outermost call in progress; None outside of a call.

    All calls within one forward pass get the same object, so a layer can tell that it is called again.
    """
    scope = get_stateless_scope()
    if scope is not None:
        # `stateless_call`, which `fit` uses on JAX, opens a scope for the pass instead of a call context.
        return scope
    return _call_context(layer)


def training_of_call(layer: Any) -> bool | None:
    """`training` of the call in progress, for a layer that is not itself called; None outside of a call."""
    return getattr(_call_context(layer), "training", None)


def _call_context(layer: Any) -> Any:
    """Keras' record of the outermost call in progress; None outside of a call."""
    context = layer._get_call_context()
    if context.entry_layer is layer:
        # The query above opened a context for this layer alone: close it.
        layer._maybe_reset_call_context()
        return None
    return context


def set_mask(tensor: Any, mask: Any) -> None:
    """Sets the mask that Keras passes to the layers that take a tensor; in public, only `compute_mask` does."""
    set_keras_mask(tensor, mask)


def replace_parts(layer: Any, **parts: Any) -> None:
    """Sets attributes that hold a layer or a random generator; Keras would keep what they held before, too."""
    for name in parts:
        layer._tracker.untrack(getattr(layer, name))
        delattr(layer, name)
    for name, part in parts.items():
        setattr(layer, name, part)


@cache
def _attributes_of_keras(is_model: bool) -> frozenset[str]:
    """The attributes that Keras gives to every layer, or to models of all kinds."""
    if not is_model:
        return frozenset(vars(keras.layers.Layer(name="any")))
    inputs = keras.Input((1,), name="any")
    return frozenset(vars(keras.Model(name="any")) | vars(keras.Model(inputs, inputs, name="any")))


def parts_of(layer: Any) -> dict[str, Any]:
    """The attributes of a layer that hold layers, also in lists, tuples and dictionaries, without Keras' own.

    The layers in the graph of a Functional model come first, as its `layers`.
    """
    theirs = _attributes_of_keras(isinstance(layer, keras.Model))
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}  # where PyTorch keeps layers
    own = {
        name: value
        for name, value in attributes.items()
        # TensorFlow keeps lists of the other attributes.
        if name not in theirs and not name.startswith("_self_unconditional") and _holds_layers(value)
    }
    return {"layers": layer.layers, **own} if hasattr(layer, "operations") else own


def _holds_layers(value: Any) -> bool:
    try:
        return any(isinstance(x, keras.layers.Layer) for x in keras.tree.flatten(value))
    except TypeError:  # a dictionary whose keys have no order
        return False


def exchange_parts(layer: Any, new: dict[int, keras.layers.Layer]) -> None:
    """Puts layers into the places of others, given by `id`, in `parts_of(layer)`; keeps the order of weights."""
    for name, value in parts_of(layer).items():
        found = {id(x): x for x in keras.tree.flatten(value) if id(x) in new}
        for key, old in found.items():
            if layer._tracker.is_in_store("layers", old):
                layer._tracker.replace_tracked_value("layers", old, new[key])
        if found and name == "layers" and hasattr(layer, "operations"):
            _exchange_in_graph(layer, [(old, new[key]) for key, old in found.items()])
        elif found:
            setattr(layer, name, keras.tree.map_structure(lambda x: new.get(id(x), x), value))
    if layer.built:
        layer._post_build()  # PyTorch lists the parameters of all layers inside


def _exchange_in_graph(model: Any, pairs: list[tuple[Any, Any]]) -> None:
    """Puts the second layer of each pair into the place of the first one in the graph of a Functional model."""
    for old, new in pairs:
        vars(new).update(_inbound_nodes=old._inbound_nodes, _outbound_nodes=old._outbound_nodes)
        for node in new._inbound_nodes:
            node.operation = new
            for tensor in node.output_tensors:
                tensor._keras_history = tensor._keras_history._replace(operation=new)
    graph = map_graph(model._inputs, model._outputs)
    model._nodes, model._nodes_by_depth, model._operations, model._operations_by_depth = graph


class _HiddenFromKeras(str):
    """A name that claims to begin with two underscores, so that Keras skips it."""

    def startswith(self, prefix: Any, *limits: Any) -> bool:
        return prefix == "__" or super().startswith(prefix, *limits)


def names_hidden_from_saving(cls: type, names: Iterable[str]) -> list[str]:
    """Names for `__dir__` that users see, but that Keras skips when it saves, so that it computes no property.

    When it saves, Keras reads every attribute that `dir` names, except those that begin with two underscores. All
    state to be saved is in ordinary attributes.
    """
    return [_HiddenFromKeras(name) if isinstance(getattr(cls, name, None), property) else name for name in names]


def copy_operation(operation: Any) -> Any:
    """Copies an operation of a model, such as the sum of `x + y`, without calling it.

    A copy by configuration would lose arguments that Keras cannot serialize, such as `np.float32(0)`.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return new


def check_before_quantization(check: Callable[[Any, list[keras.layers.Layer]], None]) -> None:
    """Makes `model.quantize` call `check(model, layers)`, the layers to quantize, before it changes any of them.

    Keras quantizes one layer after another, so an error of one layer would leave those before it quantized.
    """
    quantize = keras.Model.quantize

    @wraps(quantize)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        filters = inspect.signature(quantize).bind(self, *args, **kwargs).arguments.get("filters")
        check(self, [layer for layer in inner_layers(self) if should_quantize_layer(layer, filters)])
        return quantize(self, *args, **kwargs)

    keras.Model.quantize = checked


@contextmanager
def without_values() -> Iterator[list[keras.Variable]]:
    """In this context models are built with variables that have a shape but no value, and take no memory.

    Yields a list that holds these variables when the context ends; set each with `set_first_value`.
    """
    name = "uninitialized_variables"  # Keras would initialize them at the next opportunity
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
            if value is not None:  # a value that was assigned in the context
                variable._initializer = _initializer_with(value)


@contextmanager
def _values_as_initializers(scope: keras.StatelessScope) -> Iterator[None]:
    """Lets a variable be made from a value in `scope`, as in stateful RNNs; Keras expects an initializer."""

    def init(self: Any, initializer: Any, shape: Any = None, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
        has_value = not (callable(initializer) or isinstance(initializer, str))
        # Other threads may make variables at the same time, but not in this scope.
        if has_value and get_stateless_scope() is scope:
            value = keras.ops.convert_to_tensor(initializer, dtype)
            initializer, shape, dtype = _initializer_with(value), value.shape, value.dtype
        honest(self, initializer, shape, dtype, *args, **kwargs)

    with _ONE_AT_A_TIME:
        honest = keras.Variable.__init__
        keras.Variable.__init__ = init
        try:
            yield
        finally:
            keras.Variable.__init__ = honest


def _initializer_with(value: Any) -> Any:
    return initializer_of(lambda: value)


def set_first_value(variable: Any, array: Any = None) -> None:
    """Sets a variable of `without_values`: to the array, or by its initializer if there is none.

    So only one copy of a large weight is ever in memory, without a random one beside it.
    """
    if array is not None:
        variable._initializer = _initializer_with(array)
    variable._deferred_initialize()
