"""Model in, new model out: `slotify` puts slot layers into a plain model, `materialize` takes them out again."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots import layers
from keras_slots.random_streams import derive_seed
from keras_slots.slot_arguments import SLOT_ARGUMENTS
from keras_slots.slot_layer import SlotLayer
from keras_slots.validation import check_seed

_SLOT_CLASSES = {
    cls.plain_class: cls
    for cls in vars(layers).values()
    if isinstance(cls, type) and issubclass(cls, SlotLayer) and cls is not SlotLayer
}


def slotify(
    model: keras.Model,
    num_values: int = 8,
    filters: Callable[[keras.layers.Layer], bool] | Collection[str] | None = None,
    **layer_args: Any,
) -> keras.Model:
    """Returns a copy of a plain model whose Dense, Conv and EinsumDense layers are slot layers.

    The new model has the architecture, names and dtypes of the old one. Its kernels are new: each is selected from
    a fresh bank. All other weights (biases, batch normalization) are copied. The given model stays as it is; the
    new one is not compiled. Layers inside composite layers other than `TimeDistributed` stay plain.

    Args:
        model: Functional or Sequential model, nested and shared layers included.
        num_values: K, the number of fixed random values of each connection.
        filters: Which of the layers to replace: a function `layer -> bool`, or a collection of layer names. None
            replaces all.
        **layer_args: Further arguments of the slot layers, such as `selection` or `score_mode`. From an integer
            `seed` each layer gets a seed of its own, derived from its name.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If `model` is a subclassed model, if no layer would be replaced, or if a name in `filters` is
            not that of a layer that has a slot version.

    Example:

    >>> import keras
    >>> from keras_slots import slotify
    >>> plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
    >>> slotify(plain, num_values=2).get_layer("logits")
    <SlotDense name=logits, built=True>
    """
    seed = layer_args.pop("seed", None)
    if seed is not None:
        check_seed(seed)
    wanted = _as_function(filters, model)

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        slot_class = _SLOT_CLASSES.get(type(layer))
        if slot_class is None or not wanted(layer):
            return type(layer).from_config(layer.get_config())
        own_seed = None if seed is None else derive_seed(seed, layer.name)
        arguments = {"num_values": num_values, **layer_args, "seed": own_seed}
        try:
            return slot_class.from_config({**layer.get_config(), **arguments})
        except (TypeError, ValueError) as error:
            # Keras wraps what a layer raises in a TypeError that shows the whole configuration.
            cause = error.__context__ or error
            raise ValueError(f"Layer '{layer.name}' cannot become a slot layer. {cause}") from error

    new_model, pairs = _clone(model, convert, "slotify")
    if not any(isinstance(new, SlotLayer) for _, new in pairs):
        names = sorted(cls.__name__ for cls in _SLOT_CLASSES)
        raise ValueError(
            f"`model` has no layer to replace. Expected at least one of {names} that `filters` selects. "
            f"Received: model '{model.name}', filters={filters!r}"
        )
    for old, new in pairs:
        if isinstance(new, SlotLayer):
            _copy_bias(old, new)
        else:
            _copy_weights(old, new)
    return new_model


def materialize(model: keras.Model, trainable: bool = True) -> keras.Model:
    """Returns a copy of a model in which each slot layer is the plain Keras layer with the selected values.

    `materialize(model)(x)` equals `model(x, training=False)` bit for bit: the kernel is the greedy selection, for
    probabilistic layers too (paper, section 3). All other weights are copied. The given model stays as it is; the
    new one is not compiled.

    Args:
        model: Functional or Sequential model with at least one slot layer.
        trainable: Whether the layers that were slot layers can be trained further (the paper's fine-tuning).

    Returns:
        A new model of the same kind that needs nothing of keras_slots.

    Raises:
        ValueError: If `model` is a subclassed model, holds no slot layer, holds one inside another layer where it
            cannot be replaced, or has scores or selected values that are not finite.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, materialize
    >>> slot = keras.Sequential([keras.Input((4,)), SlotDense(3, name="logits")])
    >>> materialize(slot).get_layer("logits")
    <Dense name=logits, built=True>
    """

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, SlotLayer):
            config = {k: v for k, v in layer.get_config().items() if k not in SLOT_ARGUMENTS}
            return layer.plain_class.from_config({**config, "trainable": trainable})
        inner = [x.name for x in layer._flatten_layers() if isinstance(x, SlotLayer)]
        if inner:
            raise ValueError(
                f"The slot layers {inner} sit inside layer '{layer.name}' of type {type(layer).__name__}, where "
                "they cannot be replaced. Move them into the model itself, a nested model or a "
                "`keras.layers.TimeDistributed`."
            )
        return type(layer).from_config(layer.get_config())

    new_model, pairs = _clone(model, convert, "materialize")
    if not any(isinstance(old, SlotLayer) for old, _ in pairs):
        raise ValueError(
            "`model` holds no slot layer, so there is nothing to materialize. Received: model "
            f"'{model.name}' with the layers {[layer.name for layer in model.layers]}"
        )
    for old, new in pairs:
        if isinstance(old, SlotLayer):
            kernel = _finite_kernel(old)
            new.kernel.assign(kernel)
            _copy_bias(old, new)
        else:
            _copy_weights(old, new)
    return new_model


def _as_function(filters: Any, model: keras.Model) -> Callable[[keras.layers.Layer], bool]:
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    if isinstance(filters, str):
        filters = [filters]
    names = set(filters)
    known = {x.name for x in model._flatten_layers() if type(x) in _SLOT_CLASSES}
    if not names <= known:
        raise ValueError(
            f"`filters` must be a function of a layer, or names out of {sorted(known)}. Received: "
            f"{sorted(names - known)}"
        )
    return lambda layer: layer.name in names


def _clone(
    model: keras.Model, convert: Callable[[keras.layers.Layer], keras.layers.Layer], caller: str
) -> tuple[keras.Model, list[tuple[keras.layers.Layer, keras.layers.Layer]]]:
    """A clone with converted layers, and the pairs of old and new layer; shared layers stay shared."""
    # `clone_model` alone knows which models it can take apart; it names their classes in its error.
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ValueError(
            f"`{caller}` takes Functional and Sequential models, whose layers are known. Received: a model of "
            f"type {type(model).__name__}. Rebuild it with the Functional API, or put the layers in by hand."
        )
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def convert_and_note(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer) is keras.layers.TimeDistributed:
            inner = keras.saving.serialize_keras_object(convert(layer.layer))
            new = type(layer).from_config({**layer.get_config(), "layer": inner})
            pairs.append((layer.layer, new.layer))
        else:
            new = convert(layer)
            pairs.append((layer, new))
        return new

    with _uncompiled(model):
        new_model = keras.models.clone_model(model, clone_function=convert_and_note, recursive=True)
    return new_model, pairs


@contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps `clone_model` from compiling the clone, which fails for losses that Keras cannot serialize."""
    compiled = [x for x in model._flatten_layers() if getattr(x, "compiled", False)]
    for x in compiled:
        x.compiled = False
    try:
        yield
    finally:
        for x in compiled:
            x.compiled = True


def _copy_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    if not old.built and old.weights:
        return
    new.set_weights(old.get_weights())
    if hasattr(new, "finalize_state"):
        # Normalization and its kin compute with what they derive from their weights.
        new.finalize_state()


def _copy_bias(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    if getattr(old, "bias", None) is not None:
        # A copy: on JAX, training one model would delete an array that both hold.
        new.bias.assign(np.array(old.bias))


def _finite_kernel(layer: Any) -> np.ndarray:
    """The selected values, or an error when scores or values are not finite."""
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' is not built yet, so nothing is selected. Call the model on an input first."
        )
    for name, value in (*layer.trained_state(), ("kernel", layer.kernel)):
        if not bool(ops.all(ops.isfinite(value))):
            raise ValueError(
                f"The {name} of layer '{layer.name}' holds NaN or infinity, so its selection means nothing. "
                "Go back to the last good checkpoint and train on with a smaller learning rate."
            )
    return ops.convert_to_numpy(layer.kernel)
