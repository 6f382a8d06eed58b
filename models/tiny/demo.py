"""Trains the three adapters of the built-in model again with `sorank train`, and torch's golden answers with them.

    python demo.py SORANK_BINARY [sentiment] [question] [intent] [golden]

Each task's rows (data.task: the texts tidied, the labels named) go to files under target/demo; the settings are demo/TASK.toml. What
counts as development rows is the split that the score in ../README.md is of, so the epoch is chosen by it. Same
binary, machine and threads: same bytes. A task that was cut goes on where it was. The adapter as stored is scored with `sorank eval`.
`golden` makes golden.json again (`make.py golden`); only that needs torch, transformers and peft. Without words: everything.
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


def train(binary, task):
    train_rows, dev, out = [WORK / f"{task}.{end}" for end in ("train.tsv", "dev.tsv", "out")]
    rows(task, "train", train_rows)
    rows(task, "test", dev)
    shutil.rmtree(out, ignore_errors=True)
    args = ["train", "--resume", "--config", HERE / "demo" / f"{task}.toml", "--model", HERE / "base"]
    args += ["--train", train_rows, "--dev", dev, "--out", out, "--quiet"]
    subprocess.run([binary, *args], check=True, stdout=subprocess.DEVNULL)
    stored = HERE / "adapters" / task
    for name in FILES:
        shutil.copyfile(out / name, stored / name)
    made = json.loads((out / "sorank.json").read_text())
    args = ["eval", "--model", HERE / "base", "--adapter", stored, "--input", dev]
    scores = subprocess.run([binary, *args], check=True, capture_output=True, text=True).stdout
    print(task, made["score"], made["parameters"], f'{made["seconds"]:.0f} s; as stored:', scores.strip(), flush=True)


def main(binary, *words):
    WORK.mkdir(parents=True, exist_ok=True)
    for word in words or [*TASKS, "golden"]:
        if word == "golden":
            subprocess.run([sys.executable, HERE / "make.py", "golden"], check=True)
        else:
            train(binary, word)


if __name__ == "__main__":
    main(*sys.argv[1:])
