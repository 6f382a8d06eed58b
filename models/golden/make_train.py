"""Makes train.safetensors and train.json of a family: what one training step, and ten, come to in torch.

    python make_train.py [family ...]          (after make.py; `--check` recomputes and compares)

The model is the family's base with its own head; every linear of every layer (and the embedding's projection, where
there is one) carries peft's LoRA with a gate between its two factors, y = W x + b + s B (g o (A x)), s = alpha / r_max. Trained: A, B, g and the whole head.
No dropout, no padding: the loss is the mean cross entropy over rows computed one at a time.

Computed in f64 from the f32 values in the files and rounded once at the end; `f32_noise` in train.json is how far
torch's own f32 run is from that, relative to the largest element of each tensor.

train.safetensors, F32:
    init.<site>.{a,b,gate}     starting factors, [r x in], [out x r], [r]; the head starts as the checkpoint has it
    grad.<site>.{a,b,gate}     gradients of the loss at the start; no L1 term, no clipping
    grad.<parameter of the head>
    final.{soft,official}.<...>  everything after ten steps (bert and deberta-v2 only)
    <kind>.init.<head>, <kind>.grad.<gate or head>   the same step with another head, which is given whole: token (a label a
        token, some without), multi (flags), regression (squared error)
    full.grad.<parameter>      no LoRA: gradients of all that the base and its head hold (FULL only; no relative tables)
train.json: rows, labels, settings, the loss, and per prox operator the ten steps' losses, norms and kept gates.

One step, in order: loss + l1 * sum|g| / number of gates; backward; the norm over all gradients clipped; torch's
AdamW on A and B (weight decay) and on the head (none); AdamW on g (no decay, its own epsilon); the prox operator on
g. `soft` thresholds at lr * lambda; `official` at xi by the three sequential rules of the original code.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import make  # first: sets the environment that transformers reads
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging as tf_logging

from families import FAMILIES, TAGS

HERE = Path(__file__).resolve().parent
ROWS, LABELS = [0, 1, 3, 4, 5, 6], [0, 2, 1, 1, 0, 2]
R_MAX, ALPHA = 2, 4
STEP = dict(
    lr=[0.004, 0.008, 0.012, 0.012, 0.010, 0.008, 0.006, 0.004, 0.003, 0.002],
    betas=[0.9, 0.999],
    eps=1e-8,
    weight_decay=0.1,
    gate_eps=1e-6,
    l1=0.5,
    clip=1.0,
)
PROX = {"soft": {"lambda": 4.0}, "official": {"xi": 0.02}}
KEEP_FINAL = ("bert", "deberta-v2")
FULL = ("bert", "roberta", "albert", "distilbert", "deberta-v2", "deberta-v2-own", "modernbert", "modernbert-bias")
KINDS = {"token": len(TAGS), "multi": 3, "regression": 1}
VALUES = [0.5, -1.25, 2.0, 0.0, 1.5, -0.75]
FLAGS = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]]


def tags(tokens):
    """A label for every token but each fifth, which has none."""
    return [-100 if i % 5 == 4 else (3 * i + tokens) % len(TAGS) for i in range(tokens)]


class Gated:
    """The model with its gates, and names for everything that is trained."""

    def __init__(self, name, dtype, kind="single"):
        family = FAMILIES[name]
        base = make.load_base(name, family, HERE / name, labels=KINDS.get(kind, 3), tagger=kind == "token")
        if kind != "single":
            make.randomise(base, f"{name}/train/{kind}", lambda n: any(f".{h}." in f".{n}" for h in family.head))
        self.kind, self.head = kind, family.head
        self.name, self.sites = name, make.linears(base, family.head)
        self.sites += [n for n, _ in base.named_modules() if n.endswith(("embeddings_project", "embedding_hidden_mapping_in"))]
        config = LoraConfig(r=R_MAX, lora_alpha=ALPHA, target_modules=self.sites, task_type=None)
        wrapped = get_peft_model(base, config)
        self.model = wrapped.base_model.model
        self.params = {}
        for site in self.sites:
            m = self.model.get_submodule(site)
            a, b = m.lora_A["default"], m.lora_B["default"]
            bound = 1 / math.sqrt(a.in_features)
            seed = f"{name}/train/{site}"
            a.weight.data.copy_(make.draw(f"{seed}/a", a.weight.shape, 1.0).clamp(-1.7, 1.7) / 1.7 * bound)
            b.weight.data.copy_(make.draw(f"{seed}/b", b.weight.shape, 0.2))
            gate = torch.nn.Parameter(make.draw(f"{seed}/gate", (R_MAX,), 0.5))
            a.register_parameter("gate", gate)
            a.register_forward_hook(lambda mod, _in, out: out * mod.gate)
            self.params |= {f"{site}.a": a.weight, f"{site}.b": b.weight}
        self.model.to(dtype).eval()
        for site in self.sites:
            self.params[f"{site}.gate"] = self.model.get_submodule(site).lora_A["default"].gate
        for path, p in self.model.named_parameters():
            in_head = any(f".{h}." in f".{path}" for h in family.head) and "lora_" not in path
            p.requires_grad_(in_head or "lora_" in path)
            if in_head:
                self.params[path] = p
        self.ids, self.types = make.tokenize(HERE / name / "base/tokenizer.json")

    def gates(self):
        return {k: p for k, p in self.params.items() if k.endswith(".gate")}

    def loss(self):
        logits = torch.cat([rows_of(self, row) for row in ROWS])
        f = torch.nn.functional
        if self.kind == "token":
            return f.cross_entropy(logits, torch.tensor(sum((tags(len(self.ids[row])) for row in ROWS), [])))
        if self.kind == "multi":
            return f.binary_cross_entropy_with_logits(logits, torch.tensor(FLAGS, dtype=logits.dtype))
        if self.kind == "regression":
            return f.mse_loss(logits[:, 0], torch.tensor(VALUES, dtype=logits.dtype))
        return f.cross_entropy(logits, torch.tensor(LABELS))


class Full:
    """The model itself, all of it trained but its tables of relative positions."""

    def __init__(self, name, dtype):
        family = FAMILIES[name]
        self.name, self.model = name, make.load_base(name, family, HERE / name).to(dtype)
        self.ids, self.types = make.tokenize(HERE / name / "base/tokenizer.json")
        self.kind = "single"
        frozen = ("rel_embeddings.weight", "encoder.LayerNorm.weight", "encoder.LayerNorm.bias", "relative_attention_bias.weight")
        self.params = {k: p for k, p in self.model.named_parameters() if not k.endswith(frozen)}

    loss = Gated.loss


def rows_of(of, row):
    """The logits of a row computed alone, `[1 or tokens x labels]`."""
    ids = torch.tensor([of.ids[row]])
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if make.wants_types(of.name, of.model):
        batch["token_type_ids"] = torch.tensor([of.types[row]])
    logits = of.model(**batch).logits
    return logits[0] if of.kind == "token" else logits


def prox(p, kind, lr):
    if kind == "soft":
        xi = lr * PROX["soft"]["lambda"]
        p.copy_(p.sign() * (p.abs() - xi).clamp(min=0))
    else:
        xi = PROX["official"]["xi"]
        p[p > xi] -= xi
        p[p < -xi] += xi
        p[p.abs() < xi] = 0.0


def ten_steps(name, kind, dtype):
    g = Gated(name, dtype)
    gates = list(g.gates().values())
    factors = [p for k, p in g.params.items() if k.endswith((".a", ".b"))]
    head = [p for k, p in g.params.items() if not k.endswith((".a", ".b", ".gate"))]
    main = torch.optim.AdamW(
        [dict(params=factors, weight_decay=STEP["weight_decay"]), dict(params=head, weight_decay=0.0)],
        betas=STEP["betas"], eps=STEP["eps"],
    )
    sparse = torch.optim.AdamW(gates, betas=STEP["betas"], eps=STEP["gate_eps"], weight_decay=0.0)
    count = sum(p.numel() for p in gates)
    trace = dict(loss=[], norm=[], kept=[])
    for lr in STEP["lr"]:
        for group in main.param_groups + sparse.param_groups:
            group["lr"] = lr
        loss = g.loss()
        (loss + STEP["l1"] * sum(p.abs().sum() for p in gates) / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(list(g.params.values()), STEP["clip"])
        main.step()
        sparse.step()
        with torch.no_grad():
            for p in gates:
                prox(p, kind, lr)
        main.zero_grad()
        sparse.zero_grad()
        trace["loss"].append(loss.item())
        trace["norm"].append(norm.item())
        trace["kept"].append(sum(int((p != 0).sum()) for p in gates))
    trace["loss_after"] = g.loss().item()
    return trace, {k: p.detach() for k, p in g.params.items()}


def run(name, dtype):
    g = Gated(name, dtype)
    tensors = {f"init.{k}": p.detach().clone() for k, p in g.params.items() if k.endswith((".a", ".b", ".gate"))}
    loss = g.loss()
    loss.backward()
    tensors |= {f"grad.{k}": p.grad for k, p in g.params.items()}
    result = dict(loss=loss.item(), steps={}, kinds={})
    for kind in KINDS:
        g = Gated(name, dtype, kind)
        loss = g.loss()
        loss.backward()
        result["kinds"][kind] = loss.item()
        head = {k: p for k, p in g.params.items() if not k.endswith((".a", ".b", ".gate"))}
        tensors |= {f"{kind}.init.{k}": p.detach().clone() for k, p in head.items()}
        tensors |= {f"{kind}.grad.{k}": p.grad for k, p in (head | g.gates()).items()}
    if name in FULL:
        full = Full(name, dtype)
        loss = full.loss()
        loss.backward()
        result["full"] = loss.item()
        # Embeddings that no row reads have no gradient worth keeping.
        tensors |= {f"full.grad.{k}": p.grad for k, p in full.params.items() if p.grad is not None}
    for kind in PROX:
        trace, final = ten_steps(name, kind, dtype)
        result["steps"][kind] = trace
        tensors |= {f"final.{kind}.{k}": p for k, p in final.items()}
    return result, tensors


def make_one(name, out):
    exact, tensors = run(name, torch.float64)
    rough, other = run(name, torch.float32)
    noise = {}
    for k, v in tensors.items():
        kind = ".".join(k.split(".")[: 2 if k.split(".")[0] in ("final", "full", *KINDS) else 1])
        scale = v.abs().max().item()
        if scale < 1e-9:  # a gradient that is zero but for rounding: a key's bias moves all scores of a row alike
            continue
        noise[kind] = max(noise.get(kind, 0.0), (v - other[k]).abs().max().item() / scale)
    for kind in PROX:
        same = exact["steps"][kind]["kept"] == rough["steps"][kind]["kept"]
        assert same, f"{name}: a gate of {kind} hangs on rounding; choose other settings"
    kept = {k: v.float().contiguous() for k, v in tensors.items() if name in KEEP_FINAL or not k.startswith("final")}
    save_file(kept, out / "train.safetensors", metadata={"format": "pt"})
    index = dict(
        rows=ROWS, labels=LABELS, values=VALUES, flags=FLAGS, tags=[tags(len(i)) for i in Gated(name, torch.float32).ids],
        r_max=R_MAX, alpha=ALPHA, step=STEP, prox=PROX, **exact,
        f32_noise={k: float(f"{v:.2g}") for k, v in noise.items() if "init" not in k},
    )
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in index.items()]
    (out / "train.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(
        f"{name:22} {(out / 'train.safetensors').stat().st_size / 1000:4.0f} kB  loss {exact['loss']:.4f}",
        *(f"{k}: {v['loss_after']:.4f}, kept {v['kept'][0]}..{v['kept'][-1]}" for k, v in exact["steps"].items()),
        f"noise {index['f32_noise']}", flush=True,
    )


def main(args):
    torch.set_num_threads(1)
    tf_logging.disable_progress_bar()
    for name in [a for a in args if not a.startswith("--")] or FAMILIES:
        if "--check" not in args:
            make_one(name, HERE / name)
            continue
        with tempfile.TemporaryDirectory() as tmp:
            make_one(name, Path(tmp))
            a, b = load_file(Path(tmp) / "train.safetensors"), load_file(HERE / name / "train.safetensors")
            assert a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=1e-5, atol=1e-6) for k in a), name


if __name__ == "__main__":
    main(sys.argv[1:])
