"""Learns a small vocabulary of word pieces by byte-pair merging, the same one at every run.

The trainers of the `tokenizers` library break ties in the order of a hash map, so that two runs give two
vocabularies; here the more frequent pair wins, then the alphabetically first. Slow and plain: it is meant for
a few thousand words and a few thousand pieces.
"""

from collections import Counter, defaultdict


def words(tok, corpus):
    """The words of a corpus with their counts, as `tok` normalises and splits it."""
    counts = Counter()
    for text in corpus:
        if tok.normalizer is not None:
            text = tok.normalizer.normalize_str(text)
        counts.update(w for w, _ in tok.pre_tokenizer.pre_tokenize_str(text))
    return counts


def merge(counts, size, continuation="", alphabet=(), least=2):
    """Pieces (alphabet first, then merged ones, `size` in all), the merges, and how often each piece is used.

    counts: word -> how often; continuation: the mark of a piece that does not begin a word ("##" or nothing);
    alphabet: symbols to have whether they occur or not; least: a pair rarer than this is not merged.
    """
    split = [([c if i == 0 else continuation + c for i, c in enumerate(w)], n) for w, n in sorted(counts.items())]
    pieces = sorted(set(alphabet) | {s for symbols, _ in split for s in symbols})
    known, merges = set(pieces), []
    pairs, where = Counter(), defaultdict(set)

    def note(index, sign):
        symbols, n = split[index]
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += sign * n
            if sign > 0:
                where[pair].add(index)

    for i in range(len(split)):
        note(i, 1)
    while len(pieces) < size:
        best = min(pairs, key=lambda p: (-pairs[p], p), default=None)
        if best is None or pairs[best] < least:
            break
        left, right = best
        joined = left + right.removeprefix(continuation)
        merges.append(best)
        if joined not in known:
            known.add(joined)
            pieces.append(joined)
        for i in sorted(where.pop(best)):
            note(i, -1)
            old, new = split[i][0], []
            for s in old:
                if new and new[-1] == left and s == right:
                    new[-1] = joined
                else:
                    new.append(s)
            split[i] = (new, split[i][1])
            note(i, 1)
        del pairs[best]
    used = Counter()
    for symbols, n in split:
        for s in symbols:
            used[s] += n
    return pieces, merges, used
