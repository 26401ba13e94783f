"""`slotify` replaces plain layers of a model by slot layers, `materialize` slot layers by plain ones."""

import inspect
import math
import tempfile
import types
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import keras
import numpy as np

import keras_slots.layers  # noqa: F401 (registers the slot layers)
from keras_slots._checks import check_choice, check_seed
from keras_slots._keras import copy_operation, direct_layers, inner_layers, replace_parts
from keras_slots._live_config import carried_in, from_live_config, live_config, own_class
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.arguments import parameters_of
from keras_slots.layers.base import SLOT_ARGUMENTS, SlotLayer, copied_array
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
from keras_slots.layers.naming import named_weights
from keras_slots.values.philox import derive_seed
from keras_slots.values.stratified import StratifiedUniform

Convert = Callable[[keras.layers.Layer, str], keras.layers.Layer]
Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]

#: Raised where Keras cannot write the configuration of a layer, or make the layer from it.
_CONFIG_ERRORS = (TypeError, ValueError, AttributeError, NotImplementedError)


def slotify(
    model: keras.Model,
    num_values: int = 8,
    filters: Callable[[keras.layers.Layer], bool] | Collection[str] | None = None,
    start: str = "initializer",
    **layer_args: Any,
) -> keras.Model:
    """Returns a copy of a model whose layers with kernels are slot layers.

    The new model has the architecture, names and dtypes of the old one. Each kernel is selected from a fresh bank;
    trained kernels are left behind, unless `start="weights"`. All other weights (biases, batch normalization) are
    copied. Slot layers that the model already has are kept with what they have learned, whatever the arguments
    are. The given model is not changed; the new one is not compiled.

    Nested and shared layers are replaced too, and layers inside wrappers such as `TimeDistributed`. So are layers
    inside composite layers, such as the block of a transformer, and inside subclassed models, if these hold them
    in attributes, lists, tuples or dictionaries; a composite is made again from its configuration. Layers without
    a slot version stay plain, such as `ConvLSTM2D`. A warning lists those that hold kernels.

    Args:
        model: Functional or Sequential model, or a subclassed one that is built.
        num_values: K, the number of fixed random values of each connection.
        filters: Which of the layers to replace: a function `layer -> bool`, or a collection of names, or of paths
            (`layer.path`, as in `"block_0/dense"`). None replaces all. There is no warning about layers that
            `filters` leaves out.
        start: `"initializer"` draws what training starts from, as in a new layer. `"weights"` starts from the
            weights of the model, which must be built: each connection selects the value nearest to its weight, and
            trains on from there with `score_mode="nearest"`, which is implied. Each layer gets a bank of the width
            at which the selected values are closest to its weights in the mean square, unless you pass
            `bank_initializer`.
        **layer_args: Further arguments of the slot layers, such as `selection` or `score_mode`. An integer
            `seed` gives each layer its own seed, derived from its name, or from its place in a composite.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If `model` is a subclassed model that is not built, or of a class whose `call` would be lost;
            if no layer would be replaced, or one inside a composite cannot be; if a name in `filters` is not that
            of a layer with a slot version; or if the model has no weights to start from, or `layer_args` do not go
            with `start="weights"`.

    Warns:
        UserWarning: If layers with kernels stay plain, if trained kernels are left behind (the optimizer of the
            model has made a step, or a bias is no longer zero), or if the class of the model cannot be kept.

    Example:

    >>> import keras
    >>> from sklearn.datasets import load_digits
    >>> from keras_slots import slotify
    >>> x, y = load_digits(return_X_y=True)
    >>> plain = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, name="logits")])
    >>> model = slotify(plain, score_mode="nearest", seed=0)
    >>> model.get_layer("logits")
    <SlotDense name=logits, built=True>
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss, metrics=["accuracy"])
    >>> model.fit(x / 16, y, epochs=10, verbose=0).history["accuracy"][-1] > 0.8
    True
    """
    seed = layer_args.pop("seed", None)
    if seed is not None:
        check_seed(seed)
    wanted = _as_function(filters, model)
    keeps_weights = check_choice(start, "start", ("initializer", "weights")) == "weights"
    if keeps_weights:
        layer_args = _check_start_arguments(model, layer_args)

    def is_slot(layer: keras.layers.Layer) -> bool:
        return isinstance(layer, SlotLayer) or (type(layer) in SlotLayer.registry and wanted(layer))

    def convert(layer: keras.layers.Layer, place: str) -> keras.layers.Layer:
        slot_class = SlotLayer.registry.get(type(layer))
        if slot_class is None or not wanted(layer):
            return copied_layer(layer)
        arguments = {"num_values": num_values, **layer_args}
        if seed is not None:
            arguments["seed"] = derive_seed(seed, place) % slot_class.seed_limit
        try:
            config = {**live_config(layer), **arguments}
            if keeps_weights and not {"bank_initializer", "sharing"} & layer_args.keys():
                config["bank_initializer"] = _bank_for_weights(slot_class, config, layer)
            return from_live_config(slot_class, config, layer)
        except (TypeError, ValueError, NotImplementedError) as error:
            # Keras wraps the error of a layer in a TypeError that shows the whole configuration.
            cause = error.__context__ or error
            raise ValueError(f"Layer '{place}' cannot become a slot layer. {cause}") from error

    new_model, pairs = clone(model, convert, is_slot, "slotify")
    if not any(map(_is_replaced, pairs)):
        if any(isinstance(old, SlotLayer) for old, _ in pairs):
            raise ValueError(
                "`model` is already a slot model: no layer that `filters` selects is left to replace. Received: "
                f"model '{model.name}', filters={filters!r}. Use it as it is, or call "
                "`keras_slots.materialize(model)` first for new banks."
            )
        names = sorted(cls.__name__ for cls in SlotLayer.registry)
        raise ValueError(
            f"`model` has no layer to replace. Expected at least one of {names} that `filters` selects. "
            f"Received: model '{model.name}', filters={filters!r}"
        )
    copy_states(pairs)
    for old, new in filter(_is_replaced, pairs):
        if old.built and new.built:
            for weight, source in pair_weights(old, new, new.weight_sources()):
                if isinstance(source, keras.Variable):
                    source.assign(copied_array(weight))
                elif keeps_weights:
                    source.lever.assign(copied_array(weight))
    _warn_of_plain_kernels(pairs, wanted)
    if not keeps_weights:
        _warn_of_trained_kernels(model, pairs)
    return new_model


def materialize(model: keras.Model, trainable: bool = True) -> keras.Model:
    """Returns a copy of a model in which each slot layer is the plain Keras layer with the selected values.

    `materialize(model)(x)` equals `model(x, training=False)` bit for bit: the kernel is the greedy selection, for
    every selection rule (paper, section 3). All other weights are copied. The given model is not changed; the new
    one is not compiled.

    Args:
        model: Model with at least one slot layer, of a kind that `slotify` takes.
        trainable: Whether the layers that were slot layers can be trained further (the paper's fine-tuning). Those
            that were frozen stay frozen.

    Returns:
        A new model of the same kind that does not depend on keras_slots.

    Raises:
        ValueError: If `model` is a subclassed model that is not built, or of a class whose `call` would be lost;
            if it has no slot layer; if another layer makes a slot layer itself; if a slot layer has a `call` of
            its own, or other weights than its Keras layer; or if scores or selected values are not finite.

    Warns:
        UserWarning: If the class of the model cannot be kept.

    Example:

    >>> import keras, numpy as np
    >>> from keras_slots import SlotDense, materialize
    >>> slot = keras.Sequential([keras.Input((4,)), SlotDense(3, name="logits")])
    >>> slot.compile("sgd", "mse")
    >>> x = np.eye(4, dtype="float32")
    >>> history = slot.fit(x, x[:, :3], verbose=0)
    >>> plain = materialize(slot)
    >>> plain.get_layer("logits")
    <Dense name=logits, built=True>
    >>> bool(np.array_equal(plain.predict(x, verbose=0), slot.predict(x, verbose=0)))
    True
    """
    return materialized(model, trainable)[0]


def materialized(model: keras.Model, trainable: bool = True) -> tuple[keras.Model, Pairs]:
    """The result of `materialize`, and the pairs of old and new layers."""

    def is_slot(layer: keras.layers.Layer) -> bool:
        return isinstance(layer, SlotLayer)

    def convert(layer: keras.layers.Layer, place: str) -> keras.layers.Layer:
        if isinstance(layer, SlotLayer):
            return _materialized_layer(layer, trainable)
        return copied_layer(layer)

    new_model, pairs = clone(model, convert, is_slot, "materialize")
    if not any(isinstance(old, SlotLayer) for old, _ in pairs):
        raise ValueError(
            "`model` has no slot layer, so there is nothing to materialize. Received: model "
            f"'{model.name}' with the layers {[layer.name for layer in model.layers]}"
        )
    copy_states(pairs)
    for old, new in filter(_is_replaced, pairs):
        _check_selection(old)
        for weight, value in pair_weights(new, old, old.selected_weights()):
            weight.assign(value)
    return new_model, pairs


def _is_replaced(pair: tuple[keras.layers.Layer, keras.layers.Layer]) -> bool:
    """Whether one of two layers is a slot layer and the other one a plain one."""
    old, new = pair
    return isinstance(old, SlotLayer) != isinstance(new, SlotLayer)


def copied_layer(layer: Any) -> Any:
    """A layer of the same configuration, without its weights."""
    try:
        copied = from_live_config(own_class(layer), live_config(layer), layer)
    except _CONFIG_ERRORS as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be copied: Keras cannot make it from its "
            f"own configuration. {error} Give the class a matching `get_config` and `from_config`."
        ) from error
    copied.name = layer.name  # Keras writes no name where a class has no `get_config`
    return copied


def _materialized_layer(layer: Any, trainable: bool) -> keras.layers.Layer:
    """The Keras layer of a slot layer, not built yet."""
    # The registered class; what its subclasses compute is unknown here.
    owner: Any = next(cls for cls in type(layer).__mro__ if "plain_class" in vars(cls))
    for method in ("build", "call"):
        if getattr(type(layer), method) is not getattr(owner, method):
            raise ValueError(
                f"Layer '{layer.name}' of type {type(layer).__name__} cannot be materialized: it has a `{method}` "
                f"of its own, which {owner.plain_class.__name__} does not have. Decorate the class with "
                "`keras_slots.register(plain_class)`, the Keras layer that computes the same."
            )
    kept = parameters_of(owner.plain_class)
    config = {
        name: value
        for name, value in live_config(layer, owner).items()
        if name in kept or name not in SLOT_ARGUMENTS
    }
    try:
        plain = from_live_config(owner.plain_class, config, layer)
    except _CONFIG_ERRORS as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be materialized: "
            f"{owner.plain_class.__name__} cannot be created from its configuration. {error}"
        ) from error
    plain.trainable = trainable and layer.trainable
    return plain


def _check_selection(layer: Any) -> None:
    """Raises an error if the layer is not built, or if something is not finite."""
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' is not built yet, so nothing is selected. Call the model on an input first."
        )
    for kernel in layer.slot_kernels.values():
        name = kernel.find_non_finite()
        if name is not None:
            raise ValueError(
                f"The {name} of layer '{layer.name}' holds NaN or infinity, so its selection means nothing. "
                "Go back to the last good checkpoint and continue with a smaller learning rate."
            )
        kernel.check_seed()


def _as_function(filters: Any, model: keras.Model) -> Callable[[keras.layers.Layer], bool]:
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    names = {filters} if isinstance(filters, str) else set(filters)
    replaceable = [x for x in inner_layers(model) if type(x) in SlotLayer.registry]
    known = {x.name for x in replaceable}
    if names - known - {x.path for x in replaceable}:
        raise ValueError(
            f"`filters` must be a function of a layer, or paths or names out of {sorted(known)}. Received: "
            f"{sorted(names - known)}"
        )
    return lambda layer: layer.name in names or layer.path in names


def _check_start_arguments(model: keras.Model, layer_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of slot layers that start from weights."""
    mode = layer_args.get("score_mode", "nearest")
    if mode != "nearest":
        raise ValueError(
            '`score_mode` must be "nearest" for `start="weights"`, because only its levers can start at given '
            f"weights. Received: score_mode={mode!r}. Leave it out."
        )
    if layer_args.get("move_regularizer") is not None:
        raise ValueError(
            '`move_regularizer` must be None for `start="weights"`: it measures moves from the values of the '
            f"initializer. Received: move_regularizer={layer_args['move_regularizer']!r}. Leave it out."
        )
    if not model.built:
        raise ValueError(
            '`model` must be built for `start="weights"`, because it has no weights before. Received: model '
            f"'{model.name}', which is not built. Call it on an input first."
        )
    return {**layer_args, "score_mode": mode}


def _bank_for_weights(slot_class: Any, config: dict[str, Any], layer: keras.layers.Layer) -> StratifiedUniform:
    """The bank whose width suits the weights of a layer; a trial layer knows which are kernels, and their fans."""
    trial = from_live_config(slot_class, config, layer)
    trial.build_from_config(layer.get_build_config())
    pairs = pair_weights(layer, trial, trial.weight_sources())
    kernels = [(copied_array(w), kernel.initial.fans) for w, kernel in pairs if isinstance(kernel, SlotKernel)]
    return StratifiedUniform.for_weights(kernels, trial.num_values)


def _warn_of_trained_kernels(model: keras.Model, pairs: Pairs) -> None:
    """Warns of trained kernels that are left behind."""
    replaced = [old for old, new in pairs if type(old) is not type(new) and old.built]
    optimizer = getattr(model, "optimizer", None)
    steps = 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
    moved = [x.name for x in replaced if _has_moved_bias(x)]
    if steps or moved:
        why = f"its optimizer has made {steps} steps" if steps else f"the biases of {moved} are not zero"
        warnings.warn(
            f"The kernels of model '{model.name}' seem to be trained ({why}). `slotify` leaves them behind and "
            'draws new ones. Pass `start="weights"` to start from them.',
            stacklevel=3,
        )


def _has_moved_bias(layer: keras.layers.Layer) -> bool:
    bias = getattr(layer, "bias", None)
    starts_at_zero = isinstance(getattr(layer, "bias_initializer", None), keras.initializers.Zeros)
    starts_at_zero = starts_at_zero and not getattr(layer, "unit_forget_bias", False)
    return bias is not None and starts_at_zero and bool(copied_array(bias).any())


def _warn_of_plain_kernels(pairs: Pairs, wanted: Callable) -> None:
    """Warns of layers with kernels that should have been replaced and stayed plain."""
    own = dict(zip((id(old) for old, _ in pairs), _own_variables(old for old, _ in pairs), strict=True))
    plain = [pair[0] for pair in pairs if not _is_replaced(pair) and not isinstance(pair[0], SlotLayer)]
    left = [x for x in plain if wanted(x) and any(len(v.shape) > 1 for v in own[id(x)])]
    if not left:
        return
    sizes = {key: sum(math.prod(v.shape) for v in variables) for key, variables in own.items()}
    lines = []
    for kind in sorted({type(x).__name__ for x in left}):
        same = [x for x in left if type(x).__name__ == kind]
        share = sum(sizes[id(x)] for x in same) / sum(sizes.values())
        lines.append(f"{kind} {[x.path or x.name for x in same]}: {share:.1%} of the weights")
    warnings.warn(
        "`slotify` has no slot version of these layers; they stay plain and are trained as usual: "
        f"{'; '.join(lines)}. Leave them out through `filters` to silence this warning.",
        stacklevel=3,
    )


def clone(
    model: keras.Model, convert: Convert, is_slot: Callable[[Any], bool], caller: str
) -> tuple[keras.Model, Pairs]:
    """Returns a copy whose layers `convert` has made, and the pairs of old and new layers; copies no weights.

    Nested models, and layers inside wrappers and composites are converted too; shared layers stay shared.
    `convert` gets each layer with its place in the model, which is its name, or leads to it through a composite.
    `is_slot` says which layers are, or become slot layers; a composite without any is copied as a whole.
    """
    if not (is_model(model) or (isinstance(model, keras.Model) and model.built)):
        raise ValueError(
            f"`{caller}` takes Keras models, and subclassed ones once they are built. Received: a model of type "
            f"{type(model).__name__} that is not built. Call it on an input first."
        )
    pairs: Pairs = []
    done: dict[int, Any] = {}

    def copy(layer: Any, place: str | None = None) -> Any:
        if id(layer) not in done:
            done[id(layer)] = make_copy(layer, place)
        return done[id(layer)]

    def make_copy(layer: Any, place: str | None) -> Any:
        def copy_inner(part: Any) -> Any:
            return copy(part, place and f"{place}/{part.name}")

        if not isinstance(layer, keras.layers.Layer):
            # An operation, such as the sum of `x + y`, has no weights.
            return copy_operation(layer)
        if is_composite(layer) and any(map(is_slot, inner_layers(layer))):
            return _copy_composite(layer, place or layer.name, copy, is_slot, pairs)
        if isinstance(layer, keras.Sequential):
            return _copy_sequential(layer, copy_inner)
        if is_model(layer):
            return _copy_functional(layer, copy_inner)
        if type(layer) in WRAPPERS:
            return _copy_wrapper(layer, copy_inner)
        new = convert(layer, place or layer.name)
        pairs.append((layer, new))
        return new

    return copy(model), pairs


def _copy_composite(
    old: Any, place: str, copy: Callable, is_slot: Callable[[Any], bool], pairs: Pairs
) -> keras.layers.Layer:
    """Copies a composite: makes it as its class does, then puts copies of its inner layers into their places."""
    new = _made_again(old)
    made = {path: part for path, _, part in places_in(new)}
    copies: dict[int, Any] = {}
    apart = {id(old)}
    has_slots = False
    for path, scope, part in places_in(old):
        twin = made.get(path)
        if twin is None:
            raise ValueError(
                f"Layer '{place}' of type {type(old).__name__} cannot be copied: one that Keras makes from its "
                f"configuration has no layer '{path}'. Create all layers in `__init__` or in `build`."
            )
        if id(part) in apart:
            continue
        apart.add(id(part))
        if not is_whole(part) or not any(map(is_slot, inner_layers(part))):
            pairs.append((part, twin))
            continue
        apart |= {id(x) for x in inner_layers(part)}
        with scoped(scope):
            copied = copies[id(twin)] = copy(part, f"{place}/{path}")
            if part.built and not copied.built:
                copied.build_from_config(part.get_build_config())
        has_slots |= holds_slots(copied) and not holds_slots(twin)
        if holds_slots(twin) and not holds_slots(copied):
            raise ValueError(
                f"The slot layer '{place}/{path}' is made by layer '{place}' itself, of type "
                f"{type(old).__name__}, so it cannot be replaced. Let that class make a plain layer, and apply "
                "`slotify` to the model."
            )
    lost = [x.path or x.name for x in inner_layers(old) if is_slot(x) and id(x) not in apart]
    if lost:
        raise ValueError(
            f"The layers {lost} inside layer '{place}' of type {type(old).__name__} cannot be replaced: they are "
            "not in its attributes, nor in a list, tuple or dictionary in one. Move them there, or leave them out "
            "through `filters`."
        )
    held = {id(v): path for path, part in made.items() if id(part) in copies for v in part.variables}
    exchange(new, copies)
    kept = sorted({f"{place}/{held[id(v)]}" for v in new.variables if id(v) in held})
    if kept:
        raise ValueError(
            f"The layers {kept} cannot be replaced: layer '{place}' of type {type(old).__name__} also holds their "
            "weights themselves. Leave them out through `filters`."
        )
    pairs.append((old, new))
    if has_slots:
        new = as_slot_composite(new)
    if old.built and not new.built:
        new.build_from_config(old.get_build_config())
        new.built = True  # as Keras does after that
    return new


def _made_again(old: Any) -> Any:
    """A composite that its class has made from the configuration of another one, of the same names and built."""
    new = copied_layer(old)
    names = {path: part.name for path, _, part in places_in(old)}
    for path, _, part in places_in(new):
        if path in names and not part.variables:
            part.name = names[path]
    _build_like(old, new, set())
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


def _copy_wrapper(wrapper: Any, copy: Callable) -> keras.layers.Layer:
    """Copies a layer of `WRAPPERS`, with copies of the layers inside it."""
    inner = {name: keras.tree.map_structure(copy, getattr(wrapper, name)) for name in WRAPPERS[type(wrapper)]}
    if type(wrapper) is not keras.layers.Bidirectional:
        return type(wrapper)(**{**live_config(wrapper), **inner})
    # The constructor would make the layers again from their configurations.
    new = from_live_config(type(wrapper), live_config(wrapper), wrapper)
    for name, layer in inner.items():
        # Set by the constructor.
        layer.zero_output_for_mask = getattr(wrapper, name).zero_output_for_mask
    replace_parts(new, **inner)
    return new


def _own_variables(layers: Iterable[keras.layers.Layer]) -> list[list[keras.Variable]]:
    """The variables of each layer, without those of layers inside it that are in the list themselves."""
    layers = list(layers)
    listed = {id(x) for x in layers}
    own = []
    for layer in layers:
        apart = [x for x in inner_layers(layer) if x is not layer and id(x) in listed]
        inner = {id(v) for x in apart for v in x.variables}
        own.append([v for v in layer.variables if id(v) not in inner])
    return own


def copy_states(pairs: Pairs) -> None:
    """Copies the state of the layers that are neither slot layers nor copies of them."""
    own = zip(_own_variables(old for old, _ in pairs), _own_variables(new for _, new in pairs), strict=True)
    for pair, variables in zip(pairs, own, strict=True):
        if not _is_replaced(pair):
            _copy_state(*pair, *variables)


def _copy_state(
    old: keras.layers.Layer, new: keras.layers.Layer, mine: list[keras.Variable], its: list[keras.Variable]
) -> None:
    """Copies the state of a layer to its copy: variables, random state and vocabularies."""
    if not old.built or not new.built:
        return
    for variable, copied in zip(mine, its, strict=True):
        copied.assign(copied_array(variable))
    if holds_assets(old):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if hasattr(new, "finalize_state"):
        # `Normalization` and similar layers compute with numbers derived from their weights.
        new.finalize_state()


def scale_and_bias(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalization does to each channel at inference, float64: `y = scale * x + bias`.

    scale = gamma / sqrt(variance + epsilon)        bias = beta - mean * scale
    """
    mean, variance = (copied_array(x).astype("float64") for x in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= copied_array(norm.gamma)
    return scale, -mean * scale + (copied_array(norm.beta) if norm.center else 0.0)


Source = TypeVar("Source")


def pair_weights(
    plain: keras.layers.Layer, slot: SlotLayer, sources: dict[str, Source]
) -> list[tuple[keras.Variable, Source]]:
    """Pairs each weight of a Keras layer with its source in the slot layer; both are built.

    `sources` are the `weight_sources` of the slot layer, or values made from them, by the name of the weight.
    """
    weights: dict[str, Any] = named_weights(plain)
    # A weight without its own name takes that of its attribute.
    names = {id(weight): name for name, weight in weights.items()}
    for attribute in sorted(sources.keys() - weights.keys()):
        if name := names.pop(id(getattr(plain, attribute, None)), None):
            weights[attribute] = weights.pop(name)
    problem = f"Layer '{slot.name}' ({type(slot).__name__}) does not fit its Keras layer {type(plain).__name__}"
    if weights.keys() != sources.keys():
        raise ValueError(
            f"{problem}: their weights are paired by name. Expected the weights {sorted(weights)}. Received: "
            f"{sorted(sources)}. Name each kernel through `argument` or `name` of `add_slot_kernel` and keep it "
            "in an attribute; give other weights and inner layers the same `name` in both classes."
        )
    for name, weight in weights.items():
        source: Any = sources[name]
        shape = source.initial.kernel_shape if isinstance(source, SlotKernel) else source.shape
        if tuple(shape) != tuple(weight.shape):
            raise ValueError(
                f"{problem}: its weight '{name}' must have the shape {tuple(weight.shape)}. Received: "
                f"{tuple(shape)}."
            )
    return [(weight, sources[name]) for name, weight in weights.items()]


def holds_assets(layer: keras.layers.Layer) -> bool:
    """Whether a layer has state other than variables, such as the vocabulary of a `StringLookup`."""
    return hasattr(layer, "save_assets") and hasattr(layer, "load_assets")


def serialize(model: keras.Model) -> dict[str, Any]:
    """Serializes a model to a dictionary that a file can hold; refuses functions and objects that none can."""
    for layer in inner_layers(model):
        if is_model(layer) or isinstance(layer, SlotLayer):
            continue
        try:
            config = live_config(layer)
        except _CONFIG_ERRORS:
            continue  # made by a composite, whose configuration is enough; if not, Keras says so below
        for argument, value in carried_in(config):
            named = isinstance(value, types.FunctionType) and value.__name__ != "<lambda>"
            if not (named or hasattr(value, "get_config")):
                raise ValueError(
                    f"A file cannot hold the `{argument}` of layer '{layer.name}'. Expected a function with a "
                    f"name, or an object with a `get_config`. Received: {value!r}. Write it as a named function, "
                    "decorated with `keras.saving.register_keras_serializable()`."
                )
    try:
        serialized: dict[str, Any] = keras.saving.serialize_keras_object(model)
    except _CONFIG_ERRORS as error:
        raise ValueError(
            f"A file cannot hold model '{model.name}': Keras cannot write its configuration. {error}"
        ) from error
    return serialized


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


#: Attributes that a copy made by Keras does not need.
_MADE_BY_KERAS = {"get_config", "from_config", "build", "_abc_impl"}


def _accepts_only(maker: inspect.Signature, arguments: tuple[str, ...]) -> bool:
    """Whether a constructor takes only the arguments of a Keras model."""
    _, *parameters = maker.parameters.values()
    kinds = {p.kind for p in parameters}
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = {"name", "trainable"}
    if names - {*arguments, *rest} or not (rest <= names or inspect.Parameter.VAR_KEYWORD in kinds):
        return False
    return inspect.Parameter.VAR_POSITIONAL in kinds or set(arguments) <= names
