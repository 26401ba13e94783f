"""Wrong arguments are answered early, by an error that names them, what was expected and what came.

One table for each kind: arguments, calls, files. Fields of a `.slots` file are in test_slots_damage.py, data and
flags of the scripts in examples/test_paper_bad_input.py.
"""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_slots
from keras_slots import (
    GlorotUniform,
    NearestScores,
    SelectionRule,
    SlotConv2D,
    SlotDense,
    SlotDepthwiseConv2D,
    SlotMultiHeadAttention,
    SlotSeparableConv2D,
    UniformScores,
    ValueBank,
    export_selected,
    load_slots,
    materialize,
    save_slots,
    slotify,
)
from keras_slots.__main__ import main
from layer_table import LAYERS, slot_layer
from small_models import saved

NUM_VALUES = "`num_values` must be a positive integer"
SEED = r"`seed` must be an integer, at least 0 and below 2\*\*64. Received: seed="
SCALE = "`scale` must be a positive finite number. Received: scale="
BITS = "`bits` must be None or an integer from 4 to 16.*Received: bits="
VALUES = "`values` must be 1 to 65536 finite numbers in one dimension"
BANK = "`bank_initializer` must be one of 'glorot_uniform'.*Received: bank_initializer="
SCORES = "`score_initializer` must be one of 'uniform_scores'.*Received: score_initializer="
OURS = "`(bank|score)_initializer` must name a distribution of keras_slots.*_initializer="
RULES = "`selection` must be one of {}, or a `keras_slots.SelectionRule`".format(
    ", ".join(f'"{name}"' for name in SelectionRule.registry)
)


def dense(**arguments):
    return lambda: SlotDense(4, **arguments)


def attention(**arguments):
    return lambda: SlotMultiHeadAttention(2, 3, **arguments)


ARGUMENTS = [
    (dense(num_values=0), f"{NUM_VALUES}.*Received: num_values=0"),
    (dense(num_values=-3), f"{NUM_VALUES}.*Received: num_values=-3"),
    (dense(num_values=2.0), f"{NUM_VALUES}.*Received: num_values=2.0"),
    (dense(num_values="8"), f"{NUM_VALUES}.*Received: num_values='8'"),
    (dense(num_values=True), f"{NUM_VALUES}.*Received: num_values=True"),
    (dense(num_values=None), f"{NUM_VALUES}.*Received: num_values=None"),
    (dense(num_values=65_537), f"{NUM_VALUES}, at most 65536.*Received: num_values=65537"),
    (dense(num_values=[8]), rf"{NUM_VALUES}.*Received: num_values=\[8\]"),
    (dense(selection="best"), f"{RULES}.*'best'"),
    (dense(selection=None), f"{RULES}.*selection=None"),
    (dense(selection=keras_slots.SelectionRule), f"{RULES}.*selection=<class"),
    (dense(score_mode="lever"), "`score_mode` must be .*\"per_value\".*score_mode='lever'"),
    (dense(score_mode=None), "`score_mode` must be .*score_mode=None"),
    (dense(sharing="all"), '`sharing` must be "connection", "layer" or a .*ValueBank.*\'all\''),
    (dense(sharing=None), "`sharing` must be .*sharing=None"),
    (
        dense(sharing=ValueBank(4, bound=1.0, seed=1)),
        "`sharing` has 4 values, but the layer has `num_values`=8.*Pass num_values=4",
    ),
    (
        dense(sharing=ValueBank(8, bound=1.0, seed=1), bank_initializer="he_normal"),
        "`bank_initializer` must be None if `sharing` is a `ValueBank`.*he_normal",
    ),
    (dense(bank_initializer="glorot"), f"{BANK}'glorot'"),
    (dense(bank_initializer=5), f"{BANK}5"),
    (dense(bank_initializer={"class_name": "No"}), f"{BANK}.*'No'"),
    (dense(bank_initializer=UniformScores()), "values, not of scores.*as `score_initializer`"),
    (dense(bank_initializer=ValueBank(2, bound=1.0)), "cannot be a `ValueBank`.*as `sharing`"),
    (dense(score_initializer="glorot"), f"{SCORES}'glorot'"),
    (dense(score_initializer=5), f"{SCORES}5"),
    (
        dense(score_initializer=keras_slots.StratifiedUniform()),
        "`score_initializer` must be a distribution of scores.*as `bank_initializer`",
    ),
    (dense(seed=-1), f"{SEED}-1"),
    (dense(seed=1.5), f"{SEED}1.5"),
    (dense(seed=2**64), f"{SEED}18446744073709551616"),
    (dense(seed=True), f"{SEED}True"),
    (dense(seed="7"), f"{SEED}'7'"),
    (attention(seed=2**31), r"`seed` must be an integer, at least 0 and below 2\*\*31"),
    (dense(kernel_constraint="non_neg"), "`kernel_constraint` must be None in a slot layer"),
    (
        lambda: SlotDepthwiseConv2D(3, depthwise_constraint="non_neg"),
        "`depthwise_constraint` must be None in a slot layer",
    ),
    (dense(lora_rank=2), "does not support LoRA. Received: rank=2.*materialize"),
    (dense(dtype="int8_from_float32"), "cannot be quantized. Received: mode='int8'.*materialize"),
    (dense(bank_initializer="uniform"), f"{OURS}'uniform'.*Pass 'glorot_uniform'.*RandomUniform"),
    (dense(bank_initializer="normal"), f"{OURS}'normal'.*Pass 'glorot_normal'.*RandomNormal"),
    (dense(score_initializer="uniform"), f"{OURS}'uniform'.*Pass 'uniform_scores'.*RandomUniform"),
    (dense(score_initializer="normal"), f"{OURS}'normal'.*Pass 'uniform_scores'.*RandomNormal"),
    (lambda: NearestScores("normal"), "`start` .*'normal'.*Pass 'glorot_normal'.*RandomNormal"),
    (lambda: UniformScores(-1.0), f"{SCALE}-1.0"),
    (lambda: UniformScores("big"), f"{SCALE}'big'"),
    (lambda: GlorotUniform(scale=np.nan), f"{SCALE}nan"),
    (lambda: GlorotUniform(scale=np.inf), f"{SCALE}inf"),
    *(
        (lambda bits=bits: keras_slots.StratifiedUniform(bits=bits), f"{BITS}{re.escape(repr(bits))}")
        for bits in (3, 17, 0, -8, 8.0, True, "8", [8])
    ),
    (
        dense(num_values=9, bank_initializer=keras_slots.StratifiedUniform(bits=4)),
        r"`num_values` must be at most 2\*\*\(bits - 1\).*num_values=9 and bits=4.*larger `bits`, or None",
    ),
    (
        dense(num_values=129, score_mode="nearest", bank_initializer=keras_slots.StratifiedUniform(bits=8)),
        "Received: num_values=129 and bits=8",
    ),
    (lambda: GlorotUniform(seed=-1), f"{SEED}-1"),
    (lambda: ValueBank(0, bound=1.0), f"{NUM_VALUES}.*Received: num_values=0"),
    (lambda: ValueBank(4), "`bound` is required to draw values.*for example"),
    (lambda: ValueBank(4, bound=-1.0), "`bound` must be a positive finite number.*bound=-1.0"),
    (lambda: ValueBank(values=[1.0, np.nan]), f"{VALUES}.*nan"),
    (lambda: ValueBank(values=[]), rf"{VALUES}.*values=\[\]"),
    (lambda: ValueBank(values=["a", "b"]), f"{VALUES}.*'a'"),
    (lambda: ValueBank(values=[1.0, 1.0]), "`values` must hold two different values"),
    (lambda: ValueBank(values=[1, 2], bound=1.0), "`values` cannot be combined with `bound`"),
    (lambda: NearestScores("here"), "`start` must be one of 'glorot_uniform'.*start='here'"),
    (
        dense(score_mode="nearest", selection="probabilistic"),
        '`selection` must be "greedy" for score_mode="nearest".*per_value',
    ),
    (
        dense(score_mode="nearest", bank_initializer="glorot_uniform"),
        '`bank_initializer` must be a `StratifiedUniform` for score_mode="nearest".*per_value',
    ),
    (
        dense(score_mode="nearest", score_initializer="nearest"),
        '`score_initializer` must be None for score_mode="nearest".*kernel_initializer',
    ),
]


def built(layer, shape=(None, 3)):
    layer.build(shape)
    return layer


def called(layer, shape, given):
    return built(layer, shape)(np.ones(given, "float32"))


def constant(shape, dtype=None):
    return np.ones(shape, "float32")


def too_short(shape, dtype=None):
    return np.ones(3, "float32")


CALLS = [
    (lambda: called(SlotDense(4), (2, 3), (2, 5)), "expected axis -1 of input shape to have value"),
    (lambda: called(SlotDense(4), (2, 3), (3,)), "expected min_ndim=2, found ndim=1"),
    (lambda: called(SlotConv2D(4, 1), (2, 5, 5, 3), (2, 5, 5, 2)), "axis -1 of input shape to"),
    (lambda: called(SlotConv2D(4, 1), (2, 5, 5, 3), (2, 5, 3)), "expected min_ndim=4, found ndim"),
    (lambda: SlotDense(4)(keras.Input((None,))), "needs to know the number of input channels|defi"),
    (
        lambda: built(SlotConv2D(4, 1, groups=2), (2, 5, 5, 3)),
        "`groups` must divide the number of input channels. Received: groups=2 .* of 3 channels",
    ),
    (lambda: built(SlotConv2D(4, 9), (2, 5, 5, 3)), "zero or negative|negative dimension|Negative"),
    (
        lambda: built(SlotDense(4, bank_initializer=constant, name="flat")),
        "(?s)Layer 'flat' cannot draw the bank.*`bank_initializer` must give each connection different",
    ),
    (
        lambda: built(SlotDense(4, bank_initializer=too_short, name="short")),
        r"(?s)Layer 'short' cannot draw.*must return an array of shape \(3, 4, 8\).*shape \(3,\)",
    ),
    (lambda: SlotDense(4, name="new").kernel, "Layer 'new' has no bank, scores or kernel yet"),
    (lambda: built(SlotDense(4)).lever, 'has scores instead of a lever. Build it with score_mode="per_'),
    (
        lambda: built(SlotSeparableConv2D(4, 3, name="two"), (2, 5, 5, 3)).kernel,
        "`kernel` is ambiguous: layer 'two' has 2 kernels.*'depthwise_kernel', 'pointwise_ker",
    ),
    (lambda: built(SlotDense(4)).enable_lora(4), "does not support LoRA. Received: rank=4.*mater"),
    (lambda: built(SlotDense(4)).quantize("int8"), "cannot be quantized. Received: mode='int8'.*m"),
    (lambda: slots().quantize("int8"), "model with slot layers cannot be quantized.*'dense0'.*mat"),
]


def slots(name="dense0", **arguments):
    return keras.Sequential([keras.Input((5,)), SlotDense(4, name=name, **arguments)])


def plain_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])


def sick():
    model = slots()
    model.layers[0].scores.assign(np.full((5, 4, 8), np.nan))
    return model


def weights_of(folder, model):
    model.save_weights(folder / "a.weights.h5")
    return folder / "a.weights.h5"


def loading(read, *written):
    """Loads the weights of one model into another."""
    return lambda folder: read.load_weights(weights_of(folder, *written))


def file_of(folder, content):
    (folder / "m.slots").write_bytes(content)
    return folder / "m.slots"


def folder_of(folder, name):
    (folder / name).mkdir()
    return folder / name


def keras_file(folder, cut):
    slots().save(folder / "m.keras")
    content = (folder / "m.keras").read_bytes()
    (folder / "m.keras").write_bytes(content[:cut])
    return keras.models.load_model(folder / "m.keras")


class Own(keras.Model):
    pass


PLACE = "`path` must be a place where this process can write. Received: path="
FREE = "`path` must not exist, so that nothing is lost.*Remove it or choose another"
OTHERS = "were trained with another `num_values`, `bank_initializer`, `score_initializer` or"
LEVER = {"score_mode": "per_connection"}
FILES = [
    (lambda f: save_slots(slots(), file_of(f, b"old")), f"{FREE}"),
    (
        lambda f: save_slots(slots(), folder_of(f, "old.slots"), overwrite=True),
        "`path` must not exist.*a file that",
    ),
    (lambda f: save_slots(slots(), f / "m.keras"), "`path` must end in .slots.*m.keras'. Pass for"),
    (lambda f: save_slots(slots(), file_of(f, b"") / "m.slots"), f"{PLACE}.*m.slots/m.slots'"),
    (lambda f: save_slots(plain_model(), f / "m.slots"), "`model` has no slot layer"),
    (lambda f: save_slots(Own(), f / "m.slots"), "takes Keras models, and subclassed ones once they are built"),
    (lambda f: save_slots(sick(), f / "m.slots"), "scores of layer 'dense0' holds NaN or infinity"),
    (lambda f: load_slots(f / "none.slots"), "No such file or directory.*none.slots"),
    (lambda f: load_slots(f), "Is a directory"),
    (lambda f: load_slots(file_of(f, b"")), "`path` must be a .slots file, written by"),
    (lambda f: load_slots(file_of(f, b"PK\3\4")), r"a .slots file.*begins with b'PK\\x03\\x04'"),
    (lambda f: load_slots(file_of(f, saved("lever")[0][:-1])), "its checksum differs, because bytes are missing"),
    (lambda f: load_slots(file_of(f, saved("lever")[0]), max_bytes=9), "more than `max_bytes`"),
    (lambda f: keras_file(f, 0), "File not found"),
    (lambda f: keras_file(f, 500), "File not found"),
    (loading(slots(num_values=8), slots(num_values=4)), "The file has num_values=4"),
    (loading(slots(), plain_model()), "(?i)layer.*(expected|written by another)"),
    (
        loading(slots(), keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])),
        "written by another kind of layer: build the model with the same arguments",
    ),
    (loading(slots(), slots(selection="probabilistic")), "expects the variables.*'sampler'"),
    (loading(slots(), slots(use_bias=False)), r"expects 1 other variables than its kernel, \['bias'\]"),
    (loading(slots(), slots(sharing="layer")), r"'bank' of the kernel .* has shape \(5, 4, 8\)"),
    (loading(slots(), slots(**LEVER)), "expects the variables.*Received:.*'lever'"),
    (loading(slots(**LEVER), slots()), "expects the variables.*Received:.*'scores'"),
    (loading(slots(**LEVER), slots(num_values=4, **LEVER)), OTHERS),
    (
        loading(slots(**LEVER), slots(bank_initializer=GlorotUniform(2.0), **LEVER)),
        f"{OTHERS}.*Received: num_values=8",
    ),
    (loading(slots(**LEVER), slots(score_initializer="nearest", **LEVER)), OTHERS),
    (lambda f: export_selected(slots(), f / "x", format="onnx2"), "`format` must be .*'onnx2'"),
    (lambda f: materialize(plain_model()), "has no slot layer, so there is nothing to mater"),
    (lambda f: slotify(slots()), "`model` is already a slot model: no layer that `filters`"),
    (lambda f: slotify(plain_model(), selection="best"), "Layer 'head' cannot become a slot layer. `selection`"),
    (lambda f: slotify(plain_model(), filters=["tail"]), r"names out of \['head'\]. Received: \['t"),
    (lambda f: slotify(plain_model(), seed=-1), f"{SEED}-1"),
]


def row_ids(rows):
    return [str(number) for number in range(len(rows))]


@pytest.mark.parametrize(("make", "text"), ARGUMENTS, ids=row_ids(ARGUMENTS))
def test_constructor_names_a_wrong_argument(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(("call", "text"), CALLS, ids=row_ids(CALLS))
def test_build_and_call_name_what_does_not_fit(call, text):
    with pytest.raises((ValueError, AttributeError), match=text):
        call()


@pytest.mark.parametrize(("act", "text"), FILES, ids=row_ids(FILES))
def test_files_that_cannot_be_written_or_read_are_named_and_nothing_is_lost(tmp_path, act, text):
    with pytest.raises((ValueError, OSError), match=text):
        act(tmp_path)
    # No half of a file, and what was there is as it was.
    assert not [x for x in tmp_path.iterdir() if x.name.startswith(".")]
    old = tmp_path / "m.slots"
    assert not old.exists() or old.read_bytes() in (b"", b"old", b"PK\3\4") or b"SLOTS" in old.read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "required: COMMAND"),
        (["info"], 2, "required: FILE.slots"),
        (["info", "none.slots"], 1, "^keras-slots info: no such file: 'none.slots'\n$"),
        (["info", "."], 1, "^keras-slots info: not a file: '.'\n$"),
        (["info", "other"], 1, "^keras-slots info: `path` must be a .slots file.*\n$"),
        (["unpack", "other", "x.h5"], 1, "^keras-slots unpack: `path` must end in .keras.*\n$"),
        (["pack", "other", "x.slots"], 1, "^keras-slots pack: .*\n$"),
        (["pack", "other", "old.slots"], 1, "^keras-slots pack: 'old.slots' exists. Pass --overwrite.*\n$"),
        (["pack", "other", "folder.slots", "--overwrite"], 1, "^keras-slots pack: .*folder.slots.*\n$"),
        (["export", "other", "full", "--overwrite"], 1, "^keras-slots export: .*also holds 'x'.*\n$"),
        (["export", "other", "new"], 1, "^keras-slots export: MODEL must end in .keras or .slots.*'other'.\n$"),
        (["export", "old.slots", "new.c"], 1, "^keras-slots export: OUT must end in .h, .* Received: 'new.c'.\n$"),
        (["export", "old.slots", "new.TFLITE"], 1, "^keras-slots export: OUT must end in .*'new.TFLITE'.\n$"),
        (["export", "old.slots", "new.h"], 1, "^keras-slots export: C code .* Pass the .keras file .*\n$"),
        (
            ["export", "old.slots", "new.tflite", "--calibration-data", "other"],
            1,
            "^keras-slots export: C code and integers need the banks.*'old.slots'.*\n$",
        ),
        (["export", "old.slots", "x", "--calibration-data", "x.npy"], 1, "export: no such file: 'x.npy'\n$"),
        *(
            (
                ["export", "other.keras", "new.h", "--calibration-data", data],
                1,
                "^keras-slots export: `--calibration-data` must be an array .*npy file.*\n$",
            )
            for data in ("other", "empty", "several.npz", "objects.npy")
        ),
        (["export", "old.slots", "full"], 1, "^keras-slots export: 'full' exists. Pass --overwrite.*\n$"),
        (["shrink", "x"], 2, "invalid choice: 'shrink'"),
    ],
)
def test_main_exits_with_2_for_usage_and_1_for_failure_without_a_trace(
    tmp_path, monkeypatch, capsys, words, status, text
):
    monkeypatch.chdir(tmp_path)
    for name in ("other", "other.keras", "old.slots", "full/x", "folder.slots/x"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("neither a model nor a .slots file")
    Path("empty").touch()
    np.savez("several.npz", np.ones(3))
    np.save("objects.npy", np.array([None]))
    with pytest.raises(SystemExit) as left:
        main(words)
    code, errors = left.value.code, capsys.readouterr().err
    if isinstance(code, str):  # Python prints it as it ends, and exits with 1
        code, errors = 1, f"{errors}{code}\n"
    assert code == status and "Traceback" not in errors
    assert re.search(text, errors)


#: A name that somebody might try, and the argument that it stands for.
NEAR_MISSES = {
    "K": "num_values",
    "k": "num_values",
    "num_value": "num_values",
    "n_values": "num_values",
    "numvalues": "num_values",
    "number_of_values": "num_values",
    "num_slots": "num_values",
    "values": "num_values",
    "slots": "num_values",
    "rule": "selection",
    "selection_rule": "selection",
    "select": "selection",
    "mode": "score_mode",
    "scoremode": "score_mode",
    "scores_mode": "score_mode",
    "bank": "bank_initializer",
    "bank_init": "bank_initializer",
    "bank_initialiser": "bank_initializer",
    "values_initializer": "bank_initializer",
    "scores": "score_initializer",
    "score_init": "score_initializer",
    "scores_initializer": "score_initializer",
    "share": "sharing",
    "shared": "sharing",
    "move_reg": "move_regularizer",
    "moves_regularizer": "move_regularizer",
    "lever_regularizer": "move_regularizer",
    "random_seed": "seed",
    "rng_seed": "seed",
}


@pytest.mark.parametrize(("wrong", "right"), NEAR_MISSES.items())
def test_near_misses_of_slot_arguments_name_the_right_one(wrong, right):
    text = f"SlotDense has no argument `{wrong}`. Did you mean `{right}`"
    with pytest.raises(ValueError, match=f"{text}.*Received: {wrong}=8"):
        SlotDense(4, **{wrong: 8})


@pytest.mark.parametrize("name", LAYERS)
def test_near_misses_are_named_by_every_layer(name):
    with pytest.raises(ValueError, match=r"has no argument `K`. Did you mean `num_values`\?"):
        slot_layer(name, K=8)
    with pytest.raises(ValueError, match=r"`sead`. Did you mean `seed`\?.*`scores`. Did you mean"):
        slot_layer(name, sead=8, scores="nearest")


def test_near_misses_are_named_in_slotify_and_from_a_configuration():
    with pytest.raises(ValueError, match=r"'head' cannot become.*no argument `K`. Did you mean `num"):
        slotify(plain_model(), K=8)
    with pytest.raises(TypeError, match=r"has no argument `K`. Did you mean `num_values`\?"):
        SlotDense.from_config({"units": 3, "K": 8})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"activaton": "relu"}, "no argument `activaton`. Did you mean `activation`"),
        ({"kernel_initialiser": "zeros"}, "Did you mean `kernel_initializer`"),
        ({"nonsense": 8}, "(?s)nonsense"),
        ({"units_of_work": 8, "zzz": 1}, "(?s)zzz"),
    ],
)
def test_other_unknown_arguments_are_refused_as_keras_does_or_with_its_name(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        SlotDense(4, **arguments)


def test_a_wrong_value_of_a_keras_argument_is_refused_in_the_words_of_keras():
    with pytest.raises(ValueError, match="rely") as plain:
        keras.layers.Dense(4, activation="rely")
    with pytest.raises(ValueError, match="rely") as slot:
        SlotDense(4, activation="rely")
    assert str(slot.value) == str(plain.value)


def test_tables_have_as_many_rows_as_docs_reliability_says():
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    said = re.findall(r"^\|.*\| (\d+) \| `tests/test_bad_input.py` \|$", page, re.MULTILINE)
    assert [int(rows) for rows in said[:3]] == [len(ARGUMENTS), len(CALLS), len(FILES)]
