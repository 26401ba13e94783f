"""Distributions of values and scores: small, serializable, stateless objects."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_slots._checks import check_choice, check_positive, check_seed
from keras_slots._config import EqualByConfig
from keras_slots._registry import register
from keras_slots.values.philox import BANK_STREAM, KINDS, SCORE_STREAM, START_STREAM, Float32Array, draw
from keras_slots.values.source import Description, ValueSource

# With a smaller factor, the smallest values would be denormal, and some devices flush those to zero.
_SMALLEST = 2.0**-102


class Distribution(EqualByConfig, ValueSource):
    """Base of the distributions of banks and scores; use one of its subclasses.

    A distribution holds no state: its values are a function of (seed, index, distribution, fans). Two are equal
    if they have the same class and configuration.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer, `0 <= seed < 2**64`, used instead of the seed of the layer, or None. Layers with one kernel
            shape and one explicit seed have the same values.
    """

    roles = frozenset({"bank", "scores", "start"})
    #: The distribution up to a factor: a key of `philox.KINDS`.
    kind = "uniform"
    _variance = 1.0
    _mode = "fan_in"
    _stream = BANK_STREAM

    def __init__(self, scale: float = 1.0, *, seed: int | None = None) -> None:
        self.scale = check_positive(scale, "scale")
        self.seed = None if seed is None else check_seed(seed)

    def sample(
        self, seed: int, count: int, fans: tuple[int, int], start: int = 0, stream: int | None = None
    ) -> Float32Array:
        """The elements `[start, start + count)` of the values, flattened in C order, float32.

        They are `float32(c * rms(fans)) * x_i`, where `x_i` is element `i` of the stream and `c` normalizes its
        root mean square to 1.

        Args:
            seed: Seed of the layer, `0 <= seed < 2**64`; `self.seed` replaces it if it is set.
            count: Number of values.
            fans: `(fan_in, fan_out)` of the kernel, see `initializers.compute_fans`.
            start: Index of the first value.
            stream: Number of the random stream; None: that of scores for `UniformScores`, otherwise that of banks.

        Raises:
            ValueError: If an argument is out of range, or the values do not fit into float32.
        """
        seed = seed if self.seed is None else self.seed
        stream = self._stream if stream is None else stream
        return draw(self.kind, seed, stream, count, start, self.factor(fans))

    @property
    def spread(self) -> str | None:  # type: ignore[override]
        return KINDS[self.kind].spread

    @property
    def uniform(self) -> bool:  # type: ignore[override]
        return self.kind in ("uniform", "positive_uniform")

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Float32Array:
        count, first = (stop - start) * num_values, start * num_values
        return self.sample(seed, count, fans, first, BANK_STREAM).reshape(-1, num_values)

    def score_rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Float32Array:
        count, first = (stop - start) * num_values, start * num_values
        return self.sample(seed, count, fans, first, SCORE_STREAM).reshape(-1, num_values)

    def start_rows(self, seed: int, fans: tuple[int, int], start: int, stop: int) -> Float32Array:
        return self.sample(seed, stop - start, fans, start, START_STREAM)

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        seed = seed if self.seed is None else self.seed
        return Description(self.kind, seed, self.factor(fans))

    def rms(self, fans: tuple[int, int]) -> float:
        """The root mean square of the values, `scale * sqrt(variance / max(1, n))`; `n`: see `VarianceScaling`."""
        if len(fans) != 2 or not all(0 <= fan < math.inf for fan in fans):
            raise ValueError(
                f"`fans` must be a pair (fan_in, fan_out) of sizes. Received: fans={fans!r}. "
                "Use `compute_fans(kernel_shape)`."
            )
        choices = {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2.0, "fan_max": max(fans)}
        return self.scale * math.sqrt(self._variance / max(1.0, choices[self._mode]))

    def factor(self, fans: tuple[int, int]) -> float:
        """The factor of the numbers of the stream, rounded to float32; an error if float32 cannot hold it."""
        factor = float(np.float32(min(KINDS[self.kind].rms_factor * self.rms(fans), 2.0**127)))
        if not _SMALLEST <= factor < 2.0**127:
            raise ValueError(
                f"`scale` must give values that float32 can hold. Received: scale={self.scale!r} "
                f"with fans={fans!r}. Choose a `scale` nearer to 1."
            )
        return factor

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale, "seed": self.seed}

    def __repr__(self) -> str:
        config = {key: value for key, value in self.get_config().items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


@register("glorot_uniform")
class GlorotUniform(Distribution):
    """Uniform on `[-b, b)`, `b = scale * sqrt(6 / (fan_in + fan_out))`: the default bank.

    The text of the paper has the bound `scale * sqrt(2 / (fan_in + fan_out))`; the author's code, and so
    the published accuracies, use the bound given here.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> GlorotUniform().sample(seed=0, count=3, fans=(300, 100)).shape
    (3,)
    """

    kind, _variance, _mode = "uniform", 1.0, "fan_avg"


@register("glorot_normal")
class GlorotNormal(Distribution):
    """Normal with standard deviation `scale * sqrt(2 / (fan_in + fan_out))`, truncated as in Keras.

    It is truncated at two standard deviations of the original normal distribution; the standard deviation
    given is that after truncation.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> GlorotNormal(scale=2.0).sample(seed=0, count=3, fans=(300, 100)).shape
    (3,)
    """

    kind, _variance, _mode = "truncated_normal", 1.0, "fan_avg"


@register("he_uniform")
class HeUniform(Distribution):
    """Uniform on `[-b, b)` with `b = scale * sqrt(6 / fan_in)`.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> HeUniform().sample(seed=0, count=3, fans=(300, 100)).shape
    (3,)
    """

    kind, _variance, _mode = "uniform", 2.0, "fan_in"


@register("he_normal")
class HeNormal(Distribution):
    """Normal with standard deviation `scale * sqrt(2 / fan_in)`, truncated as in Keras.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> HeNormal().sample(seed=0, count=3, fans=(300, 100)).shape
    (3,)
    """

    kind, _variance, _mode = "truncated_normal", 2.0, "fan_in"


@register("signed_constant")
class SignedConstant(Distribution):
    """Plus or minus `scale * sqrt(2 / fan_in)`, each with probability one half.

    Args:
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> sorted({float(x) for x in SignedConstant().sample(seed=0, count=50, fans=(8, 4))})
    [-0.5, 0.5]

    Source: the "signed Kaiming constant" of Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural
    Network?".
    """

    kind, _variance, _mode = "signed_constant", 2.0, "fan_in"


@keras.saving.register_keras_serializable(package="keras_slots")
class VarianceScaling(Distribution):
    """Values with variance `scale**2 * variance / n`, where `n` is a fan of the kernel.

    The other distributions are special cases of it. Keras' `LecunNormal`, `LecunUniform` and
    `VarianceScaling` are converted to it.

    Args:
        variance: Positive finite number; Keras' `VarianceScaling` calls it `scale`.
        mode: `"fan_in"`, `"fan_out"`, `"fan_avg"` (their mean) or `"fan_max"` (the larger one).
        distribution: A kind of random numbers of mean 0: `"uniform"`, `"truncated_normal"`, `"signed_constant"`.
        scale: Positive finite number that multiplies every value.
        seed: Integer used instead of the seed of the layer, or None.

    Raises:
        ValueError: if a number is not positive and finite, or a name is unknown.

    Example:

    >>> VarianceScaling(2.0, "fan_in", "uniform").rms((8, 4))
    0.5
    """

    def __init__(
        self,
        variance: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        *,
        scale: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(scale, seed=seed)
        self._variance = check_positive(variance, "variance")
        if distribution == "untruncated_normal":
            raise ValueError(
                "`distribution` must not have unbounded values. Received: "
                "distribution='untruncated_normal'. Use 'truncated_normal', or pass "
                "`keras.initializers.RandomNormal(stddev=...)` with a standard deviation."
            )
        self._mode = check_choice(mode, "mode", ("fan_in", "fan_out", "fan_avg", "fan_max"))
        self.kind = check_choice(
            distribution, "distribution", tuple(name for name, kind in KINDS.items() if kind.centred)
        )

    def get_config(self) -> dict[str, Any]:
        own = {"variance": self._variance, "mode": self._mode, "distribution": self.kind}
        return {**own, **super().get_config()}


@register("uniform_scores")
class UniformScores(Distribution):
    """Initial scores: uniform on `[0, scale * b)`, `b = sqrt(6 / (fan_in + fan_out))`.

    If scores are trained by SGD without weight decay, only the ratio of the learning rate to `scale`
    matters: multiplying both by the same number changes no selection.

    Args:
        scale: Positive finite number that multiplies every score. It corresponds to lambda in the paper,
            whose bound differs from this one (that of the author's code) by a factor of sqrt(3).
        seed: Integer used instead of the seed of the layer, or None.

    Example:

    >>> bool((UniformScores(0.1).sample(seed=0, count=9, fans=(300, 100)) >= 0).all())
    True
    """

    roles = frozenset({"scores"})
    kind, _variance, _mode = "positive_uniform", 1.0, "fan_avg"
    _stream = SCORE_STREAM
