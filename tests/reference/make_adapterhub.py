"""Makes tests/reference/adapterhub/: adapters and heads as AdapterHub's own library saves them, and its answers.

    python tests/reference/make_adapterhub.py [--check]

Needs `adapters` (1.3.0) with the transformers it asks for (4.57), which is older than the other scripts': an environment of its
own. The bases are the golden ones. `expected.json` has the logits of each adapter for the golden texts, alone and without
padding; --check computes all again and compares.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import adapters
import torch
import transformers
from adapters import LoRAConfig
from adapters.models.bert import BertAdapterModel
from adapters.models.roberta import RobertaAdapterModel
from adapters.models.distilbert import DistilBertAdapterModel

HERE = Path(__file__).resolve().parent / "adapterhub"
GOLDEN = Path(__file__).resolve().parents[2] / "models" / "golden"
ALL = dict(selfattn_lora=True, intermediate_lora=True, output_lora=True, attn_matrices=["q", "k", "v"])
LABELS = {0: "sad", 1: "flat", 2: "glad"}
TOLERANCE = 1e-5


def randomise(model, seed):
    """Factors and head: B is zero where nobody trained it, and a zero B tests nothing."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        if ".loras." in name or name.startswith(("heads.", "classifier.")):
            p.data.copy_(torch.randn(p.shape, generator=g) * 0.25)


def library(cls, base, kind, **head):
    def make():
        model = cls.from_pretrained(GOLDEN / base / "base")
        model.add_adapter("t", config=LoRAConfig(r=3, alpha=7, **ALL))
        getattr(model, f"add_{kind}_head")("t", num_labels=3, id2label=LABELS, **head)
        model.set_active_adapters("t")
        return model, "t"

    return base, make


def own(cls, base):
    def make():
        model = cls.from_pretrained(GOLDEN / base / "base", num_labels=3, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
        adapters.init(model)
        model.add_adapter("u", config=LoRAConfig(r=2, alpha=1, attn_matrices=["q", "v"], leave_out=[0]))
        model.set_active_adapters("u")
        return model, "u"

    return base, make


CASES = {
    "bert-two-layers": library(BertAdapterModel, "bert", "classification", layers=2, activation_function="tanh"),
    "bert-pooler": library(BertAdapterModel, "bert", "classification", layers=1, use_pooler=True),
    "bert-flags": library(BertAdapterModel, "bert", "classification", layers=2, multilabel=True),
    "bert-tags": library(BertAdapterModel, "bert", "tagging", layers=1),
    "bert-own": own(transformers.BertForSequenceClassification, "bert"),
    "roberta-two-layers": library(RobertaAdapterModel, "roberta", "classification", layers=2),
    "distilbert-relu": library(DistilBertAdapterModel, "distilbert", "classification", layers=2, activation_function="relu"),
}


def make(name, out):
    base, build = CASES[name]
    torch.manual_seed(0)
    model, adapter = build()
    randomise(model, len(name))
    model.eval()
    safe = name in ("bert-two-layers", "bert-own")
    model.save_adapter(str(out), adapter, with_head=True, use_safetensors=safe)
    for path in out.glob("*_config.json"):
        said = json.loads(path.read_text())
        said["model_name"] = f"golden/{base}"
        path.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    index = json.loads((GOLDEN / base / "golden.json").read_text())
    logits = []
    for ids, types in zip(index["ids"], index["types"]):
        batch = dict(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        if base == "bert":
            batch["token_type_ids"] = torch.tensor([types])
        with torch.inference_mode():
            logits.append(model(**batch).logits[0].tolist())
    return {"base": base, "logits": logits}


def main(check):
    if not check:
        shutil.rmtree(HERE, ignore_errors=True)
    expected = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp) / name
            expected[name] = make(name, out)
            print(name, sorted(p.name for p in out.iterdir()), flush=True)
            if not check:
                shutil.copytree(out, HERE / name)
    if not check:
        lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in expected.items()]
        (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    stored = json.loads((HERE / "expected.json").read_text())
    assert stored.keys() == expected.keys()
    for name, case in stored.items():
        for a, b in zip(case["logits"], expected[name]["logits"]):
            assert torch.allclose(torch.tensor(a), torch.tensor(b), atol=TOLERANCE), name


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
