"""Makes tests/reference/sora/: tiny checkpoints in the layout of the original SoRA code, and files that try to run code.

    python tests/reference/make_sora_checkpoint.py           makes the fixtures (needs torch, transformers)
    python tests/reference/make_sora_checkpoint.py --answers makes base/ and answers.json alone
    python tests/reference/make_sora_checkpoint.py --check   imports them with sorank, loads the result with peft, and
                                                             compares its logits with those of the gated model

The layout: a state dict of the trainable tensors alone, saved by torch.save, named
`<module>.lora.{lora_A,lora_B,gate}`; the product is `alpha / r_max * B diag(gate) A`, alpha 16 and nowhere written.
"""

import collections
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, logging

warnings.simplefilter("ignore")
logging.set_verbosity_error()
HERE = Path(__file__).resolve().parent
OUT = HERE / "sora"
ALPHA, R_MAX = 16, 4
TARGETS = ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj",
           "attention.output.dense", "intermediate.dense", "output.dense")
# Answers are of the order of 1; f32 rounding through two layers.
LOGITS_TOLERANCE = 1e-6


def base():
    torch.manual_seed(3)
    model = DebertaV2ForSequenceClassification(DebertaV2Config(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=20, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type="p2c|c2p", num_labels=3,
        id2label={0: "no", 1: "maybe", 2: "yes"}, label2id={"no": 0, "maybe": 1, "yes": 2}))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn_like(p) * 0.4)
    return model.eval()


def state_dict():
    """What the decorated state dict of OpenDelta gives: the tensors that require a gradient."""
    torch.manual_seed(4)
    state = collections.OrderedDict()
    state._metadata = collections.OrderedDict({"": {"version": 1}, "deberta": {"version": 1}})
    model = base()
    for i in range(2):
        for n, target in enumerate(TARGETS):
            module = f"deberta.encoder.layer.{i}.{target}"
            linear = model.get_submodule(module)
            gate = torch.randn(1, R_MAX)
            dead = {0: [], 1: [1], 2: [0, 3], 3: [0, 1, 2, 3], 4: [2], 5: [0, 1, 2]}[n]
            gate[0, dead] = torch.tensor([0.0, -0.0, 0.0, -0.0])[: len(dead)]
            state[f"{module}.lora.lora_A"] = torch.randn(R_MAX, linear.in_features) * 0.3
            state[f"{module}.lora.lora_B"] = torch.randn(linear.out_features, R_MAX) * 0.3
            state[f"{module}.lora.gate"] = gate
    # As torch may leave them: a parameter, a transposed view, a part of a larger storage.
    names = list(state)
    state[names[0]] = torch.nn.Parameter(state[names[0]])
    state[names[1]] = state[names[1]].t().contiguous().t()
    state[names[3]] = torch.cat([torch.full((1, 8), 99.0), state[names[3]], torch.full((2, 8), 99.0)])[1:-2]
    return state


def products(state):
    gated = {}
    for name in [n for n in state if n.endswith(".lora_A")]:
        module = name.removesuffix(".lora.lora_A")
        a, b = state[name].detach(), state[f"{module}.lora.lora_B"]
        gate = state.get(f"{module}.lora.gate", torch.ones(R_MAX)).reshape(-1)
        gated[module] = ALPHA / R_MAX * b.double() @ torch.diag(gate.double()) @ a.double()
    return gated


def gated_model(state):
    model = base()

    def hook(delta):
        return lambda _, x, y: y + (x[0].double() @ delta.T).float()

    for module, delta in products(state).items():
        model.get_submodule(module).register_forward_hook(hook(delta))
    return model


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def make():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "checkpoint").mkdir(parents=True)
    state = state_dict()
    torch.save(state, OUT / "checkpoint" / "pytorch_model.bin")
    base().config.to_json_file(OUT / "checkpoint" / "config.json")
    plain = {n: t for n, t in state.items() if not n.endswith("gate")}
    (OUT / "plain").mkdir()
    torch.save({n.replace(".lora.", ".lora_1."): t.bfloat16() for n, t in plain.items()}, OUT / "plain" / "pytorch_model.bin")
    torch.save(base().state_dict(), OUT / "whole_model.bin")
    save_file({n: t.detach().contiguous() for n, t in state.items()}, OUT / "same.safetensors")
    expected = {m: {"rank": int(state[f"{m}.lora.gate"].count_nonzero()), "delta": d.flatten().tolist()}
                for m, d in products(state).items()}
    lines = ",\n".join(f' "{m}": {json.dumps(v)}' for m, v in expected.items())
    (OUT / "expected.json").write_text("{\n" + lines + "\n}\n")

    answers()

    (OUT / "hostile").mkdir()
    name = "deberta.encoder.layer.0.output.dense.lora.lora_A"
    for what, attack in {
        "os_system": Attack(os.system, "echo pwned > pwned"), "eval": Attack(eval, "1"), "popen": Attack(subprocess.Popen, ["id"]),
        "getattr": Attack(getattr, "x", "upper"), "import": Attack(__import__, "os"),
    }.items():
        torch.save({name: attack}, OUT / "hostile" / f"{what}.bin")
    for protocol in (0, 2, 4):  # not even a zip
        (OUT / "hostile" / f"bare_{protocol}.bin").write_bytes(pickle.dumps(Attack(os.system, "id"), protocol))
    torch.save({name: torch.randn(4, 12), "epoch": 3}, OUT / "hostile" / "not_only_tensors.bin")
    torch.save(torch.nn.Linear(2, 2), OUT / "hostile" / "whole_module.bin")
    torch.save(state, OUT / "hostile" / "old_format.bin", _use_new_zipfile_serialization=False)


def answers():
    """The base as a checkpoint, and what it and the gated model say of a few rows of ids."""
    rows = [[1, 5, 9, 30, 2, 7, 3], [1, 3], [1, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 3]]
    shutil.rmtree(OUT / "base", ignore_errors=True)
    base().save_pretrained(OUT / "base")
    with torch.no_grad():
        said = lambda model: [model(torch.tensor([row])).logits[0].tolist() for row in rows]
        found = {"ids": rows, "bare": said(base()), "gated": said(gated_model(state_dict()))}
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()]
    (OUT / "answers.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def check():
    from peft import PeftModel
    ids = torch.tensor([[1, 5, 9, 30, 2, 7, 3]])
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        out = Path(scratch) / "imported"
        subprocess.run(["cargo", "test", "--quiet", "--lib", "imports_a_checkpoint_for_peft", "--", "--ignored"],
                       cwd=HERE.parent.parent, env=dict(os.environ, SORANK_SORA_OUT=str(out)), check=True)
        wanted = gated_model(state_dict())(ids).logits
        loaded = PeftModel.from_pretrained(base(), out).eval()
        difference = (loaded(ids).logits - wanted).abs().max().item()
        moved = (base()(ids).logits - wanted).abs().max().item()
        print(f"logits of the imported adapter in peft differ from the gated model's by {difference:.1e}; the gates move them by {moved:.1e}")
        assert difference < LOGITS_TOLERANCE * max(1, wanted.abs().max().item()) and moved > 0.1


if __name__ == "__main__":
    check() if "--check" in sys.argv else answers() if "--answers" in sys.argv else make()
