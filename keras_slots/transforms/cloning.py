"""Copies of models in which some layers are replaced, whatever the models are made of."""

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from keras_slots._keras import copy_operation, direct_layers, inner_layers, replace_parts
from keras_slots._live_config import CONFIG_ERRORS, from_live_config, live_config, own_class
from keras_slots.layers.composite import (
    WRAPPERS,
    as_slot_composite,
    exchange,
    has_own_build,
    holds_slots,
    is_composite,
    is_model,
    is_whole,
    places_in,
    scoped,
)
from keras_slots.transforms.weights import Pairs

Convert = Callable[[keras.layers.Layer, str], keras.layers.Layer]

#: Attributes that a copy made by Keras does not need.
_MADE_BY_KERAS = {"get_config", "from_config", "build", "_abc_impl"}


def clone(
    model: keras.Model, convert: Convert, is_slot: Callable[[Any], bool], caller: str
) -> tuple[keras.Model, Pairs]:
    """Returns a copy whose layers `convert` has made, and the pairs of old and new layers; copies no weights.

    Nested models, and layers inside wrappers and composites are converted too; shared layers stay shared.
    `convert` gets each layer with its place in the model: its name, behind the place of what it is inside of.
    `is_slot` says which layers are, or become slot layers; a composite without any is copied as a whole, unless it
    shares a layer or is a subclassed model.
    """
    if not (is_model(model) or (isinstance(model, keras.Model) and model.built)):
        raise ValueError(
            f"`{caller}` takes Keras models, and subclassed ones once they are built. Received: a model of type "
            f"{type(model).__name__} that is not built. Call it on an input first."
        )
    pairs: Pairs = []
    done: dict[int, Any] = {}
    owners = Counter(key for owner in inner_layers(model) for key in {id(x) for x in direct_layers(owner)})

    def copy(layer: Any, place: str) -> Any:
        if id(layer) not in done:
            done[id(layer)] = make_copy(layer, place)
        return done[id(layer)]

    def make_copy(layer: Any, place: str) -> Any:
        def copy_inner(part: Any, name: str | None = None) -> Any:
            return copy(part, f"{place}/{name or part.name}".removeprefix("/"))

        if not isinstance(layer, keras.layers.Layer):
            # An operation, such as the sum of `x + y`, has no weights.
            return copy_operation(layer)
        inner = inner_layers(layer)[1:]
        is_subclassed = isinstance(layer, keras.Model) and not is_model(layer)
        taken_apart = is_subclassed or any(map(is_slot, inner)) or any(owners[id(x)] > 1 for x in inner)
        if is_composite(layer) and taken_apart:
            return _copy_composite(layer, place or layer.name, copy, is_slot, pairs, done)
        if isinstance(layer, keras.Sequential):
            return _copy_sequential(layer, copy_inner)
        if is_model(layer):
            return _copy_functional(layer, copy_inner)
        if type(layer) in WRAPPERS:
            return _copy_wrapper(layer, copy_inner)
        new = convert(layer, place)
        pairs.append((layer, new))
        return new

    return copy(model, place=""), pairs


def copied_layer(layer: Any) -> Any:
    """A layer of the same configuration, without its weights."""
    try:
        copied = from_live_config(own_class(layer), live_config(layer), layer)
    except CONFIG_ERRORS as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be copied: Keras cannot make it from its "
            f"own configuration. {error} Give the class a matching `get_config` and `from_config`."
        ) from error
    copied.name = layer.name  # Keras writes no name where a class has no `get_config`
    return copied


def _copy_sequential(model: keras.Sequential, copy: Callable) -> keras.Sequential:
    first = direct_layers(model)[:1]
    inputs = [_copy_input(x) for x in first if isinstance(x, keras.layers.InputLayer)]
    layers = [*inputs, *(copy(layer) for layer in model.layers)]
    make = _constructor(model, keras.Sequential, "layers") or keras.Sequential
    return make(layers, name=model.name, trainable=model.trainable)


def _copy_functional(model: keras.Model, copy: Callable) -> keras.Model:
    named = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}

    def fresh(tensor: keras.KerasTensor) -> keras.KerasTensor:
        if id(tensor) in named:
            return _copy_input(named[id(tensor)]).output
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # A layer of another class may take no mask. Keras records one for all that do, mostly None.
        parameters = inspect.signature(layer.call).parameters
        return layer(*args, **{name: x for name, x in kwargs.items() if name != "mask" or name in parameters})

    # `clone_model` would also compile the copy, which fails for losses that Keras cannot serialize.
    twin = keras.Model(model.input, model.output, name=model.name)
    new = keras.models.clone_model(
        twin, input_tensors=keras.tree.map_structure(fresh, model.input), clone_function=copy, call_function=call
    )
    make = _constructor(model, type(new), "inputs", "outputs")
    return new if make is None else make(new.input, new.output, name=model.name)


def _copy_input(layer: keras.layers.InputLayer) -> keras.layers.InputLayer:
    return keras.layers.InputLayer.from_config(layer.get_config())


def _constructor(model: keras.Model, base: type, *arguments: str) -> type | None:
    """The class of a model if it is a user's class whose constructor takes only these arguments, else None.

    Refuses a class whose `call` would be lost, and warns of other methods that are.
    """
    own = [cls for cls in type(model).__mro__ if cls not in base.__mro__]
    makers = [vars(cls)["__init__"] for cls in own if "__init__" in vars(cls)]
    if all(_accepts_only(inspect.signature(maker), arguments) for maker in makers):
        return type(model) if own else None
    lost = {x for cls in own for x in vars(cls) if not x.startswith("__")} - _MADE_BY_KERAS
    text = (
        f"The copy of model '{model.name}' does not have {sorted(lost)} of its class {type(model).__name__}, "
        "whose `__init__` does not take the arguments of a Keras model. Let it take "
        f"only {', '.join(f'`{x}`' for x in arguments)} and `**kwargs`, and create the layers outside of it."
    )
    if "call" in lost:
        raise ValueError(text)
    if lost:
        warnings.warn(text, stacklevel=2)
    return None


def _accepts_only(maker: inspect.Signature, arguments: tuple[str, ...]) -> bool:
    """Whether a constructor takes only the arguments of a Keras model."""
    _, *parameters = maker.parameters.values()
    kinds = {p.kind for p in parameters}
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = {"name", "trainable"}
    if names - {*arguments, *rest} or not (rest <= names or inspect.Parameter.VAR_KEYWORD in kinds):
        return False
    return inspect.Parameter.VAR_POSITIONAL in kinds or set(arguments) <= names


def _copy_wrapper(wrapper: Any, copy: Callable) -> keras.layers.Layer:
    """Copies a layer of `WRAPPERS`, with copies of the layers inside it."""

    def copies(part: Any, name: str) -> Any:
        if isinstance(part, (list, tuple)):  # cells, which may have equal names
            return [copy(x, f"{name}/{index}") for index, x in enumerate(part)]
        return copy(part, name)

    inner = {name: copies(getattr(wrapper, name), name) for name in WRAPPERS[type(wrapper)]}
    if type(wrapper) is not keras.layers.Bidirectional:
        return type(wrapper)(**{**live_config(wrapper), **inner})
    # The constructor would make the layers again from their configurations.
    new = from_live_config(type(wrapper), live_config(wrapper), wrapper)
    for name, layer in inner.items():
        # Set by the constructor.
        layer.zero_output_for_mask = getattr(wrapper, name).zero_output_for_mask
    replace_parts(new, **inner)
    return new


def _copy_composite(
    old: Any, place: str, copy: Callable, is_slot: Callable[[Any], bool], pairs: Pairs, done: dict[int, Any]
) -> keras.layers.Layer:
    """Copies a composite: makes it as its class does, then puts copies of its inner layers into their places."""
    new = _made_again(old, place)
    made = {path: part for path, _, part in places_in(new)}
    copies: dict[int, Any] = {}
    apart, frozen = {id(old)}, [] if old.trainable else [new]
    for path, scope, part in places_in(old):
        if id(part) in apart:
            continue
        apart.add(id(part))
        twin = made[path]
        has_slot = any(map(is_slot, inner_layers(part)))
        if id(part) in done and not has_slot:  # the composite shares it with what was copied before
            copies[id(twin)] = done[id(part)]
        elif has_slot and is_whole(part):
            with scoped(scope):
                copied = copies[id(twin)] = copy(part, f"{place}/{path}")
                if part.built and not copied.built:
                    copied.build_from_config(part.get_build_config())
        else:
            pairs.append((part, twin))
            if not part.trainable:
                frozen.append(twin)
            if not has_slot:
                done[id(part)] = twin
            continue
        apart |= {id(x) for x in inner_layers(part)}
    _check_reached(old, place, [x for x in inner_layers(old) if is_slot(x) and id(x) not in apart])
    replaced = {path: part for path, part in made.items() if id(part) in copies}
    held = {id(v): path for path, part in replaced.items() for v in part.variables}
    has_slots = any(holds_slots(copies[id(part)]) and not holds_slots(part) for part in replaced.values())
    exchange(new, copies)
    _check_exchanged(old, new, place, held)
    pairs.append((old, new))
    if has_slots:
        new = as_slot_composite(new)
    if old.built and not new.built:
        new.build_from_config(old.get_build_config())
        new.built = True  # as Keras does after that
    _freeze(frozen)
    return new


def _check_reached(old: Any, place: str, lost: list[keras.layers.Layer]) -> None:
    if lost:
        raise ValueError(
            f"The layers {[x.path or x.name for x in lost]} inside layer '{place}' of type {type(old).__name__} "
            "cannot be replaced: they are not in its attributes, nor in a list, tuple or dictionary in one. Move "
            "them there, or leave them out through `filters`."
        )


def _freeze(layers: list[keras.layers.Layer]) -> None:
    """Freezes layers and all layers inside them, of which a configuration says nothing."""
    for layer in layers:
        layer.trainable = True  # TensorFlow skips an assignment that changes nothing
        layer.trainable = False


def _check_exchanged(old: Any, new: Any, place: str, held: dict[int, str]) -> None:
    """Raises an error if a copy still holds variables of replaced layers, or if its class makes slot layers.

    `held` are the `id` of each variable of a replaced layer, and the path of that layer.
    """
    kept = sorted({f"{place}/{held[id(v)]}" for v in new.variables if id(v) in held})
    if kept:
        raise ValueError(
            f"The layers {kept} cannot be replaced: layer '{place}' of type {type(old).__name__} also holds their "
            "weights themselves. Leave them out through `filters`."
        )
    if holds_slots(new):
        return
    for path, _, part in places_in(copied_layer(new)):
        if holds_slots(part):
            raise ValueError(
                f"The slot layer '{place}/{path}' is made by layer '{place}' itself, of type "
                f"{type(old).__name__}, so it cannot be replaced. Let that class make a plain layer, and apply "
                "`slotify` to the model."
            )


def _made_again(old: Any, place: str) -> Any:
    """A composite that its class has made from the configuration of another one, of the same names and built."""
    new = copied_layer(old)
    names = {path: part.name for path, _, part in places_in(old)}
    for path, _, part in places_in(new):
        if path in names and not part.variables:
            part.name = names[path]
    _build_like(old, new, set())
    missing = names.keys() - {path for path, _, _ in places_in(new)}
    if missing:
        raise ValueError(
            f"Layer '{place}' of type {type(old).__name__} cannot be copied: one that Keras makes from its "
            f"configuration has no layer '{min(missing)}'. Create all layers in `__init__` or in `build`."
        )
    return new


def _build_like(old: Any, new: Any, seen: set[int]) -> None:
    """Builds a layer and the layers inside it as those of another one."""
    if id(old) in seen:
        return
    seen.add(id(old))
    if old.built and not new.built and has_own_build(new):
        new.build_from_config(old.get_build_config())
    if is_whole(old):
        return
    twins = {path: part for path, _, part in places_in(new, is_closed=lambda layer: True)}
    for path, scope, part in places_in(old, is_closed=lambda layer: True):
        if path in twins:
            with scoped(scope):
                _build_like(part, twins[path], seen)
