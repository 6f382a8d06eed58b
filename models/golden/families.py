"""The families as a table: how small each is made, which tokenizer it has, and what its modules are called.

A row says nothing about how a family computes: that is transformers' business. It says which settings the
fixture has (chosen so that a wrong default shows: an epsilon that is not the usual one, an embedding width
that is not the hidden width, a window shorter than the texts) and where PEFT is to put factors and heads.
"""

from dataclasses import dataclass, field

import torch
import transformers as tf

import tokens

TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
LABELS = {0: "positive", 1: "neutral", 2: "negative"}


@dataclass
class Family:
    config: type
    settings: dict
    model: type  # ...ForSequenceClassification
    tagger: type  # ...ForTokenClassification
    bare: type
    tokenizer: object
    query_value: list  # targets of `qv2`
    embed: list  # suffixes that `embed` targets
    head: list  # modules of the whole head, outermost last
    qv2_dtype: str = "float32"
    rotary: object = None  # the rotary frequencies, f32, where they are not those that transformers knows
    hub_config: dict = field(default_factory=dict)  # keys to write as checkpoints on the hub have them, None to drop


SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
BERT_SPECIAL = dict(pad_token_id=0)
ROBERTA_SPECIAL = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
DEBERTA = dict(
    SMALL,
    max_position_embeddings=96,
    relative_attention=True,
    norm_rel_ebd="layer_norm",
    pos_att_type=["p2c", "c2p"],
    layer_norm_eps=1e-7,
    pooler_hidden_size=32,
    pooler_hidden_act="gelu",
    pooler_dropout=0.0,
    pad_token_id=0,
)

def ntk(theta, factor, width):
    """Fixed NTK scaling as the older code of GTE has it: another base for every text, and all frequencies lower."""
    base = theta * factor
    return 1.0 / (base ** (torch.arange(0, width, 2).float() / width)) / factor ** (2 / width)


FAMILIES = {
    "bert": Family(
        tf.BertConfig,
        dict(SMALL, num_hidden_layers=3, max_position_embeddings=96, type_vocab_size=2, layer_norm_eps=1e-12, **BERT_SPECIAL),
        tf.BertForSequenceClassification,
        tf.BertForTokenClassification,
        tf.BertModel,
        tokens.bert,
        ["query", "value"],
        ["query", "key", "value", "intermediate.dense"],
        ["pooler", "classifier"],
        qv2_dtype="float16",
    ),
    "roberta": Family(
        tf.RobertaConfig,
        dict(SMALL, max_position_embeddings=98, type_vocab_size=1, layer_norm_eps=1e-5, **ROBERTA_SPECIAL),
        tf.RobertaForSequenceClassification,
        tf.RobertaForTokenClassification,
        tf.RobertaModel,
        tokens.roberta,
        ["query", "value"],
        ["query", "key", "value", "intermediate.dense"],
        ["classifier"],
    ),
    "electra": Family(
        tf.ElectraConfig,
        dict(SMALL, embedding_size=16, max_position_embeddings=96, type_vocab_size=2, layer_norm_eps=1e-12, **BERT_SPECIAL),
        tf.ElectraForSequenceClassification,
        tf.ElectraForTokenClassification,
        tf.ElectraModel,
        tokens.bert,
        ["query", "value"],
        ["query", "key", "value", "intermediate.dense"],
        ["classifier"],
    ),
    "distilbert": Family(
        tf.DistilBertConfig,
        dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=96, pad_token_id=0),
        tf.DistilBertForSequenceClassification,
        tf.DistilBertForTokenClassification,
        tf.DistilBertModel,
        tokens.bert,
        ["q_lin", "v_lin"],
        ["q_lin", "k_lin", "v_lin", "lin1"],
        ["pre_classifier", "classifier"],
    ),
    "xlm-roberta": Family(
        tf.XLMRobertaConfig,
        dict(SMALL, max_position_embeddings=98, type_vocab_size=1, layer_norm_eps=1e-5, **ROBERTA_SPECIAL),
        tf.XLMRobertaForSequenceClassification,
        tf.XLMRobertaForTokenClassification,
        tf.XLMRobertaModel,
        tokens.xlm_roberta,
        ["query", "value"],
        ["query", "key", "value", "intermediate.dense"],
        ["classifier"],
    ),
    "camembert": Family(
        tf.CamembertConfig,
        dict(
            SMALL,
            max_position_embeddings=98,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
            bos_token_id=5,
            eos_token_id=6,
        ),
        tf.CamembertForSequenceClassification,
        tf.CamembertForTokenClassification,
        tf.CamembertModel,
        tokens.camembert,
        ["query", "value"],
        ["query", "key", "value", "intermediate.dense"],
        ["classifier"],
    ),
    "mpnet": Family(
        tf.MPNetConfig,
        dict(
            SMALL,
            max_position_embeddings=98,
            layer_norm_eps=1e-5,
            relative_attention_num_buckets=32,
            **ROBERTA_SPECIAL,
        ),
        tf.MPNetForSequenceClassification,
        tf.MPNetForTokenClassification,
        tf.MPNetModel,
        tokens.mpnet,
        ["q", "v"],
        ["q", "k", "v", "intermediate.dense"],
        ["classifier"],
    ),
    # v3: shared keys, log buckets, no types, no absolute positions.
    "deberta-v2": Family(
        tf.DebertaV2Config,
        dict(
            DEBERTA,
            position_buckets=8,
            max_relative_positions=-1,
            share_att_key=True,
            type_vocab_size=0,
            position_biased_input=False,
        ),
        tf.DebertaV2ForSequenceClassification,
        tf.DebertaV2ForTokenClassification,
        tf.DebertaV2Model,
        tokens.deberta,
        ["query_proj", "value_proj"],
        ["query_proj", "key_proj", "value_proj", "intermediate.dense"],
        ["pooler", "classifier"],
    ),
    # Own position projections, absolute positions and types besides.
    "deberta-v2-own": Family(
        tf.DebertaV2Config,
        dict(
            DEBERTA,
            position_buckets=8,
            max_relative_positions=-1,
            share_att_key=False,
            type_vocab_size=2,
            position_biased_input=True,
        ),
        tf.DebertaV2ForSequenceClassification,
        tf.DebertaV2ForTokenClassification,
        tf.DebertaV2Model,
        tokens.deberta,
        ["query_proj", "value_proj"],
        ["query_proj", "key_proj", "value_proj", "intermediate.dense"],
        ["pooler", "classifier"],
    ),
    # Distances as they are, clamped at 16; no norm over the table; content to position only.
    "deberta-v2-nobuckets": Family(
        tf.DebertaV2Config,
        dict(
            DEBERTA,
            norm_rel_ebd="none",
            pos_att_type=["c2p"],
            position_buckets=-1,
            max_relative_positions=16,
            share_att_key=True,
            type_vocab_size=0,
            position_biased_input=False,
        ),
        tf.DebertaV2ForSequenceClassification,
        tf.DebertaV2ForTokenClassification,
        tf.DebertaV2Model,
        tokens.deberta,
        ["query_proj", "value_proj"],
        ["query_proj", "key_proj", "value_proj", "intermediate.dense"],
        ["pooler", "classifier"],
    ),
    # Layers 0 and 3 are global, 1 and 2 see four tokens to each side.
    "modernbert": Family(
        tf.ModernBertConfig,
        dict(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=128,
            local_attention=8,
            global_attn_every_n_layers=3,
            norm_eps=1e-5,
            classifier_pooling="cls",
        ),
        tf.ModernBertForSequenceClassification,
        tf.ModernBertForTokenClassification,
        tf.ModernBertModel,
        tokens.modernbert,
        ["Wqkv"],
        ["Wqkv", "Wi"],
        ["head", "classifier"],
        qv2_dtype="bfloat16",
    ),
    # The other settings: biases everywhere, mean pooling, thetas of its own, and config.json in the keys of the
    # checkpoints published before transformers 5.
    "modernbert-bias": Family(
        tf.ModernBertConfig,
        dict(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=128,
            local_attention=12,
            global_attn_every_n_layers=2,
            global_rope_theta=1000.0,
            local_rope_theta=200.0,
            norm_eps=1e-5,
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            classifier_bias=True,
            classifier_pooling="mean",
        ),
        tf.ModernBertForSequenceClassification,
        tf.ModernBertForTokenClassification,
        tf.ModernBertModel,
        tokens.modernbert,
        ["Wqkv"],
        ["Wqkv", "Wi"],
        ["head", "classifier"],
        hub_config=dict(
            layer_types=None,
            rope_parameters=None,
            global_attn_every_n_layers=2,
            global_rope_theta=1000.0,
            local_rope_theta=200.0,
            layer_norm_eps=1e-5,
            position_embedding_type="absolute",
            dtype=None,
            torch_dtype="float32",
            transformers_version="4.48.0",
        ),
    ),
    # One set of tensors for all layers, narrow embeddings, tanh-GELU (`gelu_new`).
    "albert": Family(
        tf.AlbertConfig,
        dict(
            SMALL,
            num_hidden_layers=3,
            num_hidden_groups=1,
            inner_group_num=1,
            embedding_size=16,
            max_position_embeddings=96,
            type_vocab_size=2,
            hidden_act="gelu_new",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        ),
        tf.AlbertForSequenceClassification,
        tf.AlbertForTokenClassification,
        tf.AlbertModel,
        tokens.albert,
        ["query", "value"],
        ["query", "key", "value", "ffn"],
        ["pooler", "classifier"],
    ),
    "nomic_bert": Family(
        tf.NomicBertConfig,
        dict(SMALL, max_position_embeddings=128, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0),
        tf.NomicBertForSequenceClassification,
        tf.NomicBertForTokenClassification,
        tf.NomicBertModel,
        tokens.bert,
        ["q_proj", "v_proj"],
        ["q_proj", "k_proj", "v_proj", "up_proj"],
        ["pooler", "classifier"],
    ),
    "gte": Family(
        tf.GteConfig,
        dict(SMALL, max_position_embeddings=128, type_vocab_size=1, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=1),
        tf.GteForSequenceClassification,
        tf.GteForTokenClassification,
        tf.GteModel,
        tokens.xlm_roberta,
        ["q_proj", "v_proj"],
        ["q_proj", "k_proj", "v_proj", "up_proj"],
        ["pooler", "classifier"],
    ),
    "jina_embeddings_v3": Family(
        tf.JinaEmbeddingsV3Config,
        dict(SMALL, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, **ROBERTA_SPECIAL),
        tf.JinaEmbeddingsV3ForSequenceClassification,
        tf.JinaEmbeddingsV3ForTokenClassification,
        tf.JinaEmbeddingsV3Model,
        tokens.xlm_roberta,
        ["q_proj", "v_proj"],
        ["q_proj", "k_proj", "v_proj", "fc1"],
        ["classifier"],
    ),
    # As the models' own older code has its configuration, with frequencies scaled for texts longer than trained on.
    "gte-ntk": Family(
        tf.GteConfig,
        dict(SMALL, max_position_embeddings=128, type_vocab_size=1, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=1),
        tf.GteForSequenceClassification,
        tf.GteForTokenClassification,
        tf.GteModel,
        tokens.xlm_roberta,
        ["q_proj", "v_proj"],
        ["q_proj", "k_proj", "v_proj", "up_proj"],
        ["pooler", "classifier"],
        rotary=ntk(500.0, 4.0, 8),
        hub_config=dict(
            model_type="new",
            architectures=["NewForSequenceClassification"],
            layer_norm_type="layer_norm",
            logn_attention_clip1=False,
            logn_attention_scale=False,
            pack_qkv=True,
            position_embedding_type="rope",
            rope_parameters=None,
            rope_scaling={"factor": 4.0, "type": "ntk"},
            rope_theta=500.0,
            unpad_inputs=False,
            use_memory_efficient_attention=False,
            dtype=None,
            torch_dtype="float32",
            transformers_version="4.39.1",
        ),
    ),
}
