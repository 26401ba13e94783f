"""Recipes: all that decides a result, by name.

    <kind>-<network>-<method>[-k<K>][-<sharing>]

    kind      ours     the best that was found here, on the validation images only
              paper    the text of the paper
    network   lenet300100, conv2, conv4, conv6, vgg19; only ours: conv6bn, six convolutions with
              batch norm on CIFAR-10 averaged down to 16x16 pixels
    method    gs       slot machine, greedy selection
              ps       slot machine, probabilistic selection
              ns       slot machine, greedy selection, nearest scores
              learned  the ordinary trained network: the baseline
    K         values per connection; left out: 8
    sharing   layer, network: one set of K values for a layer or for all; left out: own values

Scales are in units of b, the bound of Glorot uniform: b = sqrt(3)·σ with σ = sqrt(2 / (fan_in + fan_out)).
The paper's values are U(-σ, σ), so `bank_scale=1/sqrt(3)`, and its initial scores U(0, λσ), so
`score_scale=λ/sqrt(3)`.
"""

import dataclasses
import math
import re
from typing import Annotated, Literal

from cyclopts import Parameter, types, validators

Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lt=1))]
Network = Literal["lenet300100", "conv2", "conv4", "conv6", "vgg19", "conv6bn"]
Augmentation = Literal[
    "none",
    "flip",
    "crop_flip",
    "shift1",
    "shift",
    "translate_altflip",
    "translate_altflip_cutout",
]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run computes.

    Attributes:
        score_mode: one lever or K scores per connection; nearest scores have levers
        sharing: who shares one set of K values
        scores: how scores start: U(0, scale·b), or nearest (docs/nearest.md)
        bank_scale: the values are U(-bank_scale·b, bank_scale·b)
        score_scale: initial scores of convolutions are U(0, score_scale·b)
        dense_score_scale: the same for dense layers
        learning_rate: the largest of the schedule
        weight_decay_kind: l2 of what is trained, or of the selected weights
        move_penalty: c: adds c * sum(abs(u)) to the loss, u how far levers moved
        batch_size: over all devices together
        augmentation: random changes of training images (data.py)
        dropout: rate before dense layers (networks.py)
        averaging: momentum of a mean over the steps of all that is trained; 0: none
        validation_share: training images kept for validation
        seed: seed of values, scores, data order, dropout
    """

    name: str
    network: Network = "lenet300100"
    dataset: Literal["mnist", "cifar10", "cifar10_16x16", "digits"] = "mnist"
    method: Literal["slot", "learned"] = "slot"
    num_values: types.PositiveInt = 8
    selection: Literal["greedy", "probabilistic"] = "greedy"
    score_mode: Literal["per_connection", "per_value"] = "per_connection"
    sharing: Literal["connection", "layer", "network"] = "connection"
    scores: Literal["uniform", "nearest"] = "uniform"
    bank_scale: types.PositiveFloat = 1.0
    score_scale: types.PositiveFloat = 1.0
    dense_score_scale: types.PositiveFloat = 1.0
    learning_rate: types.PositiveFloat = 0.1
    nesterov: bool = False
    weight_decay: types.NonNegativeFloat = 0.0
    weight_decay_kind: Literal["l2", "weights"] = "l2"
    move_penalty: types.NonNegativeFloat = 0.0
    schedule: Literal["cosine", "one_cycle", "warm_restarts"] = "cosine"
    epochs: types.PositiveInt = 25
    batch_size: types.PositiveInt = 128
    augmentation: Augmentation = "none"
    dropout: Share = 0.0
    label_smoothing: Share = 0.0
    averaging: Share = 0.0
    dtype_policy: Literal["float32", "mixed_bfloat16", "float64"] = "float32"
    validation_share: Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))] = 0.15
    seed: types.NonNegativeInt = 0

    @property
    def folder(self):
        """The name of the run's folder: what differs from the recipe of that name, and the seed."""
        plain = make_recipe(self.name)
        fields = (
            dataclasses.asdict(self).items()
            - dataclasses.asdict(plain).items()
            - {("seed", self.seed)}
        )
        changed = [f"{name}={value}" for name, value in sorted(fields)]
        return "-".join([self.name, *changed, f"s{self.seed}"])


CIFAR10 = {"dataset": "cifar10", "validation_share": 0.1, "augmentation": "crop_flip"}
WITH_DROPOUT = CIFAR10 | {"dropout": 0.5}
NETWORKS = {
    "lenet300100": {},
    **dict.fromkeys(("conv2", "conv4", "conv6"), WITH_DROPOUT),
    "vgg19": CIFAR10,
    "conv6bn": CIFAR10 | {"dataset": "cifar10_16x16"},
}
METHODS = {
    "gs": {},
    "ps": {"selection": "probabilistic"},
    "ns": {"scores": "nearest"},
    "learned": {"method": "learned"},
}

PAPER = {
    "bank_scale": 1 / math.sqrt(3),
    "score_scale": 1 / math.sqrt(3),
    "dense_score_scale": 0.1 / math.sqrt(3),
    "score_mode": "per_value",
    "weight_decay": 1e-4,
    "schedule": "warm_restarts",
}
PAPER_EPOCHS = {"conv4-learned": 330, "conv6-learned": 330, "vgg19-learned": 320}


def _paper(network, method, k, sharing):
    rate = 25.0 if method == "ps" else 0.2 if k <= 8 else 0.1
    if method == "learned":
        rate = 0.05  # ours: the text names no rate for its learned networks
    epochs = PAPER_EPOCHS.get(f"{network}-{method}", 220 if network == "vgg19" else 200)
    return PAPER | {"learning_rate": rate, "epochs": epochs}


ON_CIFAR10 = {
    "schedule": "one_cycle",
    "epochs": 30,
    "nesterov": True,
    "label_smoothing": 0.1,
    "augmentation": "translate_altflip",
    "averaging": 0.998,
    "dtype_policy": "mixed_bfloat16",
}
OURS = {
    "lenet300100": {"augmentation": "shift1"},
    "vgg19": ON_CIFAR10 | {"epochs": 20},
    "conv6bn": {"augmentation": "flip", "epochs": 8, "dtype_policy": "mixed_bfloat16"},
}
# Learning rate and decay of the learned network, and of nearest scores too; elsewhere 0.05.
LEARNED = {"lenet300100": (0.1, 5e-4), "vgg19": (0.1, 5e-4), "conv6bn": (0.1, 0.0)}
# But few values, or many layers with batch norm, need small steps and a bank as wide as the weights:
# learning rate, decay, scale of the bank.
NEAREST = {
    ("lenet300100", 2): (0.05, 0.0, 1.2),
    ("lenet300100", 4): (0.05, 1e-4, 1.5),
    ("lenet300100", 8): (0.05, 5e-4, 1.5),
    ("vgg19", 8): (0.05, 5e-4, 1.0),
}


def _ours(network, method, k, sharing):
    """Chosen on the validation images (README, "How ours was found")."""
    fields = OURS.get(network, ON_CIFAR10)
    rate, decay = LEARNED.get(network, (0.05, 5e-4))
    if method == "learned":
        return fields | {"learning_rate": rate, "weight_decay": decay}
    if method == "ns":
        default = rate, decay, {2: 1.2, 4: 1.5}.get(k, 2.0)
        rate, decay, scale = NEAREST.get((network, k), default)
        # A decay of the levers would not change which value is nearest.
        kind = {"weight_decay": decay, "weight_decay_kind": "weights" if decay else "l2"}
        return fields | kind | {"learning_rate": rate, "bank_scale": scale}
    # Large values win, and of many values the largest is larger: a narrower bank.
    narrow = round((8 / k) ** 0.25, 1)
    scale, rate = {
        "connection": (max(0.7, narrow), 0.3 if k <= 32 else 0.15),
        "layer": (narrow, 0.3 * k / 64),  # few values for many: their steps push the same way
        "network": (1.0, 0.1),
    }[sharing]
    if method == "ps":
        # Wide initial scores: a draw then seldom leaves the arg-max, which is what is tested.
        fields = fields | {"score_scale": 400.0, "dense_score_scale": 400.0}
        rate = 200.0
    return fields | {"bank_scale": scale, "learning_rate": rate}


NAME = re.compile(r"(ours|paper)-(\w+)-(gs|ps|ns|learned)(?:-k([1-9]\d*))?(?:-(layer|network))?")


def make_recipe(name):
    """The recipe of that name."""
    match = NAME.fullmatch(name)
    if not match or match[2] not in NETWORKS or (match[1], match[2]) == ("paper", "conv6bn"):
        raise SystemExit(f"No recipe is called {name}: see the top of examples/paper/recipes.py")
    kind, network, method, k, sharing = match.groups()
    cell = network, method, int(k or 8), sharing or "connection"
    fields = NETWORKS[network] | METHODS[method] | (_paper if kind == "paper" else _ours)(*cell)
    return Recipe(name, network, num_values=cell[2], sharing=cell[3], **fields)


def recipe_name(kind, network, method, num_values=8, sharing="connection"):
    """The name of a recipe."""
    if method == "learned":
        return f"{kind}-{network}-learned"
    values = "" if num_values == 8 else f"-k{num_values}"
    return f"{kind}-{network}-{method}{values}{'' if sharing == 'connection' else f'-{sharing}'}"


def choose_recipe(name, fields):
    """The recipe of that name, or ours for `fields`, with `fields` in the place of its own."""
    if not name:
        method = "ps" if fields.get("selection") == "probabilistic" else "gs"
        method = "learned" if fields.get("method") == "learned" else method
        cell = {key: fields[key] for key in ("num_values", "sharing") if key in fields}
        name = recipe_name("ours", fields.get("network", "lenet300100"), method, **cell)
    return dataclasses.replace(make_recipe(name), **fields)
