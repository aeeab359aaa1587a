"""One process that holds MLflow for all stages of a pipeline execution.

Every stage is a process, and importing MLflow takes longer than a small experiment's training. So the first stage that
`dvc` starts starts this process, and each stage has it do what `mlflow_store.Store` would do within the stage: JSON
over a socket on 127.0.0.1, behind a key in a file that only its owner can read. It ends when that `dvc` has ended.
A run whose stage goes away without a word is ended as KILLED.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

import psutil

from fewlabel.tracking.store import FILES, Store

_LOOK_S = 1.0  # between looks at whether `dvc` is still there
_GREETING_S, _ANSWER_S = 30.0, 600.0  # that the process may take for its first word, and for any other


class RemoteStore:
    """`Store`, in that process. Every method raises `RuntimeError` with MLflow's message, or when the process is gone
    `OSError` or `EOFError`; after that, and after the end of the run, it serves the next stage."""

    def __init__(self, uri: str, root: Path, dvc: psutil.Process) -> None:
        """
        Args:
            uri, root: as for `Store`.
            dvc: the process whose stages share the store.
        """
        address = root / ".dvc" / "tmp" / f"mlflow-{dvc.pid}-{dvc.create_time():.0f}.json"
        self._lock = threading.Lock()  # a stage samples its machine's load in a thread
        try:
            self._connection = _connect(address)
        except (OSError, EOFError, ValueError, AuthenticationError):  # not there yet, or killed
            _start(address, dvc)
            self._connection = _connect(address)
        self._ask("store", uri, str(root))

    def open(self, record: dict[str, Any]) -> tuple[str, str | None]:
        run, parent = self._ask("open", record)
        return run, parent

    def apply(self, operation: dict[str, Any], run: str, parent: str | None) -> None:
        names = [name for name in FILES.get(operation["do"], ()) if name in operation]
        operation = operation | {name: str(Path(operation[name]).resolve()) for name in names}
        self._ask("apply", operation, run, parent)
        if operation["do"] == "end":
            self._connection.close()

    def load_of_machine(self) -> dict[str, float]:
        return self._ask("load_of_machine")

    def _ask(self, call: str, *arguments: Any) -> Any:
        try:
            with self._lock:
                self._connection.send_bytes(json.dumps([call, *arguments]).encode())
                if not self._connection.poll(_ANSWER_S):
                    raise TimeoutError("the process that holds MLflow does not answer")
                answer = json.loads(self._connection.recv_bytes())
            if "error" in answer:
                raise RuntimeError(answer["error"])
        except Exception:
            self._connection.close()
            raise
        return answer["value"]


def _connect(address: Path) -> Connection:
    told = json.loads(address.read_text(encoding="utf-8"))
    connection, key = Client(("127.0.0.1", told["port"])), bytes.fromhex(told["key"])
    if not connection.poll(_GREETING_S):
        connection.close()
        raise TimeoutError("the process that holds MLflow does not answer")
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    return connection


def _start(address: Path, dvc: psutil.Process) -> None:
    command = [sys.executable, "-m", "fewlabel.tracking.process", str(address), str(dvc.pid)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as out:
        if out.readline() != b"ready\n":
            raise ChildProcessError("the process that holds MLflow did not start")


def serve(address: Path, dvc: psutil.Process) -> None:
    """Serve one stage after the other, until `dvc` has ended and its last stage too."""
    key, busy = secrets.token_bytes(32), threading.Lock()
    stores: dict[tuple[str, str], Store] = {}
    known: queue.SimpleQueue[Connection] = queue.SimpleQueue()  # connections of those who have the key
    with Listener(("127.0.0.1", 0)) as listener:
        address.parent.mkdir(parents=True, exist_ok=True)
        address.unlink(missing_ok=True)
        with os.fdopen(os.open(address, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"port": listener.address[1], "key": key.hex()}, file)
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        threading.Thread(target=_end_with, args=(dvc, busy, address), daemon=True).start()
        threading.Thread(target=_receive, args=(listener, key, known), daemon=True).start()
        while True:
            with known.get() as connection, busy:
                _serve_stage(connection, stores)


def _receive(listener: Listener, key: bytes, known: queue.SimpleQueue[Connection]) -> None:
    """Whoever connects is asked for the key on a thread of its own, so that one who says nothing holds up no other."""

    def greet(connection: Connection) -> None:
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            known.put(connection)
        except (AuthenticationError, EOFError, OSError):  # a stranger, or a stage killed at this moment
            connection.close()

    while True:
        with contextlib.suppress(OSError):
            threading.Thread(target=greet, args=(listener.accept(),), daemon=True).start()


def _end_with(dvc: psutil.Process, busy: threading.Lock, address: Path) -> None:
    while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
        time.sleep(_LOOK_S)
    with busy:
        address.unlink(missing_ok=True)
        os._exit(0)


def _serve_stage(connection: Connection, stores: dict[tuple[str, str], Store]) -> None:
    place, run, name = ("", ""), None, ""
    try:
        while True:
            call, *arguments = json.loads(connection.recv_bytes())
            try:
                value = None
                if call == "store":
                    place = (arguments[0], arguments[1])
                    stores[place] = stores.get(place) or Store(arguments[0], Path(arguments[1]))
                else:
                    value = getattr(stores[place], call)(*arguments)
                if call == "open":
                    run, name = value, arguments[0]["name"]
                if call == "apply" and arguments[0]["do"] == "end":
                    run = None
                answer = {"value": value}
            except Exception as error:  # the stage decides what that costs, and keeps the run for later
                run, answer = None, {"error": str(error) or type(error).__name__}
                stores.pop(place, None)
            connection.send_bytes(json.dumps(answer).encode())
    except (EOFError, OSError):
        if run is not None:
            ended = {"do": "end", "status": "KILLED", "time": int(time.time() * 1000), "stage": name}
            with contextlib.suppress(Exception):
                stores[place].apply(ended, *run)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), psutil.Process(int(sys.argv[2])))
