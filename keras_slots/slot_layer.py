"""What all slot layers share: a Keras layer whose kernel is selected from a bank instead of trained."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_slots import initializers
from keras_slots.banks import InitialValues
from keras_slots.lever_kernel import LeverKernel
from keras_slots.random_streams import derive_seed, draw_seed
from keras_slots.sharing import ValueBank, check_sharing
from keras_slots.slot_arguments import SCORE_MODES, SELECTIONS, SLOT_ARGS
from keras_slots.slot_kernel import PerValueKernel, SlotKernel
from keras_slots.validation import check_choice, check_num_values, check_seed

Tensor = Any

if TYPE_CHECKING:
    from keras.layers import Layer as _Mixin
else:
    _Mixin = object

_KERNELS: dict[str, type[SlotKernel]] = {
    "per_value": PerValueKernel,
    "per_connection": LeverKernel,
}


class SlotLayer(_Mixin):
    """Mixin before a Keras layer: `kernel` becomes the selected values of a bank.

    The Keras layer asks `add_weight` for a variable named `"kernel"` and later reads `self.kernel`. This class
    answers the first with a `SlotKernel` and the second with what that selects; shapes, padding, data formats,
    bias and activation stay with Keras.
    """

    #: The Keras layer that this one becomes when it is materialized.
    plain_class: type[keras.layers.Layer]
    # How the arguments about the kernel begin.
    _kernel_argument = "kernel"

    def __init__(
        self,
        *args: Any,
        num_values: int = 8,
        selection: str = "greedy",
        score_mode: str = "per_value",
        bank_initializer: Any = None,
        score_initializer: Any = None,
        sharing: Any = "connection",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self._refuse_what_needs_a_trained_kernel()
        self.num_values = check_num_values(num_values)
        self.selection = check_choice(selection, "selection", SELECTIONS)
        self.score_mode = check_choice(score_mode, "score_mode", SCORE_MODES)
        self.sharing = check_sharing(sharing, self.num_values, bank_initializer)
        self.bank_initializer = (
            None if bank_initializer is None else initializers.get(bank_initializer)
        )
        self.score_initializer = initializers.get_scores(score_initializer)
        self.seed = None if seed is None else check_seed(seed)
        self._seed = draw_seed() if self.seed is None else self.seed
        if self.selection == "probabilistic":
            # Keras takes 31 bits on every backend.
            self.sampler = keras.random.SeedGenerator(derive_seed(self._seed, "sampler") % 2**31)

    # The kernel.

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        if name != "kernel":
            return super().add_weight(*args, name=name, **kwargs)
        shape = tuple(kwargs["shape"])
        if None in shape:
            raise ValueError(
                f"Layer '{self.name}' needs to know the number of input channels. Expected an input shape whose "
                f"channel axis is an integer. Received: kernel shape={shape}. Give `keras.Input` that size."
            )
        return _KERNELS[self.score_mode](self, self._initial_values(shape))

    def _initial_values(self, shape: tuple[int, ...]) -> InitialValues:
        bank_initializer = self.bank_initializer
        if bank_initializer is None:
            bank_initializer = initializers.get(
                getattr(self, f"{self._kernel_argument}_initializer")
            )
        return InitialValues(
            kernel_shape=shape,
            num_values=self.num_values,
            fans=self._kernel_fans(shape),
            seed=self._seed,
            bank_initializer=bank_initializer,
            score_initializer=self.score_initializer,
            sharing=self.sharing,
        )

    def _kernel_fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return initializers.compute_fans(shape)

    @property
    def kernel(self) -> Tensor:
        """The selected values, in the shape and order of the Keras layer's kernel.

        Bitwise entries of `bank`. Greedy, except inside a training call of a layer with probabilistic selection,
        where it is the draw of that call.
        """
        selected = getattr(_calls, "selected", {}).get(id(self))
        return self._slot_kernel.select(training=False) if selected is None else selected

    @kernel.setter
    def kernel(self, slot_kernel: SlotKernel) -> None:
        # Some Keras layers store what `add_weight` returned as `kernel`, others as `_kernel`.
        self._kernel = slot_kernel

    @property
    def _slot_kernel(self) -> SlotKernel:
        kernel = getattr(self, "_kernel", None)
        if kernel is None:
            raise AttributeError(
                f"Layer '{self.name}' has no bank, scores or kernel yet: build it first, for example by calling "
                "it on an input."
            )
        return kernel

    @property
    def bank(self) -> Tensor:
        """The fixed values, `kernel_shape + (K,)`, or `(K,)` when they are shared."""
        return self._slot_kernel.bank()

    @property
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""
        return self._slot_kernel.scores()

    @property
    def lever(self) -> keras.Variable:
        """The trainable number of each connection, of the kernel's shape; `score_mode="per_connection"` only."""
        kernel = self._slot_kernel
        if not isinstance(kernel, LeverKernel):
            raise AttributeError(
                f"Layer '{self.name}' has scores and no lever. Build it with "
                f'score_mode="per_connection". Received: score_mode={self.score_mode!r}'
            )
        return kernel.lever()

    @property
    def selected_indices(self) -> Tensor:
        """Index in [0, K) of each selected value under greedy selection, int32, of the kernel's shape."""
        return self._slot_kernel.selected_indices()

    def trained_state(self) -> list[tuple[str, Any]]:
        """Name and variable of what training moves in the place of the kernel."""
        return self._slot_kernel.trained()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = self._slot_kernel.select(training=bool(training))
        regularizer = getattr(self, f"{self._kernel_argument}_regularizer")
        if regularizer is not None:
            self.add_loss(regularizer(kernel))
        with _selected(self, ops.cast(kernel, self.compute_dtype)):
            return super().call(inputs)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        shared = isinstance(self.sharing, ValueBank)
        config.update(
            num_values=self.num_values,
            selection=self.selection,
            score_mode=self.score_mode,
            bank_initializer=initializers.serialize(self.bank_initializer),
            score_initializer=initializers.serialize(self.score_initializer),
            sharing=initializers.serialize(self.sharing) if shared else self.sharing,
            seed=self.seed,
        )
        return config

    def get_build_config(self) -> dict[str, Any] | None:
        # The seed that was drawn belongs to the built layer, not to its configuration: a clone draws its own.
        config = super().get_build_config()
        return config and {**config, "seed": self._slot_kernel.seed()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if config:
            self._seed = check_seed(config.get("seed", self._seed))
        super().build_from_config(config)

    # Saving: the base class' numbered variables know nothing of seeds and of the sampler's state.

    def save_own_variables(self, store: Any) -> None:
        if self.built:
            for name, value in self._own_state().items():
                store[name] = value

    def load_own_variables(self, store: Any) -> None:
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' is not built, so it cannot load weights. Call it on an input first."
            )
        expected = self._own_state()
        given = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
        _check_state(self, expected, given)
        self._slot_kernel.load_state(given)
        for name in ("bias", "sampler"):
            if name in expected:
                expected[name].assign(given[name])

    def _own_state(self) -> dict[str, Any]:
        state = dict(self._slot_kernel.state())
        if getattr(self, "bias", None) is not None:
            state["bias"] = self.bias
        if self.selection == "probabilistic":
            state["sampler"] = self.sampler.state
        return state

    # What makes no sense for a kernel that is selected.

    def _refuse_what_needs_a_trained_kernel(self) -> None:
        argument = f"{self._kernel_argument}_constraint"
        if getattr(self, argument) is not None:
            raise ValueError(
                f"`{argument}` must be None in a slot layer: its values are fixed and never updated. "
                f"Received: {argument}={getattr(self, argument)}. Constrain the values through "
                "`bank_initializer` instead."
            )
        if getattr(self, "lora_rank", None):
            self.enable_lora(self.lora_rank)
        if getattr(self, "quantization_config", None) or getattr(self, "quantization_mode", None):
            self.quantize(self.quantization_mode)

    def enable_lora(self, rank: int, *args: Any, **kwargs: Any) -> None:
        """Refused: LoRA adds to a trained kernel, and this one is selected."""
        raise ValueError(
            f"A slot layer does not support LoRA. Received: rank={rank} for layer '{self.name}'. Call "
            "`keras_slots.materialize(model)` and enable LoRA on the plain layers of the new model."
        )

    def quantize(self, mode: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Refused: quantization would replace the kernel, and this one is selected."""
        raise ValueError(
            f"A slot layer cannot be quantized. Received: mode={mode!r} for layer '{self.name}'. Call "
            "`keras_slots.materialize(model)` and quantize the new model."
        )


def slot_layer(plain_class: type[keras.layers.Layer]) -> Any:
    """Class decorator: names the Keras layer, registers the class, and completes signature and docstring."""

    def decorate(cls: type) -> type:
        cls.plain_class = plain_class  # type: ignore[attr-defined]
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace(
            "{slot_args}", SLOT_ARGS.replace("\n        ", "\n    ")
        )
        cls.__signature__ = _signature(plain_class)  # type: ignore[attr-defined]
        return keras.saving.register_keras_serializable(package="keras_slots")(cls)

    return decorate


def _signature(plain_class: type) -> inspect.Signature:
    """All parameters of the Keras layer, then ours as keyword-only, then `**kwargs`."""
    plain = list(inspect.signature(plain_class).parameters.values())
    ours = inspect.signature(SlotLayer.__init__).parameters.values()
    keyword_only = [p for p in ours if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return inspect.Signature([*plain[:-1], *keyword_only, plain[-1]])


# The kernel that a call in progress has selected, by layer, in each thread.
_calls = threading.local()


@contextmanager
def _selected(layer: SlotLayer, kernel: Tensor) -> Iterator[None]:
    before = getattr(_calls, "selected", {})
    _calls.selected = {**before, id(layer): kernel}
    try:
        yield
    finally:
        _calls.selected = before


def _check_state(layer: SlotLayer, expected: dict[str, Any], given: dict[str, np.ndarray]) -> None:
    if set(expected) != set(given):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}, score_mode={layer.score_mode!r}, "
            f"selection={layer.selection!r}) expects the variables {sorted(expected)}. Received: "
            f"{sorted(given)}. The file was written by another kind of layer: build the model with the same "
            "arguments, or load the whole model with `keras.models.load_model`."
        )
    for name, value in expected.items():
        shape, received = tuple(value.shape), tuple(given[name].shape)
        if shape != received:
            hint = ""
            if name in ("scores", "bank") and shape[:-1] == received[:-1]:
                hint = f" The file holds K={received[-1]} values: build the layer with that `num_values`."
            raise ValueError(
                f"Variable '{name}' of layer '{layer.name}' has shape {shape} "
                f"(num_values={layer.num_values}). Received: shape {received}.{hint}"
            )
