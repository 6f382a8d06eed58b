"""Trains the three adapters of the built-in model again with `sorank train`, and torch's golden answers with them.

    python demo.py SORANK_BINARY [sentiment] [question] [intent]

Each task's rows (data.task: the texts tidied, the labels named) go to files under target/demo; the settings are demo/TASK.toml. What
counts as development rows is the split that the score in ../README.md is of, so the best epoch is chosen by it. Same
binary, machine and threads: same bytes. Afterwards `make.py golden` makes golden.json again. Only the golden answers need
torch, transformers and peft.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import data

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / "target" / "demo"
TASKS = ["sentiment", "question", "intent"]
FILES = ["adapter_config.json", "adapter_model.safetensors", "labels.json"]


def rows(task, split, path):
    names = data.labels(task)
    lines = [f"{text}\t{names[label]}\n" for text, label in data.task(task, split) if text]
    path.write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")


def main(binary, *tasks):
    WORK.mkdir(parents=True, exist_ok=True)
    for task in tasks or TASKS:
        train, dev, out = (WORK / f"{task}.{end}" for end in ("train.tsv", "dev.tsv", "out"))
        rows(task, "train", train)
        rows(task, "test", dev)
        shutil.rmtree(out, ignore_errors=True)
        args = ["train", "--config", HERE / "demo" / f"{task}.toml", "--model", HERE / "base"]
        args += ["--train", train, "--dev", dev, "--out", out]
        subprocess.run([binary, *args], check=True)
        for name in FILES:
            shutil.copyfile(out / name, HERE / "adapters" / task / name)
        made = json.loads((out / "sorank.json").read_text())
        print(task, made["score"], made["parameters"], f'{made["seconds"]:.0f} s', flush=True)
    subprocess.run([sys.executable, HERE / "make.py", "golden"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
