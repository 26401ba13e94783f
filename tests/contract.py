"""What every slot layer promises, as checks of one layer maker, and the rows of a table that they run over.

A check takes a `Maker` and a folder, and raises an `AssertionError` that says which promise is broken. The truth
is always another one than the library's: the plain Keras layer, NumPy, or the specification of the random numbers.
`tests/broken_layers.py` holds layers that the checks must reject.
"""

import itertools
import json
import re
import zipfile
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from backends import BACKEND
from comparisons import numpy_of
from keras_slots import SelectionRule, load_slots, materialize, save_slots
from layer_table import LAYERS, call, gradients, keras_can, model_of, plain_layer, slot_layer
from mode_table import MODE_ARGUMENTS, SCORE_MODES
from slots_reference import philox_word

#: What the scores of a layer are, by a name.
SCORES = {
    **MODE_ARGUMENTS,
    "nearest": {"score_mode": "nearest", "bank_initializer": "stratified_uniform"},  # of scale 1
    "nearest_per_value": {"score_initializer": "nearest", "bank_initializer": "glorot_uniform"},
}
#: The row of the table of score modes for each.
SCORE_ROWS = SCORE_MODES | {"nearest_per_value": replace(SCORE_MODES["per_value"], paper_scores="nearest")}
FACTORS = {
    "layer": tuple(LAYERS),
    "selection": tuple(SelectionRule.registry),
    "scores": tuple(SCORES),
    "policy": ("float32", "mixed_bfloat16", "mixed_float16", "float64"),
    "run": ("eager", "compiled"),
}
#: How far two ways to compute one number may be apart, of the largest one.
ROUNDING = {"float32": 1e-5, "float64": 1e-12, "mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}
NUM_VALUES = 5


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    layer: str = "dense"
    selection: str = "greedy"
    scores: str = "per_value"
    policy: str = "float32"
    run: str = "eager"

    def __str__(self):
        return "-".join(vars(self).values())


def every_row():
    rows = (Row(*values) for values in itertools.product(*FACTORS.values()))
    rows = (row for row in rows if keras_can(row.layer, row.policy))
    return [row for row in rows if row.selection == "greedy" or SCORE_ROWS[row.scores].draws]


def rows_of_all_pairs(wanted=None):
    """A few rows out of the wanted ones (None: all) in which every two values of two factors meet."""
    wanted = every_row() if wanted is None else wanted
    rows, missing = [], {pair for row in wanted for pair in _pairs(row)}
    while missing:
        rows.append(max(wanted, key=lambda row: len(missing & _pairs(row))))
        missing -= _pairs(rows[-1])
    return rows


def quick_rows():
    """All pairs for a dense layer, and every other layer in some rows."""
    dense = rows_of_all_pairs([row for row in every_row() if row.layer == "dense"])
    # Nearest scores over strata compile for seconds in each shape: tests/test_nearest_layers.py has them all.
    others = [row for v in zip(*_turns(), strict=True) if keras_can((row := Row(*v)).layer, row.policy)]
    return [*dense, *others, Row("conv2d", scores="nearest", run="compiled")]


def _turns():
    """Two rows of each other layer, in which the values of the other factors take turns."""
    layers = [x for x in LAYERS if x != "dense"]
    scores = ("per_value", "per_connection", "nearest_per_value")
    turns = range(2 * len(layers))
    yield [layers[turn // 2] for turn in turns]
    yield [FACTORS["selection"][turn // 4 % len(FACTORS["selection"])] for turn in turns]
    yield [scores[turn % 3] for turn in turns]
    yield [FACTORS["policy"][turn * 3 // 2 % 4] for turn in turns]
    # Four kernels and the attention itself compile for many seconds.
    yield [FACTORS["run"][turn % 2 and "attention" not in layers[turn // 2]] for turn in turns]


def _pairs(row):
    return set(itertools.combinations(vars(row).items(), 2))


@dataclass(frozen=True)
class Maker:
    """Makes the slot layer of a row, built or not, and what it is compared with."""

    row: Row

    def __call__(self, name="sick", **changes):
        """The layer, not built."""
        arguments = {"num_values": NUM_VALUES, "selection": self.row.selection, "seed": 3}
        arguments |= SCORES[self.row.scores] | changes
        keywords = {"dtype": self.row.policy, "name": name, "bias_initializer": "ones"}
        return slot_layer(self.row.layer, keywords, **arguments)

    def built(self, **changes):
        layer = self(**changes)
        call(layer, self.x)
        return layer

    def model(self, **changes):
        return model_of(self(**changes), self.shape)

    def plain(self, kernels):
        """The plain Keras layer with these kernels, in its own order, and a bias of ones."""
        layer = plain_layer(self.row.layer, dtype=self.row.policy, bias_initializer="ones")
        call(layer, self.x)
        left = list(kernels)
        for variable in layer.weights:
            if "bias" not in variable.name:
                variable.assign(left.pop(0))
        assert not left
        return layer

    @property
    def shape(self):
        return LAYERS[self.row.layer][-1]

    @property
    def x(self):
        return self.inputs(self.shape[0])

    def inputs(self, count, whole_numbers=False):
        rng = np.random.default_rng(1)
        shape = (count, *self.shape[1:])
        x = rng.integers(-3, 4, shape) if whole_numbers else rng.normal(size=shape)
        return x.astype("float64" if self.row.policy == "float64" else "float32")

    def run(self, layer, x):
        """The output of an inference call."""
        if self.row.run == "eager":
            return as_float(call(layer, x))
        return as_float(BACKEND.compiled(lambda x: call(layer, x), BACKEND.compilations[-1])(x))

    @property
    def rounding(self):
        return ROUNDING[self.row.policy]

    @property
    def compute_dtype(self):
        return self.row.policy.removeprefix("mixed_")


def as_float(tensor):
    return numpy_of(ops.cast(tensor, "float64" if "64" in str(tensor.dtype) else "float32"))


def same(one, other, promise):
    one, other = np.asarray(one), np.asarray(other)
    assert one.shape == other.shape and np.array_equal(one, other), promise


def close(one, other, rounding, promise):
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    assert one.shape == other.shape, promise
    far = np.abs(one - other).max(initial=0.0)
    assert far <= rounding * max(1.0, np.abs(other).max(initial=0.0)), f"{promise}: {far} apart"


# The kernels of a layer, in the order of the plain layer's weights.


def kernels_of(layer):
    sources = [x for x in layer.weight_sources().values() if not isinstance(x, keras.Variable)]
    assert {id(x) for x in sources} == {id(x) for x in layer.slot_kernels.values()}
    return sources


def state_of(layer):
    """Bank, scores and selected values of every kernel."""
    return [numpy_of(x) for k in kernels_of(layer) for x in (k.bank, k.scores, k.selected_indices)] + [
        as_float(k.select()) for k in kernels_of(layer)
    ]


def moved(layer, seed=0):
    """Gives scores and levers values that make selection hard: ties, and differences lost in half precision."""
    rng = np.random.default_rng(seed)
    for kernel in kernels_of(layer):
        trained = {v.name: v for v in kernel.trained_variables()}
        if "scores" in trained:
            size = int(np.prod(trained["scores"].shape))
            close_ones = 0.1 + 1e-6 * (rng.permutation(size) // 2)
            trained["scores"].assign(close_ones.reshape(trained["scores"].shape))
        else:
            step = rng.normal(size=trained["lever"].shape) * np.abs(numpy_of(kernel.bank)).max()
            trained["lever"].assign(numpy_of(trained["lever"]) + step)
    return layer


def expected_scores(make, layer):
    """All scores, in float64: as stored, or the line of each value from where the paper's scores start."""
    start, scores = make.built(), []
    paper = make.built(score_mode="per_value", score_initializer=SCORE_ROWS[make.row.scores].paper_scores)
    for kernel, first, own in zip(*map(kernels_of, (layer, start, paper)), strict=True):
        trained, begun = ({v.name: v for v in k.trained_variables()} for k in (kernel, first))
        if "scores" in trained:
            scores.append(numpy_of(trained["scores"]).astype("float64"))
            continue
        v, v0 = (numpy_of(x["lever"]).astype("float64") for x in (trained, begun))
        bank = numpy_of(own.bank).astype("float64")
        scores.append(numpy_of(own.scores).astype("float64") + bank * (v - v0)[..., None])
    return scores


def expected_kernels(make, layer):
    """The values with the highest score, by NumPy; several where rounding may decide."""
    found = []
    for kernel, scores in zip(kernels_of(layer), expected_scores(make, layer), strict=True):
        bank = numpy_of(kernel.bank)
        index = scores.argmax(-1)
        if "lever" in {v.name for v in kernel.trained_variables()}:
            # The lever is compared with rounded thresholds: of two scores as good as equal it may take either.
            own = numpy_of(kernel.selected_indices)
            taken = np.take_along_axis(scores, own[..., None], -1)[..., 0]
            good = scores.max(-1) - taken <= 1e-5 * np.abs(scores).max()
            index = np.where(good, own, index)
        found.append(np.take_along_axis(bank, index[..., None], -1)[..., 0])
    return found


#: Inputs and outputs of one unit of the projections by `EinsumDense`, by hand; the others follow Keras' rule.
FANS = {
    "einsum": (4 + 6,),
    "attention": (4 + 6, 4 + 6, 4 + 6, 6 + 4),
    "grouped_attention": (4 + 12, 4 + 6, 4 + 6, 12 + 4),
}


def fans_of(make, layer, kernel):
    """The number of inputs and outputs of one unit, added."""
    if make.row.layer in FANS:
        return dict(zip(map(id, kernels_of(layer)), FANS[make.row.layer], strict=True))[id(kernel)]
    *field, inputs, outputs = kernel.bank.shape[:-1]
    return int(np.prod(field)) * (inputs + outputs)


# The promises.


def check_config(make, folder):
    layer = make.built()
    config = json.loads(json.dumps(layer.get_config()))
    copy = type(layer).from_config(config)
    again = json.loads(json.dumps(copy.get_config()))  # tuples are lists by then
    assert again == config, "a configuration makes a layer that has it"
    call(copy, make.x)
    for one, other in zip(state_of(layer), state_of(copy), strict=True):
        same(one, other, "a layer made from a configuration has its bank and scores")


def check_seed(make, folder):
    first, again, other = make.built(), make.built(), make.built(seed=4)
    for kernel, equal, unequal in zip(*map(kernels_of, (first, again, other)), strict=True):
        for name in ("bank", "scores"):
            values = [numpy_of(getattr(k, name)) for k in (kernel, equal, unequal)]
            same(values[0], values[1], f"one seed gives one {name}")
            assert (values[0] == values[2]).mean() < 0.05, f"another seed gives another {name}"
        if "nearest" not in make.row.scores:  # which follow from the bank
            alike = np.corrcoef(numpy_of(kernel.bank).ravel(), numpy_of(kernel.scores).ravel())
            assert abs(alike[0, 1]) < 0.6, "bank and scores are two streams"
    units = [numpy_of(k.bank).ravel() / fans_of(make, first, k) ** -0.5 for k in kernels_of(first)]
    for one, two in itertools.combinations(units, 2):
        size = min(len(one), len(two))
        apart = not np.allclose(one[:size], two[:size], rtol=1e-4)
        assert apart, "the kernels of a layer are drawn apart"
    states = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        states.append([state_of(make.built(seed=None)) for _ in range(2)])
    for one, equal in zip(sum(states[0], []), sum(states[1], []), strict=True):
        same(one, equal, "`keras.utils.set_random_seed` governs a layer without a seed")
    for unequal in (states[0][1], states[2][0]):
        drawn = [a for a in zip(states[0][0], unequal, strict=True) if a[0].dtype.kind == "f"]
        assert any(np.any(a != b) for a, b in drawn), "each unseeded layer draws a bank of its own"


def check_bank_is_that_of_the_specification(make, folder):
    layer = make.built()
    for kernel in kernels_of(layer):
        bank = numpy_of(kernel.bank)
        bound = np.sqrt(6 / fans_of(make, layer, kernel))
        largest = np.abs(bank.astype("float64")).max()
        assert 0.8 * bound < largest <= bound * (1 + 1e-6), "fans are those of the kernel without K"
        assert bank.shape[-1] == NUM_VALUES and bank.min() < 0 < bank.max()
        if "nearest" != make.row.scores:  # values are hashed there: tests/test_strata.py
            words = [philox_word(kernel.seed, 0, i) >> 8 for i in range(4 * NUM_VALUES)]
            expected = (np.array(words) / 2**23 - 1).astype("float32") * np.float32(bound)
            same(
                bank.reshape(-1)[: len(words)].astype("float32"),
                expected,
                "value k of connection c is number c K + k of the stream of the seed",
            )


def check_selection(make, folder):
    layer = moved(make.built())
    for kernel, expected in zip(kernels_of(layer), expected_kernels(make, layer), strict=True):
        promise = "the kernel is the bank at the highest score, ties to the lowest index"
        same(numpy_of(kernel.select()), expected, promise)
        index = numpy_of(kernel.selected_indices)
        assert index.dtype == np.int32
        at = np.take_along_axis(numpy_of(kernel.bank), index[..., None], -1)[..., 0]
        same(at, expected, "selected_indices are those of the selected values")


def check_call(make, folder):
    layer = moved(make.built())
    plain = make.plain(expected_kernels(make, layer))
    y, expected = make.run(layer, make.x), as_float(call(plain, make.x))
    assert np.ptp(expected) > 0
    rounding = make.rounding if make.row.run == "compiled" else make.rounding / 8
    close(y, expected, rounding, "a call computes what the plain layer does with the kernel")
    dtypes = [keras.backend.standardize_dtype(call(x, make.x).dtype) for x in (layer, plain)]
    assert dtypes[0] == dtypes[1], "the output has the dtype of that of the plain layer"


def check_selection_in_calls(make, folder):
    """The kernel that a call multiplies with, to the last bit of which value it is."""
    if make.row.layer != "dense":  # only there an input can read the kernel off the output
        return
    layer = moved(make.built())
    eye = np.eye(make.shape[-1], dtype=make.x.dtype)
    (expected,) = expected_kernels(make, layer)
    at_compute = as_float(ops.cast(expected, make.compute_dtype))
    layer.bias.assign(np.zeros(layer.bias.shape))
    same(make.run(layer, eye), at_compute, "a call takes the arg-max of the scores as stored")


def check_selection_rule(make, folder):
    layer, x = make.built(), make.x
    outputs = [as_float(call(layer, x, training=t)) for t in (True, True, False, False)]
    same(outputs[2], outputs[3], "inference is greedy and draws nothing")
    drawn = [not np.array_equal(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    rule = make.row.selection
    assert drawn == [rule != "greedy"] * 3, f"training calls follow the {rule} rule"


def check_gradient(make, folder):
    if make.row.selection != "greedy":  # one draw: tests/test_gradients.py
        return
    layer = moved(make.built())
    plain = make.plain(expected_kernels(make, layer))
    # Small integers, so that sums are exact in whatever order they are made.
    x = make.inputs(3, whole_numbers=True)
    inputs = (x, x) if "attention" in make.row.layer else (x,)
    upstream = np.random.default_rng(2).integers(-3, 4, call(layer, x).shape).astype(x.dtype)
    mode = "eager" if make.row.run == "eager" else BACKEND.compilations[-1]
    _, ours = gradients(layer, inputs, upstream, mode, by_id=True)
    _, theirs = gradients(plain, inputs, upstream, "eager", by_id=True)
    of_kernels = [theirs[id(v)] for v in plain.weights if "bias" not in v.name]
    for kernel, expected in zip(kernels_of(layer), of_kernels, strict=True):
        trained = {v.name: v for v in kernel.trained_variables()}
        assert np.any(expected)
        if "scores" in trained:
            received = ours[id(trained["scores"])]
            expected = expected[..., None].astype("float64") * numpy_of(kernel.bank)
            promise = "the gradient of score k is the upstream times value k, for all k"
        else:
            received = ours[id(trained["lever"])]
            promise = "the gradient of a lever is that of an ordinary weight"
        assert received is not None, f"{promise}: there is none"
        scale = np.abs(expected).max()
        close(received / scale, expected / scale, 4 * make.rounding, promise)


def check_programs(make, folder):
    first, again = make.built(), make.built(seed=4)
    for one, two in zip(*map(kernels_of, (first, again)), strict=True):
        programs = [programs_of(kernel) for kernel in (one, two)]
        assert programs[0] and programs[0] == programs[1], "layers of one shape share what is compiled"


def programs_of(kernel):
    """The functions that a kernel keeps in private attributes."""
    own = {name: x for name, x in vars(kernel).items() if name.startswith("_") and callable(x)}
    return {name: x for name, x in own.items() if not isinstance(x, keras.Variable)}


def check_bank_never_changes(make, folder):
    layer = make.built()
    # Where there is none the bank is drawn from the seed.
    fixed = {id(v) for v in layer.variables if v.name == "bank"}
    for trainable in (True, False, True):
        layer.trainable = trainable
        assert not fixed & {id(v) for v in layer.trainable_variables}, "the bank is never trained"
        assert bool(layer.trainable_variables) == trainable
    names = {v.name for v in layer.trainable_variables if "bias" not in v.name}
    assert names == {SCORE_ROWS[make.row.scores].trained}, "training moves scores, or levers, and nothing else"


def check_training(make, folder):
    model = make.model()
    (layer,) = (x for x in model.layers if x.name == "sick")
    before = state_of(layer)
    x = make.inputs(4)
    y = np.zeros_like(as_float(model(x)))
    # At these rates scores move by more than their own size.
    optimizer = keras.optimizers.SGD(5.0, momentum=0.9, weight_decay=1e-3, clipnorm=1.0)
    compiled = make.row.run == "compiled"
    model.compile(optimizer, "mse", jit_compile=compiled and BACKEND.jit_compile[0], run_eagerly=not compiled)
    for _ in range(2):
        loss = model.train_on_batch(x, y)
    assert np.isfinite(loss), "a training step gives a finite loss"
    assert not tracers(layer), "nothing of a traced call stays in the layer"
    after, banks = state_of(layer), 3 * len(kernels_of(layer))
    for old, new in zip(before[:banks:3], after[:banks:3], strict=True):
        same(old, new, "training changes no bit of the bank")
    for old, new in zip(before[1:banks:3], after[1:banks:3], strict=True):
        assert np.any(old != new), "training moves the scores"
    call(layer, x, training=True)


def tracers(holder, seen=None):
    """Attributes, at any depth, that hold a tensor of a program that was being traced."""
    seen = set() if seen is None else seen
    if id(holder) in seen:
        return []
    seen.add(id(holder))
    if BACKEND.is_traced(holder):
        return [holder]
    if isinstance(holder, dict):
        parts = holder.values()
    elif isinstance(holder, (list, tuple, set)):
        parts = holder
    elif isinstance(holder, keras.layers.Layer):
        parts = [x for name, x in vars(holder).items() if not name.endswith("bound_nodes")]
    else:
        return []
    return [found for part in list(parts) for found in tracers(part, seen)]


def check_batch_size(make, folder):
    model = make.model()
    assert model.output_shape[0] is None, "the batch size stays free"
    (layer,) = (x for x in model.layers if x.name == "sick")
    x = make.inputs(4)
    try:
        one, three, four = (as_float(call(layer, x[:n])) for n in (1, 3, 4))
    except Exception as error:
        raise AssertionError("the batch size stays free, in calls too") from error
    for y, n in ((one, 1), (three, 3)):
        promise = "a row of the output depends on its own input alone"
        close(y, four[:n], make.rounding, promise)


def check_saving(make, folder):
    layer, x = moved(make.built()), make.x
    call(layer, x, training=True)  # moves the sampler
    model, other = model_of(layer, make.shape), make.model(seed=50)
    model.save_weights(folder / "m.weights.h5")
    other.load_weights(folder / "m.weights.h5")
    with keras.saving.custom_object_scope({type(layer).__name__: type(layer)}):
        model.save(folder / "m.keras")
        again = keras.models.load_model(folder / "m.keras")
    # Three training calls each: the draws go on where they stopped.
    outputs = [as_float(call(layer, x, training=t)) for t in (True, True, False)]
    for loaded, how in ((other, "load_weights"), (again, "load_model")):
        (new,) = (x for x in loaded.layers if x.name == "sick")
        for one, two in zip(state_of(layer), state_of(new), strict=True):
            same(one, two, f"{how} brings back bank, scores and selection")
        for expected, training in zip(outputs, (True, True, False), strict=True):
            y = as_float(call(new, x, training=training))
            same(y, expected, f"{how} brings back what the next training calls draw")


def check_materialize(make, folder):
    model = make.model()
    (layer,) = (x for x in model.layers if x.name == "sick")
    moved(layer)
    expected, plain = expected_kernels(make, layer), materialize(model)
    (new,) = (x for x in plain.layers if x.name == "sick")
    assert type(new) is type(plain_layer(make.row.layer)), "a plain Keras layer takes its place"
    kernels = [v for v in new.weights if "bias" not in v.name]
    for variable, kernel in zip(kernels, expected, strict=True):
        same(numpy_of(variable), kernel, "a materialized kernel is the greedy selection")
    with zipfile.ZipFile(_saved(plain, folder / "p.keras")) as file:
        assert b"keras_slots" not in file.read("config.json")
    x = make.x
    same(as_float(plain(x)), as_float(model(x)), "materialize computes what the model does")
    loaded = load_slots(save_slots(model, folder / "m.slots", overwrite=True))
    for one, two in zip(plain.variables, loaded.variables, strict=True):
        same(as_float(one), as_float(two), "a .slots file holds what materialize gives")


def _saved(model, path):
    model.save(path)
    return path


def check_bad_numbers(make, folder):
    model = make.model()
    (layer,) = (x for x in model.layers if x.name == "sick")
    for kernel in kernels_of(layer):
        for variable in kernel.variables:
            if variable.name not in ("scores", "lever", "bank"):
                continue
            good = numpy_of(variable).copy()
            for number in (np.nan, np.inf, -np.inf):
                bad = good.copy()
                bad.reshape(-1)[-1] = number
                variable.assign(bad)
                _check_refused(model, variable.name, folder)
            variable.assign(good)


def _check_refused(model, name, folder):
    promise = "NaN and infinity are refused with the name of the layer"
    text = rf"The {name} of layer 'sick' holds NaN or infinity"
    for refuse in (materialize, lambda model: save_slots(model, folder / "bad.slots")):
        assert re.search(text, _message(refuse, model)), promise
    assert not (folder / "bad.slots").exists()


def _message(refuse, model):
    try:
        refuse(model)
    except ValueError as error:
        return str(error)
    return ""


CHECKS = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}
