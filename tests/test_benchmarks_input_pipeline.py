"""benchmarks/input_pipeline.py measures the pipelines of examples/."""

import json

import numpy as np
import pytest

from benchmarks import input_pipeline

# The pipelines are those of tf.data.
pytestmark = pytest.mark.tensorflow

NAME = "ours-lenet300100-gs"


def test_the_images_are_those_of_the_recipe():
    import recipes

    data = input_pipeline.random_data(recipes.get_recipe("ours-conv2-gs"), 256, (32, 32, 3))
    images, labels = next(iter(data.training()))
    assert images.shape == (128, 32, 32, 3) and labels.shape == (128,)
    assert data.augment == "crop_flip" and (np.asarray(images).min(), data.seed) < (0, 1)


def test_three_rates_of_each_recipe_are_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(input_pipeline.CASES, NAME, (1_280, (28, 28, 1), 10, 10))
    out = tmp_path / "rates.json"
    input_pipeline.main(["--recipes", NAME, "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    (row,) = result["images_per_second"]
    assert row["recipe"] == NAME and row["augmentation"] == "shift1"
    for rate in ("pipeline", "training", "both"):
        low, high = row[f"{rate}_range"]
        assert 0 < low <= row[rate] <= high
    assert NAME in capsys.readouterr().out.splitlines()[1]


def test_an_unknown_recipe_is_refused(capsys):
    with pytest.raises(SystemExit):
        input_pipeline.main(["--recipes", "paper"])
    assert "--recipes must be out of" in capsys.readouterr().err
