"""Nothing from outside is run: no pickle is loaded, no server listens beyond this machine, no secret is kept."""

import ast
import hashlib
import http.server
import io
import json
import pickle
import re
import socket
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fewlabel import params
from fewlabel.data import cifar10, few_shot, hymenoptera, omniglot
from fewlabel.fewshot import episodes
from fewlabel.networks import backbones as pretrained
from fewlabel.networks import resnet
from fewlabel.report import examples
from fewlabel.training import checkpoint
from fewlabel.training.checkpoint import Checkpoint
from fewlabel.transfer import starts
from stages import common
from tests.conftest import ROOT
from tests.reliability import audit
from tests.reliability.bench import Bench, ended
from tests.report.test_examples import write


class Bomb:
    """Unpickled, it makes the file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def as_torch(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 1, "weights": bomb}, buffer)
    return buffer.getvalue()


def as_old_torch(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 1, "weights": bomb}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_npy(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def as_npz(bomb: Bomb) -> bytes:
    """Under every name that a reader asks for."""
    names = "images names origin train validation test background classes support query labels is_train vinyals_train"
    kept = ["5w1s support", "5w1s query", "5w1s predicted"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in [*names.split(), *kept, "train_images", "train_labels", "test_images", "test_labels"]:
            archive.writestr(f"{name}.npy", as_npy(bomb))
    return buffer.getvalue()


def checkpoint_of(path: Path) -> None:
    """The file in the place of a checkpoint, its digest right."""
    planted = Checkpoint("planted", {}, [])
    planted.save({"step": 0})
    content = path.read_bytes()
    planted._path.write_bytes(hashlib.sha256(content).digest() + content)
    assert planted.load() is None


def archive_of(pack: Callable[[Path, str], Any], name: str) -> Callable[[Path], Any]:
    """The file in the place of a raw archive."""
    return lambda path: pack(path.rename(path.with_name(name)).parent, "embedded")


def examples_of(path: Path) -> None:
    """The file in the place of the kept episodes of an evaluation."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["cells"] |= {"splits": ["lake"], "metric_methods": ["siamese"], "gradient_methods": [], "few_shot_seeds": [0]}
    cell = path.with_name("evaluate") / "siamese-lake-0"
    write(cell, "siamese", "lake", {"5w1s": 5}, (False,), 0)
    path.rename(cell / "examples.npz")
    examples.read(params.parse(raw), path.parent)


def features_of(path: Path) -> None:
    """The file in the place of the features of the photographs."""
    starts.frozen(path, torch.device("cpu"), photographs=3, classes=2, seed=0)


READERS: list[Callable[[Path], Any]] = [
    checkpoint_of,
    lambda path: pretrained._fill(torch.nn.Linear(1, 1), pretrained._read(path, "resnet18"), "resnet18"),
    resnet.load,
    load_file,
    omniglot.load,
    cifar10.load,
    hymenoptera.load,
    few_shot.load,
    lambda path: episodes.load(path, 10, 20),
    params.load,
    archive_of(omniglot.pack, omniglot.BACKGROUND.name),
    archive_of(cifar10.pack, cifar10.BINARY.name),
    archive_of(hymenoptera.pack, hymenoptera.PHOTOGRAPHS.name),
    examples_of,
    features_of,
]


@pytest.mark.parametrize("plant", [as_pickle, as_torch, as_old_torch, as_npy, as_npz])
@pytest.mark.parametrize("read", READERS, ids=range(len(READERS)))
def test_a_planted_pickle_is_never_loaded(tmp_path: Path, plant: Any, read: Any, monkeypatch: Any, capsys: Any) -> None:
    witness = tmp_path / "witness"
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path / "checkpoints")
    (tmp_path / "file").write_bytes(plant(Bomb(witness)))
    if read is checkpoint_of:
        read(tmp_path / "file")
    else:
        with pytest.raises(SystemExit):
            common.launch(lambda: read(tmp_path / "file"))
        assert capsys.readouterr().err.startswith("error: ")
    assert not witness.exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    torch.load(io.BytesIO(as_torch(Bomb(tmp_path / "witness"))), weights_only=False)
    assert (tmp_path / "witness").exists()


MUST_SAY = {"torch.load": "weights_only=True", "numpy.load": "allow_pickle=False", "ruamel.yaml.YAML": "typ='safe'"}
MUST_NOT_SAY = re.compile(r"weights_only=(?!True$).*|allow_pickle=(?!False$).*")
LOADS = re.compile(
    r"(pickle|_pickle|cPickle|dill|joblib|cloudpickle|marshal|shelve)\..*(load|open|Unpickler).*|eval|exec|"
    r".*\.(read_pickle|unsafe_load|full_load|load_all|unpack_archive|extractall|recv|all_gather_object)|"
    r"yaml\.load|numpy\.(fromfile|genfromtxt|lib\..*)|torch\.(hub|jit|serialization|package)\..*"
)


def loads(source: str) -> tuple[list[tuple[int, str]], set[str]]:
    """The calls in this code that could load a pickle, each with its line, by the full names that imports give them;
    and those that say that they must not."""
    tree = ast.parse(source)
    names, found, safe = {}, [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for each in node.names:
                whole = each.name if each.asname or module else each.name.partition(".")[0]
                names[each.asname or whole] = module + whole
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            name = names.get(first, first) + dot + rest
            said = [f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords]
            if any(map(MUST_NOT_SAY.fullmatch, said)) or LOADS.fullmatch(name):
                found.append((node.lineno, name))
            elif name in MUST_SAY:
                if MUST_SAY[name] in said:
                    safe.add(name)
                else:
                    found.append((node.lineno, name))
    return found, safe


def test_no_call_could_load_one() -> None:
    safe = set()
    for path in [path for folder in ("src", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py")]:
        found, said = loads(path.read_text(encoding="utf-8"))
        assert not found, path
        safe |= said
    assert safe == set(MUST_SAY)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle; pickle.loads(b'')",
        "import pickle as p; p.Unpickler(file)",
        "from pickle import loads; loads(b'')",
        "from pickle import load as read; read(file)",
        "from torch import load; load('x')",
        "import torch as t; t.load('x', weights_only=False)",
        "import torch; torch.load('x')",
        "import numpy as n; n.load('x')",
        "from numpy import load; load('x', allow_pickle=True)",
        "import yaml; yaml.load(text, Loader=yaml.UnsafeLoader)",
        "from ruamel.yaml import YAML; YAML(typ='unsafe')",
        "import pandas; pandas.read_pickle('x')",
        "from torch.hub import load; load('x')",
        "connection.recv()",
        "module.whatever(weights_only=False)",
        "eval('x')",
    ],
)
def test_a_call_that_could_would_be_found(code: str) -> None:
    assert loads(code)[0]


def test_servers_listen_on_this_machine_alone() -> None:
    commands = [
        (path.name, line)
        for path in [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.search(r"mlflow (ui|server|models serve|gateway)\b.*--", line)
        or (path.name == "Makefile" and re.search(r"mlflow (ui|server)\b", line) and "echo" not in line)
    ]
    assert commands
    for name, line in commands:
        assert "--host 127.0.0.1" in line, (name, line)


def test_every_locked_requirement_has_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry[:100]
    assert "--require-hashes" in (ROOT / "Makefile").read_text()


def test_the_audit_says_what_was_found_or_how_old_the_lock_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr="first\nno network\n")
    git = audit.run
    monkeypatch.setattr(audit, "run", lambda command, **more: git(command) if command[0] == "git" else answer)
    audit.main()
    age = r"(\d{4}-\d\d-\d\d, \d+ days ago|an unknown day)"
    assert re.fullmatch(rf"not audited \(no network\); requirements\.lock is of {age}\n", capsys.readouterr().out)
    holes = [{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}, {"name": "b", "version": "2", "vulns": []}]
    answer.returncode, answer.stdout = 0, json.dumps({"dependencies": holes})
    with pytest.raises(SystemExit) as ended_with:
        audit.main()
    assert ended_with.value.code == 1
    assert "2 locked requirements audited, 1 known vulnerabilities" in (told := capsys.readouterr().out)
    assert "a 1: X-1" in told


class Refusing(http.server.BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.send_error(500)

    do_GET = do_POST = do_PUT = do_PATCH = _refuse

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.pipeline
@pytest.mark.parametrize("answers", [False, True], ids=["no server", "a server that refuses"])
def test_no_secret_of_a_tracking_address_is_written_down(bench: Bench, answers: bool) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        port = server.server_port
        if answers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        else:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        address = f"http://somebody:hunter2%21@127.0.0.1:{port}"
        tracked = {"FEWLABEL_TRACKING": "on", "DVC_ROOT": str(bench.folder), "MLFLOW_TRACKING_URI": address}
        out, err = ended(bench.start("download", **tracked, no_proxy="127.0.0.1"))
        if answers:
            server.shutdown()
    assert "warning: the run is not whole in MLflow" in out
    for path in bench.folder.rglob("*"):
        if path.is_file() and ".git" not in path.parts and "tests" not in path.parts:
            assert b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in out + err
