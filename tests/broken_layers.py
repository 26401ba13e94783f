"""Slot layers with one bug each, of kinds that were found in Keras layers, that the contract must reject.

A bug is a function that plants itself with `monkeypatch`, mostly a kernel in the place of ours. `BROKEN` says by
which check, on which row of the table and with which words it must be rejected.
"""

import functools

import numpy as np
from keras import ops

import keras_slots.layers.base as slot_layer
import keras_slots.transforms as transforms
from contract import Row
from keras_slots import SlotDense
from keras_slots._backend import straight_through
from keras_slots.kernels import SlotKernel
from keras_slots.kernels.nearest import NearestKernel
from keras_slots.kernels.per_connection import PerConnectionKernel
from keras_slots.kernels.per_value import PerValueKernel, SelectFromScores, scores_gradient
from keras_slots.layers.base import SlotLayer
from keras_slots.selection import Greedy, lookup
from keras_slots.values.initializers import compute_fans

FLOAT = Row()
COMPILED = Row(run="compiled")
DRAWN = Row(selection="probabilistic")
LEVER = Row(scores="per_connection")
NEAREST = Row(scores="nearest")
CONV = Row(layer="conv2d")


def kernel_of(monkeypatch, cls, mode="per_value"):
    monkeypatch.setitem(SlotKernel.registry, mode, cls)


def dropped_seed_in_config(monkeypatch):
    honest = SlotLayer.get_config
    monkeypatch.setattr(
        SlotLayer, "get_config", lambda self: {k: v for k, v in honest(self).items() if k != "seed"}
    )


def unseeded_bank(monkeypatch):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            self._bank.assign(np.random.default_rng().uniform(-1, 1, initial.bank_shape))

    kernel_of(monkeypatch, Kernel)


def bank_and_scores_of_one_stream(monkeypatch):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            self._scores.assign(self._bank)

    kernel_of(monkeypatch, Kernel)


def bank_not_saved(monkeypatch):
    class Kernel(PerValueKernel):
        def saved_state(self):
            return {"scores": self._scores, "seed": self._seed}

    kernel_of(monkeypatch, Kernel)


def trainable_bank(monkeypatch):
    class Kernel(PerValueKernel):
        def add_values(self, name, *args, trainable=False, **kwargs):
            return super().add_values(name, *args, trainable=trainable or name == "bank", **kwargs)

    kernel_of(monkeypatch, Kernel)


class Lowest(Greedy):
    """arg-min in the place of arg-max."""

    def index(self, scores, uniform=None):
        return ops.cast(ops.argmin(scores, axis=-1), "int32")


class LastOfTies(Greedy):
    """The highest index of equal scores."""

    def index(self, scores, uniform=None):
        last = scores.shape[-1] - 1
        return ops.cast(last - ops.argmax(ops.flip(scores, axis=-1), axis=-1), "int32")


def _rule(monkeypatch, rule):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            self._greedy = straight_through(SelectFromScores(rule), scores_gradient)

    kernel_of(monkeypatch, Kernel)


def argmin(monkeypatch):
    _rule(monkeypatch, Lowest())


def ties_to_the_last(monkeypatch):
    _rule(monkeypatch, LastOfTies())


def _swapped(scores, bank):
    """The bank read as `(K, connections)`."""
    index = Greedy().index(scores)
    flat = ops.transpose(ops.reshape(bank, (bank.shape[-1], -1)))
    return ops.reshape(lookup(flat, ops.reshape(index, (-1,))), index.shape)


def swapped_bank_axis(monkeypatch):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            self._greedy = straight_through(_swapped, scores_gradient)

    kernel_of(monkeypatch, Kernel)


def bank_filled_in_another_order(monkeypatch):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            values = initial.bank().reshape(initial.num_values, -1).T
            self._bank.assign(values.reshape(initial.bank_shape))

    kernel_of(monkeypatch, Kernel)


def wrong_fans(monkeypatch):
    class Kernel(PerValueKernel):
        def build(self, kernel_shape):
            self.fans = compute_fans((*kernel_shape, self.num_values))
            super().build(kernel_shape)

    kernel_of(monkeypatch, Kernel)


def _gradient_of_the_selected_value_alone(upstream, scores, bank):
    selected = ops.one_hot(Greedy().index(scores), scores.shape[-1], dtype=scores.dtype)
    return (upstream[..., None] * bank * selected,)


def wrong_gradient(monkeypatch):
    class Kernel(PerValueKernel):
        def add_variables(self, initial):
            super().add_variables(initial)
            self._greedy = straight_through(SelectFromScores(Greedy()), _gradient_of_the_selected_value_alone)

    kernel_of(monkeypatch, Kernel)


def missing_gradient(monkeypatch):
    class Kernel(PerValueKernel):
        def select_greedily(self, trained=None):
            scores = ops.convert_to_tensor(self._scores)
            return lookup(self._bank, ops.argmax(scores, axis=-1))

    kernel_of(monkeypatch, Kernel)


def baked_batch_size(monkeypatch):
    honest = SlotDense.call

    @functools.wraps(honest)
    def call(self, inputs, training=None):
        outputs = honest(self, inputs, training=training)
        if not hasattr(self, "_first_batch"):
            self._first_batch = inputs.shape[0] or 3
        return ops.reshape(outputs, (self._first_batch, *outputs.shape[1:]))

    monkeypatch.setattr(SlotDense, "call", call)


def stored_tracer(monkeypatch):
    class Kernel(PerValueKernel):
        def select(self, training=False):
            values = super().select(training)
            self.last_values = values
            return values

    kernel_of(monkeypatch, Kernel)


def autocast_scores(monkeypatch):
    class Kernel(PerValueKernel):
        def select_greedily(self, trained=None):
            dtype = "bfloat16" if self.compute_dtype == "bfloat16" else self.score_dtype
            scores = ops.cast(ops.cast(self._scores, dtype), self.score_dtype)
            return self._greedy(scores, self._bank)

    kernel_of(monkeypatch, Kernel)


def nan_accepted(monkeypatch):
    monkeypatch.setattr(transforms, "_check_selection", lambda layer: None)


def nan_in_the_bank_accepted(monkeypatch):
    honest = transforms._check_selection

    def check(layer):
        kernels = layer.slot_kernels.values()
        trained = [v for k in kernels for v in k.trained_variables()]
        if not all(np.isfinite(np.asarray(v)).all() for v in trained):
            honest(layer)

    monkeypatch.setattr(transforms, "_check_selection", check)


def sampler_state_lost(monkeypatch):
    class Kernel(PerValueKernel):
        def _state(self):
            return self.saved_state()

    kernel_of(monkeypatch, Kernel)


def sampler_that_stands_still(monkeypatch):
    class Kernel(PerValueKernel):
        def select(self, training=False):
            if not training:
                return self.select_greedily()
            uniform = np.full(self.random_shape, 0.25, self.score_dtype)
            return self.select_by_rule(ops.convert_to_tensor(uniform))

    kernel_of(monkeypatch, Kernel)


def inference_that_draws(monkeypatch):
    class Kernel(PerValueKernel):
        def select(self, training=False):
            return super().select(True)

    kernel_of(monkeypatch, Kernel)


def training_that_is_greedy(monkeypatch):
    class Kernel(PerValueKernel):
        def select(self, training=False):
            return self.select_greedily()

    kernel_of(monkeypatch, Kernel)


def seed_drawn_without_the_global_one(monkeypatch):
    generator = np.random.default_rng()
    monkeypatch.setattr(slot_layer, "draw_seed", lambda: int(generator.integers(2**31)))


def lever_seed_not_saved(monkeypatch):
    class Kernel(PerConnectionKernel):
        def load_state(self, given):
            self._lever.assign(given["lever"])

    kernel_of(monkeypatch, Kernel, "per_connection")


def nearest_of_twice_the_lever(monkeypatch):
    class Kernel(NearestKernel):
        def select_greedily(self, trained=None):
            return self._greedy(2 * self._lever.value, self._seed)

    kernel_of(monkeypatch, Kernel, "nearest")


def half_precision_output_ignored(monkeypatch):
    honest = SlotDense.call

    @functools.wraps(honest)
    def call(self, inputs, training=None):
        return ops.cast(honest(self, inputs, training=training), "float32")

    monkeypatch.setattr(SlotDense, "call", call)


#: Bug -> row of the table, check that must reject it, words of the rejection.
BROKEN = {
    dropped_seed_in_config: (FLOAT, "config", "its bank and scores|that has it"),
    unseeded_bank: (FLOAT, "seed", "one seed gives one bank"),
    bank_and_scores_of_one_stream: (FLOAT, "seed", "bank and scores are two streams"),
    seed_drawn_without_the_global_one: (FLOAT, "seed", "`keras.utils.set_random_seed` governs"),
    bank_not_saved: (FLOAT, "saving", "load_weights brings back bank"),
    trainable_bank: (FLOAT, "bank_never_changes", "the bank is never trained"),
    argmin: (FLOAT, "selection", "the kernel is the bank at the highest score"),
    ties_to_the_last: (COMPILED, "selection", "the kernel is the bank at the highest score"),
    swapped_bank_axis: (CONV, "selection", "the kernel is the bank at the highest score"),
    bank_filled_in_another_order: (CONV, "bank_is_that_of_the_specification", r"number c K \+ k of the stream"),
    wrong_fans: (CONV, "bank_is_that_of_the_specification", "fans are those of the kernel"),
    wrong_gradient: (FLOAT, "gradient", "the upstream times value k, for all k"),
    missing_gradient: (COMPILED, "gradient", "the upstream times value k, for all k"),
    baked_batch_size: (FLOAT, "batch_size", "the batch size stays free"),
    stored_tracer: (COMPILED, "training", "nothing of a traced call stays"),
    autocast_scores: (
        Row(policy="mixed_bfloat16"),
        "selection_in_calls",
        "a call takes the arg-max of the scores as stored",
    ),
    half_precision_output_ignored: (Row(policy="mixed_float16"), "call", "has the dtype of that"),
    nan_accepted: (FLOAT, "bad_numbers", "NaN and infinity are refused"),
    nan_in_the_bank_accepted: (FLOAT, "bad_numbers", "NaN and infinity are refused"),
    sampler_state_lost: (DRAWN, "saving", "what the next training calls draw"),
    sampler_that_stands_still: (DRAWN, "selection_rule", "training calls follow the prob"),
    inference_that_draws: (DRAWN, "selection_rule", "inference is greedy and draws nothing"),
    training_that_is_greedy: (DRAWN, "selection_rule", "training calls follow the prob"),
    lever_seed_not_saved: (LEVER, "saving", "load_weights brings back bank"),
    nearest_of_twice_the_lever: (NEAREST, "selection", "the bank at the highest score"),
}
