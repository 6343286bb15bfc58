"""StepVL in plain torch, for training: the same arithmetic as vLLM's, on any grid of patches.

Parameter names are those of the published checkpoints, so a state dict is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
VIEW = 728
CROP = 504
IGNORED = -100
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Sizes:
    """Widths in channels; ``vocabulary`` in tokens."""

    vocabulary: int
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    rope_theta: float = 10000.0
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 2
    mlp_ratio: float = 3.0


@dataclass
class Batch:
    """Texts that begin alike and go on in several ways, as tensors.

    Attributes:
        shared: ids of the beginnings, [batch, length], padded at the end.
        is_picture: where ``shared`` stands for a piece of a picture, [batch, length].
        lengths: of the beginnings without padding, [batch].
        own: ids of the questions with their answers, one after the other, [batch, own length].
        targets: the ids of ``own`` that are to be learned, else ``IGNORED``.
        learned: where in ``own``, flattened, the next token is to be learned. Looked up in advance,
            for on a GPU looking up means waiting.
        segments, positions: see :meth:`Decoder.forward`.
        pictures: uint8, what all views and crops hold, one after the other, each
            [height, width, 3]. One flat tensor, because that travels fastest.
        sizes: (height, width) of each of them.
        order: ``view`` or ``crop``, as they follow each other in ``shared``.
        sides: of a view and of a crop as the tower gets it, in pixels.
        kind: of its rows.
    """

    shared: Tensor
    is_picture: Tensor
    lengths: Tensor
    own: Tensor
    targets: Tensor
    learned: Tensor
    segments: Tensor
    positions: Tensor
    pictures: Tensor
    sizes: list[tuple[int, int]]
    order: list[str]
    sides: tuple[int, int]
    kind: str = ""

    def to(self, device: torch.device) -> Batch:
        """The same there."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, non_blocking=True))
        return moved

    def pixels(self, kind: str) -> Tensor:
        """All views or all crops, [n, 3, side, side]."""
        side = self.sides[0 if kind == "view" else 1]
        parts = self.pictures.split([h * w * 3 for h, w in self.sizes])
        seen = [
            pixels(part.view(h, w, 3), side)
            for part, (h, w), of in zip(parts, self.sizes, self.order, strict=True)
            if of == kind
        ]
        return torch.stack(seen) if seen else torch.empty(0, 3, side, side)


@cache
def _mean_and_deviation(device: torch.device) -> list[Tensor]:
    return [torch.tensor(of, device=device)[:, None, None] for of in (MEAN, STD)]


def pixels(image: Tensor, size: int) -> Tensor:
    """A picture as the processor gives it to the tower.

    Args:
        image: uint8, [height, width, 3].
        size: the side of the square view, in pixels.

    Returns:
        float32, [3, size, size], normalised, bilinear with antialiasing.
    """
    mean, deviation = _mean_and_deviation(image.device)
    x = (image.permute(2, 0, 1).float() / 255 - mean) / deviation
    return F.interpolate(
        x[None], (size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def _rotate_pairs(x: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-b, a), -1).flatten(-2)


def _grid_angles(head_dim: int, rows: int, columns: int) -> Tensor:
    """Angles of the two-dimensional rotary embedding, [rows * columns, head_dim]: x, then y."""
    half = head_dim // 2
    inverse = 1.0 / 10000 ** (torch.arange(0, half, 2).float() / half)
    angles = (torch.arange(max(rows, columns)).float()[:, None] * inverse).repeat_interleave(2, -1)
    x = angles[None, :columns].expand(rows, -1, -1)
    y = angles[:rows, None].expand(-1, columns, -1)
    return torch.cat([x, y], -1).reshape(rows * columns, head_dim)


def _waves(grid: int, width: int) -> Tensor:
    """Where a patch is, as sines of low frequencies: a position table from which to start."""
    centres = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    frequencies = 0.5 * 2.0 ** (torch.arange(width) % 8 // 2)
    where = torch.where(torch.arange(width) % 2 == 0, x[..., None], y[..., None])
    phase = torch.rand(width, generator=torch.Generator().manual_seed(1)) * 2 * torch.pi
    return 0.1 * torch.sin(2 * torch.pi * frequencies * where + phase).reshape(grid**2, width)


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        cos, sin = angles.cos(), angles.sin()
        q, k = ((t * cos + _rotate_pairs(t) * sin).to(x.dtype) for t in (q, k))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class VisionMlp(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, int(width * ratio))
        self.c_proj = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class VisionBlock(nn.Module):
    """Attention, then an MLP.

    Attention over 2704 patches is most of the cost of training on a CPU. It starts scaled by zero,
    which is the same as leaving it out, until a state is loaded in which it is not.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision_width
        self.attends = False
        self.attn = VisionAttention(width, sizes.vision_heads)
        self.ls_1, self.ls_2 = LayerScale(width, 0.0), LayerScale(width, 1.0)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = VisionMlp(width, sizes.mlp_ratio)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        if self.attends:
            x = x + self.ls_1(self.attn(self.ln_1(x), angles))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(sizes) for _ in range(sizes.vision_layers))

    def blocks(self) -> list[VisionBlock]:
        return [block for block in self.resblocks if isinstance(block, VisionBlock)]


class VisionModel(nn.Module):
    """The Perception Encoder with its two stride-2 convolutions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.grid = sizes.vision_width, VIEW // PATCH
        self.head_dim = width // sizes.vision_heads
        self.conv1 = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(sizes)
        self.vit_downsampler1 = nn.Conv2d(width, width * 2, 3, 2, 1)
        self.vit_downsampler2 = nn.Conv2d(width * 2, width * 4, 3, 2, 1)
        self.positional_embedding = nn.Parameter(_waves(self.grid, width))

    def _positions(self, grid: int) -> Tensor:
        if grid == self.grid:
            return self.positional_embedding
        square = self.positional_embedding.T.reshape(1, -1, self.grid, self.grid)
        smaller = F.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
        return smaller[0].flatten(1).T

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, side, side] -> [n, tokens, 4 * width]."""
        x = self.conv1(x)
        grid = x.shape[-1]
        x = self.ln_pre(x.flatten(2).transpose(1, 2) + self._positions(grid))
        angles = _grid_angles(self.head_dim, grid, grid).to(x.device, non_blocking=True)
        for block in self.transformer.blocks():
            x = block(x, angles)
        x = x.transpose(1, 2).unflatten(-1, (grid, grid))
        return self.vit_downsampler2(self.vit_downsampler1(x)).flatten(2).transpose(1, 2)


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


@dataclass
class Angles:
    """Cosines and sines of the rotary embedding, [batch, 1, length, head_dim]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, sizes: Sizes, dtype: torch.dtype) -> Angles:
        """For ``positions``, [batch, length]."""
        powers = torch.arange(0, sizes.head_dim, 2, device=positions.device) / sizes.head_dim
        inverse = 1.0 / sizes.rope_theta**powers
        angles = positions[:, None, :, None] * torch.cat((inverse, inverse))
        return cls(angles.cos().to(dtype), angles.sin().to(dtype))

    def turn(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat((-b, a), -1) * self.sin


class Attention(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.q_norm, self.k_norm = RmsNorm(s.head_dim), RmsNorm(s.head_dim)

    def _heads(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [batch, heads, length, head_dim]."""
        q, k, v = (
            project(x).unflatten(-1, (-1, self.s.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeat = self.s.heads // self.s.kv_heads
        q, k = angles.turn(self.q_norm(q)), angles.turn(self.k_norm(k))
        return q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)

    def forward(
        self, shared: Tensor, own: Tensor, angles: tuple[Angles, Angles], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Decoder.forward`."""
        q, shared_k, shared_v = self._heads(shared, angles[0])
        out = _attend(q, shared_k, shared_v, None)
        q, k, v = self._heads(own, angles[1])
        k, v = torch.cat([shared_k, k], 2), torch.cat([shared_v, v], 2)
        return self.o_proj(out), self.o_proj(_attend(q, k, v, mask))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Causal without a mask; on a CPU in float32, which is the faster one there."""
    dtype = torch.float32 if q.device.type == "cpu" else q.dtype
    x = F.scaled_dot_product_attention(
        q.to(dtype), k.to(dtype), v.to(dtype), attn_mask=mask, is_causal=mask is None
    )
    return x.transpose(1, 2).flatten(2).to(q.dtype)


class Mlp(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.intermediate, bias=False)
        self.down_proj = nn.Linear(s.intermediate, s.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(s), Mlp(s)
        self.input_layernorm = RmsNorm(s.hidden)
        self.post_attention_layernorm = RmsNorm(s.hidden)

    def forward(
        self, shared: Tensor, own: Tensor, angles: tuple[Angles, Angles], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        norm = self.input_layernorm
        seen = self.self_attn(norm(shared), norm(own), angles, mask)
        shared, own = shared + seen[0], own + seen[1]
        norm = self.post_attention_layernorm
        return shared + self.mlp(norm(shared)), own + self.mlp(norm(own))


class Decoder(nn.Module):
    """Qwen3."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocabulary, s.hidden)
        self.layers = nn.ModuleList(DecoderLayer(s) for _ in range(s.layers))
        self.norm = RmsNorm(s.hidden)

    def forward(
        self, shared: Tensor, own: Tensor, lengths: Tensor, segments: Tensor, positions: Tensor
    ) -> Tensor:
        """Hidden states of ``own``, [batch, own length, hidden].

        Args:
            shared: embeddings of beginnings, [batch, length, hidden], padded at the end.
            own: embeddings of what follows, [batch, own length, hidden]: several questions one
                after the other, each of which sees the beginning and itself.
            lengths: of the beginnings without padding, [batch].
            segments: which question a token of ``own`` belongs to, [batch, own length].
            positions: of ``own`` in the rotary embedding, [batch, own length].
        """
        length, own_length = shared.shape[1], own.shape[1]
        device = shared.device
        where = (torch.arange(length, device=device)[None], positions)
        angles = (Angles.at(where[0], self.s, shared.dtype), Angles.at(where[1], self.s, own.dtype))
        beginning = (where[0] < lengths[:, None])[:, None].expand(-1, own_length, -1)
        causal = torch.ones(own_length, own_length, dtype=torch.bool, device=device).tril()
        itself = causal & (segments[:, None] == segments[:, :, None])
        mask = torch.cat([beginning, itself], -1)[:, None]
        for layer in self.layers:
            shared, own = layer(shared, own, angles, mask)
        return self.norm(own)


class StepVl(nn.Module):
    """Tower, projector, decoder and head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_model = VisionModel(sizes)
        self.vit_large_projector = nn.Linear(sizes.vision_width * 4, sizes.hidden, bias=False)
        self.model = Decoder(sizes)
        self.lm_head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
        for module in self.model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.04)
        nn.init.normal_(self.lm_head.weight, std=0.04)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As usual; and whether the tower's attention is more than zero is looked up here, once."""
        keys = super().load_state_dict(state_dict, strict, assign)
        for block in self.vision_model.transformer.blocks():
            block.attends = bool(block.ls_1.gamma.any())
        return keys

    def see(self, views: Tensor) -> Tensor:
        """[n, 3, side, side] -> [n, tokens, hidden]."""
        return self.vit_large_projector(self.vision_model(views))

    def forward(self, batch: Batch, pictures: Tensor) -> Tensor:
        """Hidden states of the questions, [batch, own length, hidden].

        Args:
            pictures: embeddings for where ``batch.is_picture`` is true, in order, [n, hidden].
        """
        x = self.model.embed_tokens(batch.shared)
        if len(pictures):
            x = x.masked_scatter(batch.is_picture[..., None], pictures.to(x.dtype))
        own = self.model.embed_tokens(batch.own)
        return self.model(x, own, batch.lengths, batch.segments, batch.positions)
