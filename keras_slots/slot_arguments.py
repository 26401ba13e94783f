"""The arguments that all slot layers add to those of their Keras layer: their names, types and documentation."""

from typing import Any, TypedDict

from keras_slots.selection import SelectionRule


class SlotArguments(TypedDict, total=False):
    """The keyword arguments that every slot layer adds to those of its Keras layer.

    Args:
        num_values: Positive integer, K: the number of fixed random values of each connection. 8 unless you say
            otherwise.
        selection: `"greedy"`, the default, takes the value with the highest score; `"probabilistic"` draws one
            value from softmax(scores) in each training pass; or a `keras_slots.SelectionRule` of your own.
            Inference is greedy for all.
        score_mode: `"per_value"`, the default, trains one score for each value, as the paper does.
            `"per_connection"` trains one lever u for each connection, from which the K scores follow:
            `initial_scores + bank * u`. Under SGD, with momentum or Nesterov, it selects what the paper's scores
            select, at the price of an ordinary layer. Other optimizers (Adam, clipping by norm) train a lever well
            too, but take another path than on K scores, and weight decay pulls a connection back to its initial
            choice. `"nearest"` trains one lever for each connection like an ordinary weight, and selects the value
            nearest to it: every value can be reached, and cost and memory do not depend on K.
        bank_initializer: Distribution of the values: `"glorot_uniform"`, `"glorot_normal"`, `"he_uniform"`,
            `"he_normal"`, `"signed_constant"`, `"stratified_uniform"`, the object of that name in `keras_slots`
            with a `scale`, or a Keras initializer, which is called once with the shape of the whole bank. None
            means the distribution that `kernel_initializer` names, `"glorot_uniform"` unless you say otherwise.
            With `score_mode="nearest"` it must be a `keras_slots.StratifiedUniform`; None means one of scale 1.5,
            and `kernel_initializer` says where levers start.
        score_initializer: `keras_slots.UniformScores(scale)`, a Keras initializer, or `"nearest"`
            (`keras_slots.NearestScores`), by which the value nearest to a start is selected first. None means
            U(0, b), b the Glorot-uniform bound of the kernel, as in the author's code. With
            `score_mode="nearest"` it must be None.
        sharing: `"connection"`, the default: each connection has its own values; `"layer"`: one set of K values
            for each kernel of the layer; a `keras_slots.ValueBank`: that set, which may be handed to several
            layers.
        move_regularizer: Keras regularizer of how far each connection has moved from its start, for a smaller
            `.slots` file. It acts on the lever u: `keras.regularizers.L1(c)` adds `c * sum(abs(u))` to the loss,
            and `c * sign(u)` to the gradient. With `score_mode="nearest"` u is the distance of the lever from its
            start. Not with `score_mode="per_value"`. None: no such loss.
        seed: Integer that fixes bank, scores and sampling. None draws one, so that
            `keras.utils.set_random_seed` governs it.
        name: As of every Keras layer.
        dtype: As of every Keras layer. Scores and levers are float32 under half precision.
        trainable: As of every Keras layer. The bank is never trained.

    Example:

    >>> from keras_slots import SlotArguments, SlotDense
    >>> slots: SlotArguments = {"num_values": 4, "selection": "probabilistic"}
    >>> SlotDense(3, **slots).num_values
    4
    """

    num_values: int
    selection: str | SelectionRule
    score_mode: str
    bank_initializer: Any
    score_initializer: Any
    sharing: Any
    move_regularizer: Any
    seed: int | None
    name: str | None
    dtype: Any
    trainable: bool


#: The names of the arguments that the Keras layer does not have.
SLOT_ARGUMENTS = tuple(SlotArguments.__annotations__)[:-3]
