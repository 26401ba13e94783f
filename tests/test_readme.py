"""README.md and docs/: the Python runs, and commands, versions, names, tests and figures are what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from backends import give_two_replicas

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder in ("", "docs", "docs/results", "docs/api", "examples", "examples/paper", "benchmarks")
    for page in (ROOT / folder).glob("*.md")
)


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


README = text("README.md")


def blocks(page, language):
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), flags=re.DOTALL | re.MULTILINE)


def run_python(page, names, language="python"):
    for number, block in enumerate(blocks(page, language), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)  # noqa: S102
    return names


def megabytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def written(folder):
    return {file.name for file in folder.iterdir()}


@pytest.mark.tensorflow
def test_readme_example_runs_twice_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python("README.md", {})
    capsys.readouterr()
    names = run_python("README.md", {})
    model, plain, x = names["model"], names["plain"], names["x"]
    np.testing.assert_array_equal(plain(x[:3]), model(x[:3], training=False))
    accuracy, size = capsys.readouterr().out.splitlines()
    said, other, size_said = re.search(
        r"print.*# ([\d.]+); with Dense ([\d.]+)\n(?:.*\n)+print.*# (.*)\n", README
    ).groups()
    assert abs(float(accuracy) - float(said)) <= 0.011 and float(said) > float(other) - 0.02
    assert size.split(" in place of ")[1] == size_said.split(" in place of ")[1]
    assert float(size.split()[0]) == pytest.approx(float(size_said.split()[0]), rel=0.1)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_readme_load_model_needs_the_import(tmp_path):
    path = str(tmp_path / "model.keras")
    import keras_slots

    keras.Sequential([keras.Input((4,)), keras_slots.SlotDense(3)]).save(path)
    script = (
        "import sys, keras\n"
        "try:\n"
        "    keras.models.load_model(sys.argv[1])\n"
        "except TypeError as error:\n"
        "    print(error)\n"
        "import keras_slots\n"
        "keras.models.load_model(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", script, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Could not locate class 'SlotDense'" in done.stdout


@pytest.mark.quick("quickstart", "devices")
@pytest.mark.tensorflow
@pytest.mark.parametrize("page", ["quickstart", "saving", "devices", "monitoring"])
def test_docs_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "devices":
        give_two_replicas(monkeypatch)
    names = run_python(f"docs/{page}.md", {})
    if page == "quickstart":
        assert 0 < float(names["changed"]) < 1
        assert type(names["plain"].get_layer("hidden")) is keras.layers.Dense
        assert names["hidden"].bank.shape == (64, 100, 8)
    elif page == "saving":
        model, x = names["model"], names["x"]
        selected = model(x, training=False)
        np.testing.assert_array_equal(names["again"](x, training=False), selected)
        np.testing.assert_allclose(names["logits"], selected, rtol=1e-4, atol=1e-4)
        for name in ("of_litert", "of_onnx"):
            np.testing.assert_allclose(names[name], selected, rtol=1e-4, atol=1e-4)
        files = {"model.keras", "model.slots", "model.weights.h5", "model.tflite", "model.onnx"}
        files |= {"digits.slots", "small.slots", "digits.tflite"}
        assert names["right_in_keras"] > 340
        assert abs(names["right_in_litert"] - names["right_in_keras"]) < 4
        free, priced, dear = names["sizes"]
        assert free > 1.05 * priced > 1.15 * dear
        assert written(tmp_path) == {*files, "selected"}
    elif page == "monitoring":
        assert len(names["history"].history["slots/hidden/changed"]) == 10
        assert names["sizes"]["materialized_bytes"] == 4 * 74 * 100
        assert written(tmp_path) == {"values.png"}
    else:
        assert np.isfinite(names["model"].history.history["loss"]).all()


@pytest.mark.jax
def test_docs_layouts_of_devices_cut_bank_scores_and_lever():
    import keras_slots

    try:
        run_python("docs/devices.md", {"keras": keras}, 'python title="JAX"')
        for mode, name in {"per_value": "scores", "per_connection": "lever"}.items():
            layer = keras_slots.SlotDense(6, score_mode=mode, name="dense_7")
            keras.Sequential([keras.Input((30,)), layer])
            variables = {v.name: v.value for v in layer.slot_kernel.variables}
            cut = {name, "bank"} & set(variables) | {"thresholds", "steps"} & set(variables)
            assert name in cut and len(cut) > 1
            for each in cut:
                whole, part = (variables[each].shape, variables[each].addressable_shards[0].data.shape)
                axis = whole.index(30)
                assert part == (*whole[:axis], 15, *whole[axis + 1 :]), each
    finally:
        keras.distribution.set_distribution(None)


def test_docs_microcontrollers_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python("docs/microcontrollers.md", {})
    assert written(tmp_path) == {"digits.h"}
    header = (tmp_path / "digits.h").read_text()
    (use,) = re.findall(r"int \w+\((.*)\)$", "\n".join(blocks("docs/microcontrollers.md", "c")), re.MULTILINE)
    assert use == "const uint8_t pixels[DIGITS_INPUTS]" and "digits_predict(const digits_value input[64]" in header


def test_docs_microcontrollers_figures_are_those_of_the_committed_run():
    rows = json.loads(text("benchmarks/results/microcontroller.json"))["rows"]
    shown = table_rows("docs/microcontrollers.md")
    names = {f"{row['network']}, {row['variant']}": row for row in rows}
    assert len(names.keys() & shown.keys()) == 8 and all(row["same_outputs_as_host"] for row in rows)
    for name in names.keys() & shown.keys():
        row = names[name]
        sizes = [f"{row[key]:,}" for key in ("constants", "code", "ram", "stack")]
        right = [f"{row[key]:,}" for key in ("right", "right_in_keras")]
        assert shown[name] == [*sizes, f"{row['instructions'] / 1e6:.1f}", *right]


def test_readme_first_two_blocks_are_one_command_each():
    setup, tests = blocks("README.md", "")[:2]
    assert setup.count("\n") == 1 and setup.endswith("&& python examples/quickstart.py\n")
    assert '-e ".[test]"' in setup
    assert tests == "python -m pytest\n"


@pytest.mark.parametrize("page", PAGES)
def test_page_links_lead_to_files(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text(page))
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_names_files_and_tests_that_are_there(page):
    found = re.findall(
        r"\b((?:benchmarks|docs|examples|keras_slots|tests)/[\w/]+\.(?:py|sh|md|json|csv))(?:::(\w+))?",
        # Rows of the scorecard name what was there when they were measured.
        re.sub(r"(?m)^\| crash after .*$", "", text(page)),
    )
    for file, name in found:
        assert (ROOT / file).is_file(), file
        assert f"def {name}(" in text(file) or not name, f"{file} has no {name}"


def test_how_it_works_names_functions_where_they_are():
    found = re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", text("docs/how_it_works.md"))
    assert len(found) > 20
    for file, name in found:
        whole = (ROOT / file).exists()  # or as seen from inside the package
        source = text(file if whole else f"keras_slots/{file}")
        for part in filter(None, name.split(".")):
            assert re.search(rf"\b(def|class) {part}\b", source), f"{file} has no {name}"


def ratios(network):
    rows = json.loads(text(f"benchmarks/results/step_time_{network}.json"))["rows"]
    return {row["variant"]: row["ratio"] for row in rows}


def shown(ratio):
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def table_rows(page):
    """First cell -> the other cells, of all tables of a page."""
    rows = [line.strip("|").split("|") for line in text(page).splitlines() if line[:1] == "|"]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in rows}


def test_readme_price_of_the_papers_algorithm_is_that_of_the_committed_run():
    row = table_rows("README.md")['`score_mode="per_value"`, the paper\'s algorithm, K = 8']
    assert row[1:] == [shown(ratios("lenet300100")["per_value K=8"]), "8"]


@pytest.mark.parametrize("network", ["LeNet-300-100", "CONV-6"])
@pytest.mark.parametrize("num_values", [8, 64])
def test_per_connection_prices_of_a_step_are_those_of_the_committed_runs(network, num_values):
    row = table_rows("docs/per_connection.md")[f"{network}, training step, K = {num_values}"]
    measured = ratios(network.lower().replace("-", ""))
    modes = ("per_connection", "per_value")
    assert row == ["1", *(shown(measured[f"{mode} K={num_values}"]) for mode in modes)]


def test_nearest_prices_of_a_step_are_those_of_the_committed_runs():
    rows = table_rows("docs/nearest.md")
    for network in ("LeNet-300-100", "CONV-6"):
        measured = ratios(network.lower().replace("-", "") + "_nearest")
        expected = [shown(measured[f"nearest K={k}"]) for k in (8, 64, 4096)]
        assert rows[f"{network}, training step"] == ["1", *expected]


def test_prices_of_a_step_on_other_backends_are_those_of_the_committed_runs():
    rows = table_rows("docs/devices.md")
    variants = [f"{mode} K={k}" for mode in ("nearest", "per_connection", "per_value") for k in (8, 64)]
    for name, backend in (("JAX", "jax"), ("PyTorch", "torch")):
        measured = ratios(f"lenet300100_{backend}")
        assert rows[f"step on {name}"] == ["1", *(shown(measured[x]) for x in variants)]
    conv6 = [shown(ratios("conv6_torch")[f"nearest K={k}"]) for k in (8, 64)]
    assert "takes {} (K = 8) and {} (K = 64)".format(*conv6) in text("docs/devices.md")


def test_docs_memory_and_build_of_vgg19_are_those_of_the_committed_runs():
    found = {}
    for name, key in (("memory", "step_mib"), ("build", "seconds")):
        rows = json.loads(text(f"benchmarks/results/{name}_vgg19_k64.json"))["rows"]
        (found[name],) = [row[key] for row in rows if row["variant"] == "nearest K=64"]
    words = " ".join(text("docs/nearest.md").split())
    assert f"{found['memory']:,.0f} MiB" in words
    assert f"{found['build']:.1f} s" in words


def test_monitoring_costs_are_those_of_the_committed_run():
    found = json.loads(text("benchmarks/results/monitor_lenet300100.json"))["rows"]
    assert [row["variant"] for row in found] == [
        f"{variant} K=8" for variant in ("per_connection", "per_value", "nearest")
    ]
    rows = table_rows("docs/monitoring.md")
    shares = [f"{100 * row['share']:.2f} %" for row in found]
    assert rows["share of the epoch spent in the callback"] == shares
    setups = [f"{row['setup_seconds']:.1f}" for row in found]
    assert rows["once in each `fit`, s"] == setups
    assert all(row["share"] <= 0.03 for row in found)


def test_slots_format_sizes_are_those_of_the_committed_runs():
    rows = table_rows("docs/slots_format.md")
    files = json.loads(text("benchmarks/results/slots_file_lenet300100.json"))["rows"]
    for row, scores in zip(files, ("gs`, the paper's", "ns`, nearest"), strict=True):
        shown_row = rows[f"`ours-lenet300100-{scores} scores"]
        figures = [row[key] for key in ("bits", "entropy", "row_entropy")]
        assert shown_row[1:] == [f"{row['kilobytes']:.1f}", *(f"{x:.3f}" for x in figures)]


@pytest.mark.parametrize("num_values", ["8", "64"])
def test_readme_row_of_nearest_scores_is_that_of_the_committed_runs(num_values):
    row = table_rows("README.md")[f'`score_mode="nearest"`, K = {num_values}']
    step = shown(ratios("lenet300100_nearest")[f"nearest K={num_values}"])
    assert row == [in_ten_seeds("nearest scores", num_values), step, "1"]


def in_ten_seeds(weights, num_values):
    """Mean test accuracy on MNIST, as `docs/nearest.md` shows it."""
    lines = [line.strip("| ").split(" | ") for line in text("docs/nearest.md").splitlines()]
    (accuracy,) = (line[4] for line in lines if line[1:4] == [weights, num_values, "10"])
    return accuracy


@pytest.mark.parametrize("page", ["docs/results/README.md", "docs/nearest.md"])
def test_results_tables_are_what_their_files_give(page):
    command = [sys.executable, "examples/paper/report.py", page, "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_accuracies_are_those_of_the_results():
    readme, results = table_rows("README.md"), table_rows("docs/results/README.md")
    assert readme["plain Keras layers, weights learned"][0] == in_ten_seeds("learned", "–")
    mean = np.mean([float(cell) for cell in results["ours, score mode per_value"][3:6]])
    assert readme['`score_mode="per_value"`, the paper\'s algorithm, K = 8'][0] == f"{mean:.2f}"


def test_saving_sizes_are_those_of_the_committed_run():
    rows = json.loads(text("benchmarks/results/files.json"))["rows"]
    assert len(rows) == 5
    for row in rows:
        name = row["variant"].replace(" K=", "`, K = ")
        shown_sizes = table_rows("docs/saving.md")["plain layers" if name == "plain" else "`" + name]
        sizes = [f"{row[key]:.2f}" for key in ("keras_mb", "saved_model_mb", "model_export_mb")]
        assert shown_sizes == ([sizes[0], "", sizes[2]] if name == "plain" else sizes)


def test_readme_versions_are_those_of_the_metadata():
    setup = text("setup.py")
    for required, stated in [
        ('python_requires=">=3.10,<3.15"', "Python 3.10 to 3.14"),
        ('"tensorflow>=2.20"', "TensorFlow 2.20 or newer"),
        ("'keras>=3.14,<3.16; python_version >= \"3.11\"'", "Keras 3.14 or newer"),
        ("'keras>=3.12.4,<3.16; python_version < \"3.11\"'", "3.12.4 on Python 3.10"),
        ('"numpy>=1.26"', "NumPy 1.26 or newer"),
    ]:
        assert required in setup and stated in README
