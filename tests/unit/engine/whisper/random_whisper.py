"""Whisper models with random weights, in any shape: they test shapes, batching, memory and time, not text.

Everything is filled through CTranslate2's own specification, so nothing is downloaded; with a byte-level
tokenizer beside it, faster-whisper loads the directory like a published model.
"""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np

ENGLISH_ONLY = 51_864


@attrs.frozen(kw_only=True)
class Shape:
    """What distinguishes the sizes of Whisper."""

    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mels: int = 80
    vocabulary: int = 51_865  # the number of language tokens follows from it; 51864 is English only
    seed: int = 0
    endless: bool = False  # never says that a text has ended


SMALL_EN = Shape(width=64, encoder_layers=1, decoder_layers=1, heads=1, vocabulary=ENGLISH_ONLY)
SMALL = Shape(width=64, encoder_layers=1, decoder_layers=1, heads=1)
BASE = Shape(width=512, encoder_layers=6, decoder_layers=6, heads=8)
TURBO = Shape(width=1280, encoder_layers=32, decoder_layers=4, heads=20, mels=128, vocabulary=51_866)

TEXT_TOKENS = 50_257
SPACE = 220
TIMESTAMPS = 1_501


def build(directory: Path, shape: Shape, *, quantization: str | None = None) -> Path:
    """Write a model directory that faster-whisper loads; returns it."""
    from ctranslate2.specs import whisper_spec

    spec = whisper_spec.WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    _fill(spec, shape)
    tokens = vocabulary(shape)
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = [number for number, token in enumerate(tokens) if _is_language(token)]
    spec.config.alignment_heads = [(shape.decoder_layers - 1, 0)]
    spec.validate()
    spec.optimize(quantization=quantization)
    directory.mkdir(parents=True, exist_ok=True)
    spec.save(str(directory))
    _write_tokenizer(directory, tokens)
    preprocessor = {"feature_size": shape.mels, "sampling_rate": 16_000, "hop_length": 160, "chunk_length": 30}
    (directory / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "n_fft": 400}))
    return directory


def vocabulary(shape: Shape) -> list[str]:
    """Tokens in Whisper's order; "" makes CTranslate2 see a multilingual vocabulary."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    tokens = [f"t{number}" for number in range(TEXT_TOKENS)]
    tokens[SPACE] = "Ġ"
    if shape.vocabulary != ENGLISH_ONLY:
        tokens[TEXT_TOKENS - 1] = ""
    languages = shape.vocabulary - TEXT_TOKENS - 2 - 6 - TIMESTAMPS
    tokens += ["<|endoftext|>", "<|startoftranscript|>"]
    tokens += [f"<|{code}|>" for code in _LANGUAGE_CODES[:languages]]
    tokens += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    tokens += ["<|notimestamps|>"]
    tokens += [f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS)]
    assert len(tokens) == shape.vocabulary
    return tokens


def _is_language(token: str) -> bool:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    return token[2:-2] in _LANGUAGE_CODES and token.startswith("<|")


def _fill(spec, shape):
    random = np.random.default_rng(shape.seed)
    width = shape.width

    def weights(*dimensions):
        return (random.standard_normal(dimensions, dtype=np.float32) * 0.02).astype(np.float32)

    def zeros(count):
        return np.zeros(count, np.float32)

    def norm(layer):
        layer.gamma, layer.beta = np.ones(width, np.float32), zeros(width)

    def linear(layer, outputs, inputs):
        layer.weight, layer.bias = weights(outputs, inputs), zeros(outputs)

    def attention(layer, *, cross=False):
        norm(layer.layer_norm)
        for part, outputs in zip(layer.linear, (width, 2 * width, width) if cross else (3 * width, width), strict=True):
            linear(part, outputs, width)

    def feed_forward(layer):
        norm(layer.layer_norm)
        linear(layer.linear_0, 4 * width, width)
        linear(layer.linear_1, width, 4 * width)

    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = weights(width, shape.mels, 3), zeros(width)
    encoder.conv2.weight, encoder.conv2.bias = weights(width, width, 3), zeros(width)
    encoder.position_encodings.encodings = weights(1500, width)
    norm(encoder.layer_norm)
    for layer in encoder.layer:
        attention(layer.self_attention)
        feed_forward(layer.ffn)
    decoder.embeddings.weight = weights(shape.vocabulary, width)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.position_encodings.encodings = weights(448, width)
    norm(decoder.layer_norm)
    if shape.endless:
        decoder.embeddings.weight[TEXT_TOKENS] = 0  # the end token: among random neighbours it is never the likeliest
    for layer in decoder.layer:
        attention(layer.self_attention)
        attention(layer.attention, cross=True)
        feed_forward(layer.ffn)


def _write_tokenizer(directory: Path, tokens: list[str]) -> None:
    """A byte-level tokenizer of the same vocabulary: each byte is a token, the rest are never produced by text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = list(tokens)
    free = [number for number in range(TEXT_TOKENS) if number != SPACE and names[number]]
    for letter, number in zip((letter for letter in alphabet if letter != "Ġ"), free, strict=False):
        names[number] = letter
    names[TEXT_TOKENS - 1] = names[TEXT_TOKENS - 1] or "t-empty"
    first_special = names.index("<|endoftext|>")
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={name: number for number, name in enumerate(names[:first_special])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [tokenizers.AddedToken(name, special=True, normalized=False) for name in names[first_special:]]
    tokenizer.add_special_tokens(specials)
    assert tokenizer.token_to_id("<|notimestamps|>") == names.index("<|notimestamps|>")
    tokenizer.save(str(directory / "tokenizer.json"))
