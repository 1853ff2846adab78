"""The denoiser against independent derivations."""

import pytest
import small
import torch

from liveact_kernels.ops.kv_compress import STEADY
from liveact_model.config import DiTConfig
from liveact_model.dit import TWO_RANK_RELEASED, Linear, rope_table
from liveact_model.dit.embed import patchify
from liveact_model.dit.formats import Wide
from liveact_model.dit.rope import pair_split
from liveact_model.errors import InputError
from liveact_train.clips_at_once import blocks_of


def inputs(dit, frames=22, seed=3):
    """Random clip inputs at 2x2 tokens per latent frame."""
    g = torch.Generator().manual_seed(seed)
    c = dit.config

    def r(*shape):
        return torch.randn(*shape, generator=g)

    return {
        "z": r(c.out_dim, frames, 4, 4), "y": r(4 + c.out_dim, 14, 4, 4), "text": r(3, c.text_len, c.text_dim),
        "image": r(c.clip_tokens, c.clip_dim), "audio": r(frames, 8, c.audio_blocks, c.audio_channels),
    }  # fmt: skip


def streamed(dit, x, t, audible=True):
    """Generation's path: block by block, no gradients, memory written in place."""
    window, time, out = dit.window(2, 2), dit.at(t), []
    image = dit.image_kv(x["image"])
    with torch.no_grad():
        for i, frames in enumerate(blocks_of(x["z"].shape[1], dit.config)):
            y = x["y"][:, :6] if i == 0 else x["y"][:, 6:]
            heard = dit.hear(x["audio"][max(1, frames.start) : frames.stop]) if audible else None
            prompt = dit.prompt(x["text"][i], image)
            out.append(dit(x["z"][:, frames].contiguous(), y, time, prompt, heard, window, i == 0))
    return torch.cat(out)


def test_the_window_is_all_that_connects_blocks():
    """The third block changes with the first block's latents, through memory alone, and not with the image slots."""
    dit = small.dit()
    x = inputs(dit)
    base = streamed(dit, x, 1000.0, audible=False)
    for frames, which in (((1, 2), "reference"), ((3, 4), "long-term")):
        y = dict(x, z=x["z"].clone())
        y["z"][:, slice(*frames)] += 1
        changed = (streamed(dit, y, 1000.0, audible=False) - base).abs()
        assert changed[6 * 4 : 14 * 4].max() > 1e-4 and changed[14 * 4 :].max() > 1e-4, which


def test_first_latent_frame_hears_nothing():
    dit = small.dit(small.CONFIG.with_(num_layers=1))
    x = inputs(dit, frames=6)
    loud = dict(x, audio=x["audio"] * 3)
    a, b = streamed(dit, x, 937.5), streamed(dit, loud, 937.5)
    assert torch.equal(a[:4], b[:4]) and not torch.equal(a[4:], b[4:])


def test_collapsed_padding_equals_all_padding_rows():
    dit = small.dit()
    x = inputs(dit)
    rows = torch.randn(3, dit.config.text_len, dit.config.text_dim)
    rows[:, 5:] = 0
    full, short = dict(x, text=rows), dict(x, text=[r[:5] for r in rows])
    assert torch.allclose(streamed(dit, full, 833.3), streamed(dit, short, 833.3), atol=1e-5)


@pytest.mark.parametrize("precision,bound", [("bfloat16", 3e-2), ("fp8", 1e-1)])
def test_lower_precision_stays_close(precision, bound):
    exact, low = small.dit(), small.dit().to_precision(precision)
    x = inputs(exact)
    half = {k: v.to(low.dtype) for k, v in x.items()}
    want, got = streamed(exact, x, 937.5), streamed(low, half, 937.5).float()
    error = ((got - want).norm() / want.norm()).item()
    assert 0 < error < bound


def test_fp8_linears_are_no_worse_than_the_released_recipe(monkeypatch):
    """Released: one scale per token and one per weight tensor, emulated in the float32 model."""
    exact, ours, released = small.dit(), small.dit().to_precision("fp8"), small.dit()
    x = inputs(exact)

    def rounded(t, dims):
        s = t.abs().amax(dims, keepdim=True).clamp_min(1e-12) / 448
        return (t / s).to(torch.float8_e4m3fn).float() * s

    want = streamed(exact, x, 937.5)
    got = streamed(ours, {k: v.bfloat16() for k, v in x.items()}, 937.5).float()
    plain = Wide._args
    monkeypatch.setattr(Wide, "_args", lambda self, layer, a: plain(self, layer, rounded(a, -1)))
    for module in released.modules():
        if isinstance(module, Linear):
            module.weight.data = rounded(module.weight.data, (0, 1))
    recipe = streamed(released, x, 937.5)
    assert 0.01 < (recipe - want).norm() / want.norm()
    assert (got - want).norm() <= 1.1 * (recipe - want).norm()  # ours also rounds activations to bf16


def test_precision_cannot_be_raised_again():
    with pytest.raises(ValueError, match="load them again"):
        small.dit().to_precision("fp8").to_precision("float32")


def test_a_table_that_inference_asked_for_first_serves_training():
    rope_table.cache_clear()
    with torch.inference_mode():
        table = rope_table(16, 3, 2, 4)
    assert not table.is_inference() and rope_table(16, 3, 2, 4) is table


def test_rope_table_is_the_definition():
    table = rope_table(16, 3, 2, 4)
    assert table.shape == (24, 8, 2) and pair_split(128) == (22, 21, 21) and pair_split(16) == (4, 2, 2)
    frame, row, column = 2, 1, 3
    token = (frame * 2 + row) * 4 + column
    angles = [frame * 10000 ** (-i / 4) for i in range(4)]
    angles += [row * 10000 ** (-i / 2) for i in range(2)] + [column * 10000 ** (-i / 2) for i in range(2)]
    a = torch.tensor(angles, dtype=torch.float64)
    assert torch.allclose(table[token].double(), torch.stack((a.cos(), a.sin()), -1), atol=1e-7)


def test_patchify_order_is_channel_row_column():
    x = torch.arange(3 * 2 * 4 * 6.0).reshape(3, 2, 4, 6)
    tokens = patchify(x)
    assert tokens.shape == (2 * 2 * 3, 12)
    f, y, w, c, py, px = 1, 1, 2, 2, 0, 1
    assert tokens[(f * 2 + y) * 3 + w, c * 4 + py * 2 + px] == x[c, f, 2 * y + py, 2 * w + px]


def test_schedules_fold_each_slot_once():
    for schedule in (STEADY, TWO_RANK_RELEASED):
        sources = [s for _, srcs in schedule for s in srcs]
        assert sorted(sources) == list(range(2, 14)) and [slot for slot, _ in schedule] == [2, 3, 4, 5]


def test_bad_configs():
    with pytest.raises(InputError, match="dim must be num_heads times"):
        DiTConfig(dim=100, num_heads=3)
    with pytest.raises(InputError, match="in_dim must be"):
        DiTConfig(in_dim=16)
    with pytest.raises(InputError, match="eps must be 1e-06"):
        DiTConfig(eps=1e-5)
