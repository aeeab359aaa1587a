"""Run tracking: every stage run is one MLflow run, a child of the run of its pipeline execution.

MLflow is a view: the results themselves are files under DVC, so a store that cannot be reached never costs one. What
it could not take is kept in ``.tracking_spool/`` and sent later: ``python -m fewlabel.tracking send``.

The store is ``$MLFLOW_TRACKING_URI``, or ``sqlite:///<repository>/mlflow.db``, anchored on ``DVC_ROOT`` because an
experiment may run in a temporary copy of the repository. ``FEWLABEL_TRACKING=off`` switches tracking off.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import yaml

from fewlabel.tracking import store as mlflow_store
from fewlabel.tracking.process import RemoteStore
from fewlabel.tracking.store import EXPERIMENT, KEY, Store

__all__ = ["EXPERIMENT", "Run", "outputs", "send", "start"]
_FLUSH_POINTS, _FLUSH_S = 500, 10.0  # one log_batch of many points costs about what one log_metric does
_SAMPLE_S = 20.0  # seconds between samples of the machine's load; a shorter stage has none
# One name in every method, so that runs compare. What a curve has of test images is no result: it is of some of them.
_NAMES = {
    "train_loss": "loss",
    "train_accuracy": "accuracy",
    "test_loss": "curve_test_loss",
    "test_accuracy": "curve_test_accuracy",
}
_ROTATION_NAMES = {
    key: name.replace("test", "rotation") for key, name in _NAMES.items()
}  # another task than the classes
# Trainings that stand on an earlier stage.
_BEFORE = {
    "finetune/rotation": "pretrain_rotation",
    "transfer/small-rotation": "pretrain_rotation",
    "transfer/frozen": "transfer_features",
}
_TRAINING = {"meta_train": "few-shot", "metric_train": "few-shot", "finetune": "cifar10", "transfer": "hymenoptera"}


class Run:
    """One stage run. Every method is safe to call whether or not tracking works."""

    def __init__(
        self,
        record: dict[str, Any] | None = None,
        root: Path = Path(),
        uri: str = "",
        dvc: psutil.Process | None = None,
    ) -> None:
        """
        Args:
            record: what the run is, as `Store.open` takes it; None: tracking is off.
            root: the repository, which holds the spool.
            uri: of the store.
            dvc: the process whose stages share one that holds MLflow; None: this one does.
        """
        self._record, self._root, self._uri = record, root, uri
        self._store: Store | RemoteStore | None = None
        self._ids: tuple[str, str | None] | None = None
        self._spool: Path | None = None  # the file that takes the operations once the store has failed
        self._spooled_all = True  # it took every one
        self._done: list[dict[str, Any]] = []
        self._points: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()
        self._settings: dict[str, Any] = {}
        if record is not None:
            try:
                self._store = RemoteStore(uri, root, dvc) if dvc else Store(uri, root)
                self._ids = self._store.open(record)
            except Exception as error:  # the store may be down, full or locked: never a reason to lose a training
                self._fail(error)

    def log(self, step: int, **numbers: float) -> None:
        """Points of per-step curves; buffered."""
        if self._record is not None:
            names = _ROTATION_NAMES if self._record["name"] == "pretrain_rotation" else _NAMES
            self._add(step, {names.get(key, key): value for key, value in numbers.items()})

    def _add(self, step: int, numbers: dict[str, float]) -> None:
        now = _now()
        self._points += [(name, _short(value), now, step) for name, value in numbers.items()]
        if len(self._points) >= _FLUSH_POINTS or time.monotonic() - self._flushed > _FLUSH_S:
            self._flush()

    def params(self, values: dict[str, Any]) -> None:
        """The stage's own parameters, flattened to dotted names; call once."""
        self._settings = values
        self._do("params", values=mlflow_store.as_params(values))

    def tags(self, **values: Any) -> None:
        self._do("tags", values={key: str(value) for key, value in values.items()})

    def artifact(self, path: str | Path) -> None:
        """A file, stored with the run: a figure, a table."""
        if not any(done["do"] == "artifact" and done["path"] == str(path) for done in self._done):
            self._do("artifact", path=str(path))

    def inputs(self, stage: str) -> None:
        """The prepared data that dvc.yaml says the stage reads, with DVC's own digest: the md5 of the content."""
        if self._record is None:
            return
        for path in _prepared(stage):
            name = path.parent.name if path.stem == "data" else path.stem  # a split, or a data set
            name += "-embedded" if _origin(path) == "embedded" else ""
            context = "test" if stage.startswith("evaluate") else "training"
            self._do("input", name=name, digest=_md5(path), path=str(path), context=context)

    def outputs(self, folder: Path) -> None:
        """What a stage left in its folder: its numbers, how it ran, its pictures, its model."""
        if self._record is None:
            return
        if (folder / "metrics.json").exists():
            self._numbers(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
        if (folder / "run.json").exists():
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            self.tags(**{key: facts[key] for key in ("device", "precision", "torch", "torchvision") if key in facts})
            more = {"peak_memory_mib": facts.get("peak_memory_mib"), **_seconds(folder, facts.get("seconds"))}
            self._add(0, {key: value for key, value in more.items() if value is not None})
        for picture in sorted(folder.glob("*.png")):
            self.artifact(picture)
        if (folder / "model.safetensors").exists():
            self._model(folder)

    def _numbers(self, measured: dict[str, Any]) -> None:
        rows = measured["rows"]
        first = rows[0]
        for row in rows:
            name = "test_accuracy" if row["metric"] == "accuracy" else row["metric"]
            mode = "_transductive" if row["transductive"] else ""  # never under the name that all methods share
            if row["family"] == "few-shot":  # one model, several tasks
                self._add(0, {f"{name}_{row['protocol'].rpartition('/')[2]}{mode}": row["value"]})
            if row["protocol"] == first["protocol"]:
                ends = {f"{name}{mode}_low": row["ci95_low"], f"{name}{mode}_high": row["ci95_high"]}
                self._add(0, {f"{name}{mode}": row["value"], **ends})
        known = ("family", "method", "protocol", "seed", "budget")
        self.tags(origin=measured["origin"], **{key: first[key] for key in known if key in first})

    def _model(self, folder: Path) -> None:
        config = _servable(folder, self._settings)
        if config is not None:
            path = folder / "model.safetensors"
            if "method" in config:
                names = {key: config[key] for key in ("method", "protocol", "seed")}
                self.tags(family="few-shot", **names)
            more = {"backbone": str(_backbone(folder))} if config.get("blocks") else {}
            self._do("model", path=str(path), weights=_md5(path), config=config, **more)

    def summary(self, numbers: dict[str, Any]) -> None:
        """Numbers of the whole pipeline execution: they stand with its run, so that experiments compare in one list.

        Args:
            numbers: nested, family → method → protocol → number; called as DVC calls them, ``few-shot.maml.lake/5w1s``.
        """
        now = _now()
        points = [(key, _short(value), now, 0) for key, value in mlflow_store.flatten(numbers)]
        columns = [f"{f}.{m}.{next(iter(n))}" for f, methods in numbers.items() for m, n in methods.items()]
        self._do("summary", points=points, columns=columns)

    def best(self, family: str, folder: str | Path, value: float, protocol: str, origin: str, budget: str) -> None:
        """Register the model that a training left in `folder` as the best of its family (alias ``best``), unless the
        one that is registered is better.

        Args:
            value: its test accuracy, which it was chosen by.
            origin, budget: of the data, and of the training.
        """
        if self._record is None:
            return
        facts = {"value": str(value), "protocol": protocol, "origin": origin, "budget": budget}
        self._do("best", family=family, weights=_md5(Path(folder) / "model.safetensors"), facts=facts)

    def finish(self, status: str) -> None:
        self._flush()
        stage = os.environ.get("DVC_STAGE", "?")
        self._do("end", status=status, time=_now(), stage=stage)
        if self._spool is not None:
            with contextlib.suppress(OSError):  # `send` finds it under its old name too, once this process has ended
                self._spool.rename(self._spool.with_suffix(".jsonl"))

    def _flush(self) -> None:
        points, self._points = self._points, []
        self._flushed = time.monotonic()
        if points:
            self._do("metrics", points=points)

    def _do(self, what: str, **details: Any) -> None:
        if self._record is None:
            return
        operation = {"do": what, **details}
        self._done.append(operation)
        if self._spool is None:
            try:
                assert self._store is not None
                assert self._ids is not None
                self._store.apply(operation, *self._ids)
            except Exception as error:
                self._fail(error)
        else:
            try:
                _append(self._spool, operation)
            except OSError as full:
                if self._spooled_all:
                    told = "the results are not affected; the run will lack what was logged from here on"
                    print(f"warning: {self._spool} cannot be written ({full.strerror}); {told}", flush=True)
                self._spooled_all = False

    def _fail(self, error: Exception) -> None:
        """From here on into the spool, all that was done before included: it may be sent to another store."""
        reason = mask(error, self._uri)
        assert self._record is not None
        spool = self._root / ".tracking_spool" / f"{self._record['started']}-{self._record['tags'][KEY]}.open"
        try:
            spool.parent.mkdir(exist_ok=True)
            _append(spool, self._record | {"process": [mlflow_store.node(), os.getpid()]})
            for operation in self._done:
                _append(spool, operation)
            self._spool, kept = spool, "the run is kept in .tracking_spool: `make send-runs` sends it later"
        except OSError as full:
            self._record, kept = None, f"the run cannot be kept either ({full.strerror}) and is not tracked"
            _delete(spool)
        print(f"warning: MLflow cannot be reached; the results are not affected; {kept}: {reason}", flush=True)

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """The machine's load, sampled beside a long stage."""
        ended = threading.Event()

        def sample() -> None:
            began, store = time.monotonic(), self._store
            while store is not None and not ended.wait(_SAMPLE_S):
                with contextlib.suppress(Exception):  # a store that broke says so where it is written to
                    numbers = store.load_of_machine()
                    now, step = _now(), round(time.monotonic() - began)
                    self._points += [(key, _short(value), now, step) for key, value in numbers.items()]

        thread = threading.Thread(target=sample, daemon=True)
        if self._record is not None:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()


_current: Run | None = None


@contextlib.contextmanager
def start(stage: str, settings: dict[str, Any], folder: str | Path | None = None, on: bool = True) -> Iterator[Run]:
    """Open the MLflow run of a stage; it ends FINISHED, FAILED or KILLED with the block.

    Args:
        stage: the stage's name, used when DVC does not say one (``DVC_STAGE``).
        settings: the stage's own parameters.
        folder: where the stage leaves its results; None: nowhere.
        on: of the processes that share a training, the first one tells of all.
    """
    global _current
    name = os.environ.get("DVC_STAGE", stage)
    run = _current = _open(name) if on else Run()
    try:
        run.params(settings)
        run.inputs(name)
        with run.sampling():
            yield run
        if folder is not None:
            run.outputs(Path(folder))
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    else:
        run.finish("FINISHED")
    finally:
        _current = None


def outputs(folder: Path) -> None:
    """Tell the run under way, if there is one, that this folder of results is whole."""
    if _current is not None:
        _current.outputs(folder)


def send(root: Path) -> int:
    """Send what the spool holds to the store; → how many runs could not be sent. Says what it does."""
    sent = left = 0
    uri = _uri(root)
    for path in sorted((root / ".tracking_spool").glob("*")):
        if path.suffix not in (".jsonl", ".open"):
            continue
        name = path.name
        try:
            lines = _lines(path)
            if not lines:  # killed before it had told anything
                _delete(path)
                continue
            record, *operations = lines
            name = record["name"]
            if path.suffix == ".open":
                host, process = record["process"]
                if host != mlflow_store.node():
                    as_dead = path.with_suffix(".jsonl").name
                    raise RuntimeError(f"it is {host}'s; send it there or, if it has ended, rename {path} to {as_dead}")
                if _started_before(process, record["started"]):
                    print(f"{name}: still running, as process {process}; skipped")
                    continue
            if not any(operation["do"] == "end" for operation in operations):
                last = int(path.stat().st_mtime * 1000)
                operations.append({"do": "end", "status": "KILLED", "time": last, "stage": name})
            store = Store(uri, root)
            ids = store.open(record)
            for operation in operations:
                if Path(operation.get("path", path)).exists() or operation["do"] == "input":
                    store.apply(operation, *ids)
                else:
                    print(f"{name}: {operation['path']} is gone, and not sent")
        except Exception as error:  # one that cannot be sent holds up no other
            left += 1
            print(f"{name}: not sent: {mask(error, uri)}")
            continue
        sent += 1
        _delete(path)
        print(f"{name}: sent")
    if left:
        print(f"{sent} sent, {left} left in {root / '.tracking_spool'}")
    return left


def _lines(path: Path) -> list[dict[str, Any]]:
    """What a spool holds, but for a last line that was cut off when its writer was killed."""
    *whole, _ = path.read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it") from None


def _started_before(process: int, started: int) -> bool:
    """Whether a process runs that is older than a run: a younger one has only been given the number of the run's."""
    try:
        return psutil.Process(process).create_time() * 1000 <= started
    except psutil.NoSuchProcess:
        return False


def mask(error: Exception | str, uri: str) -> str:
    """The message on one line, without what stands before the ``@`` of any address, or after a ``?``."""
    text = " ".join(str(error).split())
    password = re.match(r"[^:]*://[^:]*:(.*)@", uri)  # to the last @: a slash in it breaks the address, not this
    secrets = [password[1], *re.findall(r"[^/?#@:]{3,}", password[1])] if password else []
    secrets += re.findall(r"[?&][^=&]*=([^&]+)", uri)
    for secret in sorted({each for one in secrets for each in (one, unquote(one)) if each}, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"([?&][^=\s&]*=)[^&\s'\")]+", r"\1***", text)
    return re.sub(r"(?<=//)\S*@", "***@", text)[:300]


def _open(name: str) -> Run:
    off = os.environ.get("FEWLABEL_TRACKING", "").lower() in ("off", "0", "false")
    if off:
        return Run()
    root, dvc = Path(os.environ.get("DVC_ROOT", ".")).resolve(), _dvc()
    tags = _tags()
    record = {
        "name": name,
        "started": _now(),
        "tags": {"fewlabel.stage": name.split("@")[0], "mlflow.source.name": name, KEY: uuid.uuid4().hex, **tags},
        "execution": _execution(tags),
    }
    return Run(record, root, _uri(root), dvc)


def _uri(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def _execution(tags: dict[str, str]) -> dict[str, Any] | None:
    """The pipeline execution that a stage belongs to; None outside DVC."""
    process = _dvc_process()
    if process is None:
        return None
    own = {"fewlabel.execution": process, "fewlabel.stage": "pipeline", "mlflow.source.name": "dvc"}
    files = {
        name: Path(name).read_text(encoding="utf-8") for name in ("params.yaml", "dvc.yaml") if Path(name).exists()
    }
    name = os.environ.get("DVC_EXP_NAME")
    if not name:  # of several at one commit, the time tells which is which
        name = f"repro-{tags.get('git.commit', '')[:7] or 'no-commit'}-{time.strftime('%Y%m%d-%H%M%S')}"
    return {"name": name, "started": _now(), "tags": own | tags, "files": files}


def _dvc_process() -> str | None:
    """A name for the ``dvc`` process above this one: the same for all stages of one execution, and for no other.

    ``dvc repro`` hands its stages nothing that tells one execution from the next, so the process itself has to.
    """
    process = _dvc()
    return f"{mlflow_store.node()}-{process.pid}-{process.create_time():.2f}" if process else None


def _dvc() -> psutil.Process | None:
    """The ``dvc`` process above this one, if there is one."""
    for process in psutil.Process().parents():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(Path(word).name == "dvc" for word in command[:3]):
            return process
    return None


def _tags() -> dict[str, str]:
    tags = {
        "git.commit": _git("rev-parse", "HEAD"),
        "git.dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    if Path("params.yaml").exists():
        tags["params.digest"] = hashlib.sha256(Path("params.yaml").read_bytes()).hexdigest()[:16]
    return {key: value for key, value in tags.items() if value}


def _git(*arguments: str) -> str:
    """Of the tree that the stage runs in: of a copy, ``DVC_ROOT`` is the repository that it was made from. DVC may be
    at work in that tree, so no lock is taken."""
    try:
        done = subprocess.run(["git", "--no-optional-locks", *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _servable(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What `served_model` needs to know of the weights in a folder like ``results/meta_train/maml-lake-5w1s-0``."""
    kind = _TRAINING.get(folder.parent.name)
    if kind is None:
        return None
    common = {"kind": kind, "name": folder.name, "settings": settings, "way": 0, "shot": 0}
    if kind == "few-shot":
        method, split, *task, seed = folder.name.split("-")
        way, shot = map(int, re.findall(r"\d+", task[0] if task else "5w1s"))
        protocol = "/".join([split, *task])
        names = {"method": method, "protocol": protocol, "seed": seed}
        return common | names | {"way": way, "shot": shot, "image": _image(split)}
    if kind == "cifar10":
        return common | {"image": [3, 32, 32], "way": 10, "blocks": settings["frozen_blocks"] or None}
    row = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["rows"][0]
    backbone = row["method"].removeprefix(f"{settings['start']}-")
    return common | {"image": [3, 256, 256], "way": 2, "backbone": backbone}


def _backbone(folder: Path) -> Path:
    """What the folder's model stands on where its backbone was frozen, and the folder holds the head alone."""
    return folder.parents[1] / "pretrain_rotation" / "backbone.safetensors"


def _seconds(folder: Path, seconds: float | None) -> dict[str, float | None]:
    """What a stage's seconds are called. Those of all the training behind a result are ``train_seconds``, as on the
    leaderboard: a test has them too, to set accuracy against."""
    results = folder.parents[1]

    def seconds_of(earlier: Path) -> float | None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((results / earlier / "run.json").read_text(encoding="utf-8")).get("seconds")
        return None

    if folder.parent.name == "evaluate":
        trained = [seconds_of(Path(stage, folder.name)) for stage in ("metric_train", "meta_train")]
        return {"test_seconds": seconds, "train_seconds": next(filter(None, trained), None)}
    cell = folder.relative_to(results).as_posix()
    before = [seconds_of(Path(stage)) for start, stage in _BEFORE.items() if cell.startswith(start)]
    known = [part for part in (seconds, *before) if part is not None]
    return {"stage_seconds": seconds, "train_seconds": sum(known) if len(known) == 1 + len(before) else None}


def _image(split: str) -> list[int]:
    """Channels, height and width of a split's images."""
    import numpy as np

    try:
        with np.load(Path("data/episodes") / split / "data.npz", allow_pickle=False) as file:
            return list(file["images"].shape[2:])
    except (OSError, ValueError, KeyError):
        return [1, 28, 28]  # Omniglot's


def _prepared(stage: str) -> list[Path]:
    """The prepared files among the dependencies of a stage like ``meta_train@maml-lake-5w1s-0``."""
    kind, _, cell = stage.partition("@")
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
        deps = stages[kind]["deps"]
        found = [Path(path) for path in deps if path.startswith("data/prepared/")]
        if any(path.startswith("data/episodes/") for path in deps):
            found += [path for path in Path("data/episodes").glob("*/data.npz") if f"-{path.parent.name}-" in cell]
        return [path for path in found if path.exists()]
    return []


def _origin(path: Path) -> str:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["origin"])
    except Exception:  # damaged, in one of many ways: the stage itself will say so
        return "archive"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _append(spool: Path, line: dict[str, Any]) -> None:
    """Add a whole line to the spool or, with an `OSError`, nothing; a file that it names is copied beside it, as the
    next run may replace it."""
    for key in mlflow_store.FILES.get(line.get("do", ""), ()):
        if key not in line:
            continue
        source = Path(line[key])
        if not source.exists():
            print(f"warning: {source} is gone, and not kept for MLflow", flush=True)
            return
        folder = _files_of(spool)
        folder.mkdir(exist_ok=True)
        copy = folder / source.name
        try:
            shutil.copy2(source, copy)
        except OSError:
            copy.unlink(missing_ok=True)
            raise
        line = line | {key: str(copy)}
    content = (json.dumps(line) + "\n").encode()
    with spool.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(content) < len(content):  # what fitted on a disk that is full now
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _delete(spool: Path) -> None:
    with contextlib.suppress(OSError):
        spool.unlink(missing_ok=True)
    shutil.rmtree(_files_of(spool), ignore_errors=True)


def _files_of(spool: Path) -> Path:
    return spool.with_suffix(".files")


def _short(value: float) -> float:
    """Five digits: what a column of the UI shows."""
    return float(f"{value:.5g}")


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fewlabel.tracking", description="Send what the spool holds.")
    parser.add_argument("command", choices=["send"])
    parser.parse_args()
    sys.exit(1 if send(Path(os.environ.get("DVC_ROOT", ".")).resolve()) else 0)
