"""`slotify` puts slot layers into a plain model, `materialize` takes them out again."""

import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras

from keras_slots import layers  # noqa: F401 (fills the table of slot classes)
from keras_slots._checks import check_seed
from keras_slots._keras import inner_layers
from keras_slots.cloning import Pairs, clone, copy_common_weights, copy_state, pair_weights
from keras_slots.live_config import from_live_config, live_config
from keras_slots.registry import SLOT_CLASSES, parameters_of
from keras_slots.slot_arguments import SLOT_ARGUMENTS
from keras_slots.slot_layer import SlotLayer
from keras_slots.values.philox import derive_seed


def slotify(
    model: keras.Model,
    num_values: int = 8,
    filters: Callable[[keras.layers.Layer], bool] | Collection[str] | None = None,
    **layer_args: Any,
) -> keras.Model:
    """Returns a copy of a model whose dense, convolution and attention layers are slot layers.

    The new model has the architecture, names and dtypes of the old one. Its kernels are new: each is selected from
    a fresh bank. All other weights (biases, batch normalization) are copied. Slot layers that the model already
    has are kept as they are, with what they have learned, whatever the arguments here say. The given model stays
    as it is; the new one is not compiled.

    Nested and shared layers are replaced too, and layers inside `TimeDistributed`. What has no slot version stays
    plain: recurrent layers, `Embedding`, layers inside composite layers. A warning lists those that hold kernels.

    Args:
        model: Functional or Sequential model, nested and shared layers included.
        num_values: K, the number of fixed random values of each connection.
        filters: Which of the layers to replace: a function `layer -> bool`, or a collection of layer names. None
            replaces all. Layers that a filter leaves out are not warned of.
        **layer_args: Further arguments of the slot layers, such as `selection` or `score_mode`. From an integer
            `seed` each layer gets a seed of its own, derived from its name.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If `model` is a subclassed model or of a class whose `call` would be lost, if no layer would be
            replaced, or if a name in `filters` is not that of a layer that has a slot version.

    Warns:
        UserWarning: If layers with kernels stay plain, or the class of the model cannot be kept.

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
        slot_class = SLOT_CLASSES.get(type(layer))
        if slot_class is None or not wanted(layer):
            return _same(layer)
        arguments = {"num_values": num_values, **layer_args}
        if seed is not None:
            arguments["seed"] = derive_seed(seed, layer.name) % slot_class.seed_limit
        try:
            return from_live_config(slot_class, {**live_config(layer), **arguments}, layer)
        except (TypeError, ValueError, NotImplementedError) as error:
            # Keras wraps what a layer raises in a TypeError that shows the whole configuration.
            cause = error.__context__ or error
            raise ValueError(f"Layer '{layer.name}' cannot become a slot layer. {cause}") from error

    new_model, pairs = clone(model, convert, "slotify")
    if all(type(old) is type(new) for old, new in pairs):
        if any(isinstance(old, SlotLayer) for old, _ in pairs):
            raise ValueError(
                "`model` is a slot model already: no layer that `filters` selects is left to replace. Received: "
                f"model '{model.name}', filters={filters!r}. Use it as it is, or call "
                "`keras_slots.materialize(model)` first for new banks."
            )
        names = sorted(cls.__name__ for cls in SLOT_CLASSES)
        raise ValueError(
            f"`model` has no layer to replace. Expected at least one of {names} that `filters` selects. "
            f"Received: model '{model.name}', filters={filters!r}"
        )
    for old, new in pairs:
        copy = copy_state if type(old) is type(new) else copy_common_weights
        copy(old, new)
    _warn_of_plain_kernels(pairs, wanted)
    return new_model


def materialize(model: keras.Model, trainable: bool = True) -> keras.Model:
    """Returns a copy of a model in which each slot layer is the plain Keras layer with the selected values.

    `materialize(model)(x)` equals `model(x, training=False)` bit for bit: the kernel is the greedy selection, for
    every selection rule (paper, section 3). All other weights are copied. The given model stays as it is; the
    new one is not compiled.

    Args:
        model: Functional or Sequential model with at least one slot layer.
        trainable: Whether the layers that were slot layers can be trained further (the paper's fine-tuning). Those
            that are frozen stay frozen.

    Returns:
        A new model of the same kind that needs nothing of keras_slots.

    Raises:
        ValueError: If `model` is a subclassed model or of a class whose `call` would be lost, holds no slot layer,
            holds one inside another layer where it cannot be replaced, one of a class with a `call` of its own or
            one whose weights are not those of its Keras layer, or has scores or selected values that are not
            finite.

    Warns:
        UserWarning: If the class of the model cannot be kept.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, materialize
    >>> slot = keras.Sequential([keras.Input((4,)), SlotDense(3, name="logits")])
    >>> materialize(slot).get_layer("logits")
    <Dense name=logits, built=True>
    """
    return materialized(model, trainable)[0]


def materialized(model: keras.Model, trainable: bool = True) -> tuple[keras.Model, Pairs]:
    """What `materialize` returns, and the pairs of old and new layer."""

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, SlotLayer):
            return _plain(layer, trainable)
        inner = [x.name for x in inner_layers(layer) if isinstance(x, SlotLayer)]
        if inner:
            raise ValueError(
                f"The slot layers {inner} sit inside layer '{layer.name}' of type {type(layer).__name__}, where "
                "they cannot be replaced. Move them into the model itself, a nested model or a "
                "`keras.layers.TimeDistributed`."
            )
        return _same(layer)

    new_model, pairs = clone(model, convert, "materialize")
    if not any(isinstance(old, SlotLayer) for old, _ in pairs):
        raise ValueError(
            "`model` holds no slot layer, so there is nothing to materialize. Received: model "
            f"'{model.name}' with the layers {[layer.name for layer in model.layers]}"
        )
    for old, new in pairs:
        if isinstance(old, SlotLayer):
            _check_selection(old)
            for weight, value in pair_weights(new, old, old.selected_weights()):
                weight.assign(value)
        else:
            copy_state(old, new)
    return new_model, pairs


def _same(layer: keras.layers.Layer) -> keras.layers.Layer:
    try:
        return from_live_config(type(layer), live_config(layer), layer)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be copied: Keras cannot make it from its "
            f"own configuration. {error} Give the class a `get_config` and `from_config` that do."
        ) from error


def _plain(layer: Any, trainable: bool) -> keras.layers.Layer:
    """The Keras layer of a slot layer, not built yet."""
    # The class that names the Keras layer; what a subclass of it computes is not known here.
    owner: Any = next(cls for cls in type(layer).__mro__ if "plain_class" in vars(cls))
    for method in ("build", "call"):
        if getattr(type(layer), method) is not getattr(owner, method):
            raise ValueError(
                f"Layer '{layer.name}' of type {type(layer).__name__} cannot be materialized: it has a `{method}` "
                f"of its own, which {owner.plain_class.__name__} does not know. Decorate the class with "
                "`keras_slots.register_slot_layer(plain_class)`: the Keras layer that computes the same."
            )
    kept = parameters_of(owner.plain_class)
    config = {
        name: value
        for name, value in live_config(layer, owner).items()
        if name in kept or name not in SLOT_ARGUMENTS
    }
    try:
        plain = from_live_config(owner.plain_class, config, layer)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be materialized: "
            f"{owner.plain_class.__name__} cannot be made from its configuration. {error}"
        ) from error
    plain.trainable = trainable and layer.trainable
    return plain


def _check_selection(layer: Any) -> None:
    """Raises an error if nothing is selected, or something is not finite."""
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' is not built yet, so nothing is selected. Call the model on an input first."
        )
    for kernel in layer.slot_kernels.values():
        name = kernel.not_finite()
        if name is not None:
            raise ValueError(
                f"The {name} of layer '{layer.name}' holds NaN or infinity, so its selection means nothing. "
                "Go back to the last good checkpoint and train on with a smaller learning rate."
            )
        if kernel.needs_seed:
            kernel.check_seed()


def _as_function(filters: Any, model: keras.Model) -> Callable[[keras.layers.Layer], bool]:
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    if isinstance(filters, str):
        filters = [filters]
    names = set(filters)
    known = {x.name for x in inner_layers(model) if type(x) in SLOT_CLASSES}
    if not names <= known:
        raise ValueError(
            f"`filters` must be a function of a layer, or names out of {sorted(known)}. Received: "
            f"{sorted(names - known)}"
        )
    return lambda layer: layer.name in names


def _warn_of_plain_kernels(pairs: Pairs, wanted: Callable) -> None:
    """Says which layers with kernels were wanted and stayed plain."""
    plain = [old for old, new in pairs if type(old) is type(new) and not isinstance(old, SlotLayer)]
    left = [x for x in plain if wanted(x) and any(len(v.shape) > 1 for v in x.weights)]
    if not left:
        return
    total = sum(old.count_params() for old, _ in pairs if old.built)
    lines = []
    for kind in sorted({type(x).__name__ for x in left}):
        same = [x for x in left if type(x).__name__ == kind]
        share = sum(x.count_params() for x in same) / total
        lines.append(f"{kind} {[x.name for x in same]}: {share:.1%} of the weights")
    warnings.warn(
        "`slotify` has no slot version of these layers, which stay plain and trained as before: "
        f"{'; '.join(lines)}. Leave them out through `filters` to silence this warning.",
        stacklevel=3,
    )
