"""StepVL in plain torch, for training: the same arithmetic as vLLM's, on any grid of patches.

Parameter names are those of the published checkpoints, so a state dict is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
VIEW = 728
CROP = 504
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
    vision_width: int = 48
    vision_layers: int = 1
    vision_heads: int = 2
    mlp_ratio: float = 3.0


def pixels(image: Tensor, size: int) -> Tensor:
    """A picture as the processor gives it to the tower.

    Args:
        image: uint8, [height, width, 3].
        size: the side of the square view, in pixels.

    Returns:
        float32, [3, size, size], normalised, bilinear with antialiasing.
    """
    x = image.permute(2, 0, 1).float() / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
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
        q, k = (t * cos + _rotate_pairs(t) * sin for t in (q, k))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

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
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision_width
        self.attn = VisionAttention(width, sizes.vision_heads)
        self.ls_1, self.ls_2 = LayerScale(width), LayerScale(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = VisionMlp(width, sizes.mlp_ratio)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.ls_1(self.attn(self.ln_1(x), angles))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(sizes) for _ in range(sizes.vision_layers))


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
        self.positional_embedding = nn.Parameter(torch.randn(self.grid**2, width) * 0.02)

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
        angles = _grid_angles(self.head_dim, grid, grid)
        for block in self.transformer.resblocks:
            x = block(x, angles)
        x = x.transpose(1, 2).unflatten(-1, (grid, grid))
        return self.vit_downsampler2(self.vit_downsampler1(x)).flatten(2).transpose(1, 2)


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.q_norm, self.k_norm = RmsNorm(s.head_dim), RmsNorm(s.head_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        def heads(t: Tensor) -> Tensor:
            return t.unflatten(-1, (-1, self.s.head_dim)).transpose(1, 2)

        def turned(t: Tensor) -> Tensor:
            a, b = t.chunk(2, -1)
            return t * cos + torch.cat((-b, a), -1) * sin

        q, k = (
            turned(self.q_norm(heads(self.q_proj(x)))),
            turned(self.k_norm(heads(self.k_proj(x)))),
        )
        repeat = self.s.heads // self.s.kv_heads
        k, v = (t.repeat_interleave(repeat, 1) for t in (k, heads(self.v_proj(x))))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Qwen3."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocabulary, s.hidden)
        self.layers = nn.ModuleList(DecoderLayer(s) for _ in range(s.layers))
        self.norm = RmsNorm(s.hidden)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        inverse = 1.0 / self.s.rope_theta ** (
            torch.arange(0, self.s.head_dim, 2).float() / self.s.head_dim
        )
        angles = positions[:, None, :, None] * torch.cat((inverse, inverse))
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)


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

    def see(self, views: Tensor) -> Tensor:
        """[n, 3, side, side] -> [n, tokens, hidden]."""
        return self.vit_large_projector(self.vision_model(views))

    def forward(
        self, tokens: Tensor, pictures: Tensor, is_picture: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        """Hidden states, [batch, length, hidden].

        Args:
            tokens: ids, [batch, length].
            pictures: the rows for the places where ``is_picture`` is true, in order.
            is_picture: [batch, length].
            positions: of the rotary embedding, [batch, length].
            mask: true where the second index may be looked at, [batch, 1, length, length].
        """
        x = self.model.embed_tokens(tokens)
        if len(pictures):
            x = x.masked_scatter(is_picture[..., None], pictures)
        return self.model(x, positions, mask)
