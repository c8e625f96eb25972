"""Start the processes of a module of the tests, and return what each has seen."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Commands = list[tuple[list[str], dict[str, Any]]]


def one_by_one(count: int) -> Commands:
    """Start each process by hand."""
    python, port = [sys.executable, "-W", "ignore"], free_port()
    common = {"LOCAL_WORLD_SIZE": count, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [(python, common | {"LOCAL_RANK": rank}) for rank in range(count)]


def by_torchrun(nodes: int, count: int) -> Commands:
    """Start `torchrun` once for each node, which starts the processes of the node."""
    where = ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--local-addr", "127.0.0.1"]
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nnodes", str(nodes), *where]
    number = ["--nproc-per-node", str(count)]
    return [([*run, *number, "--node-rank", str(node)], {"PYTHONWARNINGS": "ignore"}) for node in range(nodes)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def seen_by(folder: Path, commands: Commands, module: str, arguments: Sequence[str] = ()) -> list[Any]:
    """Run a module in all processes; return the ``results.json`` that each has written into its folder."""
    processes = []
    root = str(Path(__file__).parents[1])
    for number, (command, given) in enumerate(commands):
        environment = os.environ | {key: str(value) for key, value in given.items()} | {"OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        command = [*command, "-m", module, str(folder), *arguments]
        with (folder / f"log{number}").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.terminate()  # torchrun ends its own
    logs = "\n".join((folder / f"log{number}").read_text()[-3000:] for number in range(len(commands)))
    assert set(codes) == {0}, logs
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*/results.json"))]
