"""The table of score modes, and what holds for each."""

from dataclasses import dataclass
from typing import Any

from keras_slots import SelectionRule
from keras_slots.kernels import SlotKernel


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
        trained: Name of the variable that is trained.
        draws: Whether it takes rules that draw at random.
        takes_initializers: Whether it takes any `bank_initializer` and `score_initializer`.
        paper_scores: The `score_initializer` with which `per_value` has the same scores at the start.
    """

    trained: str
    draws: bool = True
    takes_initializers: bool = True
    paper_scores: Any = None


SCORE_MODES = {
    "per_value": Mode("scores"),
    "per_connection": Mode("lever"),
    "nearest": Mode("lever", draws=False, takes_initializers=False, paper_scores="nearest"),
}
assert SCORE_MODES.keys() == SlotKernel.registry.keys()
#: Score mode -> the arguments of a layer in it.
MODE_ARGUMENTS = {mode: {"score_mode": mode} for mode in SCORE_MODES}
#: The modes that take rules that draw.
DRAWING_MODES = [mode for mode, row in SCORE_MODES.items() if row.draws]
#: The modes that draw their bank from the seed in the weights, and so can lose it.
SEEDED_MODES = [mode for mode in SCORE_MODES if SlotKernel.registry[mode].needs_seed]
#: Every mode with every rule that it takes.
MODE_AND_RULE = [
    (mode, rule)
    for rule in SelectionRule.registry
    for mode in SCORE_MODES
    if rule == "greedy" or SCORE_MODES[mode].draws
]
