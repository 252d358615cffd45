"""Writes the trained model as a CTranslate2 Whisper directory, without a checkpoint of another library in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.demo_model.model import GUIDED_HEADS, Attention, Block, DemoWhisper, Size
from training.demo_model.tokens import case_pairs, load_tokenizer

#: 8-bit integers, the rest in half precision: the smallest that CTranslate2 loads on every CPU.
QUANTIZATION: Final = "int8_float16"

_FEATURES: Final = {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}


def load_average(checkpoint: Path, *, tokenizer: Path) -> DemoWhisper:
    """Returns the model with the averaged weights of a checkpoint of `train`."""
    state = torch.load(checkpoint, map_location="cpu")
    model = DemoWhisper(Size(**state["size"]), capitals=case_pairs(load_tokenizer(tokenizer)[0]))
    model.load_state_dict(state["average"])
    return model.eval()


def export(model: DemoWhisper, *, tokenizer: Path, folder: Path) -> None:
    """Writes the files that faster-whisper reads into `folder`; what else it holds (the model card) stays."""
    from ctranslate2.specs import whisper_spec

    size = model.size
    spec = whisper_spec.WhisperSpec(size.encoder_layers, size.heads, size.decoder_layers, size.heads)
    _fill(spec, model)
    reader, ids = load_tokenizer(tokenizer)
    spec.register_vocabulary([reader.id_to_token(index) for index in range(ids.total)])
    spec.config.suppress_ids = []
    # The end token must stay allowed as the first one, or silence could not become an empty text.
    spec.config.suppress_ids_begin = [ids.space]
    spec.config.lang_ids = [ids.language]
    spec.config.alignment_heads = [[layer, head] for layer, count in enumerate(GUIDED_HEADS) for head in range(count)]
    spec.validate()
    spec.optimize(quantization=QUANTIZATION)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(json.dumps(_FEATURES) + "\n")


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().numpy().copy()  # `optimize` works in place


def _linear(spec: Any, layer: nn.Linear) -> None:
    spec.weight = _array(layer.weight)
    if layer.bias is not None:
        spec.bias = _array(layer.bias)


def _norm(spec: Any, layer: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(layer.weight), _array(layer.bias)


def _attention(spec: Any, layer: Attention, *, cross: bool) -> None:
    from ctranslate2.converters import utils
    from ctranslate2.specs import common_spec

    query, key, value = (common_spec.LinearSpec() for _ in range(3))
    _linear(query, layer.query)
    _linear(key, layer.key)
    _linear(value, layer.value)
    if cross:
        utils.fuse_linear(spec.linear[0], [query])
        utils.fuse_linear(spec.linear[1], [key, value])
    else:
        utils.fuse_linear(spec.linear[0], [query, key, value])
    _linear(spec.linear[-1], layer.out)


def _block(spec: Any, block: Block, *, cross: bool) -> None:
    _attention(spec.self_attention, block.attention, cross=False)
    _norm(spec.self_attention.layer_norm, block.attention_norm)
    if cross:
        _attention(spec.attention, block.cross, cross=True)
        _norm(spec.attention.layer_norm, block.cross_norm)
    _linear(spec.ffn.linear_0, block.feed_in)
    _linear(spec.ffn.linear_1, block.feed_out)
    _norm(spec.ffn.layer_norm, block.feed_norm)


def _fill(spec: Any, model: DemoWhisper) -> None:
    encoder, decoder = spec.encoder, spec.decoder
    for target, layer in ((encoder.conv1, model.conv1), (encoder.conv2, model.conv2)):
        target.weight, target.bias = _array(layer.weight), _array(layer.bias)
    encoder.position_encodings.encodings = _array(model.encoder_positions)
    _norm(encoder.layer_norm, model.encoder_norm)
    decoder.embeddings.weight = _array(model.embedding.weight())
    decoder.projection.weight = decoder.embeddings.weight
    decoder.position_encodings.encodings = _array(model.decoder_positions)
    _norm(decoder.layer_norm, model.decoder_norm)
    for target, block in zip(encoder.layer, model.encoder, strict=True):
        _block(target, block, cross=False)
    for target, block in zip(decoder.layer, model.decoder, strict=True):
        _block(target, block, cross=True)
