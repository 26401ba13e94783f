"""What all slot layers share: the slot arguments, selected kernels, and the Keras layer each stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np

from keras_slots._checks import check_choice, check_integer, check_num_values, check_seed
from keras_slots._keras import direct_layers, names_hidden_from_saving
from keras_slots._registry import Registrable
from keras_slots.kernels import SlotKernel
from keras_slots.kernels.regularizers import get_move_regularizer
from keras_slots.kernels.sampler import given
from keras_slots.layers.arguments import args_section, parameters_of, signature, unknown_argument_error
from keras_slots.layers.naming import named_kernels_of, named_weights
from keras_slots.layers.refusals import Refusals
from keras_slots.selection import Greedy, SelectionRule, get_rule, serialize_rule
from keras_slots.values import initializers
from keras_slots.values.philox import derive_seed, draw_seed
from keras_slots.values.source import ValueSource
from keras_slots.values.value_bank import ValueBank, check_sharing

Tensor = Any
Shape = tuple[int | None, ...]

#: What the docstrings of all slot layers share, in the place of `{shared}`.
_SHARED = """\
Backward, straight through the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k and each kernel
    W. The bank never changes.

    {args}

    Raises:
        ValueError: If a slot argument is invalid, for a kernel constraint, LoRA and quantization, and for the
            errors of the Keras layer.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3."""


class SlotLayer(Refusals, Registrable):
    """Mixin before a Keras layer that holds the slot arguments and owns the selected kernels.

    A subclass creates its kernels in `build` with `add_slot_kernel`, and gets the values in `call` from
    `kernel.select(training)`. `docs/extending.md` has a complete example.

    Args:
        num_values: Positive integer, K: the number of fixed random values of each connection.
        selection: `"greedy"` takes the value with the highest score; `"probabilistic"` draws one value from
            softmax(scores) in each training pass; or a `keras_slots.SelectionRule`. Inference is always greedy.
        score_mode: `"per_value"`, the paper's form, trains one score per value, by SGD at 1 to 3 times the rate of
            an ordinary network. Adam would move all K scores of a connection by the same step, however large
            their values are, so values of the same sign would never overtake each other. `"per_connection"`
            trains one lever u per connection, from which the K scores follow: `initial_scores + bank * u`. Under
            SGD, also with momentum or Nesterov, it selects the same values as the paper's scores, at a lower
            cost. Adam and clipping by norm train a lever too, but not as they would train K scores; weight decay
            pulls a connection back to its initial choice. `"nearest"` trains one lever per connection like an
            ordinary weight, with the same optimizer and rate, and selects the value nearest to it: every value
            can be selected, and cost and memory do not depend on K.
        bank_initializer: Distribution of the values: `"glorot_uniform"`, `"glorot_normal"`, `"he_uniform"`,
            `"he_normal"`, `"signed_constant"`, `"stratified_uniform"`; the class of that name in `keras_slots`,
            with a `scale`; or a Keras initializer, called once with the shape of the whole bank. None means the
            distribution of `kernel_initializer`. With `score_mode="nearest"` it must be a
            `keras_slots.StratifiedUniform`; None means one of scale 1.5, and levers start at values drawn by
            `kernel_initializer`.
        score_initializer: `keras_slots.UniformScores(scale)`, a Keras initializer, or `"nearest"`
            (`keras_slots.NearestScores`), with which the value nearest to a random start is selected first; do
            not combine it with `"per_value"` and Adam. None means U(0, b), where b is the Glorot-uniform bound of
            the kernel, as in the author's code. With `score_mode="nearest"` it must be None.
        sharing: `"connection"`: each connection has its own values; `"layer"`: one set of K values for each
            kernel of the layer; a `keras_slots.ValueBank`: that set, which several layers may share.
        move_regularizer: Keras regularizer of how far each connection has moved from its start, which makes
            `.slots` files smaller. It acts on the lever u: `keras.regularizers.L1(c)` adds `c * sum(abs(u))` to
            the loss, and `c * sign(u)` to the gradient. With `score_mode="nearest"` u is the distance of the lever
            from its start. With `score_mode="per_value"` it must be None.
        seed: Integer that determines bank, scores and sampling, `0 <= seed < 2**64`. None draws one, which
            `keras.utils.set_random_seed` determines.

    Example:

    >>> from keras_slots import SlotConv2D, SlotDense, SlotLayer
    >>> isinstance(SlotDense(3), SlotLayer), isinstance(SlotConv2D(3, 3), SlotLayer)
    (True, True)
    """

    registry: ClassVar[dict[type[keras.layers.Layer], type[SlotLayer]]] = {}
    kind_of_class = "slot layer"
    #: The Keras layer that `materialize` replaces this one by.
    plain_class: type[keras.layers.Layer]
    #: Exclusive upper bound of seeds.
    seed_limit = 2**64

    @classmethod
    def check_registration(cls, key: Any) -> None:
        if not (isinstance(key, type) and issubclass(key, keras.layers.Layer)):
            raise ValueError(
                "`key` must be the Keras layer that computes the same with an ordinary kernel. Received: "
                f"key={key!r} for {cls.__name__}."
            )
        own = set(parameters_of(key)) - set(parameters_of(keras.layers.Layer))
        lost = getattr(key, "get_config") is keras.layers.Layer.get_config  # noqa: B009
        if own and lost and cls.get_config is SlotLayer.get_config:
            raise ValueError(
                f"`key` must have a `get_config` that returns its arguments {sorted(own)}: without it they would "
                f"be lost. Received: {key.__name__}. See docs/extending.md for an example."
            )

    @classmethod
    def on_registration(cls, key: Any) -> None:
        if "__init__" not in vars(cls):

            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                super(cls, self).__init__(*args, **kwargs)

            cls.__init__ = __init__  # type: ignore[method-assign]
        cls.plain_class = key
        vars(cls)["__init__"].__signature__ = signature(key, SlotLayer)
        if cls.__doc__:
            args = args_section(key, SlotLayer, cls.kernel_arguments)
            cls.__doc__ = cls.__doc__.replace("{shared}", _SHARED.replace("{args}", args))
        super().on_registration(key)

    def __init__(
        self,
        *args: Any,
        num_values: int = 8,
        selection: str | SelectionRule = "greedy",
        score_mode: str = "per_value",
        bank_initializer: Any = None,
        score_initializer: Any = None,
        sharing: str | ValueBank = "connection",
        move_regularizer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        try:
            super().__init__(*args, **kwargs)
        except (TypeError, ValueError) as error:
            near_miss = unknown_argument_error(type(self), kwargs, error)
            if near_miss is None:
                raise
            raise near_miss from error
        self.refuse_kernel_updates()
        self.num_values = check_num_values(num_values)
        self._rule = get_rule(selection)
        self.score_mode = check_choice(score_mode, "score_mode", tuple(SlotKernel.registry))
        self.sharing = check_sharing(sharing, self.num_values, bank_initializer)
        self.bank_initializer = None if bank_initializer is None else initializers.get(bank_initializer)
        if isinstance(self.bank_initializer, ValueSource):
            self.bank_initializer.check_num_values(self.num_values)
        self.score_initializer = None if score_initializer is None else initializers.get_scores(score_initializer)
        kernel_class = SlotKernel.registry[self.score_mode]
        kernel_class.check_arguments(self._rule, self.bank_initializer, self.score_initializer, self.sharing)
        self.move_regularizer = get_move_regularizer(move_regularizer, score_mode, kernel_class.measures_moves)
        self.seed = None if seed is None else check_integer(seed, "seed", self.seed_limit)
        self._seed = draw_seed() if self.seed is None else self.seed
        self._kernel_names: set[str] = set()

    @property
    def selection(self) -> Any:
        """The selection rule of training calls: its name, or the object if it has arguments or no name."""
        name = serialize_rule(self._rule)
        return name if isinstance(name, str) else self._rule

    # For `build` and `call` of subclasses.

    def add_slot_kernel(
        self,
        shape: tuple[int | None, ...],
        argument: str = "kernel",
        *,
        name: str | None = None,
        fans: tuple[int, int] | None = None,
        initializer: Any = None,
    ) -> SlotKernel:
        """Builds a kernel of this layer's score mode; keep it in an attribute, or in a list or dict in one.

        Args:
            shape: Shape of the kernel in the layout of the Keras layer.
            argument: Prefix of the arguments about this kernel: `"kernel"` for `kernel_initializer` and
                `kernel_regularizer`. The seed of a second kernel is derived from it.
            name: Name of the weight of the Keras layer that the kernel replaces; None: `"kernel"`, or
                `"depthwise_kernel"` for the argument `"depthwise"`.
            fans: `(fan_in, fan_out)`; None: computed from the shape by Keras' rule.
            initializer: What the values are drawn from in place of the argument `kernel_initializer`.

        Raises:
            ValueError: If a size is not known, or the layer already has a kernel of that name.
        """
        if None in shape:
            raise ValueError(
                f"Layer '{self.name}' needs to know the number of input channels. Expected an input shape whose "
                f"channel axis is an integer. Received: kernel shape={shape}. Give `keras.Input` that size."
            )
        name = name or ("kernel" if argument == "kernel" else f"{argument}_kernel")
        if name in self._kernel_names:
            raise ValueError(
                f"Layer '{self.name}' already has a kernel named '{name}'. Pass another `argument`, or as `name` "
                "the name of the weight of the Keras layer that this kernel replaces."
            )
        given = [f"{argument}_regularizer"] + [f"{argument}_initializer"] * (initializer is None)
        if missing := [attribute for attribute in given if not hasattr(self, attribute)]:
            raise ValueError(
                f"`argument` must be the prefix of attributes of the layer. Received: argument='{argument}' for "
                f"the layer '{self.name}', of type {type(self).__name__}, without {' and '.join(missing)}. "
                "Set them in the constructor of the Keras layer; a regularizer may be None."
            )
        first = argument == self.kernel_arguments[0]
        kernel = SlotKernel.registry[self.score_mode](
            num_values=self.num_values,
            rule=self._rule,
            kernel_initializer=initializer or getattr(self, f"{argument}_initializer"),
            bank_initializer=self.bank_initializer,
            score_initializer=self.score_initializer,
            sharing=self.sharing,
            seed=self._seed if first else derive_seed(self._seed, argument),
            fans=fans,
            regularizer=getattr(self, f"{argument}_regularizer"),
            move_regularizer=self.move_regularizer,
            name=name,
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )
        try:
            kernel.build(tuple(int(size) for size in shape if size is not None))
        except ValueError as error:
            raise ValueError(
                f"Layer '{self.name}' cannot draw the bank or the scores of its kernel. {error}"
            ) from error
        self._kernel_names.add(name)
        return kernel

    def add_bias(self, shape: tuple[int, ...]) -> keras.Variable:
        """Adds the bias of the Keras layer, an ordinary trained variable."""
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
        """Overrides the method of Keras for a call that is run again in the backward pass.

        The random numbers are drawn before the call and passed as arguments, so that all kernels select the same
        values in both runs, including those of inner layers, which do not get `training` in the second run. Flags
        such as `training` are bound, because they would otherwise be traced as tensors.
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

    # For users.

    if hasattr(keras.layers.Layer, "__getattr__"):

        def __getattr__(self, name: str) -> Any:
            """On PyTorch, where it would hide the error of a property behind one of its own."""
            member = getattr(type(self), name, None)
            if isinstance(member, property) and member.fget:
                return member.fget(self)
            return super().__getattr__(name)

    @property
    def slot_kernels(self) -> dict[str, SlotKernel]:
        """The kernels of this layer and of its inner layers, by name."""
        return named_kernels_of(self)

    @property
    def weights(self) -> list[keras.Variable]:
        """All weights: the variables of the kernels first, then the bias and the others, as in Keras layers."""
        return self._kernels_first(super().weights)

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables: the weights, in their order, and the state of random generators."""
        return self._kernels_first(super().variables)

    def _kernels_first(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        of_kernels = {id(v) for x in direct_layers(self) if isinstance(x, SlotKernel) for v in x.variables}
        return sorted(variables, key=lambda v: id(v) not in of_kernels)

    @property
    def bank(self) -> Tensor:
        """The fixed values, `kernel_shape + (K,)`, or `(K,)` if they are shared.

        With `score_mode="per_connection"` and `"nearest"` they are drawn from the seed at each access.
        """
        return self._single_kernel("bank").bank

    @property
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""
        return self._single_kernel("scores").scores

    @property
    def lever(self) -> keras.Variable:
        """The trained number of each connection, of the kernel's shape; not with `score_mode="per_value"`."""
        kernel = self._single_kernel("lever")
        if not hasattr(kernel, "lever"):
            raise AttributeError(
                f"Layer '{self.name}' has scores instead of a lever. Build it with "
                f'score_mode="per_connection". Received: score_mode={self.score_mode!r}'
            )
        return kernel.lever

    @property
    def kernel(self) -> Tensor:
        """The greedily selected values, bitwise entries of `bank`, in the shape of the Keras layer's kernel."""
        return self._single_kernel("kernel").select()

    @property
    def selected_indices(self) -> Tensor:
        """Index in [0, K) of each greedily selected value, int32, of the kernel's shape."""
        return self._single_kernel("selected_indices").selected_indices

    def _single_kernel(self, attribute: str) -> SlotKernel:
        kernels = self.slot_kernels
        if len(kernels) == 1:
            return next(iter(kernels.values()))
        if kernels:
            raise AttributeError(
                f"`{attribute}` is ambiguous: layer '{self.name}' has {len(kernels)} kernels. Use "
                f"`layer.slot_kernels[name].{attribute}` with one of the names {sorted(kernels)}."
            )
        raise AttributeError(
            f"Layer '{self.name}' has no bank, scores or kernel yet. Build it first, for example by calling "
            "it on an input."
        )

    def weight_sources(self) -> dict[str, SlotKernel | keras.Variable]:
        """The source of each weight of the materialized layer, a kernel or a variable, by name."""
        return named_weights(self)

    def selected_weights(self) -> dict[str, np.ndarray]:
        """The weights of the materialized layer by name: selected values for kernels, other weights unchanged."""
        return {
            name: copied_array(x.select() if isinstance(x, SlotKernel) else x)
            for name, x in self.weight_sources().items()
        }

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_values": self.num_values,
            "selection": serialize_rule(self._rule),
            "score_mode": self.score_mode,
            "bank_initializer": initializers.serialize(self.bank_initializer),
            "score_initializer": initializers.serialize(self.score_initializer),
            "sharing": initializers.serialize(self.sharing),
            "move_regularizer": keras.regularizers.serialize(self.move_regularizer),
            "seed": self.seed,
        }

    def get_build_config(self) -> dict[str, Any] | None:
        # A drawn seed is not part of the configuration: a clone draws its own.
        config = super().get_build_config()
        return config and {**config, "seed": self._seed}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if config:
            self._seed = check_seed(config.get("seed", self._seed))
        super().build_from_config(config)

    # Saving: Dense and similar layers save their kernel by hand. Ours is a sub-layer, so the base layer's methods
    # do.

    def save_own_variables(self, store: Any) -> None:
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        if not self.built:
            # Like any Keras layer: nothing to load if the file has nothing for it.
            if store.keys():
                raise ValueError(
                    f"Layer '{self.name}' is not built, so it cannot load its weights from the file. "
                    "Call it on an input first."
                )
            return
        own: dict[str, Any] = {}
        keras.layers.Layer.save_own_variables(self, own)
        fits = set(own) == set(store.keys())
        for kernel in self.slot_kernels.values():
            # Keras still loads the sub-layers of a layer that has refused a file.
            kernel.owner_refused = not fits
        if not fits:
            names = [v.name for v in own.values()]
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) expects {len(own)} other variables than its kernel, "
                f"{names}. Received: {len(store.keys())}. The file was written by another kind of layer: build "
                "the model with the same arguments, or load the whole model with `keras.models.load_model`."
            )
        keras.layers.Layer.load_own_variables(self, store)

    def __dir__(self) -> list[str]:
        return names_hidden_from_saving(type(self), super().__dir__())


def copied_array(tensor: Any) -> np.ndarray:
    """The values of a tensor in an array of its own: on JAX, training one model deletes arrays that both share."""
    return np.array(keras.ops.convert_to_numpy(tensor))


#: Names of the arguments that the Keras layer does not have.
SLOT_ARGUMENTS = tuple(inspect.getfullargspec(SlotLayer.__init__).kwonlyargs)
