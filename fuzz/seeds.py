#!/usr/bin/env python3
"""Seeds of the fuzz targets, from files of this repository, under fuzz/corpus/ (not committed); and, with --small, the
small model of tests/corpus/small/, and the seeds and past failures of tests/corpus/ (committed). Needs nothing but Python."""

import io
import json
import struct
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEXT_FILE = b"\n%%\n"


def safetensors(tensors, metadata=None):
    """{name: (dtype, shape, bytes)}"""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def numbers(shape, kind="F32"):
    n = 1
    for d in shape:
        n *= d
    values = [((i * 31 + 7) % 17 - 8) / 16 for i in range(n)]
    if kind == "BF16":
        raw = b"".join(struct.pack("<f", v)[2:] for v in values)
    else:
        raw = struct.pack(f"<{n}{'f' if kind == 'F32' else 'e'}", *values)
    return kind, list(shape), raw


CONFIG = {
    "model_type": "bert", "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 4,
    "vocab_size": 6, "max_position_embeddings": 6, "type_vocab_size": 2, "hidden_act": "gelu",
}
ADAPTER = {
    "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["query"], "modules_to_save": ["classifier"],
    "task_type": "SEQ_CLS",
}


def small_model(kind="F32"):
    h, out = 4, {}

    def norm(name):
        out[f"{name}.weight"], out[f"{name}.bias"] = numbers([h], kind), numbers([h], kind)

    def linear(name):
        out[f"{name}.weight"], out[f"{name}.bias"] = numbers([h, h], kind), numbers([h], kind)

    for table, rows in [("word", 6), ("position", 6), ("token_type", 2)]:
        out[f"embeddings.{table}_embeddings.weight"] = numbers([rows, h], kind)
    norm("embeddings.LayerNorm")
    layer = "encoder.layer.0"
    for part in "query", "key", "value":
        linear(f"{layer}.attention.self.{part}")
    linear(f"{layer}.attention.output.dense")
    norm(f"{layer}.attention.output.LayerNorm")
    linear(f"{layer}.intermediate.dense")
    linear(f"{layer}.output.dense")
    norm(f"{layer}.output.LayerNorm")
    return safetensors(out)


def small_adapter(kind="F32"):
    site = "base_model.model.encoder.layer.0.attention.self.query"
    return safetensors({
        f"{site}.lora_A.weight": numbers([1, 4], kind),
        f"{site}.lora_B.weight": numbers([4, 1], kind),
        "base_model.model.classifier.weight": numbers([2, 4], kind),
        "base_model.model.classifier.bias": numbers([2], kind),
    }, {"format": "pt"})


ROWS = [
    b'{"text":"a b"}\n{"text":"a","text_pair":"b","adapter":"intent"}\n{"text":"x","adapters":["sentiment",null,"intent"]}\n',
    b'{"text":"a","adapter":null}\r\n\r\n{"text":""}\n{"text":"\\ud83d\\ude80 caf\\u00e9","adapters":["nobody"]}',
    b'\xef\xbb\xbfplain text\nof two lines',
    b'text,text_pair,adapter\n"a ""b""\nc",d,intent\ne,,\n',
    b'text\tadapter\na "b\tquestion\nc\t\n',
    b'{"query":"q","texts":["a","b c"]}\n{"query":"q","texts":["a"],"adapter":"sentiment"}\n',
]
WORD_PIECE = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\nna\n##ive\n,\n"
BYTE_LEVEL = b'{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"<mask>":4,"a":5,"b":6,"ab":7,"\xc4\xa0":8,"\xc4\xa0a":9}'
MERGES = b"#version: 0.2\na b\n\xc4\xa0 a\n"


def every(pattern):
    """(a name, the content) of the repository's files."""
    for path in sorted(ROOT.glob(pattern)):
        yield "-".join(path.relative_to(ROOT).parts[1:]), path.read_bytes()


def seeds():
    yield "safetensors", "model", small_model()
    yield "safetensors", "model-bf16", small_model("BF16")
    yield "safetensors", "adapter", small_adapter()
    yield "safetensors", "adapter-f16", small_adapter("F16")
    yield "adapter_config", "small", json.dumps(ADAPTER).encode()
    for name, config in every("tests/reference/peft/*/adapter_config.json"):
        yield "adapter_config", name, config
    for name, config in every("models/tiny/adapters/*/adapter_config.json"):
        labels = ROOT / "models" / name.replace("tiny-adapters-", "tiny/adapters/").replace("-adapter_config.json", "/labels.json")
        yield "adapter_config", name, config + NEXT_FILE + labels.read_bytes()
    yield "model_config", "small", json.dumps(CONFIG).encode()
    sentence = [
        b'[{"path":"","type":"sentence_transformers.models.Transformer"},'
        b'{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},'
        b'{"path":"2","type":"sentence_transformers.models.Normalize"}]',
        b'{"pooling_mode_mean_tokens":true,"word_embedding_dimension":32}',
        b'{"max_seq_length":12,"do_lower_case":false}',
        b'{"prompts":{"query":"query: "},"default_prompt_name":"query"}',
    ]
    for name, config in every("models/golden/*/base/config.json"):
        yield "model_config", name, NEXT_FILE.join([config, *sentence])
    settings = b'{"do_lower_case":true,"cls_token":"[CLS]","mask_token":{"content":"[MASK]","lstrip":true}}'
    for name, description in every("models/golden/*/base/tokenizer.json"):
        yield "tokenizer", name, b"j" + description + NEXT_FILE + settings
    yield "tokenizer", "word-piece", b"w" + WORD_PIECE + NEXT_FILE + settings
    yield "tokenizer", "word-piece-added", b"w" + NEXT_FILE.join([WORD_PIECE, b"{}", b'{"unk_token":"[UNK]"}', b'{"new":11}'])
    yield "tokenizer", "byte-level", b"b" + NEXT_FILE.join([BYTE_LEVEL, b"{}", b"{}", b"{}", MERGES])
    for kind, name in [(b"s", "deberta"), (b"x", "xlm")]:
        for name, model in every(f"tests/reference/small-{name}.spm.model"):
            yield "tokenizer", name, kind + model + NEXT_FILE + b'{"do_lower_case":false}'
    for name, pickle in every("tests/reference/sora/**/*.bin"):
        yield "unpickle", name, pickle
    for i, rows in enumerate(ROWS):
        yield "rows", str(i), rows


def torch_file(tensors):
    """{name: (shape, floats)} as torch.save lays it out, without torch."""
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()
    numbers = lambda ns: b"(" + b"".join(b"K" + bytes([n]) for n in ns) + b"t"
    program, storages = b"\x80\x02}(", {}
    for key, (name, (shape, values)) in enumerate(tensors.items()):
        storages[f"m/data/{key}"] = struct.pack(f"<{len(values)}f", *values)
        strides = [shape[1], 1] if len(shape) == 2 else [1]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu")
        storage += b"K" + bytes([len(values)]) + b"tQ"
        program += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + numbers(shape)
        program += numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"m/data.pkl": program + b"u.", "m/version": b"3\n", **storages}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def past():
    """Inputs that once broke something, named after what went wrong."""
    config = json.loads((ROOT / "models/golden/modernbert/base/config.json").read_bytes())
    config |= {"hidden_size": 1 << 24, "num_attention_heads": 2, "max_position_embeddings": 1 << 17}
    yield "model_config", "rotary-table-larger-than-memory-before-any-shape-was-seen", json.dumps(config).encode()
    tokenizer = json.loads((ROOT / "models/golden/bert/base/tokenizer.json").read_bytes())
    tokenizer["model"]["vocab"]["the"] = 0xFFFF_FFFF
    tokenizer["added_tokens"] = []
    tokenizer["post_processor"] = None
    yield "tokenizer", "token-id-whose-successor-is-zero", b"j" + json.dumps(tokenizer).encode()
    table = {f"(?:a?b?){{300}}[cd]{i}": 1 for i in range(250)}
    yield "adapter_config", "patterns-that-take-hours-to-match", json.dumps(ADAPTER | {"rank_pattern": table}).encode()
    weights = json.loads((ROOT / "models/tiny/adapters/intent/adapter_config.json").read_bytes())
    huge = json.dumps(weights | {"lora_alpha": 3e38, "alpha_pattern": {}}).encode()
    yield "adapter_config", "scale-that-overflows-when-folded-in", huge
    site = "base_model.model.encoder.layer.0.attention.self.query"
    yield "safetensors", "factors-whose-product-is-infinite", safetensors({
        f"{site}.lora_A.weight": ("F32", [1, 4], struct.pack("<4f", *[1e30] * 4)),
        f"{site}.lora_B.weight": ("F32", [4, 1], struct.pack("<4f", *[1e30] * 4)),
    })
    gated = {"m.q.lora.lora_A": ([1, 2], [1.0, 1.0]), "m.q.lora.lora_B": ([2, 1], [1.0, 1.0]), "m.q.lora.gate": ([1], [1e38])}
    yield "unpickle", "gate-that-overflows-when-folded-in", torch_file(gated)
    keys = ",".join(f'"{i:04}":0' for i in range(2000))
    yield "rows", "keys-compared-each-with-each", f"{{{keys}}}".encode()


# Committed, so that the tests open every door.
COMMITTED = {
    "model", "adapter", "adapter-f16", "small", "word-piece-added", "byte-level", "reference-small-deberta.spm.model",
    "reference-sora-hostile-bare_0.bin", "reference-sora-hostile-os_system.bin",
    "reference-sora-plain-pytorch_model.bin", *"012345",
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main():
    for door, name, content in seeds():
        write(ROOT / "fuzz/corpus" / door / f"seed-{name}", content)
        if "--small" in sys.argv and name in COMMITTED:
            write(ROOT / "tests/corpus" / door / f"seed-{name}", content)
    for kept in ROOT.glob("tests/corpus/*/*"):
        if kept.parent.name != "small":
            write(ROOT / "fuzz/corpus" / kept.parent.name / kept.name, kept.read_bytes())
    if "--small" in sys.argv:
        for door, name, content in past():
            write(ROOT / "tests/corpus" / door / name, content)
        small = ROOT / "tests/corpus/small"
        write(small / "config.json", json.dumps(CONFIG).encode())
        write(small / "model.safetensors", small_model())
        write(small / "adapter_config.json", json.dumps(ADAPTER).encode())
        head = {f"base_model.model.classifier.{p}": numbers(s, "F16") for p, s in [("weight", [2, 192]), ("bias", [2])]}
        write(small / "head.safetensors", safetensors(head))


if __name__ == "__main__":
    main()
