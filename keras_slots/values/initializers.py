"""Resolves initializer arguments, given by name, object or configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_slots._config import check_config
from keras_slots.values.distributions import (
    Distribution,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    UniformScores,
    VarianceScaling,
)
from keras_slots.values.source import ValueSource, sources_with_role
from keras_slots.values.value_bank import ValueBank

#: Argument -> the role that a source must have for it.
_ROLES = {"score_initializer": "scores", "start": "start"}
#: Error text and advice for a source without that role.
_OTHER_ROLE = {
    "bank": ("a distribution of values, not of scores", "Pass it as `score_initializer`."),
    "scores": ("a distribution of scores", "Pass it as `bank_initializer`."),
    "start": ("a distribution of single values, one per connection", "Pass for example start='glorot_uniform'."),
}
_FROM_KERAS: dict[type, type[Distribution]] = {
    keras.initializers.GlorotUniform: GlorotUniform,
    keras.initializers.GlorotNormal: GlorotNormal,
    keras.initializers.HeUniform: HeUniform,
    keras.initializers.HeNormal: HeNormal,
    keras.initializers.LecunUniform: VarianceScaling,
    keras.initializers.LecunNormal: VarianceScaling,
    keras.initializers.VarianceScaling: VarianceScaling,
}


def compute_fans(kernel_shape: Sequence[int]) -> tuple[int, int]:
    """`(fan_in, fan_out)` of a kernel of that shape, without the K of the bank, by Keras' rule.

    `(rows, columns)` in two dimensions; in three or more, the last two sizes, each times the product of all
    others; `(n, n)` in one dimension; `(1, 1)` in none.

    Example:

    >>> compute_fans((3, 3, 16, 32))
    (144, 288)
    """
    shape = tuple(int(size) for size in kernel_shape)
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def get(identifier: Any, argument: str = "bank_initializer") -> ValueSource | Callable[..., Any]:
    """The source of a bank: a keras_slots distribution, or another Keras initializer unchanged.

    Keras' `GlorotUniform`, `GlorotNormal`, `HeUniform`, `HeNormal`, `LecunUniform`, `LecunNormal` and
    `VarianceScaling` are converted to the equivalent `Distribution`, with their seed if it is an integer. Any
    other Keras initializer must be called once with the shape of the whole bank.

    Args:
        identifier: A distribution, its name or its serialized form, or anything that `keras.initializers.get`
            accepts. The names `"uniform"` and `"normal"` are refused: for Keras' meaning pass
            `keras.initializers.RandomUniform()` or `RandomNormal()`.
        argument: Name of the argument, which decides what its source must be.

    Example:

    >>> get("he_normal")
    HeNormal(scale=1.0)
    >>> get(keras.initializers.LecunUniform(seed=3)).seed
    3
    """
    role = _ROLES.get(argument, "bank")
    if isinstance(identifier, str) and identifier in ("uniform", "normal"):
        theirs = f"Random{identifier.title()}"
        ours = "uniform_scores" if role == "scores" else f"glorot_{identifier}"
        raise ValueError(
            f"`{argument}` must name a distribution of keras_slots: in Keras {identifier!r} means `{theirs}`, "
            f"whose size does not depend on the kernel. Received: {argument}={identifier!r}. "
            f"Pass {ours!r}, or `keras.initializers.{theirs}()` for Keras' meaning."
        )
    initializer = identifier
    if isinstance(identifier, str) and identifier in ValueSource.registry:
        initializer = ValueSource.registry[identifier]()
    try:
        if isinstance(identifier, dict):
            initializer = keras.initializers.deserialize(identifier)
        elif not isinstance(initializer, ValueSource):
            initializer = keras.initializers.get(identifier)
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise _unknown_error(identifier, argument, error) from error
    if isinstance(initializer, ValueBank):
        raise ValueError(
            f"`{argument}` cannot be a `ValueBank`. Received: {argument}={identifier!r}. Pass it as `sharing`."
        )
    if type(initializer) in _FROM_KERAS:
        return _from_keras(initializer, argument)
    if isinstance(initializer, ValueSource):
        if role not in initializer.roles:
            expected, advice = _OTHER_ROLE[role]
            raise ValueError(f"`{argument}` must be {expected}. Received: {argument}={identifier!r}. {advice}")
        check_config(initializer, argument)
    elif not callable(initializer):
        raise _unknown_error(identifier, argument)
    return initializer


def of_kernel(initializer: Any) -> ValueSource | Callable[..., Any]:
    """The source of a bank whose values are distributed like the weights that an initializer gives a kernel.

    The weights of an orthogonal kernel depend on each other. The values of a bank do not, and keep the variance.

    Example:

    >>> of_kernel(keras.initializers.Orthogonal()).rms((4, 16))
    0.25
    """
    if type(initializer) is keras.initializers.Orthogonal:
        return VarianceScaling(initializer.gain**2, "fan_max", seed=_seed_of(initializer))
    return get(initializer)


def of_fixed_size(initializer: Any) -> tuple[Any, Any]:
    """A distribution and the fans at which it is that of a Keras initializer whose size no kernel changes.

    Any other initializer is returned as it is, without fans.

    Example:

    >>> of_fixed_size(keras.initializers.RandomUniform(-0.05, 0.05))
    (GlorotUniform(scale=1.0), (1200.0, 1200.0))
    """
    kind: type[Distribution] | None = None
    rms = 0.0
    if type(initializer) is keras.initializers.RandomUniform and initializer.minval == -initializer.maxval:
        kind, rms = GlorotUniform, initializer.maxval / 3**0.5
    elif type(initializer) in (keras.initializers.RandomNormal, keras.initializers.TruncatedNormal):
        kind, rms = GlorotNormal, 0.0 if initializer.mean else initializer.stddev
    if kind is None or not rms > 0:
        return initializer, None
    fan = round(rms**-2, 6)
    return kind(seed=_seed_of(initializer)), (fan, fan)


def get_scores(identifier: Any) -> ValueSource | Callable[..., Any]:
    """The source of initial scores, resolved like that of a bank; `UniformScores(1.0)` for None."""
    return UniformScores() if identifier is None else get(identifier, "score_initializer")


def serialize(initializer: Any) -> Any:
    """Serializes a source of values or scores, or a `ValueBank`, to a dictionary for JSON; None for None."""
    return keras.saving.serialize_keras_object(initializer)


def _unknown_error(identifier: Any, argument: str, cause: Exception | None = None) -> ValueError:
    names = sources_with_role(_ROLES.get(argument, "bank"))
    text = (
        f"`{argument}` must be one of {', '.join(map(repr, names))}, a keras_slots distribution, "
        f"a Keras initializer or its name. Received: {argument}={identifier!r}. "
        f"Pass for example `{argument}={next(iter(names))!r}`."
    )
    # The cause names the wrong field of a serialized object; for a name it would only repeat the name.
    return ValueError(f"{text} Cause: {cause}" if isinstance(identifier, dict) and cause else text)


def _from_keras(initializer: Any, argument: str) -> Distribution:
    # Keras would take the shape of a bank, (in, out, K), for that of a convolution kernel with K
    # output channels and compute wrong fans; ours get the fans of the kernel.
    if getattr(initializer, "input_axes", None) or getattr(initializer, "output_axes", None):
        raise ValueError(
            f"`{argument}` cannot have `input_axes` or `output_axes`: the fans are those of the "
            f"kernel. Received: {argument} with input_axes={initializer.input_axes!r}, "
            f"output_axes={initializer.output_axes!r}. Leave them out and set `scale`."
        )
    seed = _seed_of(initializer)
    kind = _FROM_KERAS[type(initializer)]
    if kind is VarianceScaling:
        return VarianceScaling(initializer.scale, initializer.mode, initializer.distribution, seed=seed)
    return kind(seed=seed)


def _seed_of(initializer: Any) -> int | None:
    seed = initializer.seed if initializer.get_config()["seed"] is not None else None
    if isinstance(seed, keras.random.SeedGenerator):
        low, high = (int(x) & 0xFFFFFFFF for x in keras.ops.convert_to_numpy(seed.next()))
        seed = high << 32 | low
    return seed
