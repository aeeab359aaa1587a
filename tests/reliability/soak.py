"""Many small experiments through DVC's queue, on the workers of ``stages.queue``:
``python -m tests.reliability.soak FOLDER --experiments 200 --jobs 2``.

Each trains prototypes with another learning rate, tests them and compares. At the end it counts: experiments that are
there and lost, runs in MLflow, workers that died or stood still, processes that hold MLflow and outlive the workers,
and the memory of the workers early and late. Exit code 1 when something was lost, stood still or was left over, or
memory grew. Workers that died or stand still (treeverse/dvc#10562) are replaced, and counted.
"""

import argparse
import csv
import json
import re
import statistics
import sys
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient

from fewlabel import tracking
from tests.reliability.bench import Bench

LOOK_EVERY_S, STILL_S = 15, 600  # no experiment ends for so long: the workers stand still
STAGES = {"metric_train@prototypes-lake-0", "evaluate_metric@prototypes-lake-0", "compare"}
START_S = 120
GROWTH = 1.2  # of the workers' memory, last quarter over first, that is still called steady


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that does not exist yet; keeps the clone, its logs and memory.csv")
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    bench = Bench(arguments.folder.resolve())
    bench.configure(**{"prototypes.iterations": 10, "prototypes.checkpoint_every": 5, "prototypes.validate_every": 5})
    bench.run(["dvc", "repro"], FEWLABEL_TRACKING="off")
    bench.run(["git", "add", "-A"])
    bench.run(["git", "commit", "-qm", "results"])
    rates = ",".join(f"{0.001 + number * 1e-6:.6f}" for number in range(arguments.experiments))
    queued = bench.run(["dvc", "exp", "run", "--queue", "-S", f"prototypes.lr={rates}"]).stdout
    names = set(re.findall(r"Queued experiment '(\S+?)'", queued))
    assert len(names) == arguments.experiments, queued[-2000:]
    print(f"{len(names)} experiments queued", flush=True)
    sys.exit(1 if count(bench, names, *soak(bench, len(names), arguments.jobs)) else 0)


def start(bench: Bench, jobs: int) -> None:
    """Start the workers that are not there, which it does one after another."""
    with (bench.folder / "workers.log").open("a") as log:
        bench.popen(["python", "-m", "stages.queue", "--jobs", str(jobs)], log, FEWLABEL_TRACKING="on")
    last = time.monotonic() + START_S
    while len(workers(bench)) < jobs and time.monotonic() < last:
        time.sleep(1)


def workers(bench: Bench) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(bench.folder) and any("spawn_main" in word for word in process.info["cmdline"]):
            found.append(process)
    return found


def memory_mib(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def soak(bench: Bench, experiments: int, jobs: int) -> tuple[list[float], int, int, float]:
    """→ the workers' mean memory at each look, in MiB; deaths; standstills; seconds."""
    began = changed = time.monotonic()
    memory: list[float] = []
    deaths = stills = done = 0
    start(bench, jobs)
    with (bench.folder / "memory.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seconds", "done", "workers", "worker_mib", "machine_mib"])
        while True:
            time.sleep(LOOK_EVERY_S)
            status = bench.run(["dvc", "queue", "status"]).stdout
            states = [status.count(state) for state in ("Success", "Failed", "Queued", "Running")]
            now_done, left = states[0] + states[1], states[2] + states[3]
            there = workers(bench)
            each = statistics.mean(map(memory_mib, there)) if there else 0.0
            used = psutil.virtual_memory().used / 2**20
            table.writerow([round(time.monotonic() - began), now_done, len(there), round(each), round(used)])
            file.flush()
            if there:
                memory.append(each)
            if now_done != done:
                done, changed = now_done, time.monotonic()
                print(f"{done}/{experiments} in {time.monotonic() - began:.0f} s, {each:.0f} MiB a worker", flush=True)
            if not left:
                return memory, deaths, stills, time.monotonic() - began
            if states[2] and len(there) < jobs:  # experiments wait, and a worker is gone
                deaths += jobs - len(there)
                start(bench, jobs)  # starts those that are not there
            elif time.monotonic() - changed > STILL_S:
                stills, changed = stills + 1, time.monotonic()
                bench.run(["dvc", "queue", "stop", "--kill"], ok=False)
                for process in workers(bench):
                    process.kill()
                start(bench, jobs)


def count(bench: Bench, names: set[str], memory: list[float], deaths: int, stills: int, seconds: float) -> bool:
    """Print what there is at the end; → whether anything went wrong."""
    shown = json.loads(bench.run(["dvc", "exp", "show", "--json"]).stdout)
    there = {each["name"] for revision in shown for each in revision["experiments"] or []}
    client = MlflowClient(tracking_uri=f"sqlite:///{bench.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs, token = [], None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        runs, token = [*runs, *page], page.token or ""
    parents = {run.info.run_id: run.info.run_name for run in runs if "mlflow.parentRunId" not in run.data.tags}
    stages: dict[str, set[str]] = {}
    for run in runs:
        if run.info.status == "FINISHED" and (parent := run.data.tags.get("mlflow.parentRunId")):
            stages.setdefault(parents[parent], set()).add(run.info.run_name)
    untold = {name for name in names if not stages.get(name, set()) >= STAGES}
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[:quarter]), statistics.median(memory[-quarter:])
    print(f"{len(names & there)} of {len(names)} experiments are there; {len(untold)} lack a finished run in MLflow")
    print(f"{deaths} workers died, {stills} times they stood still for {STILL_S} s")
    print(f"memory of a worker: {early:.0f} MiB in the first quarter of the time, {late:.0f} MiB in the last")
    print(f"{seconds:.0f} s in all, {seconds / len(names):.1f} s an experiment")
    for process in workers(bench):
        process.terminate()
    return bool(names - there or untold or deaths or stills or late > GROWTH * early)


if __name__ == "__main__":
    main()
