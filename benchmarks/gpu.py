"""The measurements that need a GPU, in the order of their worth, side by side and within a time limit.

    python benchmarks/gpu.py --data DATA --stages 1,2,3 --minutes 9

Stages: 1 step time, memory and copy bandwidth (device_step.py); 2 VGG-19 at K = 8 and its learned baseline;
3 CONV-6, -4, -2 the same way, then fine-tuning, K = 2 and 64, probabilistic selection; 4 each --try of yours.
Stages 2 to 4 run examples/paper/train.py and finetune.py on CIFAR-10: DATA is what their --data-dir takes.

All runs on JAX and without TensorFlow (docs/gpu.md). Everything goes into --out: one folder or file and one log
for each job, results.csv as train.py writes it, status.json.
What is finished is never repeated, and what the limit stopped goes on from its last epoch: give the same
command again. --miniature tries every stage in a few steps, also without a GPU; its figures mean nothing.
"""

import argparse
import csv
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRACE = 20  # seconds to stop in
PAPER_NETWORKS = ("conv6", "conv4", "conv2")


@dataclasses.dataclass
class Job:
    """One command. It is finished when its `proof` exists, and waits for the proof that it `needs`."""

    name: str
    command: list
    proof: Path
    alone: bool = False
    needs: Path | None = None


def step_jobs(args):
    """Stage 1: times of all variants in one process, then the memory of each in its own."""
    networks = ("lenet300100",) if args.miniature else ("lenet300100", "conv6", "vgg19")
    values = (8,) if args.miniature else (8, 64)
    modes = ("per_connection", "per_value")
    variants = ["plain", *(f"{mode}:{k}" for k in values for mode in modes)]
    small = ["--steps", "5", "--rounds", "2", "--copy-mb", "100"] if args.miniature else []

    def job(name, network, variants, flags):
        proof = args.out / f"{name.replace(':', '-')}.json"
        command = ["benchmarks/device_step.py", "--network", network, "--variants", variants]
        return Job(name, [*command, *flags, "--out", str(proof)], proof, alone=True)

    for network in networks:
        yield job(f"time-{network}", network, ",".join(variants), small)
    for network in networks:
        for variant in variants:
            flags = [*small, "--rounds", "1", "--copy-mb", "0"]
            yield job(f"memory-{network}-{variant}", network, variant, flags)


def train_job(args, name, *flags):
    """One run of examples/paper/train.py in a folder of its own."""
    folder = args.out / name
    command = ["examples/paper/train.py", *flags, *common_flags(args), "--run-dir", str(folder)]
    command += (
        ["--dataset", "npz", "--batch-size", "16"] if args.miniature else ["--dataset", "cifar10"]
    )
    if args.epochs:
        command += ["--epochs", str(args.epochs)]
    return Job(name, command, folder / "results.json")


def common_flags(args):
    flags = ["--data-dir", str(args.data), "--results", str(args.out / "results.csv")]
    return [*flags, "--verbose", "2", *args.flags]


def pair(args, network):
    """The selected network at K = 8 and its learned baseline."""
    yield train_job(args, f"{network}-gs-k8", "--network", network)
    yield train_job(args, f"{network}-learned", "--network", network, "--method", "learned")


def paper_jobs(args):
    """Stage 3."""
    networks = ("conv2",) if args.miniature else PAPER_NETWORKS
    for network in networks:
        yield from pair(args, network)
    for network in networks:
        selected, out = args.out / f"{network}-gs-k8", args.out / f"{network}-finetuned"
        command = ["examples/paper/finetune.py", str(selected), "--from", "best", "--out", str(out)]
        command += common_flags(args)
        proof = out / "scratch" / "results.json"  # written last
        yield Job(out.name, command, proof, needs=selected / "results.json")
    for network in networks:
        for k in ("2", "64"):
            yield train_job(args, f"{network}-gs-k{k}", "--network", network, "--num-values", k)
    for network in networks:
        flags = ("--network", network, "--selection", "probabilistic")
        yield train_job(args, f"{network}-ps-k8", *flags)


def own_jobs(args):
    """Stage 4."""
    for number, text in enumerate(args.tries, 1):
        yield train_job(args, f"try-{number}", *shlex.split(text))


STAGES = {1: step_jobs, 2: lambda args: pair(args, "vgg19"), 3: paper_jobs, 4: own_jobs}


class Runner:
    """Runs jobs side by side until they are finished or the time is over."""

    def __init__(self, jobs, args):
        self.waiting = [job for job in jobs if not job.proof.exists()]
        self.status = {job.name: "finished before" for job in jobs if job.proof.exists()}
        self.running = {}  # name -> (job, process, start)
        self.args, self.end = args, time.monotonic() + 60 * args.minutes - GRACE

    def run(self):
        """Returns the names of the jobs that are not finished."""
        try:
            while (self.waiting or self.running) and time.monotonic() < self.end:
                self.collect()
                while (job := self.next_job()) is not None:
                    self.start(job)
                if not self.running and self.waiting:
                    break  # they wait for what has failed
                time.sleep(0.2)
        finally:
            self.stop()
        self.status |= {job.name: "not started" for job in self.waiting}
        self.write()
        return [name for name, text in self.status.items() if not text.startswith("finished")]

    def next_job(self):
        """The first waiting job that may start now."""
        jobs = [job for job, _, _ in self.running.values()]
        if len(jobs) >= self.args.jobs or any(job.alone for job in jobs):
            return None
        for job in self.waiting:
            if job.alone and jobs:
                return None
            if job.needs is None or job.needs.exists():
                return job
        return None

    def start(self, job):
        self.waiting.remove(job)
        log = (self.args.out / f"{job.name.replace(':', '-')}.log").open("a")
        with log:
            process = subprocess.Popen(
                [sys.executable, *job.command],
                cwd=ROOT,
                env=environment(1 if job.alone else self.args.jobs, self.args.out),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running[job.name] = (job, process, time.monotonic())
        self.say(job.name, "running")

    def collect(self):
        """Notes what has ended."""
        for name, (job, process, start) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            good = process.returncode == 0 and job.proof.exists()
            word = "finished" if good else f"failed with status {process.returncode}"
            self.say(name, f"{word} after {time.monotonic() - start:.0f} s")

    def stop(self):
        """Interrupts what still runs; train.py keeps the last finished epoch."""
        for _, process, _ in self.running.values():
            process.send_signal(signal.SIGINT)
        until = time.monotonic() + GRACE - 2
        while self.running and time.monotonic() < until:
            for name, (_, process, _) in list(self.running.items()):
                if process.poll() is not None:
                    del self.running[name]
                    self.say(name, "stopped by the time limit")
            time.sleep(0.1)
        for name, (_, process, _) in self.running.items():
            process.kill()
            self.say(name, "killed by the time limit")
        self.running = {}

    def say(self, name, text):
        self.status[name] = text
        print(f"{name}: {text}", flush=True)
        self.write()

    def write(self):
        path = self.args.out / "status.json"
        path.write_text(json.dumps(self.status, indent=1) + "\n", encoding="utf-8")


def environment(jobs, out):
    """JAX as one of `jobs` processes on a GPU: memory as it is needed, up to a share."""
    own = {
        "KERAS_BACKEND": "jax",
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
    }
    if "XLA_CLIENT_MEM_FRACTION" not in os.environ:  # JAX refuses the new and the old name together
        own["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.92 / jobs:.3f}"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | own | {"PYTHONPATH": os.pathsep.join(paths)}


def print_results(path):
    """The accuracies of all finished runs."""
    if not path.exists():
        return
    print(f"\n{'run':28} {'epochs':>6} {'s/epoch':>8} {'validation %':>13} {'test %':>7}")
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            shares = [
                f"{100 * float(row[name] or 'nan'):.2f}" for name in ("val_best", "test_best")
            ]
            print(
                f"{row['name']:28} {row['epochs_done']:>6} {float(row['seconds_per_epoch']):8.1f} "
                f"{shares[0]:>13} {shares[1]:>7}" + ("  limited" if int(row["limit_steps"]) else "")
            )


def write_noise(path):
    """Noise in the place of images, to try the commands on."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 80), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), "uint8")
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(path, **arrays)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default="1,2,3", help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, help="CIFAR-10, as --data-dir of train.py")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9, help="of all (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=3, help="side by side (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of training (default: those of the recipes)")
    parser.add_argument(
        "--try", dest="tries", action="append", default=[], metavar="FLAGS", help="stage 4: a run"
    )
    parser.add_argument(
        "--flags", type=shlex.split, default=[], help="further flags of train.py and finetune.py"
    )
    parser.add_argument("--miniature", action="store_true", help="a few steps of everything")
    args = parser.parse_args(argv)

    def fail(message):
        parser.exit(2, f"gpu.py: error: {message}\n")

    stages = args.stages.split(",")
    if not all(stage in ("1", "2", "3", "4") for stage in stages):
        fail(f"--stages must be out of 1,2,3,4. Received: {args.stages}")
    if args.minutes * 60 <= GRACE or args.jobs < 1:
        fail(f"--minutes must be above {GRACE / 60:.2f} and --jobs at least 1")
    args.stages, args.out = [int(stage) for stage in stages], args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.miniature:
        args.data = args.out / "noise.npz"
        write_noise(args.data)
        args.epochs = 1
        args.flags += ["--limit-steps", "2"]
    if args.stages != [1]:
        if args.data is None or not args.data.exists():
            fail(f"stages 2 to 4 need --data with a file or folder. Received: --data {args.data}")
        args.data = args.data.resolve()
    return args


def main(argv=None):
    args = parse(argv)
    start = time.monotonic()
    jobs = [job for stage in args.stages for job in STAGES[stage](args)]
    left = Runner(jobs, args).run()
    print_results(args.out / "results.csv")
    done = len(jobs) - len(left)
    print(f"{done} of {len(jobs)} jobs are finished, after {time.monotonic() - start:.0f} s")
    if left:
        print(f"not finished: {', '.join(left)}; their logs are in {args.out}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
