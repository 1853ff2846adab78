"""Replay of recorded window updates and rotary positions (kinds memory and rope)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from liveact_kernels import ops
from liveact_kernels.common.rope import rotate
from liveact_kernels.ops.kv_compress import STEADY
from liveact_model.dit import TWO_RANK_RELEASED, LayerMemory, Window, rope_table

from .golden import Golden, Row, rel_l2

TOLERANCE, ROPE_MAX_ABS = 1e-5, 2e-5
RANK_SLOTS = {"single": [list(range(14))], "sp": [[0, 1, 2, 6, 7, 8, 9], [3, 4, 5, 10, 11, 12, 13]]}


class Layer:
    """The recorded attention layer, in the pieces the model uses."""

    def __init__(self, g: Golden):
        w = {k: v.float() for k, v in g.weights().items()}
        self.heads, self.head_dim = int(g.number("heads")), int(g.number("head_dim"))
        rows, columns = g.config["grid"]
        self.tokens = rows * columns
        self.rope = rope_table(self.head_dim, 14, rows, columns)
        self.w_qkv = torch.cat([w[f"{n}.weight"] for n in "qkv"])
        self.b_qkv = torch.cat([w[f"{n}.bias"] for n in "qkv"])
        self.w = w

    def taps(self, memory: str) -> Tensor:
        """[5, H, D] of the variant."""
        taps = self.w["memory_proj_k.weight"][:, 0].T.reshape(-1, self.heads, self.head_dim).contiguous()
        return torch.full_like(taps, 1 / 5) if memory == "mean" else taps

    def window(self, schedule, memory: LayerMemory | None) -> Window:
        """A window whose layer 0 holds `memory`."""
        return Window(self.tokens, self.rope, schedule=schedule, layers={} if memory is None else {0: memory})

    def call(self, x: Tensor, window: Window, first: bool, memory: str) -> tuple[Tensor, Tensor, Tensor]:
        """(output [L, C], roped keys and values of the window as this call saw it)."""
        rope = window.positions(x.shape[0] // self.tokens, first)
        qkv = ops.linear(a=x, w=self.w_qkv, b=self.b_qkv)
        norms = {"norm_q": self.w["norm_q.weight"], "norm_k": self.w["norm_k.weight"]}
        q, k, v = ops.qkv_norm_rope(qkv=qkv, rope=rope, **norms)
        old = window.layers.get(0)
        seen = (k, v) if old is None else (torch.cat((old.k, k)), torch.cat((old.v, v)))
        y = window.attend(0, x.shape[0] // self.tokens, q, k, v, self.taps(memory), None)
        return ops.linear(a=y.flatten(1), w=self.w["o.weight"], b=self.w["o.bias"]), *(t.clone() for t in seen)

    def cached(self, g: Golden) -> tuple[Tensor, Tensor]:
        """The recorded cache before the call, 14 slots: keys roped at their slot, values."""
        return rotate(g.get("in.cache_k")[0], self.rope), g.get("in.cache_v")[0]

    def compacted(self, k: Tensor, v: Tensor, schedule, taps: Tensor) -> LayerMemory:
        """Six memory slots from a full window of 14."""
        cut = 6 * self.tokens
        out = ops.kv_compress(
            k_new=k[cut:], v_new=v[cut:], k_mem=k[:cut], v_mem=v[:cut], taps=taps, rope=self.rope,
            schedule=schedule, tokens=self.tokens, k_dtype=k.dtype, v_dtype=v.dtype,
            k_scale=None, v_scale=None, taps_v=None,
        )  # fmt: skip
        kept = 2 * self.tokens
        return LayerMemory(torch.cat((k[:kept], out[0])), torch.cat((v[:kept], out[1])))


@torch.no_grad()
def replay_memory(g: Golden) -> Iterator[Row]:
    """Kind memory: first, second and updating calls, conv and mean, one GPU and the released two-rank schedule."""
    layer = Layer(g)
    cut = 6 * layer.tokens
    for where, schedule in (("single", STEADY), ("sp", TWO_RANK_RELEASED)):
        for memory in ("conv", "mean"):
            taps = layer.taps(memory)
            k, v = layer.cached(g)
            memories = {
                "first": None,
                "second": LayerMemory(k[:cut].clone(), v[:cut].clone()),
                "update": layer.compacted(k, v, schedule, taps),
            }
            for call, state in memories.items():
                prefix = f"out.{where}.{memory}.{call}"
                if f"{prefix}.y" in g.tensors:
                    error = _compare(g, layer, layer.window(schedule, state), prefix, call == "first", memory)
                    yield g.row(f"{where} {memory} {call}", error, TOLERANCE, "output and every cached slot")
        yield _index_schedule(g, layer, where, schedule)


def _compare(g: Golden, layer: Layer, window: Window, prefix: str, first: bool, memory: str) -> float:
    x = g.get("in.x_block0" if first else "in.x_block1")[0]
    y, k, v = layer.call(x, window, first, memory)
    errors = [rel_l2(y, g.get(f"{prefix}.y")[0])]
    k = rotate(k, window.rope[: k.shape[0]], inverse=True)
    slots = k.shape[0] // layer.tokens
    ranks = RANK_SLOTS["sp" if ".sp." in prefix else "single"]
    for r, owned in enumerate(ranks):
        middle = f".rank{r}" if len(ranks) > 1 else ""
        for name, got in (("cache_k", k), ("cache_v", v)):
            recorded = g.get(f"{prefix}{middle}.{name}")[0].unflatten(0, (-1, layer.tokens))
            mine = got.unflatten(0, (-1, layer.tokens))
            errors += [rel_l2(mine[s], recorded[i]) for i, s in enumerate(owned) if s < slots]
    return max(errors)


def _index_schedule(g: Golden, layer: Layer, where: str, schedule) -> Row:
    """Which tokens are averaged into which slot: values that are their own token index, mean memory."""
    n = 14 * layer.tokens
    index = torch.arange(n, dtype=torch.float32)[:, None, None].expand(n, layer.heads, layer.head_dim).contiguous()
    mean = torch.full((5, layer.heads, layer.head_dim), 0.2)
    got = layer.compacted(index, index, schedule, mean).v[:, 0, 0]
    want = [g.get(n) for n in g.tensors.names(f"out.{where}.index_schedule")]
    return g.row(f"{where} index schedule", rel_l2(got, torch.cat(want)), TOLERANCE, "slots 0..5 after an update")


@torch.no_grad()
def replay_rope(g: Golden) -> Iterator[Row]:
    """Kind rope: the tables and the rotation of queries and of the 14-slot keys."""
    c = g.config
    dim, start, k_start = int(g.number("head_dim")), int(g.number("start_frame")), int(g.number("k_start_frame"))
    theta = float(c.get("theta", 10000))
    table = g.get("out.freqs_cos")
    ours = rope_table(dim, *[table.shape[0]] * 3, theta).unflatten(0, [table.shape[0]] * 3)
    split = c["split_complex"]
    axes = [ours[:, 0, 0, : split[0]], ours[0, :, 0, split[0] : split[0] + split[1]], ours[0, 0, :, -split[2] :]]
    for i, name in enumerate(("cos", "sin")):
        got = torch.cat([a[..., i] for a in axes], -1)
        error = (got.double() - g.get(f"out.freqs_{name}")).abs().max().item()
        yield g.row(f"{name} table", error, 1e-7, "max abs; float32 of a float64 table")
    for name, grid, first in (("q", c["grid"], start), ("k", c["k_grid"], k_start)):
        frames, rows, columns = grid
        rope = rope_table(dim, first + frames, rows, columns, theta)[first * rows * columns :]
        got = rotate(g.get(f"in.{name}")[0], rope)
        error = (got - g.get(f"out.{name}_roped")[0]).abs().max().item()
        yield g.row(f"{name} roped", error, ROPE_MAX_ABS, "max abs")
