"""RoundedScores: a staircase of 16 bits that is exactly the one of its scores."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_slots import (
    GlorotUniform,
    HeNormal,
    NearestScores,
    RoundedScores,
    SignedConstant,
    SlotDense,
    StratifiedUniform,
    UniformScores,
    ValueBank,
    initializers,
    materialize,
)
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.rounded import with_thresholds
from keras_slots.kernels.staircase import build_staircase
from test_lever import array, assert_score_modes_train_to_the_same_selections, network, slots, train

DRAWN = InitialValues((8, 25), 8, (8, 25), 7, GlorotUniform(), UniformScores(), "connection")
BANKS = [GlorotUniform(), HeNormal(), SignedConstant(), StratifiedUniform(2.0)]


def rounded(**fields):
    return dataclasses.replace(DRAWN, score_initializer=RoundedScores(), **fields)


def read(staircase, lever):
    """The values of all connections at a lever, in float64."""
    _, steps, index, tall_thresholds, tall_steps = staircase
    value = np.asarray(steps[0], "float64")
    for threshold, step in zip(staircase.thresholds, steps[1:], strict=True):
        value = np.where(lever > threshold.astype("float64"), step.astype("float64"), value)
    for threshold, step in zip(tall_thresholds, tall_steps, strict=True):
        higher = lever > threshold.astype("float64")
        value[index] = np.where(higher, step.astype("float64"), value[index])
    return value


def highest(bank, scores, lever):
    """The value with the highest score, by computing all K."""
    bank = np.broadcast_to(bank, scores.shape)
    index = (scores + bank.astype("float64") * lever).argmax(axis=1)
    return bank[np.arange(len(bank)), index].astype("float64")


def is_bfloat16(numbers):
    numbers = np.asarray(numbers, "float64")
    return (numbers.astype("bfloat16").astype("float64") == numbers).all()


@pytest.mark.parametrize("num_values", [1, 2, 3, 8, 64, 300])
@pytest.mark.parametrize("bank", BANKS, ids=repr)
def test_rounded_staircase_gives_the_value_with_the_highest_score_at_every_lever(num_values, bank):
    initial = rounded(num_values=num_values, bank_initializer=bank)
    values, scores = initial.rows(0, 200)
    staircase = build_staircase(initial)
    levers = np.random.default_rng(0).standard_normal(100) * np.logspace(-3, 3, 100)
    for lever in [0.0, *levers]:
        np.testing.assert_array_equal(read(staircase, lever), highest(values, scores, lever))
    assert staircase.thresholds.dtype == staircase.steps.dtype == "bfloat16"
    assert np.isfinite(staircase.thresholds.astype("float64")).all()


@pytest.mark.parametrize(
    "sharing", ["layer", ValueBank(8, bound=0.3, seed=5)], ids=["layer", "bank"]
)
def test_rounded_staircase_of_shared_values(sharing):
    initial = rounded(sharing=sharing)
    values, scores = initial.rows(0, 200)
    assert values.size == 8 and is_bfloat16(values)
    staircase = build_staircase(initial)
    for lever in (-3.0, -0.4, -0.01, 0.0, 0.02, 0.5, 4.0):
        np.testing.assert_array_equal(read(staircase, lever), highest(values, scores, lever))


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_rounded_scores_move_by_a_256th_of_their_distance_to_the_highest(num_values):
    initial = rounded(num_values=num_values)
    values, scores = initial.rows(0, 200)
    drawn = dataclasses.replace(initial, score_initializer=UniformScores())
    plain, old = drawn.rows(0, 200)
    np.testing.assert_array_equal(values, plain.astype("bfloat16").astype("float32"))
    np.testing.assert_array_equal(scores.max(axis=1), old.max(axis=1))
    np.testing.assert_array_equal(scores.argmax(axis=1), old.argmax(axis=1))
    distance = old.max(axis=1, keepdims=True) - old
    assert (np.abs(scores - old) <= 2.0**-8 * distance + 1e-12).all()
    assert np.count_nonzero(scores != old) > 100


def test_rounded_scores_of_three_lines_by_hand():
    # The lines 1 - u, 1.125 and -u/2, 2u - 1: steps -1, 0, 2 at u = -0.125 and 1.0625; -0.5 never wins.
    bank, scores = np.array([[-1.0, -0.5, 0.0, 2.0]]), np.array([[1.0, 0.0, 1.125, -1.0]])
    np.testing.assert_array_equal(with_thresholds(bank, scores, lambda t: t), scores)
    halves = with_thresholds(bank, scores, lambda t: t / 2)
    np.testing.assert_array_equal(halves, [[1.0625, 0.0, 1.125, 0.0625]])
    # So near that -0.5 would win at some lever: it goes down to the crossing at -0.0625.
    near = with_thresholds(bank, np.array([[1.0, 1.0625, 1.125, -1.0]]), lambda t: t * 2)
    assert near[0, 1] <= 1.125 - 0.25 * 0.5


@given(
    st.lists(
        st.tuples(st.floats(-4, 4, width=16), st.floats(-4, 4, width=16)), min_size=1, max_size=9
    )
)
def test_rounded_scores_hold_for_any_lines_with_ties(lines):
    values, scores = (np.array([column]) for column in zip(*lines, strict=True))
    initial = dataclasses.replace(
        DRAWN, kernel_shape=(1,), num_values=len(lines), fans=(1, 1)
    ).with_arrays(
        RoundedScores().bank(values), RoundedScores().scores(RoundedScores().bank(values), scores)
    )
    bank, new = initial.rows(0, 1)
    staircase = build_staircase(initial, "float64")
    finite = staircase.thresholds[staircase.thresholds < 1e300]
    # Computed from the scores, so right to their rounding.
    nearest = finite.astype("bfloat16").astype("float64")
    np.testing.assert_allclose(finite, nearest, rtol=1e-9, atol=1e-12)
    assert new.argmax() == scores.argmax()
    assert highest(bank, new, 0.0) == read(staircase, 0.0)


@pytest.mark.parametrize("num_values", [2, 8, 64])
@pytest.mark.parametrize("optimizer", ["momentum", "decoupled decay"])
def test_rounded_scores_train_both_score_modes_to_the_same_selections_in_float64(
    optimizer, num_values, x64
):
    assert_score_modes_train_to_the_same_selections(
        optimizer, num_values, score_initializer="rounded"
    )


@pytest.mark.parametrize("num_values", [8, 64])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_rounded_kernel_is_bitwise_the_selected_value_in_float32(num_values, jit_compile):
    model = network("per_connection", num_values, score_initializer="rounded")
    x = np.random.default_rng(0).standard_normal((32, 6, 6, 2)).astype("float32")
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "mse", jit_compile=jit_compile)
    model.fit(x, x[:, :3, 0, 0], epochs=4, verbose=0)
    for layer in slots(model):
        bank, index = array(layer.bank), array(layer.selected_indices)
        chosen = np.take_along_axis(bank, index[..., None], -1)[..., 0]
        kernel = array(layer.kernel)
        assert kernel.dtype == "float32" and is_bfloat16(kernel)
        np.testing.assert_array_equal(kernel, chosen)


def test_rounded_staircase_is_held_in_half_the_bytes():
    sizes = {}
    for scores in (None, "rounded"):
        layer = SlotDense(
            30, num_values=8, score_mode="per_connection", score_initializer=scores, use_bias=False
        )
        layer.build((None, 400))
        steps = [
            v for v in layer.weights if v.name.removeprefix("tall_") in ("thresholds", "steps")
        ]
        assert {v.dtype for v in steps} == {"bfloat16" if scores else "float32"}
        sizes[scores] = sum(array(v).nbytes for v in steps)
    assert sizes["rounded"] * 2 == sizes[None]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_rounded_scores_under_half_precision_predict_as_the_materialized_model(policy):
    model = network("per_connection", 8, policy, score_initializer="rounded")
    x = np.random.default_rng(0).standard_normal((8, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(array(model(x)), array(materialize(model)(x)))
    assert {array(layer.lever).dtype for layer in slots(model)} == {np.dtype("float32")}


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_load_model_brings_rounded_scores_back(tmp_path, mode, selection):
    model = network(
        mode, 8, score_initializer=RoundedScores(UniformScores(2.0)), selection=selection
    )
    train(model, keras.optimizers.SGD(0.3), 32)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other = network(
        mode, 8, score_initializer=RoundedScores(UniformScores(2.0)), selection=selection
    )
    other.load_weights(tmp_path / "model.weights.h5")
    for layer, *copies in zip(slots(model), slots(loaded), slots(other), strict=True):
        for copy in copies:
            np.testing.assert_array_equal(array(copy.kernel), array(layer.kernel))
            np.testing.assert_array_equal(array(copy.bank), array(layer.bank))
            np.testing.assert_array_equal(array(copy.scores), array(layer.scores))
    assert slots(loaded)[0].score_initializer == RoundedScores(UniformScores(2.0))


def test_rounded_scores_survive_a_configuration_in_json():
    scores = RoundedScores(UniformScores(3.0))
    for copy in (
        RoundedScores.from_config(json.loads(json.dumps(scores.get_config()))),
        initializers.get_scores(json.loads(json.dumps(initializers.serialize(scores)))),
    ):
        assert copy == scores and hash(copy) == hash(scores)
    assert repr(scores) == "RoundedScores(scores=UniformScores(scale=3.0))"
    assert initializers.get_scores("rounded") == RoundedScores() != scores
    assert scores != "rounded"


@pytest.mark.parametrize("scores", ["nearest", NearestScores(), "random_normal", RoundedScores()])
def test_rounded_scores_refuse_what_no_seed_brings_back(scores):
    with pytest.raises(
        ValueError, match=r"`scores` must be a distribution of keras_slots.*scores="
    ):
        RoundedScores(scores)


def test_rounded_scores_refuse_a_bank_from_keras():
    layer = SlotDense(
        3, score_initializer="rounded", bank_initializer=keras.initializers.RandomNormal()
    )
    with pytest.raises(
        ValueError, match=r"`bank_initializer` must be a distribution.*RandomNormal"
    ):
        layer.build((None, 4))


def test_rounded_scores_are_no_bank():
    with pytest.raises(ValueError, match="Pass it as `score_initializer`"):
        SlotDense(3, bank_initializer=RoundedScores())
