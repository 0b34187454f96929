"""Stands in for both mains in tests of the study: same flags, files and lines, but no learning.

Every start appends a line to CALLS; `--seconds S` is the time of an epoch, `--until FILE` waits for
that file before the first, two minutes at most, `--fail STATE` fails where the ticket of that state
is asked for, `--ask_to_stop` ends like a run that got a signal, `--deaf` does not heed one,
`--killed` ends by SIGTERM as if it came early, `--step_killed` sends it to torchrun and its shell
too; `--slow_plan` takes its time to answer --dry_run, `--small` and `--gigabytes N` are the network
in that answer, which has no cost with `--no_images`; --time_it says two hours, or three with one
thread.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message}\n")


def read_flags():
    parser = Parser(allow_abbrev=False)
    add = parser.add_argument
    add("data", nargs="?")
    for name in ("mode", "tag", "dataset", "init", "tickets_file", "save_dir", "data_number"):
        add(f"--{name}")
    for name, default in (("epochs", 2), ("prune_epoch", 1), ("seed", 1), ("threads", None)):
        add(f"--{name}", type=int, default=default)
    add("--data", dest="data_flag")
    add("--ticket", default="imp")
    add("--seconds", type=float, default=0.0)
    add("--until")
    add("--fail")
    add("--gigabytes", type=float, default=0.0)
    add("--resume", action="store_true")
    signals = ("ask_to_stop", "deaf", "killed", "step_killed")
    told = ("json", "slow_plan", "small", "time_it", "no_images")
    for name in ("reinit", "dry_run", *told, *signals):
        add(f"--{name}", action="store_true")
    return parser.parse_args()


def main():
    args = read_flags()
    searches = Path(sys.argv[0]).name == "main_imp_pretrain.py"
    last = -(-args.epochs // args.prune_epoch) + 1
    if args.dry_run:
        time.sleep(1.5 * args.slow_plan)
        print(json.dumps(plan(args, last if searches else None)))
        return
    if "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in os.environ:
        print(f"torchrun waits {os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT']} seconds", flush=True)
    if args.killed:
        os.kill(os.getpid(), signal.SIGTERM)
    if args.step_killed:
        kill_step()
    if args.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = Path(args.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open(os.environ["CALLS"], "a") as calls:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "-")
        own = f"gpu={gpu} threads={args.threads} pid={os.getpid()}"
        calls.write(f"{time.time():.3f} start {folder} {own}\n")
    if not (folder / "args.json").exists():
        flags = {**vars(args), "command": " ".join(["python", *sys.argv])}
        inputs = {"tickets_file": args.tickets_file, "init": args.init}
        for flag, path in inputs.items():
            if path and Path(path).is_file():
                sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                flags[f"{flag}_content"] = f"sha256 {sha256[:16]}"
        (folder / "args.json").write_text(json.dumps(flags))
    if args.ask_to_stop:
        (folder / "PREEMPTED").write_text("SIGUSR1\n")
        sys.exit(75)
    if args.fail and args.fail in str(args.tickets_file):
        print("something broke", file=sys.stderr)
        sys.exit(1)
    train(args, folder, tickets=last if searches else None)
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{time.time():.3f} end {folder}\n")


def kill_step():
    """SIGTERM to torchrun and the shell above it: Slurm signals every process of a step."""
    torchrun = os.getppid()
    shell = int(Path(f"/proc/{torchrun}/stat").read_text().rsplit(")", 1)[1].split()[1])
    for process in (shell, torchrun):
        os.kill(process, signal.SIGTERM)
    time.sleep(30)


def plan(args, last_ticket):
    """What the study reads of a real main's plan."""
    assert args.json, "the study reads JSON"
    path, name = (args.init, "--init") if last_ticket is None else (args.data, "DATA")
    memory = {"network_bytes": 1e6, "activation_bytes": 1e6 * args.gigabytes * 1e3}
    cost = {"flop": 2e12, "gpu_hours": 0.25, "passes": 4e3 if args.small else 4, **memory}
    return {
        "epochs": args.epochs,
        "epochs_taken": 0,
        "last_ticket": last_ticket,
        "inputs": [{"name": name, "path": path, "missing": not os.path.exists(path or ".")}],
        "timed": {"whole_hours": 3 if args.threads == 1 else 2} if args.time_it else None,
        "cost": None if args.no_images else cost,
    }


def train(args, folder, tickets):
    metrics = folder / "metrics.jsonl"
    first = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    if tickets is not None:
        (folder / "init.pth.tar").write_text("weights")
        (folder / "0-ticket.safetensors").write_text("mask")
    deadline = time.monotonic() + 120
    while args.until and not os.path.exists(args.until) and time.monotonic() < deadline:
        time.sleep(0.02)
    for epoch in range(first, args.epochs):
        time.sleep(args.seconds)
        with metrics.open("a") as file:
            line = {"epoch": epoch, "seconds": args.seconds, "train_loss": 0.5, "val_sa": 80.0}
            file.write(json.dumps(line) + "\n")
        print(f"[label] epoch {epoch + 1}/{args.epochs}: train loss 0.5 acc 80.00 %", flush=True)
        if tickets is not None:
            (folder / f"{epoch // args.prune_epoch + 1}-ticket.safetensors").write_text("mask")
    if tickets is not None:
        (folder / f"{tickets}-ticket.safetensors").write_text("mask")
    else:
        (folder / "results.json").write_text("{}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
