"""Makes the golden fixtures: for each family a tiny random checkpoint, PEFT adapters for it, and torch's answers.

    python make.py [family ...]        (all families by default; `python make.py --check` recomputes and compares)

A family's folder then holds

    base/             config.json, model.safetensors, tokenizer.json of a ...ForSequenceClassification with 3 labels
    adapters/<name>/  as peft's save_pretrained writes them (without its model card), labels in a side file
    golden.json       texts, ids, types, labels, and which rows the tensors below belong to
    golden.safetensors  hidden states, embeddings and logits, f32, each row computed alone

Weights are random but nothing is degenerate: norms and biases are random too, B is not zero, alpha is not r.
Every tensor is drawn from a generator seeded by its own name, so the order of creation does not matter. The
answers are computed from the files as written, by transformers and peft, in eval mode with eager attention.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import numpy as np
import peft
import torch
import transformers
from transformers.utils import logging as tf_logging
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from corpus import HIDDEN_ROWS, TEXTS
from families import FAMILIES, LABELS, TAGS

HERE = Path(__file__).resolve().parent
LAYER = re.compile(r"(Layer|TransformerBlock)$")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def draw(seed, shape, std, mean=0.0):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(seed.encode())))
    return torch.from_numpy((mean + std * rng.standard_normal(tuple(shape))).astype(np.float32))


def randomise(model, seed, only=lambda name: True):
    """Every parameter anew: tables and linears wide enough to matter, norms near but not at one and zero."""
    for name, p in model.named_parameters():
        if not only(name):
            continue
        norm = re.search(r"norm|_ln\b|\bnorm", name, re.I) and p.dim() == 1
        if norm and name.endswith("weight"):
            value = draw(f"{seed}/{name}", p.shape, 0.2, 1.0)
        elif p.dim() == 1:
            value = draw(f"{seed}/{name}", p.shape, 0.15)
        elif "embedding" in name or "relative_attention_bias" in name:
            value = draw(f"{seed}/{name}", p.shape, 0.4)
        elif "classifier" in name or "out_proj" in name:
            value = draw(f"{seed}/{name}", p.shape, 0.3)
        else:
            value = draw(f"{seed}/{name}", p.shape, 0.2)
        p.data.copy_(value)


def linears(model, head):
    """Paths of the linears inside the layers, in order."""
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
        and re.search(r"\.(layer|layers|albert_layers)\.\d+\.", name)
        and not any(f".{h}." in f".{name}." for h in head)
    ]


def tokenize(path):
    tok = PreTrainedTokenizerFast(tokenizer_file=str(path))
    ids, types = [], []
    for row in TEXTS:
        e = tok(*row, return_token_type_ids=True)
        ids.append(e["input_ids"])
        types.append(e["token_type_ids"])
    return ids, types


def make_base(name, family, out):
    out.mkdir(parents=True)
    tok = family.tokenizer()
    config = family.config(
        vocab_size=tok.get_vocab_size(),
        id2label=LABELS,
        label2id={v: k for k, v in LABELS.items()},
        **family.settings,
        **({} if not name.startswith("modernbert") else {
            f"{k}_token_id": tok.token_to_id(t)
            for k, t in dict(pad="[PAD]", bos="[CLS]", eos="[SEP]", cls="[CLS]", sep="[SEP]").items()
        }),
    )
    torch.manual_seed(0)
    model = family.model(config)
    randomise(model, name)
    model.save_pretrained(out)
    tok.save(str(out / "tokenizer.json"), pretty=False)
    if family.hub_config:
        path = out / "config.json"
        merged = json.loads(path.read_text()) | family.hub_config
        path.write_text(json.dumps({k: merged[k] for k in sorted(merged) if merged[k] is not None}, indent=2) + "\n")
    for p in out.iterdir():
        assert p.name in ("config.json", "model.safetensors", "tokenizer.json"), p


def load_base(name, family, out, labels=3, bare=False, tagger=False):
    extra = {} if bare else dict(num_labels=labels, ignore_mismatched_sizes=True)
    cls = family.bare if bare else family.tagger if tagger else family.model
    torch.manual_seed(0)
    if family.rotary is None:
        return cls.from_pretrained(out / "base", attn_implementation="eager", **extra).eval()
    # Its config.json is not transformers' own: the settings from the table, the frequencies put in place.
    written = json.loads((out / "base/config.json").read_text())
    config = family.config(vocab_size=written["vocab_size"], num_labels=extra.pop("num_labels", 3), **family.settings)
    model = cls.from_pretrained(out / "base", config=config, attn_implementation="eager", **extra).eval()
    replaced = [m.inv_freq.copy_(family.rotary) for m in model.modules() if hasattr(m, "inv_freq")]
    assert replaced, name
    return model


def save_adapter(model, where, name, dtype="float32", labels=None, config=None):
    """Random factors and head, rounded to `dtype`, written as peft writes them; paths of this machine left out."""
    wanted = lambda n: "lora_" in n or "modules_to_save" in n
    randomise(model, f"{name}/{where.name}", wanted)
    model.peft_config["default"].base_model_name_or_path = f"golden/{name}"
    model.save_pretrained(where)
    for extra in ("README.md",):
        (where / extra).unlink(missing_ok=True)
    if dtype != "float32":
        path = where / "adapter_model.safetensors"
        save_file({k: v.to(DTYPES[dtype]) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    path = where / "adapter_config.json"
    cfg = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save"):  # sets: their order would differ from run to run
        if isinstance(cfg.get(key), list):
            cfg[key] = sorted(cfg[key])
    path.write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")
    if labels is not None:
        (where / "labels.json").write_text(json.dumps(labels) + "\n")
    if config is not None:
        (where / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def pattern(name, sites, top):
    """A rank for each site, 0 to `top`, about one in five 0; never all 0."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{name}/ranks".encode())))
    ranks = {s: 0 if rng.random() < 0.2 else int(rng.integers(1, top + 1)) for s in sites}
    if not any(ranks.values()):
        ranks[sites[0]] = top
    return ranks


def make_adapters(name, family, out):
    adapters = out / "adapters"
    seq = dict(task_type="SEQ_CLS", lora_dropout=0.0)

    # mixed: a rank of its own for each linear of each layer, some left out, alpha that is not the rank.
    model = load_base(name, family, out)
    ranks = pattern(f"{name}/mixed", linears(model, family.head), 7)
    kept = {s: r for s, r in ranks.items() if r}
    alphas = {s: r + 0.5 for i, (s, r) in enumerate(kept.items()) if i % 3 == 0}
    cfg = LoraConfig(
        r=4, lora_alpha=3, target_modules=list(kept), rank_pattern=kept, alpha_pattern=alphas,
        modules_to_save=family.head, **seq,
    )
    save_adapter(get_peft_model(model, cfg), adapters / "mixed", name, labels=list(LABELS.values()))

    # qv2: rank-stabilised scale, suffix targets, the last module of the head alone, another number of labels.
    cfg = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=family.query_value,
        modules_to_save=["classifier"], **seq,
    )
    model = get_peft_model(load_base(name, family, out, labels=2), cfg)
    save_adapter(model, adapters / "qv2", name, dtype=family.qv2_dtype, labels=["no", "yes"])

    # embed: an adapter of the bare encoder, whose keys lack the encoder's prefix.
    cfg = LoraConfig(r=3, lora_alpha=5, target_modules=family.embed, task_type="FEATURE_EXTRACTION")
    save_adapter(get_peft_model(load_base(name, family, out, bare=True), cfg), adapters / "embed", name)

    # reg: one output; targets as a regular expression, as PEFT allows.
    cfg = LoraConfig(
        r=2, lora_alpha=2, target_modules=r".*\.({})".format("|".join(family.query_value)),
        modules_to_save=family.head, **seq,
    )
    save_adapter(get_peft_model(load_base(name, family, out, labels=1), cfg), adapters / "reg", name)

    # tags: a label for each token. The family's dense layer before it, where there is one, is saved too.
    model = load_base(name, family, out, labels=len(TAGS), tagger=True)
    saved = [h for h in family.head if h in dict(model.named_children())]
    cfg = LoraConfig(
        r=2, lora_alpha=3, target_modules=family.query_value, modules_to_save=saved, task_type="TOKEN_CLS"
    )
    save_adapter(get_peft_model(model, cfg), adapters / "tags", name, labels=TAGS)

    if name == "bert":
        make_multi(name, family, out)
        make_many(name, family, out)


def make_multi(name, family, out):
    """Any number of five labels may hold: said by a config.json beside the adapter."""
    labels = {str(i): t for i, t in enumerate(["price", "service", "food", "place", "other"])}
    cfg = LoraConfig(
        r=2, lora_alpha=4, target_modules=["key", "output.dense"], modules_to_save=["pooler", "classifier"],
        task_type="SEQ_CLS",
    )
    side = {"problem_type": "multi_label_classification", "id2label": labels}
    save_adapter(get_peft_model(load_base(name, family, out, labels=5), cfg), out / "adapters/multi", name, config=side)


def make_many(name, family, out):
    """Sixteen adapters, the i-th with one site of rank i + 1 and a few small ones."""
    for i in range(16):
        model = load_base(name, family, out, labels=2 + i % 5)
        rng = np.random.Generator(np.random.PCG64(1000 + i))
        sites = rng.permutation(linears(model, family.head))[: 2 + i % 4].tolist()
        ranks = {s: i + 1 if j == 0 else int(rng.integers(1, 5)) for j, s in enumerate(sites)}
        cfg = LoraConfig(
            r=i + 1, lora_alpha=i + 1, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks,
            modules_to_save=["classifier"], task_type="SEQ_CLS",
        )
        save_adapter(get_peft_model(model, cfg), out / "adapters/many" / f"{i:02}", name, dtype="float16")


class Places:
    """What goes into the first layer and comes out of each, in order of the calls."""

    def __init__(self, model):
        self.states = []
        layers = [m for m in model.modules() if LAYER.search(type(m).__name__)]
        self.hooks = [m.register_forward_hook(self._after) for m in layers]
        self.hooks.append(layers[0].register_forward_pre_hook(self._before))

    def _before(self, _module, args):
        if not self.states:
            self.states.append(args[0].detach().clone()[0])

    def _after(self, _module, _args, output):
        self.states.append((output[0] if isinstance(output, tuple) else output).detach().clone()[0])

    def remove(self):
        for h in self.hooks:
            h.remove()


def wants_types(name, model):
    return name.split("-")[0] not in ("modernbert", "distilbert", "mpnet") and getattr(model.config, "type_vocab_size", 0) > 1


def forward(name, model, ids, types):
    """One row alone, no padding."""
    batch = dict(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    if wants_types(name, model):
        batch["token_type_ids"] = torch.tensor([types])
    with torch.inference_mode():
        return model(**batch)


def hidden_states(name, model, ids, types):
    places = Places(model)
    last = forward(name, model, ids, types).last_hidden_state[0]
    places.remove()
    assert len(places.states) == model.config.num_hidden_layers + 1, (name, len(places.states))
    return places.states, last


def answers(name, family, out, dtype=torch.float32):
    """All tensors of golden.safetensors, computed from the files."""
    ids, types = tokenize(out / "base/tokenizer.json")
    tensors = {}

    def embeddings(model, label):
        last = [forward(name, model, i, t).last_hidden_state[0] for i, t in zip(ids, types)]
        tensors[f"pooled.{label}.mean"] = torch.stack([h.mean(0) for h in last])
        tensors[f"pooled.{label}.cls"] = torch.stack([h[0] for h in last])

    def logits(model, label):
        tensors[f"logits.{label}"] = torch.cat([forward(name, model, i, t).logits for i, t in zip(ids, types)])

    bare = load_base(name, family, out, bare=True).to(dtype)
    for row in HIDDEN_ROWS:
        states, last = hidden_states(name, bare, ids[row], types[row])
        for i, h in enumerate(states):
            tensors[f"hidden.{row}.{'embedding' if i == 0 else f'layer.{i - 1}'}"] = h
        if not torch.equal(last, states[-1]):
            tensors[f"hidden.{row}.last"] = last
    embeddings(bare, "base")
    embeddings(PeftModel.from_pretrained(bare, out / "adapters/embed").to(dtype).eval(), "embed")
    logits(load_base(name, family, out).to(dtype), "base")
    for path in sorted(out.glob("adapters/**/adapter_config.json")):
        which = path.parent.relative_to(out / "adapters").as_posix()
        if which == "embed":
            continue
        if which == "tags":
            model = load_base(name, family, out, labels=len(TAGS), tagger=True).to(dtype)
            model = PeftModel.from_pretrained(model, path.parent).to(dtype).eval()
            for row in HIDDEN_ROWS:
                tensors[f"tags.{row}"] = forward(name, model, ids[row], types[row]).logits[0]
            continue
        saved = load_file(path.parent / "adapter_model.safetensors")
        head = [k for k in saved if re.search(r"\.classifier(\.out_proj)?\.weight$", k)]
        model = load_base(name, family, out, labels=saved[max(head, key=len)].shape[0]).to(dtype)
        logits(PeftModel.from_pretrained(model, path.parent).to(dtype).eval(), which)
    return {k: v.contiguous() for k, v in tensors.items()}, ids, types


def make(name, out):
    family = FAMILIES[name]
    make_base(name, family, out / "base")
    make_adapters(name, family, out)
    tensors, ids, types = answers(name, family, out)
    exact, _, _ = answers(name, family, out, torch.float64)
    noise = {}
    for k, v in tensors.items():
        kind = k.split(".")[0]
        noise[kind] = max(noise.get(kind, 0.0), (v.double() - exact[k]).abs().max().item())
        assert torch.isfinite(v).all(), k
    save_file({k: v.clone() for k, v in tensors.items()}, out / "golden.safetensors", metadata={"format": "pt"})
    index = {
        "family": name,
        "made_by": {
            "script": "models/golden/make.py",
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "texts": TEXTS,
        "ids": ids,
        "types": types,
        "hidden_rows": HIDDEN_ROWS,
        "labels": {"base": list(LABELS.values()), "mixed": list(LABELS.values()), "qv2": ["no", "yes"], "tags": TAGS},
        # The largest difference between these f32 numbers and the same run in f64.
        "f32_noise": {k: float(f"{v:.2g}") for k, v in noise.items()},
    }
    body = json.dumps(index, ensure_ascii=False, indent=1)
    body = re.sub(r"\[\s+((?:\d+,?\s+)+)\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]).strip() + "]", body)
    (out / "golden.json").write_text(body + "\n")
    return tensors, noise


def report(name, out, tensors, noise):
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    spread = {k: f"{v.std(0).mean():.2f}" for k, v in tensors.items() if k.startswith("logits") and "many" not in k}
    lengths = [len(i) for i in json.loads((out / "golden.json").read_text())["ids"]]
    print(f"{name:22} {size / 1000:6.0f} kB  tokens {lengths}  noise {max(noise.values()):.1e}  logit spread {spread}", flush=True)


def compare(name, made):
    """Whether a fresh run gives the committed files: same bytes, or tensors equal but for rounding."""
    for path in sorted(p for p in made.rglob("*") if p.is_file()):
        other = HERE / name / path.relative_to(made)
        if path.name == "golden.safetensors":
            a, b = load_file(path), load_file(other)
            worst = max((a[k] - b[k]).abs().max().item() for k in a)
            assert a.keys() == b.keys() and worst < 1e-4, (other, worst)
        elif path.name != "golden.json":
            assert path.read_bytes() == other.read_bytes(), f"{other} is not what make.py makes"


def main(args):
    check = "--check" in args
    torch.set_num_threads(1)
    tf_logging.disable_progress_bar()
    for name in [a for a in args if not a.startswith("--")] or FAMILIES:
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp) / name
            tensors, noise = make(name, out)
            report(name, out, tensors, noise)
            if check:
                compare(name, out)
            else:
                for part in ("base", "adapters"):
                    shutil.rmtree(HERE / name / part, ignore_errors=True)
                shutil.copytree(out, HERE / name, dirs_exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
