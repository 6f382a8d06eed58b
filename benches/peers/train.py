"""A training step: sorank beside torch + peft, in one interleaved run.

    cargo build --release --example train_peer
    python benches/peers/train.py --sorank target/release/examples/train_peer --threads 2

LoRA r = 8 on all six linears of a layer, pooler and classifier trained, AdamW, two labels, random tokens without padding.
Both start from one checkpoint of random weights. Rounds are interleaved: every engine makes one step of each case a round; ratios are of the same
round, medians over rounds. sorank is a child process that times itself (`examples/train_peer.rs`); torch runs in child processes of its
own (this script with `--child`), so that peak memory (`VmHWM`) is told for each alone.
Needs torch, transformers, peft.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SHAPES = {
    "bert-base": (dict(), "8x128"),
    "minilm-l6": (dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536), "32x64"),
}


def export(shape, directory):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(**SHAPES[shape][0])).save_pretrained(directory)


def child(directory, dtype, threads, dropout):
    """torch's side of the protocol: `ready`, then for each line ROWSxTOKENS milliseconds and loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertForSequenceClassification

    torch.set_num_threads(threads)
    model = BertForSequenceClassification.from_pretrained(
        directory, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        dtype=torch.bfloat16 if dtype == "bf16" else torch.float32,
    )
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["query", "key", "value", "dense"], exclude_modules=".*pooler.*",
        modules_to_save=["classifier", "pooler"], task_type="SEQ_CLS",
    )
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    print("ready", flush=True)
    for line in sys.stdin:
        rows, tokens = map(int, line.split("x"))
        ids = (1000 + torch.arange(rows * tokens) * 7919 % 29000).view(rows, tokens)
        labels = torch.arange(rows) % 2
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"{1e3 * (time.perf_counter() - start):.3f} {loss.item():.6f}", flush=True)


class Engine:
    def __init__(self, command, directory):
        env = {**os.environ, "SORANK_CACHE": directory, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        assert self.process.stdout.readline().strip() == "ready", f"{command} did not start"

    def milliseconds(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline().split()[0])

    def peak(self):
        """MiB: the most that was resident at once."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sorank", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    args = parser.parse_args()
    for shape in args.shapes.split(","):
        case = SHAPES[shape][1]
        with tempfile.TemporaryDirectory() as directory:
            export(shape, directory)
            torch = lambda dtype: [sys.executable, __file__, "--child", directory, dtype, str(args.threads), str(args.dropout)]
            # A first start packs the weights, which a later one finds: its memory and time are not a step's.
            for dtype in ("f32", "bf16"):
                Engine([args.sorank, directory, dtype, str(args.threads)], directory).close()
            ours = lambda dtype: [args.sorank, directory, dtype, str(args.threads), str(args.dropout)]
            engines = {}
            for dtype in ("f32", "bf16"):
                engines[f"torch {dtype}"] = Engine(torch(dtype), directory)
                engines[f"sorank {dtype}"] = Engine(ours(dtype), directory)
            times = {name: [] for name in engines}
            for _ in range(args.rounds + 1):
                for name, engine in engines.items():
                    times[name].append(engine.milliseconds(case))
            rows, tokens = map(int, case.split("x"))
            found = {}
            for name, engine in engines.items():
                t = times[name][1:]
                median = statistics.median(t)
                ratio = {f"torch {d}": statistics.median(b / a for a, b in zip(t, times[f"torch {d}"][1:])) for d in ("f32", "bf16")}
                found[name] = dict(ms=median, best=min(t), tokens_per_s=1e3 * rows * tokens / median, peak_mib=engine.peak(), ratio=ratio)
                print(
                    f"{shape} {case} dropout {args.dropout} {name:12} {median:8.1f} ms (best {min(t):8.1f}) {found[name]['tokens_per_s']:7.0f} tokens/s"
                    f"  x torch f32 {ratio['torch f32']:.2f}  x torch bf16 {ratio['torch bf16']:.2f}  peak {found[name]['peak_mib']:6.0f} MiB", flush=True)
            for engine in engines.values():
                engine.close()
            print(json.dumps({shape: found}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    else:
        main()
