"""Holds `src/adapter` against the real peft, in both directions.

    python tests/reference/peft_accepts.py            checks everything (needs torch, transformers, peft, cargo)
    python tests/reference/peft_accepts.py --fixtures writes tests/reference/peft/ anew and stops

1. peft saves adapters of every kind over tiny random models (nothing is downloaded).
2. sorank reads each and writes it again, baked (an ignored test does this: `rewrites_adapters_for_peft`).
3. peft loads what sorank wrote: every scaling must be 1.0, no tensor missing or unexpected, and the logits those of
   the original adapter. The same for what sorank pruned to rank 1, whose products must be torch's.

The fixtures are the adapters of step 1 with what peft itself computes from them (`expected.json`), so that
`cargo test` can hold the reader against peft without Python.
"""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import _ExcludedModule
from transformers import (
    BertConfig, BertForSequenceClassification, BertModel, DebertaV2Config, DebertaV2ForTokenClassification,
    DistilBertConfig, DistilBertForSequenceClassification, ModernBertConfig, ModernBertForSequenceClassification,
    ModernBertModel,
    RobertaConfig, RobertaForSequenceClassification, logging,
)

warnings.simplefilter("ignore")
logging.set_verbosity_error()
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SMALL = dict(vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
             max_position_embeddings=20, pad_token_id=0)
# Rounding: baking multiplies B by the scale in f32 before the product instead of after it.
LOGITS_TOLERANCE = 1e-5
# Rounding of the factors to f32, times the condition of the largest singular vector.
PRODUCT_TOLERANCE = 1e-5


def bert():
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))


def roberta():
    return RobertaForSequenceClassification(RobertaConfig(**SMALL, num_labels=2, type_vocab_size=1))


def deberta():
    return DebertaV2ForTokenClassification(DebertaV2Config(
        **SMALL, num_labels=5, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type="p2c|c2p"))


def distilbert():
    return DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=40, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=20))


def modernbert():
    return ModernBertModel(ModernBertConfig(**SMALL, global_attn_every_n_layers=2, local_attention=4))


def modernbert_classifier():
    return ModernBertForSequenceClassification(ModernBertConfig(
        **SMALL, global_attn_every_n_layers=2, local_attention=4, num_labels=4))


def bert_bare():
    return BertModel(BertConfig(**SMALL))


# name: (model, adapter configuration, storage type)
CASES = {
    "bert_patterns": (bert, LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=["query", "value", "output.dense"],
        modules_to_save=["bert.pooler", "classifier"],
        rank_pattern={"query": 3, "layer.1.attention.self.value": 1, r"^bert\.encoder\.layer\.0\.output\.dense": 2},
        alpha_pattern={"attention.output.dense": 1, r"layer\.(0|1)\.attention\.self\.value": 5}), None),
    "bert_default_targets": (bert, LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=16), torch.float16),
    "roberta_all_linear_rslora": (roberta, LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear",
        rank_pattern={"key": 3, "intermediate.dense": 1}, alpha_pattern={"key": 1}), torch.bfloat16),
    "deberta_layers": (deberta, LoraConfig(
        task_type="TOKEN_CLS", r=3, lora_alpha=4, target_modules=["query_proj", "value_proj", "intermediate.dense"],
        layers_to_transform=[1], layers_pattern="layer"), None),
    "distilbert_regex": (distilbert, LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=5,
        target_modules=r"distilbert\.transformer\.layer\.(0|1)\.(attention\.(q|v)_lin|ffn\.lin\d)"), None),
    "modernbert_exclude": (modernbert, LoraConfig(
        task_type="FEATURE_EXTRACTION", r=2, lora_alpha=2, target_modules="all-linear",
        exclude_modules=["layers.0.attn.Wqkv", "Wi"], init_lora_weights="gaussian"), None),
    "modernbert_head": (modernbert_classifier, LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=3, target_modules=["Wqkv", "Wo"], modules_to_save=["head", "classifier"]), None),
    "bert_bare_pooler": (bert_bare, LoraConfig(
        task_type="FEATURE_EXTRACTION", r=2, lora_alpha=3, target_modules=["query"], modules_to_save=["pooler"]), None),
    "bert_no_task": (bert, LoraConfig(
        r=2, lora_alpha=1, target_modules=["key"], layers_to_transform=0), None),
    "bert_adalora": (bert, AdaLoraConfig(
        task_type="SEQ_CLS", init_r=5, target_r=2, lora_alpha=7, total_step=10, target_modules=["query", "value", "dense"]),
        None),
}


def base(name):
    """A tiny model whose every part matters to its answer: the usual initialisation is too close to zero."""
    model, _, dtype = CASES[name]
    torch.manual_seed(len(name))
    model = model()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn_like(p) * 0.4)
            if dtype:
                # Values that the storage type can hold, so that the file says what the model computes.
                p.copy_(p.to(dtype).to(p.dtype))
    return model.eval()


def make(name):
    """The adapted model, with random factors that are not at their initial zero."""
    _, config, dtype = CASES[name]
    adapted = get_peft_model(base(name), copy.deepcopy(config))
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                p.copy_(torch.randn_like(p) * 0.3)
                if dtype:
                    p.copy_(p.to(dtype).to(p.dtype))
    if isinstance(config, AdaLoraConfig):
        prune_adalora(adapted)
    return adapted.eval(), dtype


def prune_adalora(adapted):
    """What the allocator leaves behind: masks in the configuration, zero singular values in the tensors."""
    pattern = {}
    with torch.no_grad():
        for i, (key, p) in enumerate((k, p) for k, p in adapted.base_model.model.named_parameters() if ".lora_E." in k):
            mask = [(i + j) % 3 == 0 for j in range(p.shape[0])] if i else [False] * p.shape[0]
            p[~torch.tensor(mask)] = 0.0
            pattern[key] = mask
        p[torch.tensor(mask).nonzero()[0]] = -0.0  # a kept rank may still be at zero
    adapted.peft_config["default"].rank_pattern = pattern


def inputs():
    ids = torch.tensor([[1, 5, 9, 30, 2, 7, 3]])
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids))


def answer(model):
    with torch.no_grad():
        return model(**inputs())[0]


def save(adapted, dtype, directory):
    kwargs = {}
    if dtype:
        from peft.utils import get_peft_model_state_dict
        kwargs["state_dict"] = {k: v.to(dtype) for k, v in adapted.state_dict().items()}
    adapted.save_pretrained(directory, **kwargs)
    (directory / "README.md").unlink()


def sites(adapted):
    return {k: m for k, m in adapted.base_model.model.named_modules() if hasattr(m, "get_delta_weight")}


def fixtures(out):
    shutil.rmtree(out, ignore_errors=True)
    expected = {}
    for name in CASES:
        adapted, dtype = make(name)
        save(adapted, dtype, out / name)
        expected[name] = {}
        for module, m in sites(adapted).items():
            delta = m.get_delta_weight("default").double()
            expected[name][module] = {
                "scaling": m.scaling["default"], "rank": m.r["default"], "shape": list(delta.shape),
                "norm": delta.norm().item(), "sum": delta.sum().item()}
    lines = (f' "{name}": {{\n' + ",\n".join(f'  "{m}": {json.dumps(v)}' for m, v in modules.items()) + "\n }"
             for name, modules in expected.items())
    matching(out)
    (out / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


PATHS = [
    *(f"bert.encoder.layer.{i}.{m}" for i in (0, 1, 11) for m in (
        "attention.self.query", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense")),
    *(f"encoder.layer.{i}.output.dense" for i in (0, 1)), *(f"layers.{i}.attn.Wqkv" for i in (0, 1)),
    "model.layers.1.mlp.Wi", "bert.pooler.dense", "classifier", "pre_classifier", "classifier.dense", "query", "dense",
    "m.layers.1.experts.0.query", "a.h.1.query", "bert.encoder_layer.1.query",
]
KEYS = [
    "query", "value", "dense", "output.dense", "attention.output.dense", "bert.pooler.dense", "classifier", "Wi", "layer.1",
    "layer.1.output.dense", "1.output.dense", "encoder.layer.0.output.dense", "bert.encoder.layer.1.attention.self.query",
    "r.1.attention.self.query", "attn.Wqkv", "enc", "encoder.layer",
]
EXPRESSIONS = [
    r".*", r"query|value", r".*\.(query|value)", r".*layer\.(0|1)\..*dense", r"bert\.encoder\.layer\.1{1,2}\..*",
    r"[^.]+\.[^.]+\.layer\.\d+\.(?:output|intermediate)\.dense", r"(?i).*QUERY", r"^bert.*value$", r".*?dense",
    r"(?P<a>bert)\..*", r".*\blayer\b.*", r"[a-z.]+", r"[]a-z.\d_]+", r".*\.\w+_\w+\..*", r"layer\.[01]\.output\.dense",
    r"^layers.*", r"attention\.self\.(query|value)", r"(self|output)\.\w+", r"\Abert.*", r"",
]


def matching(out, cases=160):
    """What peft's own matching says of random configurations."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key
    dice = random.Random(5)
    some = lambda pool, low, high: dice.sample(pool, dice.randint(low, high))
    rows = []
    for _ in range(cases):
        config = dict(target_modules=some(KEYS, 1, 6) if dice.random() < 0.6 else dice.choice(EXPRESSIONS[:-1]))
        if dice.random() < 0.3:
            config["exclude_modules"] = some(KEYS, 1, 3) if dice.random() < 0.5 else dice.choice(EXPRESSIONS)
        if dice.random() < 0.3:
            config["modules_to_save"] = some(["classifier", "pooler", "dense", "layer.1"], 1, 2)
        if isinstance(config["target_modules"], list) and dice.random() < 0.5:
            config["layers_to_transform"] = dice.choice([0, 1, [1], [0, 11], []])
            if dice.random() < 0.6:
                config["layers_pattern"] = dice.choice(["layer", ["h", "layers"], ["encoder.layer"], [], "", ".*s", "layers?"])
        pool = KEYS + [e for e in EXPRESSIONS if e and not e.startswith("(?i)")]
        patterns = {k: i + 1 for i, k in enumerate(some(pool, 0, 6))}
        lora = LoraConfig(**config)
        targeted = [p for p in PATHS if (m := check_target_module_exists(lora, p)) and not isinstance(m, _ExcludedModule)]
        ranks = {p: patterns.get(get_pattern_key(patterns, p), 99) for p in PATHS}
        rows.append(dict(config, peft_type="LORA", r=99, rank_pattern=patterns, targeted=targeted, ranks=list(ranks.values())))
    lines = ",\n".join(f"  {json.dumps(r, separators=(chr(44), chr(58)))}" for r in rows)
    (out / "matching.json").write_text(f'{{"paths": {json.dumps(PATHS)},\n "cases": [\n{lines}\n ]}}\n')


def load(name, directory):
    """What peft makes of a directory: without a word, and at scaling 1.0 everywhere."""
    with warnings.catch_warnings(record=True) as said:  # peft only warns of missing keys
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(base(name), directory).eval()
    said = [str(w.message) for w in said if not issubclass(w.category, FutureWarning)]
    assert not said, (name, said)
    scalings = {m.scaling["default"] for m in sites(loaded).values()}
    assert scalings == {1.0}, (name, scalings)
    return loaded


def best_of_rank_one(adapted, pruned):
    """The largest difference, relative to the product, between pruned products and the best ones of rank 1."""
    worst, found = 0.0, sites(pruned)
    for module, m in sites(adapted).items():
        u, s, v = torch.linalg.svd(m.get_delta_weight("default").double())
        if s[0] == 0:
            assert module not in found
            continue
        best = s[0] * torch.outer(u[:, 0], v[0])
        worst = max(worst, ((found[module].get_delta_weight("default") - best).norm() / s[0]).item())
    return worst


def check():
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "peft", Path(scratch) / "sorank"
        fixtures(before)
        env = dict(os.environ, SORANK_PEFT_IN=str(before), SORANK_PEFT_OUT=str(after))
        subprocess.run(["cargo", "test", "--quiet", "--lib", "rewrites_adapters_for_peft", "--", "--ignored"],
                       cwd=ROOT, env=env, check=True)
        for name in CASES:
            adapted, _ = make(name)
            wanted = answer(adapted)
            with adapted.disable_adapter():
                effect = ((answer(adapted) - wanted).abs().max() / wanted.abs().max()).item()
            loaded = load(name, after / name)
            difference = ((answer(loaded) - wanted).abs().max() / wanted.abs().max()).item()
            ranks = sorted(m.r["default"] for m in sites(loaded).values())
            print(f"{name:28} {len(ranks):3} modules, ranks {ranks}, scaling 1.0: "
                  f"the adapter moves the logits by {effect:.0e}, sorank's writing of it by {difference:.0e}")
            prunings = best_of_rank_one(adapted, load(name, after / "pruned" / name))
            print(f"{'':28} pruned to rank 1: products within {prunings:.0e} of torch's SVD")
            assert prunings < PRODUCT_TOLERANCE, (name, prunings)
            assert effect > 1e-3 and difference < LOGITS_TOLERANCE, (name, effect, difference)


if __name__ == "__main__":
    fixtures(HERE / "peft") if "--fixtures" in sys.argv else check()
