"""Whisper's architecture, small, arranged so that training it on two CPU cores is affordable.

A released Whisper always sees 30 s, nearly all of it padding for a short clip. Here the encoder works on the clip's own
length and a few randomly placed padding positions stand in for the rest, each with the logarithm of how many it stands
for added to its attention logit. The softmax then comes out as over the full window, at a tenth of the cost. A clip may
also be placed anywhere in the window, so that late positions are learned from short clips.
"""

from __future__ import annotations

import math
from typing import Final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.demo_model.features import MELS
from training.demo_model.phones import COUNT as PHONES

WINDOW: Final = 1500  # encoder positions of 20 ms: faster-whisper pads every window to 30 s
DECODER_POSITIONS: Final = 448  # faster-whisper allows that many tokens, prompt included

#: How many padding positions stand in for all of them.
_STAND_INS: Final = 24

#: Heads of cross-attention, per decoder layer, that are held to the words' known times.
GUIDED_HEADS: Final = (1, 2)


@attrs.frozen(kw_only=True)
class Size:
    """The dimensions of a model; heads are 32 wide."""

    tokens: int
    timestamp_0: int
    width: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 2

    @property
    def heads(self) -> int:
        """Attention heads in every layer."""
        return self.width // 32


def sinusoids(length: int, width: int) -> Tensor:
    """Returns Whisper's position encodings, `length` x `width`."""
    scale = math.log(10_000) / (width // 2 - 1)
    phases = torch.arange(length)[:, None] * torch.exp(-scale * torch.arange(width // 2))[None]
    return torch.cat([phases.sin(), phases.cos()], 1)


class Attention(nn.Module):
    """Multi-head attention; keys have no bias, as in Whisper."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width, bias=False)
        self.value = nn.Linear(size.width, size.width)
        self.out = nn.Linear(size.width, size.width)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(
        self, x: Tensor, source: Tensor, *, bias: Tensor | None = None, watched: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Attends from `x` to `source`; returns the result and the log attention of the first `watched` heads.

        Plain matrix products: PyTorch's fused attention is slower in bfloat16 on the CPUs this was trained on.
        """
        query = self._split(self.query(x)) * 32**-0.5
        key, value = self._split(self.key(source)), self._split(self.value(source))
        logits = query @ key.transpose(-1, -2)
        if bias is not None:
            logits = logits + bias.to(logits.dtype)
        mixed = torch.softmax(logits, -1, dtype=logits.dtype) @ value
        return self.out(mixed.transpose(1, 2).flatten(2)), logits[:, :watched].float().log_softmax(-1)


class Block(nn.Module):
    """One layer of the encoder, or with `cross` of the decoder."""

    def __init__(self, size: Size, *, cross: bool) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(size.width), Attention(size)
        if cross:
            self.cross_norm, self.cross = nn.LayerNorm(size.width), Attention(size)
        self.feed_norm = nn.LayerNorm(size.width)
        self.feed_in, self.feed_out = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)

    def attend(self, x: Tensor, *, bias: Tensor | None) -> Tensor:
        normed = self.attention_norm(x)
        return x + self.attention(normed, normed, bias=bias)[0]

    def feed(self, x: Tensor) -> Tensor:
        return x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))


class Embedding(nn.Module):
    """Token embeddings in which a capitalised word is its small spelling plus one vector shared by all capitals.

    Capitals stand only at the start of a sentence, so alone they would be learned from a sixth of the data.
    """

    def __init__(self, size: Size, *, capitals: dict[int, int]) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(size.tokens, size.width) * 0.05)
        self.capital = nn.Parameter(torch.randn(size.width) * 0.05)
        with torch.no_grad():
            times = size.tokens - size.timestamp_0
            self.base[size.timestamp_0 :] += 0.05 * sinusoids(times, size.width)
        source = torch.arange(size.tokens)
        is_capital = torch.zeros(size.tokens, 1)
        for capital, small in capitals.items():
            source[capital] = small
            is_capital[capital] = 1
            with torch.no_grad():
                self.base[capital] = 0
        self.register_buffer("source", source)
        self.register_buffer("is_capital", is_capital)

    def weight(self) -> Tensor:
        """Returns the table, `tokens` x `width`; a capital keeps a small difference of its own."""
        return self.base[self.source] + self.is_capital * (self.capital + self.base)


class DemoWhisper(nn.Module):
    """The model, with a throw-away phone classifier on the encoder."""

    def __init__(self, size: Size, *, capitals: dict[int, int]) -> None:
        super().__init__()
        self.size = size
        self.conv1 = nn.Conv1d(MELS, size.width, 3, padding=1)
        self.conv2 = nn.Conv1d(size.width, size.width, 3, stride=2, padding=1)
        self.register_buffer("encoder_positions", sinusoids(WINDOW, size.width))
        self.encoder = nn.ModuleList(Block(size, cross=False) for _ in range(size.encoder_layers))
        self.encoder_norm = nn.LayerNorm(size.width)
        self.phones = nn.Linear(size.width, PHONES)
        self.embedding = Embedding(size, capitals=capitals)
        self.decoder_positions = nn.Parameter(sinusoids(DECODER_POSITIONS, size.width) * 0.05)
        self.decoder = nn.ModuleList(Block(size, cross=True) for _ in range(size.decoder_layers))
        self.decoder_norm = nn.LayerNorm(size.width)

    def encode(self, mel: Tensor, *, offset: int = 0) -> tuple[Tensor, Tensor | None]:
        """Encodes features (batch, 80, even number of frames) placed `offset` positions into the window.

        Returns (batch, positions + stand-ins, width), and the bias that attention to it needs.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        length = x.shape[1]
        x = x + self.encoder_positions[offset : offset + length]
        others = WINDOW - length
        bias = None
        if others:
            count = min(_STAND_INS, others)
            at = (torch.arange(count, device=mel.device) + torch.rand(count, device=mel.device)) * others / count
            at = at.long().clamp(max=others - 1)
            at = at + (at >= offset) * length  # skip the stretch that the clip covers
            # Padding frames are zero, so what the convolutions make of them is the same everywhere: compute it once.
            quiet = F.gelu(self.conv2(F.gelu(self.conv1(mel.new_zeros(1, MELS, 10)))))[0, :, 2]
            x = torch.cat([x, (quiet + self.encoder_positions[at]).expand(len(x), -1, -1)], 1)
            bias = torch.zeros(length + count, device=mel.device)
            bias[length:] = math.log(others / count)
        for block in self.encoder:
            x = block.feed(block.attend(x, bias=bias))
        return self.encoder_norm(x), bias

    def decode(self, tokens: Tensor, encoded: Tensor, *, bias: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Returns the last layer's output for every position, and the log attention of each layer's guided heads."""
        length = tokens.shape[1]
        table = self.embedding.weight()
        x = table[tokens] + self.decoder_positions[:length]
        causal = torch.full((length, length), -1e4, device=x.device).triu(1)
        watched = []
        for block, heads in zip(self.decoder, GUIDED_HEADS, strict=True):
            x = block.attend(x, bias=causal)
            seen, attention = block.cross(block.cross_norm(x), encoded, bias=bias, watched=heads)
            watched.append(attention)
            x = block.feed(x + seen)
        return self.decoder_norm(x), watched

    def logits(self, decoded: Tensor) -> Tensor:
        """Returns token logits; the output layer is the embedding table."""
        return F.linear(decoded, self.embedding.weight())


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the matrices inside the layers, which Muon can orthogonalise, and everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and name.startswith(("encoder.", "decoder."))
        (matrices if inner else others).append(parameter)
    return matrices, others
