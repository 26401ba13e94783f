"""The arguments that all slot layers add to those of their Keras layer: names and documentation."""

SELECTIONS = ("greedy", "probabilistic")
SCORE_MODES = ("per_value", "per_connection")
#: The arguments of a slot layer that the Keras layer does not have.
SLOT_ARGUMENTS = (
    "num_values",
    "selection",
    "score_mode",
    "bank_initializer",
    "score_initializer",
    "sharing",
    "seed",
)

SLOT_ARGS = """num_values: Positive integer, K: the number of fixed random values of each connection.
        selection: `"greedy"` takes the value with the highest score; `"probabilistic"` draws one value from
            softmax(scores) in each training call. Inference is greedy for both.
        score_mode: `"per_value"` trains one score for each value, as the paper does. `"per_connection"` trains
            one lever u for each connection, from which the K scores follow: `initial_scores + bank * u`. Under
            SGD with momentum, Nesterov and decoupled weight decay it selects what the paper's scores select, at
            the price of an ordinary layer. Other optimizers (Adam, clipping by norm) train a lever well too, but
            take another path than on K scores. A weight decay must reach `lever` and `decay` alike.
        bank_initializer: Distribution of the values: `"glorot_uniform"`, `"glorot_normal"`, `"he_uniform"`,
            `"he_normal"`, `"signed_constant"`, the object of that name in `keras_slots` with a `scale`, or a Keras
            initializer, which is called once with the shape of the whole bank. None means the distribution that
            `kernel_initializer` names, `"glorot_uniform"` unless you say otherwise.
        score_initializer: `keras_slots.UniformScores(scale)` or a Keras initializer. None means U(0, b), b the
            Glorot-uniform bound of the kernel, as in the author's code.
        sharing: `"connection"`: each connection has its own values; `"layer"`: one set of K values for the layer;
            a `keras_slots.ValueBank`: that set, which may be handed to several layers.
        seed: Integer that fixes bank, scores and sampling. None draws one, so that
            `keras.utils.set_random_seed` governs it.
        **kwargs: All other arguments are those of the Keras layer, with the same names, order and defaults. A
            regularizer of the kernel acts on the selected values; a constraint of the kernel is refused, since
            the values are fixed."""
