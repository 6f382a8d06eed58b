"""Makes the model that is built into the binary: a small English encoder and three adapters, from ../shared/data.

    python make.py [--minutes N] [--again] [--out DIR] tokenizer | base | sentiment | question | intent | golden  ...

tokenizer   an uncased WordPiece vocabulary of 8,000 from the texts of data.corpus().
base        BERT's shape: 4 layers of 192, pre-trained by masked language modelling and stored as BF16. Word vectors
            start from co-occurrence counts and attention from the mean, worth many epochs to a run this short. The pooled vector also
            has to guess the hidden words, so that [CLS] gathers a text's meaning.
a task      pooler and classifier alone first; LoRA r = 8 on all 24 linears of the stored base beside them; then all singular values of
            all updates are ranked together, the larger half stays, each site gets the rank that is left to it (sites
            left with none are not in the file), and training goes on for a little. With --again the stored adapter
            is cut to a third of what it began with and trained on. Scale 1: rank_pattern = alpha_pattern. F16. The
            test split is read for its score; what scores were looked at for stands in ../README.md.
golden      torch's logits for mixed.jsonl, one text at a time, from the files as stored; and how many sentences of
            natural.py come out right.

Stages are seeded and run on one thread, but a stage ends when its minutes are over, and the learning rate falls
accordingly: another machine makes another model, as good as its minutes. Needs torch, transformers, peft.
"""

import argparse
import json
import os
import re
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
HERE = Path(__file__).resolve().parent

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, BertModel

import data
from natural import NATURAL

VOCAB, HIDDEN, POSITIONS, CAP = 8000, 192, 256, 64
PAD, UNK, CLS, SEP, MASK = range(5)
RANK, KEEP, KEEP_AGAIN, RATE_AGAIN = 8, 0.5, 0.34, 1.5e-3
TASKS = ["sentiment", "question", "intent"]
MINUTES = {"base": 12, "sentiment": 5, "question": 3, "intent": 4}


class Clock:
    """How far a stage is, 0 to 1, by the time it was given; and the learning rate that belongs there."""

    def __init__(self, minutes):
        self.start, self.length = time.time(), 60 * minutes

    def done(self):
        return (time.time() - self.start) / self.length

    def rate(self, peak, warm, fall):
        at = min(self.done(), 1)
        return peak * min(1, (at + 1e-3) / warm, max(0, 1 - at) / fall)


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([r + [PAD] * (width - len(r)) for r in rows])


def batches(lengths, tokens, rng):
    """Texts of alike length together, about `tokens` tokens with their padding; endless, each text once a round."""
    while True:
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] + 3 * rng.random())
        groups, group = [], []
        for i in order:
            if group and (len(group) + 1) * max(lengths[i], lengths[group[0]] + 3) > tokens:
                groups.append(group)
                group = []
            group.append(i)
        groups.append(group)
        for g in rng.permutation(len(groups)):
            yield groups[g]


def tokenizer():
    return Tokenizer.from_file(str(HERE / "base/tokenizer.json"))


# -- base ------------------------------------------------------------------------------------------------------


def make_tokenizer():
    singles, pairs = data.corpus()
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=letters, limit_alphabet=120, show_progress=False)
    tok.train_from_iterator(singles + [t for p in pairs for t in p], trainer)
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    (HERE / "base").mkdir(exist_ok=True)
    tok.save(str(HERE / "base/tokenizer.json"), pretty=False)


def word_vectors(rows):
    """Two halves, each the leading singular vectors of positive pointwise mutual information with a word's company:
    its nearest neighbours, left and right told apart (grammar), and everything within eight words (subject)."""
    flat = np.concatenate([np.array(r + [PAD] * 8) for r in rows])
    flat = np.where(flat < 5, PAD, flat)

    def counts(offset):
        a, b = flat[:-offset], flat[offset:]
        ok = (a != PAD) & (b != PAD)
        return np.bincount(a[ok] * VOCAB + b[ok], minlength=VOCAB * VOCAB).reshape(VOCAB, VOCAB).astype(np.float32)

    def leading(c, width):
        c[:5] = 0
        by_row, by_column = c.sum(1, keepdims=True), c.sum(0, keepdims=True) ** 0.75
        expected = by_row * by_column / by_column.sum()
        pmi = torch.from_numpy(np.log(np.maximum(c, 1e-9) / np.maximum(expected, 1e-9)).clip(0))
        u, s, _ = torch.svd_lowrank(pmi, q=width + 16, niter=3)
        return u[:, :width] * s[:width].sqrt()

    near = counts(1)
    after = counts(2)
    frequent = np.argsort(-near.sum(0), kind="stable")[:2000]
    sides = [near[:, frequent], near.T[:, frequent], after[:, frequent], after.T[:, frequent]]
    wide = sum((counts(d) for d in range(3, 9)), near + after)
    half = HIDDEN // 2
    vectors = [leading(np.concatenate(sides, 1), half), leading(wide + wide.T, half)]
    vectors = torch.cat([v / v.std() for v in vectors], 1)
    turn, _ = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))
    vectors = (vectors - vectors.mean(0)) @ turn
    norms = vectors.norm(dim=1, keepdim=True)
    return 0.05 * vectors * (HIDDEN**0.5 / norms.clip(min=1)) * (norms / norms.max()) ** 0.25


class Pretraining(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.bert = BertModel(config)
        self.dense, self.gather = torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Linear(HIDDEN, HIDDEN)
        self.norm, self.gather_norm = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.bias = torch.nn.Parameter(torch.zeros(config.vocab_size))

    @torch.no_grad()
    def begin(self, vectors, seen):
        """Begins as a model that guesses a word from the mean of the words around it: values and outputs all but undo each
        other, attention is nearly even, guesses start from how frequent a word is. The rest is left random."""
        self.bert.embeddings.word_embeddings.weight.copy_(vectors)
        for layer in self.bert.encoder.layer:
            turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0]
            layer.attention.self.value.weight.copy_(turn)
            layer.attention.output.dense.weight.copy_(0.4 * turn.T)
        turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0]
        self.bert.pooler.dense.weight.copy_(0.5 * turn)
        self.gather.weight.copy_(turn.T)
        self.dense.weight.copy_(torch.eye(HIDDEN))
        self.bias.copy_(torch.log((seen + 1) / seen.sum()))

    def forward(self, given, types, hidden, ids):
        """Losses of the hidden words, guessed where they stand and from the pooled vector, and how many are right."""
        out = self.bert(input_ids=given, token_type_ids=types, attention_mask=(given != PAD).long())
        table, words = self.bert.embeddings.word_embeddings.weight.T, ids[hidden]
        here = self.norm(self.dense(out.last_hidden_state[hidden])) @ table + self.bias
        row = torch.nonzero(hidden)[:, 0]
        pooled = self.gather_norm(self.gather(out.pooler_output)) @ table + self.bias
        pooled = F.log_softmax(pooled.float(), -1)[row, words]
        return F.cross_entropy(here.float(), words), -pooled.mean(), (here.argmax(-1) == words).float().mean()


def hide(ids, rng):
    """20 % are to be guessed; of these 80 % are masked, 10 % replaced by something else, 10 % left as they are."""
    word = ids > MASK
    hidden = torch.from_numpy(rng.random(ids.shape) < 0.2) & word
    how = torch.from_numpy(rng.random(ids.shape))
    given = torch.where(hidden & (how < 0.8), MASK, ids)
    return torch.where(hidden & (how > 0.9), torch.from_numpy(rng.integers(5, VOCAB, ids.shape)), given), hidden


def make_base(minutes, out):
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    tok = tokenizer()
    singles, pairs = data.corpus()
    codes = tok.encode_batch(singles + pairs)
    rows = [c.ids[: CAP - 1] + [SEP] if len(c.ids) > CAP else c.ids for c in codes]
    kinds = [c.type_ids[:CAP] for c in codes]
    kinds = [k[: len(r)] for k, r in zip(kinds, rows)]
    total = sum(map(len, rows))
    print(f"{len(rows)} texts, {total} tokens, {sum(UNK in r for r in rows)} with [UNK]", flush=True)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768,
        max_position_embeddings=POSITIONS, type_vocab_size=2, pad_token_id=PAD,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, architectures=["BertModel"],
    )
    model = Pretraining(config)
    seen = torch.from_numpy(np.bincount(np.concatenate([c.ids for c in codes]), minlength=VOCAB))
    model.begin(word_vectors([c.ids for c in codes]), seen * (torch.arange(VOCAB) > MASK))
    print("word vectors are there", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=0.01), dict(params=plain, weight_decay=0.0)], betas=(0.9, 0.98), fused=True)
    clock, seen, step, used, saved = Clock(minutes), np.zeros(4), 0, 0, time.time()
    stream = batches([len(r) for r in rows], 1024, rng)
    model.train()
    while clock.done() < 1:
        if step % 16 == 15:  # several texts as one, so that the later positions learn something too
            pick = [[r for i in rng.integers(len(rows), size=40) for r in rows[i][1:]] for _ in range(4)]
            group, ids = None, padded([[CLS, *p[: POSITIONS - 1]] for p in pick])
        else:
            group = next(stream)
            ids = padded([rows[i] for i in group])
        types = padded([kinds[i] for i in group]) if group else torch.zeros_like(ids)
        given, hidden = hide(ids, rng)
        for g in opt.param_groups:
            g["lr"] = clock.rate(1.5e-3, 0.05, 0.4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            words, pooled, right = model(given, types, hidden, ids)
        loss = words if group is None else words + 0.5 * pooled
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step, used = step + 1, used + ids.numel()
        seen += [words.item(), pooled.item(), right.item(), 1]
        if step % 25 == 0:
            w, p, r, _ = seen / seen[3]
            print(f"base {step}: loss {w:.3f}, pooled {p:.3f}, right {r:.3f}, {used / total:.2f} rounds, {60 * clock.done() * minutes:.0f} s", flush=True)
            seen[:] = 0
        if time.time() - saved > 60:
            save_base(model.bert, tok, out)
            saved = time.time()
    save_base(model.bert, tok, out)
    print(f"base: {step} steps, {sum(p.numel() for p in model.bert.parameters())} parameters", flush=True)


def save_base(bert, tok, out):
    """As it stands: a run that is stopped leaves its last minute behind it."""
    out.mkdir(exist_ok=True, parents=True)
    kept = {k: v.detach().bfloat16().contiguous() for k, v in bert.state_dict().items() if "position_ids" not in k}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = bert.config.to_diff_dict()
    config |= {"architectures": ["BertModel"], "dtype": "bfloat16", "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    config |= {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": PAD, "initializer_range": 0.02}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tok.save(str(out / "tokenizer.json"), pretty=False)


# -- adapters --------------------------------------------------------------------------------------------------


def classifier(task):
    torch.manual_seed(3)
    names = data.labels(task)
    return BertForSequenceClassification.from_pretrained(
        HERE / "base", num_labels=len(names), dtype=torch.float32, attn_implementation="sdpa", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def encoded(tok, pairs):
    return [([*e.ids[: CAP - 1], SEP] if len(e.ids) > CAP else e.ids, l) for e, (_, l) in zip(tok.encode_batch([t for t, _ in pairs]), pairs)]


def train(model, rows, minutes, rate, seed, name):
    rng = np.random.default_rng(seed)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, weight_decay=0.01, fused=True)
    stream = batches([len(r) for r, _ in rows], 768, rng)
    clock, step, used, seen = Clock(minutes), 0, 0, []
    model.train()
    while clock.done() < 1:
        group = next(stream)
        ids = padded([rows[i][0] for i in group])
        # A word hidden now and then: the little data there is lasts longer.
        given = torch.where(torch.from_numpy(rng.random(ids.shape) < 0.08) & (ids > MASK), MASK, ids)
        for g in opt.param_groups:
            g["lr"] = clock.rate(rate, 0.06, 0.94)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=given, attention_mask=(ids != PAD).long()).logits
        loss = F.cross_entropy(logits.float(), torch.tensor([rows[i][1] for i in group]), label_smoothing=0.05)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step, used = step + 1, used + len(group)
        seen.append(loss.item())
        if step % 100 == 0:
            print(f"{name} {step}: loss {np.mean(seen[-100:]):.4f}, {used / len(rows):.2f} rounds, {60 * clock.done() * minutes:.0f} s", flush=True)
    return step, used / len(rows)


def warm_head(model, rows, count):
    """Pooler and classifier alone, on what the frozen base says of `count` texts, computed once: a cheap beginning."""
    rng = np.random.default_rng(9)
    rows = [rows[i] for i in rng.permutation(len(rows))[:count]]
    rows.sort(key=lambda row: len(row[0]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [padded([r for r, _ in rows[at : at + 64]]) for at in range(0, len(rows), 64)]
        first = torch.cat([model.bert(input_ids=p, attention_mask=(p != PAD).long()).last_hidden_state[:, :1].float() for p in parts])
    target = torch.tensor([l for _, l in rows])
    params = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    opt, steps = torch.optim.AdamW(params, weight_decay=0.05, fused=True), 800
    for step in range(steps):
        for g in opt.param_groups:
            g["lr"] = 3e-3 * min(1, (step + 1) / 50, (steps - step) / (0.9 * steps))
        pick = torch.from_numpy(rng.integers(len(rows), size=256))
        pooled = model.bert.pooler(F.dropout(first[pick], 0.1))
        loss = F.cross_entropy(model.classifier(F.dropout(pooled, 0.2)), target[pick], label_smoothing=0.05)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"head alone: loss {loss.item():.4f}", flush=True)


def accuracy(model, rows):
    model.eval()
    order, right = sorted(range(len(rows)), key=lambda i: len(rows[i][0])), 0
    with torch.inference_mode():
        for at in range(0, len(order), 64):
            group = order[at : at + 64]
            ids = padded([rows[i][0] for i in group])
            guess = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits.argmax(-1)
            right += (guess == torch.tensor([rows[i][1] for i in group])).sum().item()
    return right / len(rows)


def lora(targets, ranks=None):
    top = max(ranks.values()) if ranks else RANK
    return LoraConfig(
        task_type="SEQ_CLS", r=top, lora_alpha=top, lora_dropout=0.0, target_modules=targets,
        rank_pattern=ranks or {}, alpha_pattern=ranks or {}, modules_to_save=["classifier", "pooler"],
    )


def cut(task, full, keep):
    """All singular values of all updates are ranked together; what a site keeps of the `keep` largest is its rank."""
    whole, values = {}, []
    for path, m in full.base_model.model.named_modules():
        if hasattr(m, "lora_A"):
            a, b = m.lora_A["default"].weight, m.lora_B["default"].weight
            whole[path] = torch.linalg.svd((b @ a).detach(), full_matrices=False)
            values += [(x.item(), path) for x in whole[path][1][: len(a)]]
    ranks = Counter(path for _, path in sorted(values, reverse=True)[:keep])
    kept = {path: ranks[path] for path in whole if ranks[path]}
    model = get_peft_model(classifier(task), lora(list(kept), kept))
    source = dict(full.named_parameters())
    for name, param in model.named_parameters():
        if "modules_to_save" in name:
            param.data.copy_(source[name].data)
    for path, r in kept.items():
        (u, s, vt), m = whole[path], model.base_model.model.get_submodule(path)
        assert m.scaling["default"] == 1.0
        m.lora_A["default"].weight.data.copy_(s[:r].sqrt()[:, None] * vt[:r])
        m.lora_B["default"].weight.data.copy_(u[:, :r] * s[:r].sqrt())
    return model, kept


def make_adapter(task, minutes, again):
    tok = tokenizer()
    rows, test = encoded(tok, data.task(task, "train")), encoded(tok, data.task(task, "test"))
    bare = classifier(task)
    paths = [n for n, m in bare.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n]
    if again:
        full, steps, rounds, share = stored(task), 0, 0, 1
    else:
        warm_head(bare, rows, 6000)
        print(f"{task}: {accuracy(bare, test[::5]):.4f} by the head alone", flush=True)
        full, share = get_peft_model(bare, lora(paths)), 0.25
        steps, rounds = train(full, rows, (1 - share) * minutes, 2e-3, 10, task)
    before = accuracy(full, test[::5])
    model, kept = cut(task, full, int((KEEP_AGAIN if again else KEEP) * RANK * len(paths)))
    pruned = accuracy(model, test[::5])
    more, rounds_more = train(model, rows, share * minutes, RATE_AGAIN if again else 7e-4, 12 if again else 11, task)

    out = HERE / "adapters" / task
    model.peft_config["default"].base_model_name_or_path = "models/tiny/base"
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    weights = out / "adapter_model.safetensors"
    save_file({k: v.half() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    config = json.loads((out / "adapter_config.json").read_text())
    config |= {"target_modules": sorted(kept), "modules_to_save": ["classifier", "pooler"], "rank_pattern": kept, "alpha_pattern": kept}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "labels.json").write_text(json.dumps(data.labels(task), indent=0) + "\n")
    print(
        f"{task}: {steps} + {more} steps, {rounds:.1f} + {rounds_more:.1f} rounds; {before:.4f} before (a fifth of the test texts), {pruned:.4f} cut to "
        f"{sum(kept.values())} of {RANK * len(paths)} ranks, {accuracy(stored(task), test):.4f} as stored; "
        f"{len(kept)} of {len(paths)} sites, ranks {sorted(kept.values())}, {weights.stat().st_size} bytes",
        flush=True,
    )


# -- answers ---------------------------------------------------------------------------------------------------


def stored(task):
    return PeftModel.from_pretrained(classifier(task), HERE / "adapters" / task).float().eval()


def logits(model, tok, text):
    with torch.inference_mode():
        ids = torch.tensor([tok.encode(text).ids])
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def make_golden():
    tok = tokenizer()
    asked = [json.loads(line) for line in (HERE / "mixed.jsonl").read_text().splitlines()]
    answers = [dict(row, ids=tok.encode(row["text"]).ids) for row in asked]
    for task in TASKS:
        # In the order of the outputs, which is that of whoever trained.
        names = json.loads((HERE / "adapters" / task / "labels.json").read_text())["labels"]
        model = stored(task)
        for row in answers:
            if row["adapter"] == task:
                row["logits"] = logits(model, tok, row["text"]).tolist()
                top = torch.tensor(row["logits"]).softmax(-1)
                print(f"{row['text']!r}: {names[top.argmax()]} {top.max():.2f}")
        right, wrong = 0, []
        for text, label in NATURAL[task]:
            top = logits(model, tok, text).softmax(-1)
            right += names[top.argmax()] == label
            if names[top.argmax()] != label:
                wrong.append(f"    {text!r}: {names[top.argmax()]} {top.max():.2f}, not {label}")
        print(f"{task}: {right} of {len(NATURAL[task])} natural sentences", *wrong, sep="\n")
    body = json.dumps(answers, indent=1, ensure_ascii=False)
    body = re.sub(r"\[\s+((?:-?[\d.e-]+,?\s+)+)\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]).strip() + "]", body)
    (HERE / "golden.json").write_text(body + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("stages", nargs="+", choices=["tokenizer", "base", *TASKS, "golden"])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path, default=HERE / "base", help="where the base goes")
    parser.add_argument("--again", action="store_true", help="cut a stored adapter once more and train it on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in args.stages:
        minutes = args.minutes or MINUTES.get(stage)
        if stage == "tokenizer":
            make_tokenizer()
        elif stage == "base":
            make_base(minutes, args.out)
        elif stage == "golden":
            make_golden()
        else:
            make_adapter(stage, minutes, args.again)


if __name__ == "__main__":
    main()
