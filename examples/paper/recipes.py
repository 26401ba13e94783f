"""Recipes: every experiment as one frozen dataclass, by name.

The key of a name::

    <kind>-<network>-<method>[-k<K>][-<sharing>]

    kind      paper    the text of the paper
              author   the code that the author published
              ours     the best that was found here, on the validation split only
    network   lenet300100, conv2, conv4, conv6, vgg19; ours alone: conv6bn, six convolutions with
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

How scales are counted. With σ = sqrt(2 / (fan_in + fan_out)), the standard deviation of Glorot
normal, the bound of Glorot uniform is b = sqrt(3)·σ. `bank_scale` and both score scales are in
units of b: values U(-bank_scale·b, bank_scale·b), initial scores U(0, score_scale·b). A bank U(-σ, σ)
is therefore `bank_scale=1/sqrt(3)`, and the paper's scores U(0, λσ) are `score_scale=λ/sqrt(3)`.
Without weight decay only the ratio learning_rate / score_scale matters.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import sys

INVERSE_ROOT3 = 1.0 / math.sqrt(3.0)
NETWORKS = ("lenet300100", "conv2", "conv4", "conv6", "vgg19", "conv6bn")
OURS_ALONE = ("conv6bn",)  # not of the paper
DATASETS = ("mnist", "cifar10", "cifar10_16x16", "digits", "npz")
KINDS = ("paper", "author", "ours")
PAPER_VALUES = (2, 4, 8, 16, 32, 64)
BANKS = (
    *("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "signed_constant"),
    "stratified_uniform",
)
SCORES = ("uniform", "nearest")
SCHEDULES = ("constant", "cosine", "one_cycle", "warm_restarts", "step")
AUGMENTATIONS = (
    *("none", "flip", "crop_flip", "shift1", "shift"),
    *("translate_altflip", "translate_altflip_cutout"),
)
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "float64")

# What a number must be, in words, and the test of it.
AT_LEAST_1 = "at least 1", lambda x: x >= 1
POSITIVE = "positive and finite", lambda x: 0 < x < math.inf
NOT_NEGATIVE = "0 or positive and finite", lambda x: 0 <= x < math.inf
SHARE = "in [0, 1)", lambda x: 0 <= x < 1
SEED = "0 or positive, below 2**31", lambda x: 0 <= x < 2**31


def setting(default, text, choices=None, check=None, kind=None):
    """A dataclass field that is a flag: its help, its choices or its check, how it is read."""
    metadata = {"help": text, "choices": choices, "check": check, "kind": kind}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes. A run folder belongs to exactly one recipe."""

    name: str = dataclasses.field(default="custom")
    network: str = setting("lenet300100", "the network", NETWORKS)
    dataset: str = setting("mnist", "the data set", DATASETS)
    method: str = setting("slot", "slot machine or learned baseline", ("slot", "learned"))
    num_values: int = setting(
        8, "K, the values per connection", check=("a positive integer", lambda x: x >= 1)
    )
    selection: str = setting("greedy", "the selection rule", ("greedy", "probabilistic"))
    score_mode: str = setting(
        "per_connection", "one lever or K scores per connection", ("per_connection", "per_value")
    )
    sharing: str = setting(
        "connection", "who shares one set of K values", ("connection", "layer", "network")
    )
    scores: str = setting(
        "uniform", "how scores start: U(0, scale·b), or nearest (docs/nearest.md)", SCORES
    )
    bank: str = setting("glorot_uniform", "the distribution of the values", BANKS)
    bank_scale: float = setting(1.0, "factor on the bank's distribution", check=POSITIVE)
    score_scale: float = setting(
        1.0, "initial scores of convolutions are U(0, score_scale·b)", check=POSITIVE
    )
    dense_score_scale: float = setting(1.0, "the same for dense layers", check=POSITIVE)
    learning_rate: float = setting(1.0, "the largest of the schedule", check=POSITIVE)
    momentum: float = setting(0.9, "momentum of SGD", check=SHARE)
    nesterov: bool = setting(False, "Nesterov momentum")
    weight_decay: float = setting(0.0, "decay of all that is trained; 0: none", check=NOT_NEGATIVE)
    weight_decay_kind: str = setting(
        "l2",
        "l2: added to the gradient; decoupled: shrinks by lr·decay; weights: l2 of the selected ones",
        ("l2", "decoupled", "weights"),
    )
    move_penalty: float = setting(
        0.0,
        "c: adds c * sum(abs(u)) to the loss, u how far levers moved; 0: none",
        check=NOT_NEGATIVE,
    )
    schedule: str = setting("cosine", "learning-rate schedule", SCHEDULES)
    schedule_epoch: int = setting(
        0, "end of the rise (one_cycle; 0: a fifth), first restart or tenfold drop (step)"
    )
    epochs: int = setting(20, "training epochs", check=AT_LEAST_1)
    batch_size: int = setting(128, "global batch size, over all devices", check=AT_LEAST_1)
    augmentation: str = setting("none", "random changes of training images", AUGMENTATIONS)
    dropout: float = setting(0.0, "rate in front of dense layers (see networks.py)", check=SHARE)
    label_smoothing: float = setting(0.0, "share of the target spread evenly", check=SHARE)
    averaging: float = setting(
        0.0, "momentum of a mean over the steps of all trained; 0: none", check=SHARE
    )
    dtype_policy: str = setting("float32", "Keras dtype policy", POLICIES)
    padding: str = setting("same", "same, or the author's valid convolutions", ("same", "author"))
    validation_share: float = setting(0.15, "training images kept for validation", check=SHARE)
    seed: int = setting(0, "seed of values, scores, data order, dropout", check=SEED)
    split_seed: int = setting(0, "seed of the train/validation split", check=SEED)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata.get("choices")
            if choices and value not in choices:
                self._refuse(field.name, f"one of {', '.join(choices)}")
            expected, fine = field.metadata.get("check") or ("", None)
            if fine and not fine(value):
                self._refuse(field.name, expected)
        if self.schedule in ("warm_restarts", "step") and self.schedule_epoch < 1:
            self._refuse("schedule_epoch", f"at least 1 for schedule={self.schedule}")
        if not 0 <= self.schedule_epoch < self.epochs and self.schedule == "one_cycle":
            self._refuse("schedule_epoch", "0 or more and below `epochs` for schedule=one_cycle")
        if self.move_penalty and (self.method, self.score_mode) == ("slot", "per_value"):
            self._refuse("move_penalty", "0 for score_mode=per_value, which has no levers")

    def _refuse(self, name, expected):
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={getattr(self, name)}")

    def digest(self):
        """Eight hexadecimal digits that differ when any field differs."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Options:
    """What does not belong to a recipe: where things are, and how the machine is used."""

    data_dir: str | None = setting(
        None, "an .npz file, a folder with one, or the tensorflow-datasets folder", kind=str
    )
    download: bool = setting(False, "let tensorflow-datasets fetch what is missing", kind="switch")
    results: str = setting("runs/results.csv", "the file that gets a row for each run")
    strategy: str = setting(
        "auto",
        "devices that share a batch: one (none), all (mirrored), all GPUs (auto)",
        ("auto", "none", "mirrored"),
    )
    jit_compile: str = setting("auto", "XLA for the training step", ("auto", "on", "off"))
    limit_steps: int = setting(
        0, "steps of an epoch and batches of an evaluation, at most: for trying out", kind="count"
    )
    save_epochs: tuple = setting(
        (), "epochs whose state is kept, 0: before training", kind="epochs"
    )
    verbose: int = setting(
        1 if sys.stdout.isatty() else 2, "0 silent, 1 progress bar, 2 a line per epoch", (0, 1, 2)
    )
    note: str = setting("", "a word of your own for the results row")
    run_dir: str = dataclasses.field(default="")
    command: str = dataclasses.field(default="")


def _common(network):
    """What all three kinds share: data, network and the paper's validation shares."""
    if network == "lenet300100":
        return {"network": network, "dataset": "mnist", "validation_share": 0.15}
    if network == "conv6bn":
        return {"network": network, "dataset": "cifar10_16x16", "validation_share": 0.10}
    common = {"network": network, "dataset": "cifar10", "validation_share": 0.10}
    common["augmentation"] = "crop_flip"
    if network != "vgg19":
        common["dropout"] = 0.5
    return common


def _paper(network, method, num_values, sharing):
    fields = _common(network) | {
        "bank_scale": INVERSE_ROOT3,
        "score_scale": INVERSE_ROOT3,
        "dense_score_scale": 0.1 * INVERSE_ROOT3,
        "weight_decay": 1e-4,
        "schedule": "warm_restarts",
        "schedule_epoch": 25,
        "epochs": {"vgg19": 220}.get(network, 200),
    }
    if method == "learned":
        # The text names no rate for its learned networks; this one is ours.
        fields["learning_rate"] = 0.05
        fields["epochs"] = {"conv4": 330, "conv6": 330, "vgg19": 320}.get(network, 200)
    elif method == "ps":
        fields["learning_rate"] = 25.0
    else:
        fields["learning_rate"] = 0.2 if num_values <= 8 else 0.1
    return fields


def _author(network, method, num_values, sharing):
    fields = _common(network) | {"schedule": "constant", "padding": "author"}
    fields["epochs"] = {"lenet300100": 120, "vgg19": 120}.get(network, 140)
    if network in ("lenet300100", "vgg19"):
        fields["padding"] = "same"
    if network != "lenet300100":
        fields["augmentation"] = "flip"
    if network == "vgg19":
        fields |= {"schedule": "step", "schedule_epoch": 80, "weight_decay": 1e-4}
    if method == "learned":
        fields["learning_rate"] = 0.01  # ours: the code's schedule for it is never reached
    elif method == "ps":
        fields["epochs"] += 40
        fields["learning_rate"] = 25.0 if network == "conv6" else 50.0
    else:
        fields["learning_rate"] = 0.1 if num_values <= 8 else 0.01
    return fields


def _ours(network, method, num_values, sharing):
    """Chosen on the validation images (README, "How ours was found")."""
    if network == "lenet300100":
        fields = _common(network) | {"schedule": "cosine", "augmentation": "shift1", "epochs": 25}
    elif network == "conv6bn":
        fields = _common(network) | {"schedule": "cosine", "augmentation": "flip", "epochs": 8}
        fields["dtype_policy"] = "mixed_bfloat16"
    else:
        fields = _common(network) | _OURS_ON_CIFAR10
        if network == "vgg19":
            fields["epochs"] = 20
    # Of the learned network, and of nearest scores too.
    learned_rate = 0.1 if network in ("lenet300100", "vgg19", "conv6bn") else 0.05
    learned_decay = 0.0 if network == "conv6bn" else 5e-4
    if method == "learned":
        fields |= {"learning_rate": learned_rate, "weight_decay": learned_decay}
    elif method == "ps":
        # Wide initial scores: a draw then seldom leaves the arg-max, which is what is tested.
        fields |= {"learning_rate": 200.0, "score_scale": 400.0, "dense_score_scale": 400.0}
    else:
        fields["learning_rate"] = {
            "connection": 0.3 if num_values <= 32 else 0.15,
            # Few values for many connections: their steps push the same way.
            "layer": 0.3 * num_values / 64,
            "network": 0.1,
        }[sharing]
    if method == "ns":
        rate, decay, scale = learned_rate, learned_decay, {2: 1.2, 4: 1.5}.get(num_values, 2.0)
        rate, decay, scale = _NEAREST.get((network, num_values), (rate, decay, scale))
        fields |= {"learning_rate": rate, "bank": "stratified_uniform", "bank_scale": scale}
        if decay:  # A decay of the scores would not move what is nearest.
            fields |= {"weight_decay": decay, "weight_decay_kind": "weights"}
    elif method != "learned":
        # Large values win, and of many values the largest is larger: a narrower bank.
        narrow = round((8 / num_values) ** 0.25, 1)
        scales = {"connection": max(0.7, narrow), "layer": narrow, "network": 1.0}
        fields["bank_scale"] = scales[sharing]
    return fields


_OURS_ON_CIFAR10 = {
    "schedule": "one_cycle",
    "epochs": 30,
    "nesterov": True,
    "label_smoothing": 0.1,
    "augmentation": "translate_altflip",
    "averaging": 0.998,
    "dtype_policy": "mixed_bfloat16",
}
# Few values, or many layers with batch norm, want small steps and a bank that is as wide as the weights: learning
# rate, decay, scale of the bank.
_NEAREST = {
    ("lenet300100", 2): (0.05, 0.0, 1.2),
    ("lenet300100", 4): (0.05, 1e-4, 1.5),
    ("lenet300100", 8): (0.05, 5e-4, 1.5),
    ("vgg19", 8): (0.05, 5e-4, 1.0),
}
_FIELDS = {"paper": _paper, "author": _author, "ours": _ours}


def recipe_name(kind, network, method, num_values=8, sharing="connection"):
    """The name of a recipe by the key in the docstring of this module."""
    name = f"{kind}-{network}-{method}"
    if method != "learned":
        name += "" if num_values == 8 else f"-k{num_values}"
        name += "" if sharing == "connection" else f"-{sharing}"
    return name


def make_recipe(kind, network, method, num_values=8, sharing="connection"):
    """The recipe of that kind, also for a K that the paper did not try."""
    if network in OURS_ALONE and kind != "ours":
        raise ValueError(f"{network} is not of the paper: its recipes are of the kind ours")
    fields = _FIELDS[kind](network, method, num_values, sharing)
    fields["name"] = recipe_name(kind, network, method, num_values, sharing)
    if method == "learned":
        fields["method"] = "learned"
    else:
        fields["selection"] = "probabilistic" if method == "ps" else "greedy"
        fields["scores"] = "nearest" if method == "ns" else "uniform"
        fields |= {"num_values": num_values, "sharing": sharing}
        if kind != "ours":
            fields["score_mode"] = "per_value"  # as published: K scores per connection
    return Recipe(**fields)


def _all_recipes():
    for kind, network in itertools.product(KINDS, NETWORKS):
        if kind == "ours" or network not in OURS_ALONE:
            yield make_recipe(kind, network, "learned")
            for method in ("gs", "ps"):
                for num_values in PAPER_VALUES:
                    for sharing in ("connection", "layer", "network"):
                        yield make_recipe(kind, network, method, num_values, sharing)
    for network in NETWORKS:
        for num_values in (*PAPER_VALUES, 256):
            yield make_recipe("ours", network, "ns", num_values)


RECIPES = {recipe.name: recipe for recipe in _all_recipes()}


def get_recipe(name):
    """Returns the named recipe.

    Raises:
        ValueError: no recipe has that name; the message lists the nearest names.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3)
    raise ValueError(
        f"`recipe` must name a recipe (all names: train.py --list-recipes). "
        f"Received: recipe={name}. Near: {', '.join(near) or 'none'}"
    )
