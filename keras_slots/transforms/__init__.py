"""`slotify` replaces plain layers of a model with slot layers, `materialize` slot layers with plain ones.

`cloning` copies models, `weights` pairs the weights of old and new layers, `folding` simplifies for inference.
"""

import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

import keras_slots.layers  # noqa: F401 (registers the slot layers)
from keras_slots._checks import check_choice, check_seed
from keras_slots._keras import inner_layers
from keras_slots._live_config import CONFIG_ERRORS, from_live_config, live_config
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.arguments import parameters_of
from keras_slots.layers.base import SLOT_ARGUMENTS, SlotLayer, copied_array
from keras_slots.transforms.cloning import clone, copied_layer
from keras_slots.transforms.weights import Pairs, copy_states, is_replaced, own_variables, pair_weights
from keras_slots.values.philox import derive_seed
from keras_slots.values.stratified import StratifiedUniform


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
            training continues from there with `score_mode="nearest"`, which is implied. Each layer gets a bank of
            the width at which the selected values are closest to its weights in the mean square, unless you pass
            `bank_initializer`.
        **layer_args: Further arguments of the slot layers, such as `selection` or `score_mode`. An integer
            `seed` gives each layer its own seed, derived from its name, and from its place if it is inside a
            nested model, a wrapper or a composite.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If `model` is a subclassed model that is not built, or of a class whose `call` would be lost;
            if no layer would be replaced, or one inside a composite cannot be; if a name in `filters` is not that
            of a layer with a slot version; or if, with `start="weights"`, the model is not built, its weights are
            not finite, or `layer_args` do not allow it.

    Warns:
        UserWarning: If layers with kernels stay plain, if trained kernels are left behind (the optimizer of the
            model has made a step, or a bias is no longer zero), if `start="weights"` and a kernel is zero, or if
            the class of the model cannot be kept.

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
    if not any(map(is_replaced, pairs)):
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
    for old, new in filter(is_replaced, pairs):
        if old.built and new.built:
            for weight, source in pair_weights(old, new, new.weight_sources()):
                if isinstance(source, keras.Variable):
                    source.assign(copied_array(weight))
                elif keeps_weights:
                    source.lever.assign(_finite_weights(old, weight))
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
    for old, new in filter(is_replaced, pairs):
        _check_selection(old)
        for weight, value in pair_weights(new, old, old.selected_weights()):
            weight.assign(value)
    return new_model, pairs


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
    except CONFIG_ERRORS as error:
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
    found = [x for x in inner_layers(model) if type(x) in SlotLayer.registry]
    inside = {id(part) for x in found for part in inner_layers(x)[1:]}  # such as the projections of attention
    replaceable = [x for x in found if id(x) not in inside]
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
    if kernels and not any(weights.any() for weights, _ in kernels):
        warnings.warn(
            f"All weights of layer '{layer.name}' are zero, which says nothing of the width of its bank. It gets "
            "the default one, so the slot model does not predict what the model predicted until it is trained on. "
            "To keep the layer plain, leave it out through `filters`.",
            stacklevel=3,
        )
    return StratifiedUniform.for_weights(kernels, trial.num_values)


def _finite_weights(layer: keras.layers.Layer, weight: keras.Variable) -> np.ndarray:
    """The numbers of a weight that a lever can start from."""
    array = copied_array(weight)
    if not np.isfinite(array.astype("float32")).all():
        raise ValueError(
            f"The weights of layer '{layer.name}' must be finite for start=\"weights\". Received: NaN or infinity "
            f"in '{weight.path}'. Load an earlier state of the model."
        )
    return array


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
    own = dict(zip((id(old) for old, _ in pairs), own_variables(old for old, _ in pairs), strict=True))
    plain = [pair[0] for pair in pairs if not is_replaced(pair) and not isinstance(pair[0], SlotLayer)]
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
