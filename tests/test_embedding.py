"""`SlotEmbedding`: rows selected alone are those of the whole table, and it trains as Keras' `Embedding` does."""

import keras
import numpy as np
import pytest
from keras import ops

from backends import BACKEND
from comparisons import assert_close, assert_same, numpy_of
from keras_slots import (
    SelectionRule,
    SlotEmbedding,
    SlotReversibleEmbedding,
    ValueBank,
    load_slots,
    materialize,
    register,
    save_slots,
    slotify,
)
from layer_table import L
from mode_table import MODE_ARGUMENTS, SCORE_MODES

ROWS, WIDTH = 50, 6
TOKENS = np.array([[3, 0, 49], [3, 7, -1]], "int32")
CASES = {
    **MODE_ARGUMENTS,
    "per_value_many": {"num_values": 21},
    "per_value_shared": {"sharing": "layer"},
    "per_value_random": {"selection": "probabilistic"},
    "per_connection_random": {"score_mode": "per_connection", "selection": "probabilistic"},
    "nearest_shared": {"score_mode": "nearest", "sharing": "layer"},
    "nearest_of_a_bank": {"score_mode": "nearest", "sharing": ValueBank(8, bound=0.1, seed=1)},
}
WAYS = ("eager", *BACKEND.compilations)
every_case = pytest.mark.parametrize("case", CASES)


def embedding(case="nearest", rows=ROWS, **arguments):
    layer = SlotEmbedding(rows, WIDTH, seed=3, **CASES[case], **arguments)
    layer.build()
    return layer


def gradient_of(layer, tokens, way, training=False):
    """The output, and the gradient of its weighted sum in the first trained variable."""
    weights = np.random.default_rng(0).normal(size=(*tokens.shape, WIDTH)).astype("float32")

    def total(weights, tokens):
        arguments = {"training": training} if training else {}
        y = layer(tokens, **arguments)
        return ops.sum(y * ops.convert_to_tensor(weights)), y

    y, (gradient,) = BACKEND.gradients(total, layer.trainable_variables, (weights, tokens), way)
    return numpy_of(y), numpy_of(ops.convert_to_tensor(gradient))


@every_case
@pytest.mark.parametrize("training", [False, True])
def test_rows_selected_alone_are_those_of_the_table(case, training):
    layer, twin = embedding(case), embedding(case)
    for _ in range(2):  # two draws
        expected = numpy_of(layer.slot_kernel.select(training))[TOKENS]
        np.testing.assert_array_equal(numpy_of(twin(TOKENS, training=training)), expected)
    random = training and "random" in case
    assert random != np.array_equal(expected, numpy_of(layer.embeddings)[TOKENS])


@pytest.mark.quick
@every_case
@pytest.mark.parametrize("way", WAYS)
def test_gradient_is_that_of_the_whole_table(case, way):
    few, many = embedding(case), embedding(case)
    many.slot_kernel.select_in = lambda *arguments: None
    random = "random" in case
    if random:
        many.slot_kernel.draw = lambda *rows: type(many.slot_kernel).draw(many.slot_kernel)
    for (y, gradient), (other, whole) in zip(
        *([gradient_of(layer, TOKENS, way, training) for training in (False, random)] for layer in (few, many)),
        strict=True,
    ):
        np.testing.assert_array_equal(y, other)
        np.testing.assert_allclose(gradient, whole, rtol=1e-6)
        assert np.any(gradient[3]) and not np.any(gradient[4])


@pytest.mark.parametrize("way", WAYS)
def test_output_and_gradient_are_those_of_the_keras_layer(way):
    layer, plain = embedding("nearest"), L.Embedding(ROWS, WIDTH)
    plain.build()
    plain.set_weights([numpy_of(layer.embeddings)])
    for one, other in zip(gradient_of(layer, TOKENS, way), gradient_of(plain, TOKENS, way), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_that_may_ask_for_every_row_selects_the_table():
    layer, calls = embedding(rows=5), []
    layer.slot_kernel.select_in = lambda *arguments: calls.append(arguments)
    tokens = np.array([[0, 1, 2], [3, 4, 4]], "int32")
    np.testing.assert_array_equal(numpy_of(layer(tokens)), numpy_of(layer.embeddings)[tokens])
    assert not calls


@pytest.mark.tensorflow
def test_gradient_of_a_step_holds_the_rows_alone():
    import tensorflow as tf

    for case in SCORE_MODES:
        layer = embedding(case)
        (variable,) = layer.trainable_variables
        with tf.GradientTape() as tape:
            y = layer(TOKENS)
        gradient = tape.gradient(y, variable.value)
        assert isinstance(gradient, tf.IndexedSlices) and gradient.values.shape[0] == TOKENS.size


@pytest.mark.quick("per_value_random", "nearest")
@every_case
def test_layer_trains_with_masks_and_an_unknown_length(case):
    inputs = keras.Input((None,), dtype="int32")
    words = SlotEmbedding(300, WIDTH, mask_zero=True, seed=1, **CASES[case])
    model = keras.Model(inputs, L.Dense(1)(L.GlobalAveragePooling1D()(words(inputs))))
    model.compile(keras.optimizers.SGD(20.0), "mse", jit_compile=False)
    before = numpy_of(words.embeddings)
    for length in (3, 5):
        tokens = np.arange(2 * length).reshape(2, length)
        model.train_on_batch(tokens, np.ones((2, 1)))
    moved = np.any(numpy_of(words.embeddings) != before, axis=1)
    assert moved[1:10].any() and not moved[10:].any()
    padded, cut = np.array([[5, 8, 0, 0]]), np.array([[5, 8]])
    np.testing.assert_allclose(model.predict(padded, verbose=0), model.predict(cut, verbose=0), rtol=1e-5)


def test_a_table_that_an_output_layer_shares_gets_both_gradients():
    class Tied(keras.layers.Layer):
        """The output layer of a language model, as users write it."""

        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.embedding = embedding

        def call(self, x):
            return ops.matmul(x, ops.transpose(self.embedding.embeddings))

    gradients, table = [], None
    for make in (
        lambda: SlotEmbedding(ROWS, WIDTH, score_mode="nearest", seed=3),
        lambda: L.Embedding(ROWS, WIDTH),
    ):
        words = make()
        words.build()
        if table is not None:
            words.set_weights([table])
        else:
            table = numpy_of(words.embeddings)
        tied = Tied(words)

        def total(tokens, words=words, tied=tied):
            y = tied(words(tokens))
            return ops.sum(ops.square(y)), y

        y, (gradient,) = BACKEND.gradients(total, words.trainable_variables, (TOKENS,), BACKEND.compilations[-1])
        gradients.append((numpy_of(y), numpy_of(ops.convert_to_tensor(gradient))))
        assert np.all(np.any(gradients[-1][1], axis=1))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_rule_whose_numbers_are_not_those_of_connections_selects_the_table():
    @register("one_index_for_all", replace=True)
    class OneIndexForAll(SelectionRule):
        def random_shape(self, kernel_shape, num_values):
            return (1,)

        def index(self, scores, uniform):
            index = ops.cast(uniform * scores.shape[-1], "int32")
            return index + ops.zeros(scores.shape[:-1], "int32")

    try:
        layer = SlotEmbedding(ROWS, WIDTH, selection="one_index_for_all", seed=3)
        layer.build()
        y = numpy_of(layer(TOKENS, training=True))
        assert any(np.array_equal(y, numpy_of(layer.bank)[TOKENS][..., k]) for k in range(8))
    finally:
        del SelectionRule.registry["one_index_for_all"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", SCORE_MODES)
@pytest.mark.parametrize("row", [2**32 + 5, -(2**32) + 5, 2**31, ROWS, -ROWS - 1])
def test_a_row_that_does_not_exist_is_refused_as_in_keras_and_is_never_another_one(mode, row):
    model = keras.Sequential([keras.Input((2,), dtype="int64"), SlotEmbedding(ROWS, WIDTH, score_mode=mode)])
    for each in (model, materialize(model)):
        with pytest.raises(Exception, match="is not in|out of"):  # an error of TensorFlow
            each.predict(np.array([[row, 1]]), verbose=0)
    tokens = np.array([[1, -1]])
    assert_same(model(tokens), materialize(model)(tokens))


@pytest.mark.jax
def test_a_row_that_does_not_exist_is_nan_as_in_keras():
    for case in SCORE_MODES:
        assert np.isnan(numpy_of(embedding(case)(np.array([ROWS])))).all()


# The size of the values.


@pytest.mark.parametrize("mode", SCORE_MODES)
def test_values_and_scores_have_the_size_of_the_default_initializer(mode):
    layer = SlotEmbedding(400, 10, score_mode=mode, seed=1)
    layer.build()
    assert layer.slot_kernel.initial.rebuildable
    bank, bound = numpy_of(layer.bank), 0.075 if mode == "nearest" else 0.05
    assert 0.99 * bound < np.abs(bank).max() <= 1.0001 * bound
    if mode == "per_value":
        assert 0.049 < numpy_of(layer.scores).max() <= 0.0501


@pytest.mark.parametrize("kind", ["RandomNormal", "TruncatedNormal"])
def test_normal_initializers_keep_their_deviation(kind):
    layer = SlotEmbedding(400, 10, getattr(keras.initializers, kind)(stddev=0.02), seed=1)
    layer.build()
    assert layer.slot_kernel.initial.rebuildable
    assert abs(numpy_of(layer.bank).std() - 0.02) < 0.0005


def test_other_initializers_are_those_of_the_table():
    for initializer in ("glorot_uniform", keras.initializers.RandomUniform(0.0, 1.0)):
        layer = SlotEmbedding(40, 10, initializer, seed=1)
        layer.build()
        bank, lowest, highest = numpy_of(layer.bank), -((6 / 50) ** 0.5), (6 / 50) ** 0.5
        if not isinstance(initializer, str):
            lowest, highest = 0.0, 1.0
        assert lowest <= bank.min() < bank.max() <= highest and bank.max() > 0.98 * highest


def test_weights_are_refused():
    for arguments in ((4, 2, "uniform", None, None, False, np.ones((4, 2))), (4, 2)):
        with pytest.raises(ValueError, match="`weights` must be None"):
            SlotEmbedding(*arguments, **({} if len(arguments) > 2 else {"weights": np.ones((4, 2))}))


def test_levers_start_at_a_table_that_is_given():
    table = np.random.default_rng(0).uniform(-0.07, 0.07, (30, 4))
    layer = SlotEmbedding(30, 4, keras.initializers.Constant(table), num_values=64, score_mode="nearest", seed=1)
    layer.build()
    np.testing.assert_allclose(numpy_of(layer.lever), table, rtol=1e-6)


def test_models_with_an_embedding_are_transformed_and_saved(tmp_path):
    inputs = keras.Input((4,), dtype="int32")
    plain = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Embedding(ROWS, WIDTH, name="words")(inputs))))
    model = slotify(plain, score_mode="nearest", seed=2)
    assert type(model.get_layer("words")) is SlotEmbedding
    tokens = np.array([[1, 2, 3, 0], [49, 5, 0, 0]])
    expected = model.predict(tokens, verbose=0)
    loaded = load_slots(save_slots(model, tmp_path / "m.slots"))
    for other in (materialize(model), loaded):
        assert type(other.get_layer("words")) is L.Embedding
        np.testing.assert_array_equal(other.predict(tokens, verbose=0), expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_ragged_and_sparse_tokens_are_taken_as_by_keras(kind):
    import tensorflow as tf

    layer, plain = embedding(), L.Embedding(ROWS, WIDTH)
    plain.build()
    plain.set_weights([numpy_of(layer.embeddings)])
    x = tf.ragged.constant([[1, 2, 3], [4]]) if kind == "ragged" else tf.sparse.from_dense([[1, 2, 3], [4, 5, 6]])
    y, expected = layer(x), plain(x)
    if kind == "ragged":
        y, expected = y.to_tensor(), expected.to_tensor()
    np.testing.assert_array_equal(numpy_of(y), numpy_of(expected))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_reversible_embedding_projects_back_as_the_keras_layer_with_its_selected_values(tied, cap, policy):
    arguments = {"tie_weights": tied, "logit_soft_cap": cap, "reverse_dtype": "float32", "dtype": policy}
    layer = SlotReversibleEmbedding(ROWS, WIDTH, score_mode="nearest", seed=1, **arguments)
    plain = L.ReversibleEmbedding(ROWS, WIDTH, **arguments)
    layer.build()
    plain.build()
    tables = [layer.embeddings] if tied else [layer.embeddings, layer.reverse_embeddings]
    plain.set_weights([numpy_of(x) for x in tables])
    x = np.random.default_rng(0).normal(size=(2, 3, WIDTH)).astype("float32")
    for inputs, reverse in ((TOKENS, False), (x, True)):
        got, expected = (numpy_of(one(inputs, reverse=reverse)) for one in (layer, plain))
        np.testing.assert_array_equal(got, expected)
    # Keras rounds the weights of this layer to the compute dtype, and not its inputs.
    rounded = numpy_of(ops.cast(ops.cast(tables[-1], layer.compute_dtype), "float32"))
    logits = x @ (rounded.T if tied else rounded)
    expected = logits if cap is None else cap * np.tanh(logits / cap)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["per_value", "per_value_random", "per_connection", "nearest"])
@pytest.mark.parametrize("tied", [True, False])
def test_reversible_embedding_is_slotified_trained_masked_and_saved(case, tied, tmp_path):
    inputs = keras.Input((3,), dtype="int32")
    table = L.ReversibleEmbedding(ROWS, WIDTH, tie_weights=tied, mask_zero=True, name="table")
    plain = keras.Model(inputs, table(L.SimpleRNN(WIDTH, return_sequences=True)(table(inputs)), reverse=True))
    model = slotify(plain, seed=1, **CASES[case])
    layer = model.get_layer("table")
    assert list(layer.slot_kernels) == (["embeddings"] if tied else ["embeddings", "reverse_embeddings"])
    before = [numpy_of(kernel.trained_variables()[0]) for kernel in layer.slot_kernels.values()]
    tokens = np.abs(TOKENS)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tokens, tokens, verbose=0)
    for kernel, start in zip(layer.slot_kernels.values(), before, strict=True):
        assert np.any(numpy_of(kernel.trained_variables()[0]) != start)
    expected = numpy_of(model(tokens))
    # PyTorch rounds by the order in memory, and Keras keeps orthogonal kernels transposed there.
    same = assert_close if keras.backend.backend() == "torch" else assert_same
    same(materialize(model)(tokens), expected)
    model.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(tokens), expected)
    same(load_slots(save_slots(model, tmp_path / "model.slots"))(tokens), expected)


def test_reversible_embedding_selects_the_same_random_values_both_ways_in_one_pass():
    layer = SlotReversibleEmbedding(ROWS, WIDTH, selection="probabilistic", seed=1)
    inputs = keras.Input((1,), dtype="int32")
    model = keras.Model(inputs, layer(layer(inputs), reverse=True))
    tokens = np.arange(5)[:, None]
    logits = numpy_of(model(tokens, training=True))[:, 0]
    # Row n of `E[:5] @ E.T` has the square of row n of the table in column n.
    assert (np.diag(logits) > 0).all()
    twin = SlotReversibleEmbedding(ROWS, WIDTH, selection="probabilistic", seed=1)
    twin.build()
    table = numpy_of(twin.slot_kernel.select(True))
    np.testing.assert_allclose(logits, table[:5] @ table.T, rtol=1e-5, atol=1e-7)
