"""The accelerator and the precision: the only module that asks "is there a GPU?", "does it compute in bfloat16?"."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch.optim import SGD, Adam, Optimizer

from fewlabel.errors import UserError

_held: list[FileLock] = []  # the lock on this process's GPU, for the life of the process
_others: dict[Path, subprocess.Popen[bytes]] = {}  # that share this process's training, by the file of what they said
_MEETING = "FEWLABEL_MEETING"  # where they meet
_ENDING_S = 10.0  # given to another process to end by itself


def pick(name: str, deterministic: bool = False) -> torch.device:
    """``auto`` (the GPU when there is one), ``cpu`` or ``cuda``. Raises `UserError` when there is no such device.

    Args:
        deterministic: on a GPU, equal runs give equal bytes, which costs speed; on a CPU they do anyway.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda': this machine has no usable CUDA GPU; set device: auto or device: cpu")
    _leave_out_the_compiler()
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    if use_cuda:
        _take_gpu(torch.cuda.device_count())
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
    else:
        _keep_freed_memory()
    return torch.device("cuda" if use_cuda else "cpu")


@functools.cache
def _leave_out_the_compiler() -> None:
    """torch imports its compiler with the first optimiser, 2 to 3 s, only to leave optimisers out of what is compiled
    (torch/_compile.py, torch/optim/optimizer.py). Nothing is compiled here: take those wrappers off."""
    if "torch._dynamo" in sys.modules:
        return
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        if plain := getattr(method, "__wrapped__", None):
            setattr(plain, "__dynamo_disable", plain)  # torch's name
    for kind in (Adam, SGD):
        if plain := getattr(kind.step, "__wrapped__", None):
            kind.step = torch.no_grad()(plain)  # type: ignore[method-assign]


def _keep_freed_memory() -> None:
    """glibc gives big blocks back to the system when they are freed and takes them again, zeroed page by page, for the
    next step's activations: a tenth to a half of a training step. Keep them instead, up to the peak in use. In one
    arena for all threads: those of threads hold no block of more than 64 MiB."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-8, 1)  # M_ARENA_MAX


@functools.cache
def task_threads() -> ThreadPoolExecutor:
    """One thread a core for work on whole tasks; torch's own operations run on one thread inside each."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


def precision(device: torch.device) -> str:
    """``bf16`` on a GPU that multiplies bfloat16 (since Ampere), else ``fp32``.

    Not on a CPU, though some could: ResNet-18 steps took 168 instead of 216 ms on two idle cores, but several times as
    long beside other work, and a run would give other numbers on the next machine.
    """
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def mode(device: torch.device) -> dict[str, Any]:
    """All about the device that a training's numbers depend on: what a checkpoint of it is keyed by."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return {
        "device": str(device),
        "precision": precision(device),
        "deterministic": deterministic,
        "processes": process_count(),
    }


def autocast(device: torch.device) -> torch.autocast:
    """A block whose convolutions and matrix products run at `precision`; weights and their updates stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(device) == "bf16")


def _take_gpu(count: int) -> None:
    """Make a visible GPU that no other stage process uses the current one, so that experiments run side by side, one a
    GPU. Where all are taken, the first is shared, and a line says so.

    Processes that share a training go by their rank.
    """
    if _held or "WORLD_SIZE" in os.environ:
        return
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    for index in range(count):
        chip = torch.cuda.get_device_properties(index).uuid  # ``index`` counts what CUDA_VISIBLE_DEVICES lets through
        lock = FileLock(Path(tempfile.gettempdir()) / f"fewlabel-{user}-gpu-{chip}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(lock)  # the system frees it when the process ends, killed or not
        if count > 1:
            torch.cuda.set_device(index)
            print(f"GPU {index} of {count}", flush=True)
        return
    taken = f"all {count} GPUs are taken by other stages: sharing GPU 0"
    taken = taken if count > 1 else "the GPU is taken by another stage: sharing it"
    print(f"{taken}; start fewer workers to give each its own", flush=True)


def describe(device: torch.device) -> str:
    """What a table prints beside a number: ``NVIDIA H100`` or ``AMD EPYC, 2 cores``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def peak_memory_mib(device: torch.device) -> float:
    """The most memory this process has held, in MiB: of the GPU, or on a CPU of the machine (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_facts(device: torch.device, seconds: float, **more: Any) -> dict[str, Any]:
    """What `run.json` holds: how a run went on this machine. Only `compare` reads it, so that equal inputs give equal
    bytes in every other file."""
    return {
        "device": describe(device),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_memory_mib(device)),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes half a second
        **more,
    }


def launch_processes(count: int) -> None:
    """Start this program `count` - 1 times more, and be the first of these processes, unless ``torchrun`` has started
    them. They meet in a file and talk over the loopback: torchrun's own meeting place listens on every address of the
    machine and unpickles what comes."""
    if count > 1 and "WORLD_SIZE" not in os.environ:
        program = sys.modules["__main__"].__spec__
        name = ["-m", program.name] if program else [sys.argv[0]]
        folder = tempfile.mkdtemp(prefix="fewlabel-")
        os.environ |= {"WORLD_SIZE": str(count), "RANK": "0", "LOCAL_RANK": "0", _MEETING: f"file://{folder}/meeting"}
        if sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        for rank in range(1, count):
            environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with Path(folder, f"{rank}.txt").open("w") as said:
                command = [sys.executable, *name, *sys.argv[1:]]
                _others[Path(said.name)] = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=said, stderr=said
                )
        atexit.register(_end_others, folder)
    elif _MEETING in os.environ:
        threading.Thread(target=_leave_with_the_first, daemon=True).start()


def _leave_with_the_first() -> None:
    """A process that is killed before all have met cannot be seen to have left, but for its end of this pipe."""
    os.read(0, 1)
    folder = Path(os.environ[_MEETING].removeprefix("file://")).parent
    for _ in range(10):  # the meeting's file may be made at this moment
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _end_others(folder: str) -> None:
    """They end with this process, as soon as they see that it has left."""
    for process in _others.values():
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def join_processes(device: torch.device) -> int:
    """Join the processes that share this training, if there are any; → this one's rank, 0 when it is alone.

    Raises:
        UserError: another process ended, with what it said last; there is no GPU for this one; or the environment says
            half of what is needed.
        KeyboardInterrupt: a signal ended it.
    """
    count = _world_size()
    if count > 1 and not dist.is_initialized():
        if device.type == "cuda":
            rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if rank >= gpus:
                raise UserError(
                    f"no GPU for one more of {count} processes: each takes one of the {gpus} of this machine; lower "
                    "maml.processes or reptile.processes, or set device: cpu"
                )
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // count))
        _meet(count)
        atexit.register(dist.destroy_process_group)
        if dist.get_rank() > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (one of them speaks for all)
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    size = os.environ.get("WORLD_SIZE", "1")
    where = () if _MEETING in os.environ else ("MASTER_ADDR", "MASTER_PORT")
    needed = {name: os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", *where)} if size != "1" else {}
    numbers = [size, *(value for name, value in needed.items() if name != "MASTER_ADDR")]
    if not all(number.isdecimal() for number in numbers) or not all(needed.values()):
        told = ", ".join(f"{name}={value}" for name, value in needed.items())
        raise UserError(
            f"WORLD_SIZE={size} without what else torchrun sets ({told}): start it by torchrun, or unset it"
        )
    return int(size)


def _meet(count: int) -> None:
    """Wait for the other processes; on a thread, as torch waits half an hour for one that has been killed.

    They talk by gloo also on GPUs: what they average is half a megabyte a step, and NCCL would wait for a process that
    has died.
    """
    failed: list[Exception] = []

    def wait() -> None:
        try:
            where = os.environ.get(_MEETING, "env://")
            dist.init_process_group("gloo", where, rank=int(os.environ["RANK"]), world_size=count)
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.1)
        _tell_of_the_first_that_ended(within=0)
    if failed:
        raise failed[0]


def process_count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def check_share(name: str, tasks: int) -> None:
    """Raises `UserError` unless each process has as many of a step's tasks as every other: `average` counts processes,
    not tasks."""
    count = process_count()
    if tasks % count:
        raise UserError(
            f"{name}: a step has one task, which {count} processes cannot share: start it without torchrun"
            if tasks == 1
            else f"{name}: {count} processes cannot share {name}.meta_batch = {tasks} tasks evenly: start as many as "
            "divide it"
        )


def share() -> slice:
    """Which of a step's tasks are this process's."""
    return slice(dist.get_rank(), None, dist.get_world_size()) if dist.is_initialized() else slice(None)


def average(tensors: list[torch.Tensor]) -> None:
    """In place, the mean over the processes that share a training; of one process, the tensors as they are.

    Raises:
        UserError: another process ended; with what it said last.
        KeyboardInterrupt: a signal ended it.
    """
    if dist.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
        try:
            dist.all_reduce(flat)
        except RuntimeError:
            _tell_of_the_first_that_ended(within=_ENDING_S)
            raise
        flat /= dist.get_world_size()
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _tell_of_the_first_that_ended(within: float) -> None:
    for said, process in _others.items():
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(within) == 130:
                raise KeyboardInterrupt
            last = said.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")
            raise UserError(f"process {said.stem} of {len(_others) + 1} ended: {last or process.returncode}")


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """What Linux says of the first core; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""
