"""What all slot layers share: the slot arguments, and kernels that are selected instead of trained."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_slots import initializers
from keras_slots.keras_internals import asked_by_spectral_normalization
from keras_slots.kernel import COSTLY, PerValueKernel, SlotKernel
from keras_slots.nearest_kernel import per_connection_kernel
from keras_slots.random_streams import derive_seed, draw_seed
from keras_slots.refusals import SelectedKernel
from keras_slots.regularizers import get_move_regularizer
from keras_slots.sampler import given
from keras_slots.selection import Greedy, get_rule, serialize_rule
from keras_slots.sharing import ValueBank, check_sharing
from keras_slots.slot_arguments import SLOT_ARGUMENTS
from keras_slots.validation import check_choice, check_num_values, check_seed, near_miss_error

Tensor = Any

#: What makes the kernel of each score mode. One line here is all that a new name needs.
SCORE_MODES: dict[str, Callable[..., SlotKernel]] = {
    "per_value": PerValueKernel,
    "per_connection": per_connection_kernel,
}


class SlotLayer(SelectedKernel):
    """Mixin before a Keras layer: holds the slot arguments, and owns kernels that are selected.

    A subclass makes its kernels in `build` with `add_slot_kernel`, and takes the values of a call from
    `kernel.select(training)`. `docs/extending.md` shows one in full.

    Example:

    >>> from keras_slots import SlotConv2D, SlotDense, SlotLayer
    >>> isinstance(SlotDense(3), SlotLayer), isinstance(SlotConv2D(3, 3), SlotLayer)
    (True, True)
    """

    #: The Keras layer that this one becomes when it is materialized.
    plain_class: type[keras.layers.Layer]
    #: Seeds are below it.
    seed_limit = 2**64

    def __init__(
        self,
        *args: Any,
        num_values: int = 8,
        selection: Any = "greedy",
        score_mode: str = "per_value",
        bank_initializer: Any = None,
        score_initializer: Any = None,
        sharing: Any = "connection",
        move_regularizer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        try:
            super().__init__(*args, **kwargs)
        except (TypeError, ValueError) as error:
            near_miss = near_miss_error(type(self), kwargs, SLOT_ARGUMENTS, error)
            if near_miss is None:
                raise
            raise near_miss from error
        self.refuse_what_needs_a_trained_kernel()
        self.num_values = check_num_values(num_values)
        self._rule = get_rule(selection)
        self.score_mode = check_choice(score_mode, "score_mode", tuple(SCORE_MODES))
        self.sharing = check_sharing(sharing, self.num_values, bank_initializer)
        self.bank_initializer = (
            None if bank_initializer is None else initializers.get(bank_initializer)
        )
        self.score_initializer = initializers.get_scores(score_initializer)
        make_kernel = SCORE_MODES[self.score_mode]
        self.move_regularizer = get_move_regularizer(move_regularizer, score_mode, make_kernel)
        self.seed = None if seed is None else check_seed(seed)
        self._seed = draw_seed() if self.seed is None else self.seed

    @property
    def selection(self) -> Any:
        """The selection rule of training calls: its name, or the object if it has none."""
        name = serialize_rule(self._rule)
        return name if isinstance(name, str) else self._rule

    # For subclasses: what `build` and `call` are made of.

    def add_slot_kernel(
        self,
        shape: tuple[int | None, ...],
        argument: str = "kernel",
        *,
        name: str | None = None,
        fans: tuple[int, int] | None = None,
    ) -> SlotKernel:
        """A built kernel of this layer's score mode; assign it to an attribute.

        Args:
            shape: Shape of the kernel in the layout of the Keras layer.
            argument: How the arguments about this kernel begin: `"kernel"` for `kernel_initializer` and
                `kernel_regularizer`. A second kernel gets a seed of its own from it.
            name: Name of the kernel; None: `"kernel"`, or `"depthwise_kernel"` for the argument `"depthwise"`.
            fans: `(fan_in, fan_out)`; None: by Keras' rule from the shape.

        Raises:
            ValueError: If a size is not known.
        """
        if None in shape:
            raise ValueError(
                f"Layer '{self.name}' needs to know the number of input channels. Expected an input shape whose "
                f"channel axis is an integer. Received: kernel shape={shape}. Give `keras.Input` that size."
            )
        bank_initializer = self.bank_initializer
        plain_initializer = getattr(self, f"{argument}_initializer")
        if bank_initializer is None:
            bank_initializer = initializers.get(plain_initializer)
        first = argument == self.kernel_arguments[0]
        kernel = SCORE_MODES[self.score_mode](
            num_values=self.num_values,
            rule=self._rule,
            bank_initializer=bank_initializer,
            score_initializer=self.score_initializer,
            sharing=self.sharing,
            seed=self._seed if first else derive_seed(self._seed, argument),
            fans=fans,
            regularizer=getattr(self, f"{argument}_regularizer"),
            move_regularizer=self.move_regularizer,
            name=name or ("kernel" if argument == "kernel" else f"{argument}_kernel"),
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )
        try:
            kernel.build(tuple(int(size) for size in shape if size is not None))
        except ValueError as error:
            raise ValueError(
                f"Layer '{self.name}' cannot draw the bank or the scores of its kernel. {error}"
            ) from error
        return kernel

    def add_bias(self, shape: tuple[int, ...]) -> keras.Variable:
        """The bias of the Keras layer: an ordinary trained variable."""
        return self.add_weight(
            name="bias",
            shape=shape,
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )

    def rematerialized_call(
        self, layer_call: Callable, *args: Any, training: bool | None = None, **kwargs: Any
    ) -> Callable:
        """As of every Keras layer, for a call that is run again in the backward pass.

        The random numbers are drawn before and passed as arguments, so that kernels select the same values in both
        runs, those of inner layers too, which are not told `training` in the second. Flags such as `training` are
        bound, because they would be traced as tensors.
        """
        kernels = self.slot_kernels.values() if training else ()
        selecting = [kernel for kernel in kernels if not isinstance(kernel.rule, Greedy)]
        bound = {name: value for name, value in kwargs.items() if isinstance(value, bool | None)}

        def call(numbers: list, *args: Any, **kwargs: Any) -> Any:
            with given(selecting, numbers):
                return layer_call(*args, training=training, **bound, **kwargs)

        run = super().rematerialized_call(call, *args, **kwargs)

        def draw_and_run(*args: Any, **kwargs: Any) -> Any:
            tensors = {name: x for name, x in kwargs.items() if name not in (*bound, "training")}
            return run([kernel.draw() for kernel in selecting], *args, **tensors)

        return draw_and_run

    # For users: what the layer holds.

    @property
    def slot_kernels(self) -> dict[str, SlotKernel]:
        """The kernels of this layer and of its inner slot layers, by name."""
        found: dict[str, SlotKernel] = {}
        for part in list(vars(self).values()):
            if isinstance(part, SlotKernel):
                found[part.name] = part
            elif isinstance(part, SlotLayer):
                found |= {f"{part.name}/{k}": v for k, v in part.slot_kernels.items()}
        return found

    @property
    def bank(self) -> Tensor:
        """The fixed values, `kernel_shape + (K,)`, or `(K,)` when they are shared.

        With `score_mode="per_connection"` they are drawn anew each time they are asked for.
        """
        return self._only_kernel("bank").bank

    @property
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""
        return self._only_kernel("scores").scores

    @property
    def lever(self) -> keras.Variable:
        """The trainable number of each connection, of the kernel's shape; `score_mode="per_connection"` only."""
        kernel = self._only_kernel("lever")
        if not hasattr(kernel, "lever"):
            raise AttributeError(
                f"Layer '{self.name}' has scores and no lever. Build it with "
                f'score_mode="per_connection". Received: score_mode={self.score_mode!r}'
            )
        return kernel.lever

    @property
    def kernel(self) -> Tensor:
        """The greedily selected values, bitwise entries of `bank`, in the shape of the Keras layer's kernel."""
        if asked_by_spectral_normalization():
            raise ValueError(
                f"Layer '{self.name}' cannot be wrapped in `SpectralNormalization`, which overwrites the kernel "
                "in each training call: the values of a slot layer are fixed. Leave the wrapper out, or wrap the "
                "layers of `keras_slots.materialize(model)`."
            )
        return self._only_kernel("kernel").select()

    @property
    def selected_indices(self) -> Tensor:
        """Index in [0, K) of each selected value under greedy selection, int32, of the kernel's shape."""
        return self._only_kernel("selected_indices").selected_indices

    def _only_kernel(self, attribute: str) -> SlotKernel:
        kernels = self.slot_kernels
        if len(kernels) == 1:
            return next(iter(kernels.values()))
        if kernels:
            raise AttributeError(
                f"Layer '{self.name}' has {len(kernels)} kernels, so `{attribute}` of which one? Ask one of "
                f"them: `layer.slot_kernels[name].{attribute}`, name one of {sorted(kernels)}."
            )
        raise AttributeError(
            f"Layer '{self.name}' has no bank, scores or kernel yet: build it first, for example by calling "
            "it on an input."
        )

    def weight_sources(self) -> list[SlotKernel | keras.Variable]:
        """What each weight of the materialized layer comes from, in the order of the Keras layer."""
        parts = list(vars(self).values())
        sources: list[SlotKernel | keras.Variable] = [p for p in parts if isinstance(p, SlotKernel)]
        if getattr(self, "bias", None) is not None:
            sources.append(self.bias)
        return [
            *sources,
            *(x for p in parts if isinstance(p, SlotLayer) for x in p.weight_sources()),
        ]

    def selected_weights(self) -> list[np.ndarray]:
        """The weights of the materialized layer: selected values for kernels, all others as they are."""
        return [
            keras.ops.convert_to_numpy(x.select() if isinstance(x, SlotKernel) else x)
            for x in self.weight_sources()
        ]

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        shared = isinstance(self.sharing, ValueBank)
        config.update(
            num_values=self.num_values,
            selection=serialize_rule(self._rule),
            score_mode=self.score_mode,
            bank_initializer=initializers.serialize(self.bank_initializer),
            score_initializer=initializers.serialize(self.score_initializer),
            sharing=initializers.serialize(self.sharing) if shared else self.sharing,
            move_regularizer=keras.regularizers.serialize(self.move_regularizer),
            seed=self.seed,
        )
        return config

    def get_build_config(self) -> dict[str, Any] | None:
        # The seed that was drawn belongs to the built layer, not to its configuration: a clone draws its own.
        config = super().get_build_config()
        return config and {**config, "seed": self._seed}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if config:
            self._seed = check_seed(config.get("seed", self._seed))
        super().build_from_config(config)

    # Saving: Dense and its kin write their kernel by hand. Ours is a sub-layer, the rest is the base layer's.

    def save_own_variables(self, store: Any) -> None:
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' is not built, so it cannot load weights. Call it on an input first."
            )
        own: dict[str, Any] = {}
        keras.layers.Layer.save_own_variables(self, own)
        fits = set(own) == set(store.keys())
        for kernel in self.slot_kernels.values():
            # Keras goes on to the sub-layers of a layer that has refused a file.
            kernel.owner_refused = not fits
        if not fits:
            names = [v.name for v in own.values()]
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) expects {len(own)} variables beside its kernel, "
                f"{names}. Received: {len(store.keys())}. The file was written by another kind of layer: build "
                "the model with the same arguments, or load the whole model with `keras.models.load_model`."
            )
        keras.layers.Layer.load_own_variables(self, store)

    def __dir__(self) -> list[str]:
        # Keras reads all that `dir` names when it saves, and these may be as large as the bank.
        return [name for name in super().__dir__() if name not in COSTLY | {"slot_kernels"}]
