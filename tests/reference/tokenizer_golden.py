"""Writes tokenizer_golden.json: what `transformers` makes of some hundred odd texts; and two small SentencePiece models.

    python tests/reference/tokenizer_golden.py ../shared

needs transformers (5.x), sentencepiece and the tokenizer files of ../shared/tokenizers. The texts are made here (no
data set's); ids are kept in full, offsets, word ids, types and special masks as one FNV-1a hash a row.

DeBERTa's reference is transformers' own converter of spm.model, which has the model's character map; the class of 5.x,
given spm.model, leaves the map out, unlike the model's training and every tokenizer.json that 4.x wrote.
"""
import json
import os
import random
import shutil
import sys
import tempfile

import sentencepiece
from transformers import BertTokenizer, MPNetTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer
from transformers.convert_slow_tokenizer import DebertaV2Converter

HERE = os.path.dirname(os.path.abspath(__file__))

TEXTS = [
    "", " ", "   ", "\t", "\n", "a", "A", ".", "Hello, world!", "hello   world", "  leading and trailing  ",
    "The quick brown fox jumps over the lazy dog.", "It's John's dog; they're sure we've won, I'd say, and I'll go.",
    "ALL CAPS AND MiXeD cAsE", "naïve café déjà-vu Ångström Škoda İstanbul ıIiİ", "e\u0301 n\u0303 a\u030a\u0323 (combining)",
    "Straße ẞ ß ﬁnance ﬂow ﬀ Ⅷ ① ½ ² ™ ℌ", "ｆｕｌｌｗｉｄｔｈ　ＡＢＣ１２３", "中文字符和English混合", "日本語のテキスト、カタカナとひらがな。",
    "한국어 문장입니다.", "ᄒ\u1161\u11ab decomposed hangul", "Русский текст — ёжик, й, Ї", "Ελληνικά ΣΑΣ σας ς ΌΣΟΣ", "العربية مع تشكيل: مُحَمَّدٌ", "עברית עם ניקוד: שָׁלוֹם",
    "हिन्दी में पाठ क्षत्रिय", "ภาษาไทยไม่มีช่องว่าง", "தமிழ் தெலுగు ಕನ್ನಡ", "😀", "😀😃 smile 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ✨", "emoji😀inside🎉words",
    "tab\tseparated\tvalues", "line\nbreak\r\nand\rmore\n\n\nend", "nbsp\u00a0thin\u2009ideographic\u3000zwsp\u200bzwj\u200dzwnj\u200cbom\ufeffend",
    "line sep\u2028para sep\u2029next\u0085line", "control\x00char\x01s\x07here\x1b[0m\x7f", "soft\u00adhyphen word\u2060joiner rtl\u202emark\u200f",
    "replacement \ufffd char", "private \ue000 use \U000f0000 plane", "unassigned \u0378 \U000e0080", "max \U0010ffff", "mathematical 𝐛𝐨𝐥𝐝 𝒮𝒸𝓇𝒾𝓅𝓉 𝔽",
    "gothic 𐌰𐌱𐌲 hiero 𓀀𓀁 cjk-ext 𠀀𪚥", "3.14159 1,000,000 1e-10 0x1F -42 +7 50% $9.99 £5 €6 ¥7", "1st 2nd 3rd 21st", "2024-02-29T23:59:60Z 12:30pm",
    "email@example.com https://example.org/a?b=c&d=%20#frag C:\\path\\to", "snake_case camelCase kebab-case SCREAMING_CASE",
    "!!! ??? ... --- ___ *** ((( ))) [[[ ]]] {{{ }}} <<< >>>", "«quotes» „low“ ‘single’ “double” ‹angle›", "em—dash en–dash minus−sign hyphen‐minus‑nb",
    "`code` ~tilde~ ^caret^ |pipe| \\back\\ /slash/", "a.b.c.d e,f,g;h:i", "don't can't won't shouldn't've", "rock'n'roll 'tis o'clock",
    "[CLS] spelled [SEP] tokens [MASK] and [PAD] [UNK]", "<s> spelled </s> tokens <mask> and <pad> <unk>", "fill the <mask>.", "fill the [MASK].", "a<mask>b a[MASK]b", "[cls] [ CLS ] [CLS]]",
    "##ing ##hash ## #", "Ġbyte Ċ level Ġ letters", "▁metaspace ▁▁ in text▁here", "<0x41> <0x0A> byte fallback",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 99, "x" * 100, "x" * 101, "ab" * 150, "é" * 60, "漢" * 40, "😀" * 20, "." * 70, " " * 50 + "end", "a" + " " * 50 + "b", "a \n \t \n b",
    "word " * 60, "1234567890" * 12, "\u0301leading combining", "a\u0301\u0302\u0303\u0304\u0305stack", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L", "ﷺ ﷽ long ligatures", "ǅ ǈ Ǆ titlecase", "Dž ĳ Ĳ ŉ",
    "K Å Ω compat kelvin angstrom ohm", "ᾳ ΑΙ ᾼ ΐ ΰ", "ﬗ ﬓ armenian", "①②③ ⓐ ㊀ ㍿ ㌀ ㎏", "ｱｲｳ half ﾊﾟﾊﾞ", "ー長音ー々〆〇", "vertical︵paren︶ ﹏ ﹐", "x²+y³=z⁴ H₂O ∑∫√∞≠≤", "♠♣♥♦ ☃ ☎ ✂ ➡ ⇒",
    "  double  spaces   triple    quad", "trailing newline\n", "\n\nleading newlines", "mixed \u3000 wide \u2003 em", "comma,no,space", "The U.S.A. and U.K. vs. the E.U., e.g. i.e. etc.",
]


def made(n, seed):
    """Random texts from small alphabets: what nobody thinks of."""
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E)] * 6 + [(0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
              (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFFEF), (0x1F300, 0x1FAFF)]
    words = "the of and to in a is that it was for on are as with his they be at one have this from or had by hot word but what some we can out other were all there when up use your how said an each she which do their time if will way about many then them write would like so these her long make thing see him two has look more day could go come did number sound no most people my over know water than call first who may down side been now find any new work part take get place made live where after back little only round man year came show every good me give our under name".split()
    out = []
    for i in range(n):
        parts = []
        for _ in range(rng.randint(1, 14)):
            if i % 3 == 0 or rng.random() < 0.5:
                w = rng.choice(words)
                parts.append(rng.choice([w, w.title(), w.upper(), w + rng.choice(",.;:!?'\"-)"), w + rng.choice(words)]))
            else:
                lo, hi = rng.choice(ranges)
                parts.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 6))))
        out.append(rng.choice([" ", " ", " ", "  ", "", "\n"]).join(parts) if i % 5 else " ".join(parts))
    return out


def fnv(values):
    h = 0xCBF29CE484222325
    for v in values:
        for b in int(v).to_bytes(8, "little", signed=True):
            h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def row(tok, text, pair=None, **kw):
    e = tok(text, pair, return_token_type_ids=True, **kw)
    enc = e.encodings[0]
    opt = lambda v: -1 if v is None else v
    flat = []
    for i in range(len(enc.ids)):
        flat += [enc.type_ids[i], *enc.offsets[i], enc.special_tokens_mask[i], opt(enc.word_ids[i]), opt(enc.sequence_ids[i])]
    return [enc.ids, fnv(flat)]


def deberta(spm):
    """transformers' converter of DeBERTa's spm.model, with the special tokens that its class adds."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=spm)

    class Original:
        vocab_file, split_by_punct, do_lower_case, add_prefix_space = spm, False, False, True

        def convert_tokens_to_ids(self, token):
            return pieces.piece_to_id(token)

    return PreTrainedTokenizerFast(
        tokenizer_object=DebertaV2Converter(Original()).converted(),
        cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]",
    )


def small_model(name, **special):
    """A SentencePiece model of a few hundred pieces with a character map of four rules."""
    rules = tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False)
    for old, new in [("\uff21", "A"), ("\ufb01", "fi"), ("\u00a0", " "), ("\u200b", ""), ("\t", " "), ("\n", " "), ("\u3000", " ")]:
        rules.write(" ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n")
    rules.close()
    path = os.path.join(HERE, name)
    with open(path, "wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(t for t in made(3000, 3) if t.isascii() and t.strip()), model_writer=f, vocab_size=400, model_type="unigram",
            hard_vocab_limit=False, normalization_rule_tsv=rules.name, user_defined_symbols=["<user>"], num_threads=1,
            character_coverage=1.0, minloglevel=2, **special,
        )
    return path


def small_xlm(spm):
    d = tempfile.mkdtemp()
    shutil.copy(spm, os.path.join(d, "sentencepiece.bpe.model"))
    return XLMRobertaTokenizer.from_pretrained(d)


def main(shared):
    tokenizers = os.path.join(shared, "tokenizers")
    bert, roberta = os.path.join(tokenizers, "bert-base-uncased"), os.path.join(tokenizers, "roberta-base")

    def old(source, files, config, cls):
        """From the original tokenizer's files alone, with this configuration."""
        d = tempfile.mkdtemp()
        for f in files:
            shutil.copy(os.path.join(source, f), d)
        json.dump(config, open(os.path.join(d, "tokenizer_config.json"), "w"))
        return cls.from_pretrained(d), config

    entries = {
        "bert": (BertTokenizer.from_pretrained(bert), None),
        "bert-cased": old(bert, ["vocab.txt"], {"do_lower_case": False}, BertTokenizer),
        "bert-accents": old(bert, ["vocab.txt"], {"strip_accents": False}, BertTokenizer),
        "bert-unsplit": old(bert, ["vocab.txt"], {"tokenize_chinese_chars": False}, BertTokenizer),
        "roberta": (RobertaTokenizer.from_pretrained(roberta), None),
        "roberta-prefix": old(roberta, ["vocab.json", "merges.txt", "special_tokens_map.json"], {"add_prefix_space": True}, RobertaTokenizer),
        "mpnet": old(bert, ["vocab.txt"], {
            "tokenizer_class": "MPNetTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[CLS]",
            "eos_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}, MPNetTokenizer),
        "deberta": (deberta(os.path.join(tokenizers, "deberta-v3", "spm.model")), None),
        "small-deberta": (deberta(small_model("small-deberta.spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]",
                                              bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")), None),
        "small-xlm": (small_xlm(small_model("small-xlm.spm.model")), None),
    }
    texts = TEXTS + ["a <user> symbol<user>\u00a0\uff21\ufb01x\u3000\u200b."] + made(160, 7)
    rng = random.Random(11)
    pairs = [(rng.randrange(len(texts)), rng.randrange(len(texts))) for _ in range(40)]
    cuts = []  # first, second or -1, max, side
    for _ in range(60):
        i, j = rng.randrange(len(texts)), rng.randrange(len(texts))
        cuts.append([i, j if rng.random() < 0.7 else -1, rng.choice([4, 5, 6, 7, 8, 9, 12, 15, 16, 31]), rng.choice(["right", "left"])])
    out = {"texts": texts, "pairs": pairs, "cuts": cuts, "tokenizers": {}}
    for name, (tok, config) in entries.items():
        full = name in ("bert", "roberta", "deberta", "small-xlm")
        got = {"config": config, "single": [row(tok, t) for t in (texts if full else texts[: len(TEXTS) + 1])]}
        if full or name == "mpnet":
            got["pairs"] = [row(tok, texts[i], texts[j]) for i, j in pairs]
            got["cuts"] = []
            for i, j, n, side in cuts:
                tok.truncation_side = side
                got["cuts"].append(row(tok, texts[i], texts[j] if j >= 0 else None, truncation=True, max_length=n))
            tok.truncation_side = "right"
        out["tokenizers"][name] = got
    path = os.path.join(HERE, "tokenizer_golden.json")
    with open(path, "w", encoding="utf-8") as f:
        # One row a line: a change shows where it is.
        f.write('{\n"texts": [\n' + ",\n".join(json.dumps(t) for t in out["texts"]) + "\n],\n")
        f.write(f'"pairs": {json.dumps(pairs)},\n"cuts": {json.dumps(cuts)},\n"tokenizers": {{\n')
        blocks = []
        for name, got in out["tokenizers"].items():
            parts = [f'"config": {json.dumps(got["config"])}']
            for key in ("single", "pairs", "cuts"):
                if key in got:
                    parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in got[key]) + "\n]")
            blocks.append(f'"{name}": {{\n' + ",\n".join(parts) + "\n}")
        f.write(",\n".join(blocks) + "\n}\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
