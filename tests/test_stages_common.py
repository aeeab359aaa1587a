"""What every stage does the same way: outputs whole or not at all, mistakes in one line."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fewlabel import params
from fewlabel.data import few_shot
from fewlabel.errors import UserError
from stages import common
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("checkout"))  # which has locks of its own


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path) -> None:
    target = tmp_path / "results" / "cell"
    with common.whole_folder(target) as out:
        (out / "model").write_text("one")
        (out / "left-over").write_text("one")
    with common.whole_folder(target) as out:
        (out / "model").write_text("two")
        assert (target / "model").read_text() == "one"
    assert [path.name for path in target.iterdir()] == ["model"]
    assert (target / "model").read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["cell"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path, there) -> None:
    target, far = tmp_path / "cell", tmp_path / "far"
    if there:
        far.mkdir()
        (far / "model").write_text("old")
    target.symlink_to(far)
    for content in ("one", "two"):
        with common.whole_folder(target) as out:
            (out / "model").write_text(content)
        assert (target / "model").read_text() == content
    assert not target.is_symlink()
    assert not there or (far / "model").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"cell"} | ({"far"} if there else set())


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path) -> None:
    target = tmp_path / "cell"
    with common.whole_folder(target) as out:
        (out / "model").write_text("one")

    def fill(out: Path) -> None:
        (out / "model").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), common.whole_folder(target) as out:
        fill(out)
    assert (target / "model").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_what_a_killed_run_left_is_removed(tmp_path) -> None:
    (tmp_path / ".cell.12345.draft").mkdir()
    with common.whole_folder(tmp_path / "cell"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


class Killed(BaseException):
    """Nothing that comes after it is done, as after SIGKILL."""


@pytest.mark.parametrize("moment", ["before anything", "between the renames", "after both", "half of the old deleted"])
def test_a_kill_while_a_result_is_replaced_leaves_the_old_one_or_the_new(moment, tmp_path, monkeypatch) -> None:
    target = tmp_path / "cell"

    def fill(content: str) -> None:
        with common.whole_folder(target) as out:
            for name in ("model", "curve"):
                (out / name).write_text(content)

    fill("old")
    move, clear, rmtree, calls = shutil.move, common._clear, shutil.rmtree, []

    def killed_move(*paths: Path) -> None:
        if moment != "before anything":
            move(*paths)
        raise Killed

    def killed_clear(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) > 1 and moment != "half of the old deleted":
            raise Killed
        clear(*paths)

    def killed_rmtree(path: Path, **_: bool) -> None:
        if path.exists() and path.name.startswith(".cell.aside."):
            (path / "model").unlink()
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(common, "_clear", killed_clear)
        if moment in ("before anything", "between the renames"):
            context.setattr(common.shutil, "move", killed_move)
        elif moment == "half of the old deleted":
            context.setattr(common.shutil, "rmtree", killed_rmtree)
        with pytest.raises(Killed):
            fill("new")
    last = "old" if moment in ("before anything", "between the renames") else "new"
    assert target.exists() == (moment != "between the renames")
    if last == "new":  # as DVC does before it runs the stage again
        rmtree(target)
    with pytest.raises(ZeroDivisionError), common.whole_folder(target):
        raise ZeroDivisionError
    left = {path.name: path.read_text() for path in target.iterdir()} if target.exists() else {}
    assert left == ({} if moment == "half of the old deleted" else dict.fromkeys(("model", "curve"), "old"))
    fill("third")
    assert (target / "model").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_a_result_is_on_the_disk_before_its_checkpoint_is_removed(tmp_path, monkeypatch) -> None:
    done: list[str] = []

    def noted(name: str, what) -> None:
        def call(first, *others):
            where = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            done.append(f"{name} {Path(where).relative_to(tmp_path)}".replace(str(os.getpid()), "1"))
            return what(first, *others)

        monkeypatch.setattr(os, name, call)

    noted("fsync", os.fsync)
    noted("rename", os.rename)
    with common.whole_folder(tmp_path / "cell") as out:
        (out / "figures").mkdir()
        (out / "figures" / "one.png").write_text("one")
        (out / "model").write_text("one")
    draft = ".cell.1.draft"
    content = {f"fsync {draft}{name}" for name in ("", "/figures", "/figures/one.png", "/model")}
    assert set(done[:4]) == content
    assert done[4:] == [f"rename {draft}", "fsync ."]


def test_two_processes_are_not_at_the_same_work(tmp_path, monkeypatch, capsys) -> None:
    code = (
        "import sys\n"
        "from stages import common\n"
        "with common.whole_folder(sys.argv[1]) as out:\n"
        "    (out / 'model').write_text('other')\n"
        "    print('there', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    target = tmp_path / "cell"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "there\n"
    monkeypatch.setattr(common, "_ENDING_S", 0.1)

    def main() -> None:
        with common.whole_folder(target):
            pass

    assert said(main, capsys) == f"error: process {other.pid} is at `{target}` already: wait for it, or end it\n"
    other.communicate("")
    assert (target / "model").read_text() == "other"
    main()


def test_two_processes_do_not_run_the_same_stage(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["stages/meta_train.py", "maml", "lake", "--seed", "0"])
    monkeypatch.setattr(common, "_ENDING_S", 0.1)
    ran: list[str] = []

    def main() -> None:
        line = said(lambda: ran.append("second"), capsys)
        assert (
            line
            == f"error: process {os.getpid()} is at `meta_train maml lake --seed 0` already: wait for it, or end it\n"
        )
        monkeypatch.setattr("sys.argv", ["stages/meta_train.py", "maml", "lake", "--seed", "1"])
        common.launch(lambda: ran.append("another"))

    common.launch(main)
    assert ran == ["another"]


def test_where_no_lock_can_be_made_a_stage_runs_all_the_same() -> None:
    Path(".checkpoints").touch()
    ran: list[bool] = []
    common.launch(lambda: ran.append(True))
    assert ran


def test_a_mistake_is_one_line_and_exit_code_2(capsys) -> None:
    def main() -> None:
        raise UserError("data/x.npz: damaged; delete it")

    with pytest.raises(SystemExit) as exit_:
        common.launch(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: data/x.npz: damaged; delete it\n"


def test_a_full_disk_is_one_line(capsys) -> None:
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results/x")

    with pytest.raises(SystemExit) as exit_:
        common.launch(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device: results/x; mend that and run again\n"


def said(main, capsys, code: int = 2) -> str:
    """The one line with which a stage ends."""
    with pytest.raises(SystemExit) as exit_:
        common.launch(main)
    assert exit_.value.code == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


STAGE = """
import os, sys
from pathlib import Path
from stages.common import launch, whole_folder

def main():
    for number in range(3):
        print(number)
    if len(sys.argv) > 1:
        with whole_folder(sys.argv[1]) as out:
            (out / "large").write_bytes(bytes(2**20))

launch(main)
"""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("python stage.py | true", "error: Broken pipe: while writing, to a file or to the terminal; mend that"),
        ("python stage.py > /dev/full", "error: No space left on device: while writing, to a file or to the terminal"),
        ("python stage.py >&-", None),
        ("ulimit -f 100; python stage.py results/cell", "error: File too large: results/cell; mend that and run again"),
        ("RANK=1 python stage.py && test -d .checkpoints/locks", None),
    ],
)
def test_what_the_shell_does_to_a_stage_is_one_line_at_most(tmp_path, monkeypatch, command, told) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stage.py").write_text(STAGE)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=environment
    )
    if told is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(told)


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_second_process_is_refused_on_a_file_system_without_locks_too(monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    refused = pytest.raises(UserError, match=f"process {os.getpid()} is at `work` already")
    with common._alone("work"), refused, common._alone("work"):
        pass
    with common._alone("work"):
        pass


def test_a_full_disk_names_what_was_being_written(tmp_path, capsys) -> None:
    def main() -> None:
        with common.whole_folder(tmp_path / "cell"):
            raise OSError(errno.ENOSPC, "No space left on device")

    line = said(main, capsys)
    assert line == f"error: No space left on device: {tmp_path / 'cell'}; mend that and run again\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_in_one_line_that_says_how_to_go_on(number, capsys) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    try:
        assert said(main, capsys, code=130).startswith("interrupted: run the same command again")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_old_result_is_deleted_leaves_none_of_it(
    number, replaced, tmp_path, capsys, monkeypatch
) -> None:
    before, delete, signals = signal.getsignal(signal.SIGTERM), common.delete, []
    if replaced:
        with common.whole_folder(tmp_path / "cell") as folder:
            (folder / "model").write_text("old")

    def interrupted_delete(path: Path) -> None:
        if not signals:
            signals.append(number)
            signal.raise_signal(number)
        delete(path)

    def main() -> None:
        with common.whole_folder(tmp_path / "cell") as folder:
            (folder / "model").write_text("new")
            if not replaced:
                raise UserError("what was drafted is deleted")

    monkeypatch.setattr(common, "delete", interrupted_delete)
    try:
        assert said(main, capsys, code=130).startswith("interrupted: ")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals
    assert [(path.name, (path / "model").read_text()) for path in tmp_path.iterdir()] == [("cell", "new")] * replaced


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_says_nothing(tmp_path, number) -> None:
    code = (
        "import atexit, os, time\n"
        "from stages import common\n"
        f"def late(): os.kill(os.getpid(), {int(number)}); time.sleep(0.1)\n"
        "atexit.register(late)\n"
        "common.launch(lambda: None)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(("stage", "module"), [("meta_train", "torch"), ("queue", "dvc")])
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_a_stage_imports_ends_it_and_no_import_can_hide_it(tmp_path, stage, module, ignored) -> None:
    (tmp_path / f"{module}.py").write_text(
        "import signal, sys\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except BaseException:\n"
        "    raise ImportError('hidden')\n"
        "sys.exit('went on')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == ((1, "went on\n") if ignored else (-signal.SIGINT, ""))


@pytest.mark.parametrize("ignored", [False, True])
def test_a_stage_under_nohup_goes_on_at_ctrl_c(ignored, capsys) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)

    def main() -> None:
        signal.raise_signal(signal.SIGINT)
        raise UserError("went on")

    try:
        line = said(main, capsys, code=2 if ignored else 130)
        assert line.startswith("error: went on" if ignored else "interrupted: ")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (("stages/meta_train.py", "siamese", "lake"), "siamese.classes"),
        (("stages/meta_train.py", "prototypes", "lake"), "prototypes.way"),
        (("stages/meta_train.py", "nearest_mean", "lake"), "nearest_mean.classes"),
        (("stages/meta_train.py", "maml", "lake", "--task", "5w1s"), "maml.meta_batch"),
        (("stages/meta_train.py", "reptile", "lake", "--task", "5w1s"), "reptile.meta_batch"),
        (("stages/pretrain_rotation.py",), "pretrain_rotation.batch_size"),
        (("stages/finetune.py", "rotation", "20-0"), "finetune.batch_size"),
        (("stages/transfer.py", "finetune"), "transfer.batch_size or transfer.crop_size"),
        (("stages/transfer_features.py",), "transfer.image_size"),
        (("stages/episodes.py", "lake"), "episodes.count"),
        (("stages/evaluate.py", "prototypes", "lake"), "episodes.queries"),
        (("stages/episodes.py", "flowers"), "own_images.flowers.size or own_images.flowers.per_class"),
        (("stages/evaluate.py", "maml", "flowers"), "own_images.flowers.size or own_images.flowers.per_class"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("Unable to allocate 8.00 EiB for an array"),
    ],
)
def test_no_memory_names_the_parameter_to_lower(error, arguments, parameter, monkeypatch, capsys) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr("sys.argv", list(arguments))
    line = said(main, capsys)
    assert line.startswith("error: out of memory (")
    assert f"lower {parameter} in params.yaml" in line
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["own_images"] = {"flowers": {"folder": "x"}}
    for name in parameter.split(" or "):  # which there is
        section: Any = params.parse(raw).model_dump()
        for key in name.split("."):
            section = section[key]


def test_a_damaged_file_of_weights_is_named(tmp_path, capsys) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1])
    line = said(lambda: load_file(tmp_path / "model.safetensors"), capsys)
    assert line.startswith(f"error: {tmp_path / 'model.safetensors'}: damaged (")


def test_whatever_numpy_raises_for_a_damaged_file_names_it(tmp_path, capsys) -> None:
    np.savez(tmp_path / "data.npz", images=np.zeros((200, 200)))
    content = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(content.replace(b"(200, 200), }", b"(200, 200 , }"))  # a TokenError
    line = said(lambda: few_shot.load(tmp_path / "data.npz"), capsys)
    assert line.startswith(f"error: {tmp_path / 'data.npz'}: damaged (")


def test_weights_of_another_network_are_refused(capsys) -> None:
    weights = torch.nn.Linear(2, 3).state_dict()
    assert "another network's" in said(lambda: torch.nn.Linear(3, 3).load_state_dict(weights), capsys)


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        common.launch(main)


def test_json_refuses_what_is_no_number(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.write_json(tmp_path / "x.json", {"accuracy": float("nan")})
