"""Nearest scores: the formula, their start, and what greedy selection makes of them."""

import keras
import numpy as np
import pytest

from keras_slots import GlorotNormal, GlorotUniform, HeNormal, SlotDense, UniformScores, ValueBank
from keras_slots.values import initializers
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.philox import START_STREAM
from value_cases import in_json, named, one_round_trip

ORTHOGONAL = keras.initializers.Orthogonal(seed=1)
STARTS = [None, GlorotNormal(2.0), HeNormal(seed=4), ORTHOGONAL]


def initial_values(**fields):
    defaults = {
        "kernel_shape": (5, 3),
        "num_values": 8,
        "fans": (5, 3),
        "seed": 7,
        "bank_initializer": GlorotUniform(),
        "score_initializer": NearestScores(),
        "sharing": "connection",
    }
    return InitialValues(**{**defaults, **fields})


def test_nearest_scores_are_the_formula_by_hand():
    bank, start = np.array([[-1.0, 0.0, 2.0], [0.5, 0.5, 4.0]]), np.array([0.5, -2.0])
    expected = [[-0.5 - 0.5, 0.0, 1.0 - 2.0], [-1.0 - 0.125, -1.0 - 0.125, -8.0 - 8.0]]
    np.testing.assert_array_equal(NearestScores().scores(bank, start), expected)


def test_nearest_scores_are_rounded_once():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(100, 8)).astype("float32")
    start = rng.normal(size=100).astype("float32")
    scores = NearestScores().scores(bank, start)
    exact = bank.astype("longdouble") * start[:, None].astype("longdouble")
    exact -= bank.astype("longdouble") ** 2 / 2
    assert scores.dtype == np.float64
    assert np.abs(scores - exact).max() < 1e-15


@pytest.mark.parametrize("sharing", ["connection", "layer", ValueBank(8, bound=0.7, seed=1)])
@pytest.mark.parametrize("start", STARTS, ids=named)
def test_nearest_scores_are_highest_at_the_value_nearest_to_the_start(sharing, start):
    initial = initial_values(score_initializer=NearestScores(start), sharing=sharing)
    bank = np.broadcast_to(initial.bank(), initial.score_shape).astype("float64")
    distance = np.abs(bank - initial.start()[..., None])
    np.testing.assert_array_equal(initial.scores().argmax(-1), distance.argmin(-1))


@pytest.mark.parametrize("start", STARTS, ids=named)
def test_start_rows_are_slices_of_the_start(start):
    initial = initial_values(score_initializer=NearestScores(start))
    whole, scores = initial.start(), initial.scores()
    assert whole.shape == (5, 3) and scores.shape == (5, 3, 8)
    for first, stop in ((0, 15), (4, 11), (3, 3)):
        np.testing.assert_array_equal(initial.start_rows(first, stop), whole.ravel()[first:stop])
        rows = initial.score_rows(first, stop)
        np.testing.assert_array_equal(rows, scores.reshape(-1, 8)[first:stop])


def test_start_is_that_of_an_ordinary_layer_and_has_a_stream_of_its_own():
    initial = initial_values(kernel_shape=(300, 100), fans=(300, 100))
    start = initial.start().ravel()
    np.testing.assert_array_equal(start, GlorotUniform().sample(7, 30_000, (300, 100), stream=START_STREAM))
    plain = keras.initializers.GlorotUniform(seed=1)((300, 100))
    plain = keras.ops.convert_to_numpy(plain)
    np.testing.assert_allclose([start.std(), np.abs(start).max()], [plain.std(), plain.max()], rtol=0.02)
    first_values = initial.bank()[..., 0].ravel()
    assert abs(np.corrcoef(start, first_values)[0, 1]) < 5 / np.sqrt(30_000)


def test_start_of_a_keras_initializer_has_the_shape_of_the_kernel():
    start = initial_values(score_initializer=NearestScores(ORTHOGONAL)).start()
    np.testing.assert_allclose(start.T @ start, np.eye(3), atol=1e-5)


def test_start_of_another_shape_is_refused():
    def initializer(shape, dtype):
        return np.zeros((2, 2))

    with pytest.raises(ValueError, match=r"`start` must return an array of shape \(5, 3\).*\(2, 2\)"):
        initial_values(score_initializer=NearestScores(initializer)).start()


def test_start_of_other_scores_is_refused():
    with pytest.raises(
        ValueError,
        match="`score_initializer` must be `NearestScores` for connections to have a start.*UniformScores",
    ):
        initial_values(score_initializer=UniformScores()).start()


@pytest.mark.parametrize(("start", "rebuildable"), [(None, True), (HeNormal(), True), (ORTHOGONAL, False)])
def test_nearest_scores_are_rebuildable_when_their_start_is(start, rebuildable):
    initial = initial_values(score_initializer=NearestScores(start))
    assert initial.rebuildable is rebuildable


@pytest.mark.parametrize("nearest", [NearestScores(start) for start in STARTS], ids=named)
def test_nearest_scores_survive_json(nearest):
    for copy in (
        one_round_trip(nearest),
        NearestScores.from_config(in_json(nearest.get_config())),
        initializers.get_scores(in_json(initializers.serialize(nearest))),
    ):
        assert type(copy) is NearestScores
        assert copy == nearest and hash(copy) == hash(nearest) and repr(copy)[:30] == repr(nearest)[:30]
    assert nearest != NearestScores("he_uniform") and nearest != "nearest"


def test_get_scores_knows_nearest_scores_by_name():
    assert initializers.get_scores("nearest") == NearestScores("glorot_uniform")
    nearest = NearestScores("he_normal")
    assert initializers.get_scores(nearest) is nearest and nearest.start == HeNormal()


def test_get_refuses_nearest_scores_for_a_bank():
    with pytest.raises(ValueError, match=r"not of scores.*Pass it as `score_initializer`"):
        initializers.get(NearestScores())
    with pytest.raises(ValueError, match=r"not of scores.*bank_initializer=.nearest"):
        initializers.get("nearest")


@pytest.mark.parametrize("start", ["glorot", 3, {}])
def test_nearest_scores_refuse_an_unknown_start(start):
    with pytest.raises(ValueError, match="`start` must be one of 'glorot_uniform'.*Received: start="):
        NearestScores(start)


@pytest.mark.parametrize("start", ["stratified_uniform", "nearest", UniformScores(), NearestScores()])
def test_nearest_scores_refuse_a_start_that_is_none(start):
    with pytest.raises(ValueError, match="`start` must be a distribution of"):
        NearestScores(start)


@pytest.mark.parametrize("bank", ["glorot_uniform", "stratified_uniform"])
def test_slot_dense_with_nearest_scores_starts_at_the_nearest_values(bank):
    layer = SlotDense(6, num_values=16, bank_initializer=bank, score_initializer="nearest", use_bias=False, seed=3)
    layer.build((None, 9))
    again = SlotDense.from_config(in_json(layer.get_config()))
    assert again.score_initializer == NearestScores()
    start = layer.slot_kernel.initial.start()
    values = keras.ops.convert_to_numpy(layer.bank)
    nearest = np.abs(values - start[..., None]).argmin(-1)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.selected_indices), nearest)
