"""Recipes say what the paper and the author's code say."""

import dataclasses
import math

import numpy as np
import pytest

import optimizers
import paper_numbers
import recipes


def test_names_follow_the_key_and_lead_back_to_their_recipe():
    for name, recipe in recipes.RECIPES.items():
        assert recipe.name == name and recipes.get_recipe(name) is recipe
        assert name.startswith(tuple(f"{kind}-{recipe.network}-" for kind in recipes.KINDS))
    assert recipes.get_recipe("ours-conv4-ps-k32-layer").sharing == "layer"


def test_the_papers_text_and_the_authors_code_differ_where_they_do():
    paper, author = (recipes.get_recipe(f"{kind}-conv6-gs-k16") for kind in ("paper", "author"))
    assert (paper.learning_rate, author.learning_rate) == (0.1, 0.01)
    assert (paper.epochs, author.epochs) == (200, 140)
    assert (paper.padding, author.padding) == ("same", "author")
    assert (paper.schedule, author.schedule) == ("warm_restarts", "constant")
    assert paper.bank_scale == pytest.approx(1 / math.sqrt(3)) and author.bank_scale == 1.0
    assert recipes.get_recipe("author-conv6-ps").learning_rate == 25.0
    assert recipes.get_recipe("author-conv4-ps").epochs == 180


def test_an_unknown_recipe_is_answered_with_near_names():
    with pytest.raises(ValueError, match=r"Received: recipe=ours-lenet300100-g. Near: ours-lenet"):
        recipes.get_recipe("ours-lenet300100-g")


def test_a_penalty_of_moves_needs_levers_and_no_named_recipe_has_one():
    assert all(recipe.move_penalty == 0.0 for recipe in recipes.RECIPES.values())
    paper = recipes.get_recipe("paper-lenet300100-gs")
    with pytest.raises(ValueError, match="`move_penalty` must be 0 for score_mode=per_value"):
        dataclasses.replace(paper, move_penalty=1e-5)
    for other in ({"score_mode": "per_connection"}, {"method": "learned"}):
        assert dataclasses.replace(paper, move_penalty=1e-5, **other).move_penalty == 1e-5


def test_our_bank_narrows_as_the_values_get_more():
    scales = [recipes.make_recipe("ours", "lenet300100", "gs", k).bank_scale for k in (2, 8, 64)]
    assert scales == [1.4, 1.0, 0.7]


def test_any_change_of_a_field_changes_the_digest():
    recipe = recipes.get_recipe("ours-lenet300100-gs")
    assert recipe.digest() == dataclasses.replace(recipe).digest()
    assert recipe.digest() != dataclasses.replace(recipe, seed=1).digest()


def test_schedules_restart_and_drop_where_the_paper_and_the_code_say():
    def rates(name, epochs):
        schedule = optimizers.make_schedule(recipes.get_recipe(name), steps_per_epoch=10)
        return [float(schedule(10 * epoch)) for epoch in epochs]

    assert rates("paper-conv2-gs", [0, 25, 75]) == pytest.approx([0.2, 0.2, 0.2])
    assert max(rates("paper-conv2-gs", [24.9, 74.9])) < 0.001
    assert rates("author-vgg19-gs", [79, 81]) == pytest.approx([0.1, 0.01])
    rising = rates("ours-vgg19-learned", [0, 4, 12, 20])
    assert rising == pytest.approx([0.005, 0.1, 0.05, 0.0], abs=1e-6)
    assert rates("ours-lenet300100-gs", [25]) == pytest.approx([0.0], abs=1e-9)


def test_l2_decay_joins_the_momentum_and_the_other_kinds_do_not():
    import keras

    def after_two_steps(kind):
        recipe = recipes.Recipe(
            learning_rate=0.1, momentum=0.5, weight_decay=0.2, schedule="constant"
        )
        recipe = dataclasses.replace(recipe, weight_decay_kind=kind)
        optimizer = optimizers.make_optimizer(recipe, 10)
        variable = keras.Variable([1.0])
        for _ in range(2):
            optimizer.apply([keras.ops.array([1.0])], [variable])
        return float(variable[0])

    # By hand: w' = w + m', m' = 0.5 m - 0.1 (1 + 0.2 w), and w' = (1 - 0.02) w + m'.
    w = 1 - 0.1 * 1.2
    assert after_two_steps("l2") == pytest.approx(w + 0.5 * -0.12 - 0.1 * (1 + 0.2 * w))
    w = 0.98 - 0.1
    assert after_two_steps("decoupled") == pytest.approx(0.98 * w - 0.05 - 0.1)
    assert after_two_steps("weights") == pytest.approx(1 - 0.1 - 0.15)  # its decay is in the loss


def test_label_smoothing_is_the_cross_entropy_with_spread_targets():
    logits = np.float32([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
    labels = np.array([0, 1])
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    loss = np.asarray(optimizers.make_loss(0.1)(labels, logits))
    np.testing.assert_allclose(loss, -(targets * log_shares).sum(-1), rtol=1e-6)


def test_the_papers_number_stands_beside_the_experiments_that_it_has():
    def number(name):
        return paper_numbers.paper_accuracy(recipes.get_recipe(name))

    assert number("ours-lenet300100-gs") == pytest.approx(0.982)
    assert number("paper-conv6-ps-k64") == pytest.approx(0.805)
    assert number("author-vgg19-gs") == pytest.approx(0.91)
    assert number("ours-vgg19-learned") is None
    assert number("ours-lenet300100-gs-k64-layer") is None


def test_a_network_that_is_not_of_the_paper_has_only_recipes_of_ours():
    with pytest.raises(
        ValueError, match="conv6bn is not in the paper: its recipes are of the kind"
    ):
        recipes.make_recipe("paper", "conv6bn", "gs")
    ours = recipes.make_recipe("ours", "conv6bn", "ns", 32)
    assert (ours.dataset, ours.num_values, ours.scores) == ("cifar10_16x16", 32, "nearest")
    assert {r.name.split("-")[0] for r in recipes.RECIPES.values() if r.network == "conv6bn"} == {
        "ours"
    }
