"""Small tokenizers of each kind, laid out as the families' real ones are: the same normaliser, pre-tokeniser,
special tokens at the same low ids where the family fixes them, and post-processor. Only the vocabulary is small.
"""

from math import log

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import pieces
from corpus import SENTENCES


def _added(tokens, lstrip_mask=False):
    return [
        AddedToken(t, special=True, normalized=False, lstrip=lstrip_mask and "mask" in t.lower()) for t in tokens
    ]


def _bert_template(cls, sep, cls_id, sep_id):
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )


def _double_sep(bos, eos, bos_id, eos_id):
    return processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, bos_id), (eos, eos_id)],
    )


def wordpiece(size, special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), corpus=SENTENCES, unk="[UNK]", letters=()):
    """BERT's: lower case, accents stripped, `##` continuations."""
    tok = Tokenizer(models.WordPiece(unk_token=unk))
    tok.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    learned, _, _ = pieces.merge(pieces.words(tok, corpus), size - len(special), "##", letters)
    vocab = {t: i for i, t in enumerate([*special, *learned])}
    tok.model = models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100, continuing_subword_prefix="##")
    tok.add_special_tokens(_added(special))
    return tok


def bert(size=300):
    tok = wordpiece(size)
    tok.post_processor = _bert_template("[CLS]", "[SEP]", 2, 3)
    return tok


def mpnet(size=300):
    """WordPiece with RoBERTa's markers: <s> 0, <pad> 1, </s> 2, [UNK] 3, <mask> last."""
    special = ("<s>", "<pad>", "</s>", "[UNK]")
    tok = wordpiece(size - 1, special)
    tok.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return tok


def _byte_level(tok, size, special=()):
    """Byte-level BPE of `size` pieces, `special` first."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned, merges, _ = pieces.merge(pieces.words(tok, SENTENCES), size - len(special), "", alphabet)
    tok.model = models.BPE({t: i for i, t in enumerate([*special, *learned])}, merges)
    tok.add_special_tokens(_added(special))


def roberta(size=360):
    """Byte-level BPE: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    _byte_level(tok, size - 1, ("<s>", "<pad>", "</s>", "<unk>"))
    tok.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return tok


def modernbert(size=352):
    """Byte-level BPE after NFC, with BERT's markers at the end of the vocabulary."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    _byte_level(tok, size - len(special))
    tok.add_special_tokens(_added(special, lstrip_mask=True))
    tok.post_processor = _bert_template("[CLS]", "[SEP]", tok.token_to_id("[CLS]"), tok.token_to_id("[SEP]"))
    return tok


def _unigram(size, special, unk, normalizer, split_spaces=True):
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizer
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace]) if split_spaces else metaspace
    )
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    learned, _, used = pieces.merge(pieces.words(tok, SENTENCES), size - len(special) - 1)
    total = sum(used.values())
    scores = [(t, 0.0) for t in special] + [(t, round(log((used[t] + 0.5) / total), 6)) for t in learned]
    tok.model = models.Unigram(scores, unk_id=special.index(unk), byte_fallback=False)
    tok.add_special_tokens(_added(special))
    return tok


def xlm_roberta(size=300):
    """Unigram: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last; a pair is parted by two </s>."""
    tok = _unigram(size, ("<s>", "<pad>", "</s>", "<unk>"), "<unk>", normalizers.NFKC())
    tok.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tok.post_processor = _double_sep("<s>", "</s>", 0, 2)
    return tok


def camembert(size=300):
    """Unigram with CamemBERT's shifted markers: <pad> 1, <unk> 3, <s> 5, </s> 6."""
    special = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    tok = _unigram(size, special, "<unk>", normalizers.NFKC())
    tok.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tok.post_processor = _double_sep("<s>", "</s>", 5, 6)
    return tok


def albert(size=300):
    """Unigram, lower case, accents stripped: <pad> 0, <unk> 1, [CLS] 2, [SEP] 3, [MASK] 4."""
    normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    tok = _unigram(size + 1, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), "<unk>", normalizer)
    tok.post_processor = _bert_template("[CLS]", "[SEP]", 2, 3)
    return tok


def deberta(size=300):
    """Unigram: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, [MASK] last."""
    normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    tok = _unigram(size, ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[UNK]", normalizer, split_spaces=False)
    tok.add_special_tokens([AddedToken("[MASK]", special=True, normalized=False)])
    tok.post_processor = _bert_template("[CLS]", "[SEP]", 1, 2)
    return tok
