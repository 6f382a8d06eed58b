"""Embedding the 3,000 sentences of STS-B dev with all-MiniLM-L6-v2: sorank's command against torch + transformers.

    python benches/peers/minilm.py SORANK_BINARY MODEL_DIR STSB_DEV_TSV [rounds]

Both use every core. transformers runs in this process, model loaded beforehand, batches of 32 sorted by length (its
best), tokenisation not counted; sorank is timed as a whole process: start, load, tokenise, embed, print.
Rounds are interleaved; medians and the ratio of each round are printed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import AutoModel, AutoTokenizer


def sentences(path):
    with open(path, encoding="utf-8") as f:
        head = f.readline().rstrip("\n").split("\t")
        a, b = head.index("sentence1"), head.index("sentence2")
        for line in f:
            fields = line.rstrip("\n").split("\t")
            yield from (fields[a], fields[b])


def main(binary, model_dir, tsv, rounds=5):
    texts = list(sentences(tsv))
    tok = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModel.from_pretrained(model_dir).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [
        tok([texts[i] for i in order[at : at + 32]], padding=True, truncation=True, max_length=256, return_tensors="pt")
        for at in range(0, len(order), 32)
    ]
    tokens = sum(int(b["attention_mask"].sum()) for b in batches)

    def peer():
        start = time.perf_counter()
        with torch.inference_mode():
            for b in batches:
                h = model(**b).last_hidden_state
                m = b["attention_mask"].unsqueeze(-1)
                torch.nn.functional.normalize((h * m).sum(1) / m.sum(1))
        return time.perf_counter() - start

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
        f.write("\n".join(texts) + "\n")
        f.flush()

        def ours():
            start = time.perf_counter()
            subprocess.run([binary, "embed", "--model", model_dir, "--input", f.name, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        peer(), ours()
        times = [(peer(), ours()) for _ in range(int(rounds))]
    p, o = (statistics.median(t) for t in zip(*times))
    ratios = sorted(a / b for a, b in times)
    print(f"{len(texts)} texts, {tokens} tokens, {torch.get_num_threads()} threads")
    print(f"transformers {p:.2f} s ({tokens / p:.0f} tokens/s)   sorank {o:.2f} s ({tokens / o:.0f} tokens/s)")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
