"""Changes one place of the source at a time, as Cosmic Ray does, and says which changes no test notices.

    pip install -e ".[mutation]" && python tests/soak/mutants.py [--count 200] [--seed 0] [--out mutants.json]

A seeded random sample of places, one change each; a larger sample begins with the smaller ones. A change is
tried in a copy of the project, against plain runs of the test files that concern its module (`TESTS`). A failing
test kills it, and so does the time limit. Changes with which the package cannot be imported, and changes of
annotations, are not counted.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300  # seconds of processor time for the tests of one change
#: Module: the test files that concern it, the quickest first.
TESTS = {
    "values/distributions.py": "test_distributions test_initializers test_random_streams",
    "values/initial_values.py": "test_banks test_sharing test_scores test_registry test_layers",
    "values/initializers.py": "test_initializers test_distributions test_bad_input",
    "values/nearest_scores.py": "test_scores test_nearest test_nearest_layers",
    "values/philox.py": "test_random_streams test_distributions test_strata",
    "values/source.py": "test_distributions test_registry test_sharing",
    "values/stratified.py": "test_strata test_nearest test_slots",
    "values/value_bank.py": "test_sharing test_banks test_bad_input",
    "kernels/base.py": "test_banks test_registry test_layers test_weights test_saving",
    "kernels/envelope.py": "test_envelope test_staircase",
    "kernels/lever.py": "test_lever test_selection test_weights",
    "kernels/nearest.py": "test_nearest test_nearest_layers",
    "kernels/per_connection.py": "test_selection test_gradients test_weights test_lever",
    "kernels/per_value.py": "test_selection test_gradients test_layers",
    "kernels/regularizers.py": "test_regularizers",
    "kernels/sampler.py": "interop/test_draws test_layers interop/test_graphs",
    "kernels/seed.py": "test_weights test_saving",
    "kernels/staircase.py": "test_staircase test_lever",
    "selection.py": "test_selection test_rules test_registry",
    "slots_file/__init__.py": "test_slots test_live_copies",
    "slots_file/coder.py": "test_slots test_slots_reader",
    "slots_file/container.py": "test_slots",
    "slots_file/records.py": "test_slots test_slots_reader",
    "slots_file/values.py": "test_slots",
    "transforms/__init__.py": "test_transforms interop/test_slotify",
    "transforms/cloning.py": "test_transforms interop/test_slotify interop/test_models test_live_copies",
    "transforms/folding.py": "test_slots_folding test_c_export",
    "transforms/weights.py": "test_transforms interop/test_models test_layers",
}
NOT_IMPORTED = 100  # our own exit status
#: Exit status -> outcome; a test file that cannot be collected ends with 2, and no other status is expected.
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", NOT_IMPORTED: "not imported"}
OUTCOMES |= {-signal.SIGKILL: "out of time", -signal.SIGSEGV: "killed", -signal.SIGABRT: "killed"}


def places(module):
    """Place in a module -> the changes that can be made there, as (operator, occurrence)."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / "keras_slots" / module).read_text(encoding="utf-8")
    skipped, nodes, found = list(annotations(source)), list(ast_nodes(get_ast(source))), {}
    for name in operator_names():
        if get_operator(name).arguments():
            continue  # it would have to be told which variables to change
        operator = get_operator(name)()
        starts = (s for x in nodes for s, _ in operator.mutation_positions(x))
        for occurrence, start in enumerate(starts):
            if not any(first <= start < last for first, last in skipped):
                found.setdefault((module, *start), []).append((name, occurrence))
    return found


def annotations(source):
    """Where annotations begin and end."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def sample(count, seed):
    """That many places in a random order, with one change each."""
    found = {}
    for module in TESTS:
        found |= places(module)
    chance = random.Random(seed)
    chosen = sorted(found)
    chance.shuffle(chosen)
    return [(*place, *chance.choice(found[place])) for place in chosen[:count]]


def changed(module, operator, occurrence):
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / "keras_slots" / module).read_text(encoding="utf-8")
    return mutate_code(source, get_operator(operator)(), occurrence)


def run_tests(folder, files):
    """In a process of its own, with Keras imported: the exit status of pytest."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    os.chdir(folder)
    sys.path[:0] = [str(folder)]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        import keras_slots  # noqa: F401
    except Exception:
        os._exit(NOT_IMPORTED)
    import pytest

    os._exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *files]))


def outcome(context, folder, module, text):
    """What the tests say of a text of a module."""
    path = folder / "keras_slots" / module
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    # The time of a file is kept in seconds: two changes in one second would look alike.
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
    files = [f"tests/{name}.py" for name in TESTS[module].split()]
    process = context.Process(target=run_tests, args=(folder, files))
    process.start()
    process.join()
    path.write_text(before, encoding="utf-8")
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
    return OUTCOMES[process.exitcode]


def copy_of_the_project(folder):
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in files.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for every change, JSON")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Imports of Keras take seconds: they are done once, in the process that the others are forked from.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras", "scipy.stats"])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_of_the_project(folder)
        for module, line, column, operator, occurrence in sample(args.count, args.seed):
            text = changed(module, operator, occurrence)
            old = (ROOT / "keras_slots" / module).read_text(encoding="utf-8").splitlines()
            pairs = zip(old, text.splitlines(), strict=False)
            pair = next((x for x in pairs if x[0] != x[1]), ("", ""))
            row = {
                "module": module,
                "line": line,
                "column": column,
                "from": pair[0].strip(),
                "to": pair[1].strip(),
                "operator": operator.removeprefix("core/"),
                "outcome": outcome(context, folder, module, text),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        # Where every change was killed, the tests must pass without one.
        for module in {row["module"] for row in rows if row["outcome"] in ("killed", "out of time")}:
            if not any(row["module"] == module and row["outcome"] == "survived" for row in rows):
                text = (ROOT / "keras_slots" / module).read_text(encoding="utf-8")
                assert outcome(context, folder, module, text) == "survived", module
    counted = [row for row in rows if row["outcome"] != "not imported"]
    killed = sum(row["outcome"] != "survived" for row in counted)
    print(f"killed {killed} of {len(counted)}")


if __name__ == "__main__":
    main()
