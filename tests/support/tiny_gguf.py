"""A GGUF file of a random Llama, small enough to convert in a moment."""

from __future__ import annotations

from pathlib import Path

from tests.support.tiny_model import CHAT_TEMPLATE, SPECIAL

HIDDEN, HEADS, LAYERS, FFN = 64, 2, 1, 128
MERGES = ["t h", "th e", "i n", "a n"]


def make_tiny_gguf(file: Path, *, template: str | None = CHAT_TEMPLATE) -> Path:
    """Write byte-level BPE with a few merges, float16 weights and, unless None, a chat template."""
    from gguf import GGUFWriter, TokenType
    from tokenizers import pre_tokenizers

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES)]
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    control = [TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types([*control, *[TokenType.NORMAL] * (len(words) - len(SPECIAL))])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    for name, shape in _shapes(len(words)).items():
        writer.add_tensor(name, _random(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}.ffn_{part}.weight": (FFN, HIDDEN) for part in ("gate", "up")}
        shapes |= {f"{block}.ffn_down.weight": (HIDDEN, FFN)}
        shapes |= {f"{block}.{part}_norm.weight": (HIDDEN,) for part in ("attn", "ffn")}
    return shapes


def _random(name, shape):
    import numpy

    generator = numpy.random.default_rng(len(name))
    kind = numpy.float32 if len(shape) == 1 else numpy.float16
    return generator.normal(scale=0.4, size=shape).astype(kind)
