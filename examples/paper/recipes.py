"""Recipes: every experiment as one frozen dataclass, by name.

The parts of a name::

    <kind>-<network>-<method>[-k<K>][-<sharing>]

    kind      paper    the text of the paper
              author   the code that the author published
              ours     the best that was found here, on the validation images only
    network   lenet300100, conv2, conv4, conv6, vgg19; only ours: conv6bn, six convolutions with
              batch norm on CIFAR-10 averaged down to 16x16 pixels
    method    gs       slot machine, greedy selection
              ps       slot machine, probabilistic selection
              ns       slot machine, greedy selection, nearest scores
              learned  the ordinary trained network: the baseline
    K         2, 4, 8, 16, 32, 64; left out: 8
    sharing   layer, network: one set of K values for a layer or for all; left out: own values

``ours-lenet300100-gs`` is the slot machine on MNIST at K = 8, ``paper-conv6-ps-k64`` the paper's
CONV-6 with probabilistic selection at K = 64, ``ours-conv2-learned`` the baseline of CONV-2.
`train.py --list-recipes` prints all names, `train.py --recipe NAME --show` the fields of one.

Scales are in units of b, the bound of Glorot uniform: b = sqrt(3)·σ with σ = sqrt(2 / (fan_in + fan_out)).
Values are U(-bank_scale·b, bank_scale·b) and initial scores U(0, score_scale·b), so the paper's bank U(-σ, σ) is
`bank_scale=1/sqrt(3)`, and its scores U(0, λσ) are `score_scale=λ/sqrt(3)`. Without weight decay only the
ratio learning_rate / score_scale matters.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import sys
from typing import Annotated, Literal, get_args, get_type_hints

from cyclopts import Parameter

Network = Literal["lenet300100", "conv2", "conv4", "conv6", "vgg19", "conv6bn"]
Kind = Literal["paper", "author", "ours"]
Selection = Literal["greedy", "probabilistic"]
Sharing = Literal["connection", "layer", "network"]
Scores = Literal["uniform", "nearest"]
NETWORKS, KINDS = get_args(Network), get_args(Kind)
OURS_ALONE = ("conv6bn",)  # not in the paper
PAPER_VALUES = (2, 4, 8, 16, 32, 64)
BANKS = (*("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "signed_constant"), "stratified_uniform")
AUGMENTATIONS = (
    *("none", "flip", "crop_flip", "shift1", "shift"),
    *("translate_altflip", "translate_altflip_cutout"),
)

# What a number must be, in words, and the test of it.
AT_LEAST_1 = "at least 1", lambda x: x >= 1
POSITIVE = "positive and finite", lambda x: 0 < x < math.inf
NOT_NEGATIVE = "0 or positive and finite", lambda x: 0 <= x < math.inf
COUNT = "0 or more", lambda x: x >= 0
SHARE = "in [0, 1)", lambda x: 0 <= x < 1
SEED = "0 or positive, below 2**31", lambda x: 0 <= x < 2**31


class SettingError(ValueError):
    """A setting that cannot be used: the user's to change, on the command line."""


class Checked:
    """A dataclass whose fields are checked against their `Literal`, or the condition in `Annotated`."""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value, choices = getattr(self, name), get_args(hint)
            for condition in getattr(hint, "__metadata__", ()):
                if isinstance(condition, tuple) and not condition[1](value):
                    self.refuse(name, condition[0])
            if getattr(hint, "__origin__", None) is Literal and value not in choices:
                self.refuse(name, f"one of {', '.join(map(str, choices))}")

    def refuse(self, name, expected):
        value = getattr(self, name)
        raise SettingError(f"`{name}` must be {expected}. Received: {name}={value}")


@dataclasses.dataclass(frozen=True)
class Recipe(Checked):
    """All that decides what a run computes. A run folder belongs to exactly one recipe.

    Attributes:
        num_values: K, the values per connection
        score_mode: one lever or K scores per connection
        sharing: who shares one set of K values
        scores: how scores start: U(0, scale·b), or nearest (docs/nearest.md)
        bank: the distribution of the values
        bank_scale: factor on the bank's distribution
        score_scale: initial scores of convolutions are U(0, score_scale·b)
        dense_score_scale: the same for dense layers
        learning_rate: the largest of the schedule
        weight_decay: decay of all that is trained; 0: none
        weight_decay_kind: l2: added to the gradient; decoupled: shrinks by lr·decay; weights: l2 of the
            selected ones
        move_penalty: c: adds c * sum(abs(u)) to the loss, u how far levers moved; 0: none
        schedule_epoch: end of the rise (one_cycle; 0: a fifth), first restart or tenfold drop (step)
        batch_size: global batch size, over all devices
        augmentation: random changes of training images
        dropout: rate before dense layers (see networks.py)
        label_smoothing: share of the target that is spread evenly
        averaging: momentum of a mean over the steps of all that is trained; 0: none
        padding: same, or the author's valid convolutions
        validation_share: training images kept for validation
        seed: seed of values, scores, data order, dropout
        split_seed: seed of the split into training and validation images
    """

    name: str = "custom"
    network: Network = "lenet300100"
    dataset: Literal["mnist", "cifar10", "cifar10_16x16", "digits", "npz"] = "mnist"
    method: Literal["slot", "learned"] = "slot"
    num_values: Annotated[int, ("a positive integer", lambda x: x >= 1)] = 8
    selection: Selection = "greedy"
    score_mode: Literal["per_connection", "per_value"] = "per_connection"
    sharing: Sharing = "connection"
    scores: Scores = "uniform"
    bank: Literal[BANKS] = "glorot_uniform"
    bank_scale: Annotated[float, POSITIVE] = 1.0
    score_scale: Annotated[float, POSITIVE] = 1.0
    dense_score_scale: Annotated[float, POSITIVE] = 1.0
    learning_rate: Annotated[float, POSITIVE] = 1.0
    momentum: Annotated[float, SHARE] = 0.9
    nesterov: Annotated[bool, Parameter(negative="--no-nesterov")] = False
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    weight_decay_kind: Literal["l2", "decoupled", "weights"] = "l2"
    move_penalty: Annotated[float, NOT_NEGATIVE] = 0.0
    schedule: Literal["constant", "cosine", "one_cycle", "warm_restarts", "step"] = "cosine"
    schedule_epoch: int = 0
    epochs: Annotated[int, AT_LEAST_1] = 20
    batch_size: Annotated[int, AT_LEAST_1] = 128
    augmentation: Literal[AUGMENTATIONS] = "none"
    dropout: Annotated[float, SHARE] = 0.0
    label_smoothing: Annotated[float, SHARE] = 0.0
    averaging: Annotated[float, SHARE] = 0.0
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16", "float64"] = "float32"
    padding: Literal["same", "author"] = "same"
    validation_share: Annotated[float, SHARE] = 0.15
    seed: Annotated[int, SEED] = 0
    split_seed: Annotated[int, SEED] = 0

    def __post_init__(self):
        super().__post_init__()
        if self.schedule in ("warm_restarts", "step") and self.schedule_epoch < 1:
            self.refuse("schedule_epoch", f"at least 1 for schedule={self.schedule}")
        if not 0 <= self.schedule_epoch < self.epochs and self.schedule == "one_cycle":
            self.refuse("schedule_epoch", "0 or more and below `epochs` for schedule=one_cycle")
        if self.move_penalty and (self.method, self.score_mode) == ("slot", "per_value"):
            self.refuse("move_penalty", "0 for score_mode=per_value, which has no levers")

    def digest(self):
        """Eight hexadecimal digits that differ when any field differs."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def split_by_commas(_, tokens):
    """Reads "0,1,5" as the sorted epochs in it."""
    return tuple(sorted({int(part) for part in tokens[-1].value.split(",")}))


@dataclasses.dataclass(frozen=True)
class Options(Checked):
    """What does not belong to a recipe: where things are, and how the machine is used.

    Attributes:
        data_dir: an .npz file, a folder with one, or the tensorflow-datasets folder
        download: let tensorflow-datasets fetch what is missing
        results: the file that gets a row for each run
        strategy: devices that share a batch: one (none), all (mirrored), all GPUs (auto)
        jit_compile: XLA for the training step
        limit_steps: steps of an epoch and batches of an evaluation, at most: for trying out
        save_epochs: epochs whose state is kept, such as 0,1,5; 0: before training
        verbose: 0 silent, 1 progress bar, 2 a line per epoch
        note: a word of your own for the results row
    """

    data_dir: str | None = None
    download: bool = False
    results: str = "runs/results.csv"
    strategy: Literal["auto", "none", "mirrored"] = "auto"
    jit_compile: Literal["auto", "on", "off"] = "auto"
    limit_steps: Annotated[int, COUNT] = 0
    save_epochs: Annotated[
        tuple[int, ...],
        Parameter(converter=split_by_commas, n_tokens=1),
        ("0 or more", lambda epochs: all(epoch >= 0 for epoch in epochs)),
    ] = ()
    verbose: Literal[0, 1, 2] = 1 if sys.stdout.isatty() else 2
    note: str = ""
    run_dir: str = ""
    command: str = ""


def _common(network):
    """What all three kinds share: data, network and the paper's validation shares."""
    if network == "lenet300100":
        return {"network": network, "dataset": "mnist", "validation_share": 0.15}
    common = {"network": network, "dataset": "cifar10", "validation_share": 0.10}
    if network == "conv6bn":
        return common | {"dataset": "cifar10_16x16"}
    return common | {"augmentation": "crop_flip", "dropout": 0.0 if network == "vgg19" else 0.5}


def _paper(network, method, num_values, sharing):
    fields = _common(network) | {
        "bank_scale": 1 / math.sqrt(3.0),
        "score_scale": 1 / math.sqrt(3.0),
        "dense_score_scale": 0.1 * (1 / math.sqrt(3.0)),
        "weight_decay": 1e-4,
        "schedule": "warm_restarts",
        "schedule_epoch": 25,
    }
    if method == "learned":
        # The text names no rate for its learned networks; this one is ours.
        epochs = {"conv4": 330, "conv6": 330, "vgg19": 320}.get(network, 200)
        return fields | {"learning_rate": 0.05, "epochs": epochs}
    rate = 25.0 if method == "ps" else 0.2 if num_values <= 8 else 0.1
    return fields | {"learning_rate": rate, "epochs": 220 if network == "vgg19" else 200}


def _author(network, method, num_values, sharing):
    fields = _common(network) | {"schedule": "constant"}
    fields["epochs"] = 120 if network in ("lenet300100", "vgg19") else 140
    if network != "lenet300100":
        fields["augmentation"] = "flip"
    if network == "vgg19":
        fields |= {"schedule": "step", "schedule_epoch": 80, "weight_decay": 1e-4}
    elif network != "lenet300100":
        fields["padding"] = "author"
    if method == "learned":
        return fields | {"learning_rate": 0.01}  # ours: the code's schedule for it is never reached
    if method == "ps":
        rate = 25.0 if network == "conv6" else 50.0
        return fields | {"learning_rate": rate, "epochs": fields["epochs"] + 40}
    return fields | {"learning_rate": 0.1 if num_values <= 8 else 0.01}


_OURS = {
    "lenet300100": {"schedule": "cosine", "augmentation": "shift1", "epochs": 25},
    "conv6bn": {"schedule": "cosine", "augmentation": "flip", "epochs": 8, "dtype_policy": "mixed_bfloat16"},
}
_OURS_ON_CIFAR10 = {
    "schedule": "one_cycle",
    "epochs": 30,
    "nesterov": True,
    "label_smoothing": 0.1,
    "augmentation": "translate_altflip",
    "averaging": 0.998,
    "dtype_policy": "mixed_bfloat16",
}
# Few values, or many layers with batch norm, need small steps and a bank that is as wide as the weights:
# learning rate, decay, scale of the bank.
_NEAREST = {
    ("lenet300100", 2): (0.05, 0.0, 1.2),
    ("lenet300100", 4): (0.05, 1e-4, 1.5),
    ("lenet300100", 8): (0.05, 5e-4, 1.5),
    ("vgg19", 8): (0.05, 5e-4, 1.0),
}


def _ours(network, method, num_values, sharing):
    """Chosen on the validation images (README, "How ours was found")."""
    fields = _common(network) | _OURS.get(network, _OURS_ON_CIFAR10)
    if network == "vgg19":
        fields["epochs"] = 20
    # Of the learned network, and of nearest scores too.
    rate = 0.1 if network in ("lenet300100", "vgg19", "conv6bn") else 0.05
    decay = 0.0 if network == "conv6bn" else 5e-4
    if method == "learned":
        return fields | {"learning_rate": rate, "weight_decay": decay}
    if method == "ns":
        default = rate, decay, {2: 1.2, 4: 1.5}.get(num_values, 2.0)
        rate, decay, scale = _NEAREST.get((network, num_values), default)
        fields |= {"learning_rate": rate, "bank": "stratified_uniform", "bank_scale": scale}
        # A decay of the scores would not change which value is nearest.
        return fields | ({"weight_decay": decay, "weight_decay_kind": "weights"} if decay else {})
    # Large values win, and of many values the largest is larger: a narrower bank.
    narrow = round((8 / num_values) ** 0.25, 1)
    scale, rate = {
        "connection": (max(0.7, narrow), 0.3 if num_values <= 32 else 0.15),
        # Few values for many connections: their steps push the same way.
        "layer": (narrow, 0.3 * num_values / 64),
        "network": (1.0, 0.1),
    }[sharing]
    fields |= {"bank_scale": scale, "learning_rate": rate}
    if method == "ps":
        # Wide initial scores: a draw then seldom leaves the arg-max, which is what is tested.
        fields |= {"learning_rate": 200.0, "score_scale": 400.0, "dense_score_scale": 400.0}
    return fields


def recipe_name(kind, network, method, num_values=8, sharing="connection"):
    """The name of a recipe, as explained at the top of this module."""
    if method == "learned":
        return f"{kind}-{network}-learned"
    values = "" if num_values == 8 else f"-k{num_values}"
    return f"{kind}-{network}-{method}{values}{'' if sharing == 'connection' else f'-{sharing}'}"


def make_recipe(kind, network, method, num_values=8, sharing="connection"):
    """The recipe of that kind, also for a K that the paper did not try."""
    if network in OURS_ALONE and kind != "ours":
        raise SettingError(f"{network} is not in the paper: its recipes are of the kind ours")
    make = {"paper": _paper, "author": _author, "ours": _ours}[kind]
    fields = make(network, method, num_values, sharing)
    fields["name"] = recipe_name(kind, network, method, num_values, sharing)
    if method == "learned":
        return Recipe(**fields, method="learned")
    return Recipe(
        **fields,
        num_values=num_values,
        selection="probabilistic" if method == "ps" else "greedy",
        scores="nearest" if method == "ns" else "uniform",
        sharing=sharing,
        score_mode="per_connection" if kind == "ours" else "per_value",  # as published: K scores
    )


def _all_recipes():
    for kind, network in itertools.product(KINDS, NETWORKS):
        if kind == "ours" or network not in OURS_ALONE:
            yield make_recipe(kind, network, "learned")
            grid = itertools.product(("gs", "ps"), PAPER_VALUES, get_args(Sharing))
            yield from (make_recipe(kind, network, *cell) for cell in grid)
    for network, num_values in itertools.product(NETWORKS, (*PAPER_VALUES, 256)):
        yield make_recipe("ours", network, "ns", num_values)


RECIPES = {recipe.name: recipe for recipe in _all_recipes()}


def get_recipe(name):
    """Returns the named recipe.

    Raises:
        SettingError: no recipe has that name; the message lists the nearest names.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3)
    raise SettingError(
        f"`recipe` must name a recipe (all names: train.py --list-recipes). "
        f"Received: recipe={name}. Near: {', '.join(near) or 'none'}"
    )


def choose_recipe(name, fields):
    """The recipe of that name, or "ours" for `fields`, with `fields` put over it; and the recipe without them."""
    if name:
        plain = get_recipe(name)
    else:
        method = "ps" if fields.get("selection") == "probabilistic" else "gs"
        method = "learned" if fields.get("method") == "learned" else method
        network, num_values = fields.get("network", "lenet300100"), fields.get("num_values", 8)
        sharing = fields.get("sharing", "connection")
        plain = make_recipe("ours", network, method, max(num_values, 1), sharing)
    return dataclasses.replace(plain, **fields), plain
