"""Encoders of random weights and the peers that run them: exported once to a directory, then opened from there.

`prepare` writes the checkpoint, the ONNX graph, the int8 graphs and the CTranslate2 models of a shape; `peers` opens them.
Every peer is a function of a list of batches (lists of rows of token ids) that returns the last hidden states, padded.
Not here: what is run and how it is timed (`compare.py`).
"""
import concurrent.futures
import json
import os

import numpy

SHAPES = ("bert-base", "deberta-v3-base")


def config_of(shape):
    from transformers import BertConfig, DebertaV2Config

    if shape == "bert-base":
        return BertConfig(position_embedding_type="absolute")  # CTranslate2's converter asks for it
    return DebertaV2Config(
        vocab_size=128100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=512, type_vocab_size=0, layer_norm_eps=1e-7, relative_attention=True,
        max_relative_positions=-1, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, pad_token_id=0)


def pad(rows):
    """Rows of ids as the peers take them: padded with 0 behind, and the mask."""
    ids = numpy.zeros((len(rows), max(map(len, rows))), dtype=numpy.int64)
    mask = numpy.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def prepare(shape, directory):
    """Writes everything that is missing; a step that fails is said and left out."""
    os.makedirs(directory, exist_ok=True)
    steps = [("model.onnx", export), ("int8.onnx", quantise_onnx), ("nncf.xml", quantise_openvino)]
    if shape == "bert-base":
        steps += [(f"ct2-{q}", convert_ctranslate2) for q in ("float32", "int8")]
    for name, make in steps:
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            try:
                make(shape, directory, path)
                print(f"{shape}: wrote {name}", flush=True)
            except Exception as error:  # any peer may be absent or refuse
                print(f"{shape}: left out {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)


def export(shape, directory, path):
    import torch
    from transformers import AutoModel

    torch.manual_seed(0)
    config = config_of(shape)
    more = {"add_pooling_layer": False} if shape == "bert-base" else {}
    model = AutoModel.from_config(config, attn_implementation="eager", **more).eval()
    model.save_pretrained(directory)
    write_tokenizer(directory, config.vocab_size)

    class Positional(torch.nn.Module):  # the exporter passes what it traces by position
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids, mask):
            return self.inner(input_ids=ids, attention_mask=mask)[0]

    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        Positional().eval(), (ids, torch.ones_like(ids)), path, input_names=["input_ids", "attention_mask"],
        output_names=["last"], dynamic_axes={"input_ids": axes, "attention_mask": axes, "last": axes},
        opset_version=17, dynamo=False)


def write_tokenizer(directory, vocab):
    """CTranslate2's converter wants names of the tokens; nothing else reads them."""
    from tokenizers import Tokenizer, models

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"t{i}" for i in range(vocab - len(words))]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", **names}, file)


def quantise_onnx(_shape, directory, path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(os.path.join(directory, "model.onnx"), path, weight_type=QuantType.QInt8, per_channel=True)


def quantise_openvino(_shape, directory, path):
    """Weights and activations, calibrated on random ids as they are run."""
    import nncf
    import openvino as ov

    noise = numpy.random.default_rng(5)
    samples = [pad([noise.integers(1000, 30000, 64).tolist() for _ in range(2)]) for _ in range(8)]
    model = ov.Core().read_model(os.path.join(directory, "model.onnx"))
    dataset = nncf.Dataset(samples)
    model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))
    ov.save_model(model, path, compress_to_fp16=False)


def convert_ctranslate2(_shape, directory, path):
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(directory).convert(path, quantization=path.rsplit("-", 1)[1])


class OnnxRuntime:
    """`streams` sessions of `threads` threads each."""

    def __init__(self, path, streams, threads):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for _ in range(streams)]
        self.pool = concurrent.futures.ThreadPoolExecutor(streams)

    def __call__(self, feeds):
        if len(self.sessions) == 1:
            return [self.sessions[0].run(None, feed)[0] for feed in feeds]
        rest = iter(list(enumerate(feeds)))
        out = [None] * len(feeds)

        def work(session):
            for i, feed in rest:  # the interpreter hands out one item at a time
                out[i] = session.run(None, feed)[0]

        list(self.pool.map(work, self.sessions))
        return out


class OpenVino:
    def __init__(self, path, streams, threads, precision):
        import openvino as ov

        config = {
            "INFERENCE_NUM_THREADS": streams * threads, "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": precision}
        compiled = ov.Core().compile_model(path, "CPU", config)
        self.request = compiled.create_infer_request() if streams == 1 else None
        self.queue = ov.AsyncInferQueue(compiled, streams)

    def __call__(self, feeds):
        if self.request:
            return [self.request.infer(feed)[0] for feed in feeds]
        out = [None] * len(feeds)
        self.queue.set_callback(lambda request, i: out.__setitem__(i, request.get_output_tensor(0).data.copy()))
        for i, feed in enumerate(feeds):
            self.queue.start_async(feed, i)
        self.queue.wait_all()
        return out


class CTranslate2:
    """Takes rows without padding, and drops it inside too."""

    def __init__(self, path, streams, threads, kind):
        import ctranslate2

        self.encoder = ctranslate2.Encoder(path, inter_threads=streams, intra_threads=threads, compute_type=kind)
        self.pool = concurrent.futures.ThreadPoolExecutor(streams)

    def __call__(self, feeds):
        rows = ([ids[: sum(mask)].tolist() for ids, mask in zip(f["input_ids"], f["attention_mask"])] for f in feeds)
        forward = lambda batch: numpy.array(self.encoder.forward_batch(batch).last_hidden_state)
        return list(self.pool.map(forward, rows))


def peers(directory, precision, streams):
    """Name -> a function of a list of feeds, for what is there; `streams`: one-thread streams instead of two threads."""
    s, t = (2, 1) if streams else (1, 2)
    at = lambda name: os.path.join(directory, name)
    makers = {
        "f32": {
            "ONNX Runtime": ("model.onnx", lambda p: OnnxRuntime(p, s, t)),
            "OpenVINO": ("model.onnx", lambda p: OpenVino(p, s, t, "f32")),
            "CTranslate2": ("ct2-float32", lambda p: CTranslate2(p, s, t, "float32")),
        },
        "bf16": {"OpenVINO": ("model.onnx", lambda p: OpenVino(p, s, t, "bf16"))},
        "int8": {
            "ONNX Runtime": ("int8.onnx", lambda p: OnnxRuntime(p, s, t)),
            "OpenVINO": ("nncf.xml", lambda p: OpenVino(p, s, t, "f32")),
            "CTranslate2": ("ct2-int8", lambda p: CTranslate2(p, s, t, "int8")),
        },
    }
    for name, (file, make) in makers[precision].items():
        if os.path.exists(at(file)):
            yield name, make(at(file))
