"""Recipes: all that decides a result, by name.

    <kind>-<network>-<method>[-k<K>][-<sharing>]

    kind      paper: the settings in the text of the paper; ours: what was chosen here, on validation images
    network   lenet300100, conv2, conv4, conv6, vgg19, and three that are not in the paper: conv6bn, six
              convolutions with batch norm on CIFAR-10 averaged down to 16x16 pixels; resnet8, the
              residual network of MLPerf Tiny; tinyconv, 4,728 connections for MNIST
    method    gs, ps: slot machine, greedy or probabilistic selection; ns: greedy, nearest scores, which
              are not in the paper; learned: the ordinary trained network, the baseline
    K         values per connection; left out: 8
    sharing   layer, network: one set of K values for a layer or for all; left out: own values

Scales are in units of b, the bound of Glorot uniform: sqrt(6 / (fan_in + fan_out)).
"""

import dataclasses
import itertools
import math
import re
from typing import Annotated, Literal, get_args

from cyclopts import Parameter, types, validators

from cli import changes
from paper_numbers import ACCURACIES, VALUES

Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lt=1))]
Kind = Literal["ours", "paper"]
Network = Literal["lenet300100", "conv2", "conv4", "conv6", "vgg19", "conv6bn", "resnet8", "tinyconv"]
Selection = Literal["greedy", "probabilistic"]
Sharing = Literal["connection", "layer", "network"]
Scores = Literal["uniform", "nearest"]
Augmentation = Literal[
    "none", "flip", "crop_flip", "shift1", "shift", "affine", "translate_altflip", "translate_altflip_cutout"
]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run computes."""

    name: str
    network: Network = "lenet300100"
    dataset: Literal["mnist", "cifar10", "cifar10_16x16", "digits"] = "mnist"
    method: Literal["slot", "learned"] = "slot"
    num_values: types.PositiveInt = 8  # K
    selection: Selection = "greedy"
    score_mode: Literal["per_connection", "per_value"] = "per_connection"  # one lever, or K scores
    sharing: Sharing = "connection"
    scores: Scores = "uniform"
    bank_scale: types.PositiveFloat = 1.0  # the values are U(-bank_scale·b, bank_scale·b)
    score_scale: types.PositiveFloat = 1.0  # uniform scores of convolutions start as U(0, score_scale·b)
    dense_score_scale: types.PositiveFloat = 1.0  # the same of dense layers
    learning_rate: types.PositiveFloat = 0.1  # the largest of the schedule
    nesterov: bool = False
    weight_decay: types.NonNegativeFloat = 0.0
    weight_decay_kind: Literal["l2", "weights"] = "l2"  # of what is trained, or what is selected
    move_penalty: types.NonNegativeFloat = 0.0  # factor of the sum of how far levers moved
    schedule: Literal["cosine", "one_cycle", "warm_restarts"] = "cosine"
    epochs: types.PositiveInt = 25
    batch_size: types.PositiveInt = 128  # over all devices together
    augmentation: Augmentation = "none"
    dropout: Share = 0.0
    label_smoothing: Share = 0.0
    averaging: Share = 0.0  # momentum of a mean over the steps of all that is trained
    dtype_policy: Literal["float32", "mixed_bfloat16", "float64"] = "float32"
    validation_share: Share = 0.15  # of the training images
    seed: types.NonNegativeInt = 0  # of values, scores, data order, dropout

    @property
    def folder(self):
        """The name of the run's folder: the recipe, what differs from it, and the seed."""
        changed = changes(self, dataclasses.replace(make_recipe(self.name), seed=self.seed))
        parts = [f"{name}={value}" for name, value in sorted(changed.items())]
        return "-".join([self.name, *parts, f"s{self.seed}"])


MNIST = {"augmentation": "shift1"}
CIFAR10 = {
    "dataset": "cifar10",
    "validation_share": 0.1,
    "schedule": "one_cycle",
    "epochs": 30,
    "nesterov": True,
    "label_smoothing": 0.1,
    "augmentation": "translate_altflip",
    "averaging": 0.998,
    "dtype_policy": "mixed_bfloat16",
}
SMALL_CIFAR10 = {
    "dataset": "cifar10_16x16",
    "validation_share": 0.1,
    "epochs": 8,
    "augmentation": "flip",
    "dtype_policy": "mixed_bfloat16",
}
TINY_MNIST = {"validation_share": 1 / 12, "epochs": 20, "nesterov": True, "augmentation": "affine"}
# Fields of all recipes; learning rate and decay of the learned network, and of nearest scores too.
NETWORKS = {
    "lenet300100": (MNIST, 0.1, 5e-4),
    "conv2": (CIFAR10 | {"dropout": 0.5}, 0.05, 5e-4),
    "conv4": (CIFAR10 | {"dropout": 0.5}, 0.05, 5e-4),
    "conv6": (CIFAR10 | {"dropout": 0.5}, 0.05, 5e-4),
    "vgg19": (CIFAR10 | {"epochs": 20}, 0.1, 5e-4),
    "conv6bn": (SMALL_CIFAR10, 0.1, 0.0),
    "resnet8": (CIFAR10 | {"epochs": 60}, 0.1, 5e-4),
    "tinyconv": (TINY_MNIST, 0.2, 0.0),
}
# But few values, or many layers with batch norm, need small steps and a bank as wide as the weights:
# learning rate, decay, scale of the bank.
NEAREST = {
    ("lenet300100", 2): (0.05, 0.0, 1.2),
    ("lenet300100", 3): (0.05, 0.0, 1.5),
    ("lenet300100", 4): (0.05, 1e-4, 1.5),
    ("lenet300100", 6): (0.05, 1e-4, 1.5),
    ("lenet300100", 8): (0.05, 5e-4, 1.5),
    ("vgg19", 8): (0.05, 5e-4, 1.0),
    ("resnet8", 5): (0.3, 5e-4, 1.0),
    ("resnet8", 8): (0.3, 5e-4, 1.0),
}


def _searched(network, method, k, sharing):
    """What was chosen on the validation images (README, "How ours was found")."""
    _, rate, decay = NETWORKS[network]
    if method == "learned":
        return {"method": "learned", "learning_rate": rate, "weight_decay": decay}
    if method == "ns":
        default = rate, decay, {2: 1.2, 3: 1.5, 4: 1.5}.get(k, 2.0)
        rate, decay, scale = NEAREST.get((network, k), default)
        # A decay of the levers would not change which value is nearest.
        kind = {"weight_decay": decay, "weight_decay_kind": "weights" if decay else "l2"}
        return kind | {"scores": "nearest", "learning_rate": rate, "bank_scale": scale}
    # Large values win, and of many values the largest is larger: a narrower bank.
    narrow = round((8 / k) ** 0.25, 1)
    scale, rate = {
        "connection": (max(0.7, narrow), 0.3 if k <= 32 else 0.15),
        "layer": (narrow, 0.3 * k / 64),  # few values for many: their steps push the same way
        "network": (1.0, 0.1),
    }[sharing]
    if method == "gs":
        return {"bank_scale": scale, "learning_rate": rate}
    # Wide initial scores: a draw then seldom leaves the arg-max, which is what is tested.
    wide = {"selection": "probabilistic", "score_scale": 400.0, "dense_score_scale": 400.0}
    return wide | {"bank_scale": scale, "learning_rate": 200.0}


def _paper(network, method, k):
    """The paper, section 4 and appendix. It names no learning rate for its learned networks: 0.05 is ours."""
    sigma = 1 / math.sqrt(3.0)  # the bound of the bank and of the scores is σ, not √3·σ; λ is 1 or 0.1
    scales = {"bank_scale": sigma, "score_scale": sigma, "dense_score_scale": 0.1 * sigma}
    # K scores, because the penalty is of scores: it also shrinks the initial ones, which a lever keeps.
    fields = scales | {"score_mode": "per_value", "weight_decay": 1e-4}
    fields |= {"schedule": "warm_restarts", "epochs": 200}
    if network != "lenet300100":
        fields |= {"dataset": "cifar10", "validation_share": 0.1, "augmentation": "crop_flip"}
        fields |= {"dropout": 0.0 if network == "vgg19" else 0.5}
    if method == "learned":
        epochs = {"conv4": 330, "conv6": 330, "vgg19": 320}.get(network, 200)
        return fields | {"method": "learned", "learning_rate": 0.05, "epochs": epochs}
    fields |= {"epochs": 220} if network == "vgg19" else {}
    if method == "ps":
        return fields | {"selection": "probabilistic", "learning_rate": 25.0}
    return fields | {"learning_rate": 0.2 if k <= 8 else 0.1}


NAME = re.compile(r"(ours|paper)-(\w+)-(gs|ps|ns|learned)(?:-k([1-9]\d*))?(?:-(layer|network))?")


def _exists(kind, network, method):
    return network in NETWORKS and (kind == "ours" or (network in ACCURACIES["greedy"] and method != "ns"))


def make_recipe(name):
    """The recipe of that name."""
    match = NAME.fullmatch(name)
    if not match or not _exists(*match.groups()[:3]):
        raise SystemExit(f"No recipe is called {name}: `train.py recipes` lists all")
    kind, network, method, k, sharing = match.groups()
    cell = {"num_values": int(k or 8), "sharing": sharing or "connection"}
    if kind == "paper":
        fields = _paper(network, method, cell["num_values"])
    else:
        fields = NETWORKS[network][0] | _searched(network, method, *cell.values())
    return Recipe(name, network, **cell, **fields)


def recipe_name(network, method, num_values=8, sharing="connection", kind="ours"):
    """The name of a recipe."""
    values = "" if num_values == 8 or method == "learned" else f"-k{num_values}"
    shared = "" if sharing == "connection" or method == "learned" else f"-{sharing}"
    return f"{kind}-{network}-{method}{values}{shared}"


def list_recipes():
    """The recipes of all names, at the K of the paper."""
    methods = [("learned",), *itertools.product(("gs", "ps", "ns"), VALUES, get_args(Sharing))]
    for kind, network, method in itertools.product(get_args(Kind), NETWORKS, methods):
        if _exists(kind, network, method[0]):
            yield make_recipe(recipe_name(network, *method, kind=kind))


def choose_recipe(name, fields):
    """The recipe of that name, or the one for `fields`, with `fields` in the place of its own."""
    if not name:
        method = "ps" if fields.get("selection") == "probabilistic" else "gs"
        method = "ns" if fields.get("scores") == "nearest" else method
        method = "learned" if fields.get("method") == "learned" else method
        cell = {key: fields[key] for key in ("num_values", "sharing") if key in fields}
        name = recipe_name(fields.get("network", "lenet300100"), method, **cell)
    return dataclasses.replace(make_recipe(name), **fields)
