"""All blocks of a clip in one pass: the numbers of generation, block by block, and what each forcing lets one see."""

from itertools import pairwise

import pytest
import small
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from liveact_kernels.common import softmax
from liveact_kernels.common.rope import rotate
from liveact_model.dit import Linear
from liveact_model.schedule import coefficients, sigmas
from liveact_train.alive import Alive
from liveact_train.batches import _in_force
from liveact_train.clips_at_once import AtOnce, ClipWindow, Conditions, blocks_of
from liveact_train.dit import TINY_TIMESTEPS
from liveact_train.forcing import FORCINGS, draw_timesteps, tokens_of, velocity_loss
from liveact_train.layers import parts_of
from liveact_train.sizes import tiny
from liveact_train.start import initialise

CLIPS = 2


def sizes(first=6, later=8, **more):
    return small.CONFIG.with_(memory_slots=first, block_latent_frames=later, **more)


def clips(dit, later=3, seed=3):
    """Random latents and conditions of two clips at 2x2 tokens per latent frame: a first block and `later` ones."""
    g, c = torch.Generator().manual_seed(seed), dit.config
    frames = c.memory_slots + later * c.block_latent_frames

    def r(*shape):
        return torch.randn(CLIPS, *shape, generator=g)

    conditions = Conditions(
        y=r(4 + c.out_dim, c.window_slots, 4, 4), text=r(1 + later, c.text_len, c.text_dim),
        image=r(c.clip_tokens, c.clip_dim), audio=r(frames, 8, c.audio_blocks, c.audio_channels),
    )  # fmt: skip
    return r(c.out_dim, frames, 4, 4), conditions


def streamed(dit, z, x, t, i, audible=True):
    """Generation's path for clip i: block by block, no gradients, memory written in place."""
    c, window, time, out = dit.config, dit.window(2, 2), dit.at(t), []
    image = dit.image_kv(x.image[i])
    with torch.no_grad():
        for b, frames in enumerate(blocks_of(z.shape[2], c)):
            y = x.y[i][:, : c.memory_slots] if b == 0 else x.y[i][:, c.memory_slots :]
            heard = dit.hear(x.audio[i][max(1, frames.start) : frames.stop]) if audible else None
            prompt = dit.prompt(x.text[i, b], image)
            out.append(dit(z[i][:, frames].contiguous(), y, time, prompt, heard, window, b == 0))
    return torch.cat(out)


def levels(dit, z, t):
    return torch.full((CLIPS, len(blocks_of(z.shape[2], dit.config))), t)


@pytest.mark.parametrize("first,later", [(6, 6), (8, 8), (6, 8)])
@pytest.mark.parametrize("grouping", ["raster", "temporal"])
@pytest.mark.parametrize("memory,separate", [("mean", False), ("conv", False), ("conv", True)])
def test_one_pass_equals_generation_block_by_block(first, later, grouping, memory, separate):
    dit = small.dit(sizes(first, later, grouping=grouping, memory=memory, separate_v_taps=separate))
    z, x = clips(dit)
    for t, audible in ((1000.0, False), (937.5, True)):
        made = AtOnce(dit, x).run(z, levels(dit, z, t), audible).tokens
        for i in range(CLIPS):
            want, at = streamed(dit, z, x, t, i, audible), 0
            for block in blocks_of(z.shape[2], dit.config):
                rows = slice(at, at := at + 4 * (block.stop - block.start))
                assert (made[i, rows] - want[rows]).abs().max() < 1e-5, block
    assert made.abs().mean() > 0.1


def test_one_pass_is_attention_over_appended_memory_with_a_mask():
    """The definition: memory of every block appended to all keys and values, and a mask of what each query may see."""
    dit = small.dit(sizes(separate_v_taps=True))
    n, tokens, heads, d = 3, 4, 2, 16
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(CLIPS, n, 8 * tokens, heads, d, generator=g) for _ in range(3))
    start = tuple(torch.randn(CLIPS, 6 * tokens, heads, d, generator=g) for _ in range(2))
    taps, taps_v = (torch.randn(5, heads, d, generator=g) * 0.1 + 0.2 for _ in range(2))
    window = ClipWindow(dit.window(2, 2), n, start, None)
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    got = window.together(*flat, taps, taps_v).unflatten(0, (CLIPS, n))
    rope = window.rope.unflatten(0, (-1, tokens))
    for i in range(CLIPS):
        ks, vs = [start[0][i]], [start[1][i]]
        for b in range(n - 1):  # ConvKV: turn back, fold five neighbouring tokens, turn to the new slot
            slots = torch.cat((ks[-1], k[i, b])).unflatten(0, (-1, tokens))
            plain = torch.stack([rotate(s, rope[j], inverse=True) for j, s in enumerate(slots)])
            values = torch.cat((vs[-1], v[i, b])).unflatten(0, (-1, tokens))

            def fold(x, weights, first):
                return (x[first : first + 5].flatten(0, 1).unflatten(0, (-1, 5)) * weights).sum(1)

            keys = [ks[-1][: 2 * tokens], *(rotate(fold(plain, taps, s), rope[t]) for t, s in ((2, 2), (3, 7)))]
            keys += [rotate(plain[s], rope[t]) for t, s in ((4, 12), (5, 13))]
            folded = (fold(values, taps_v, s) for s in (2, 7))
            ks.append(torch.cat(keys))
            vs.append(torch.cat([vs[-1][: 2 * tokens], *folded, values[12], values[13]]))
        every_k, every_v = torch.cat([*ks, *k[i]]), torch.cat([*vs, *v[i]])
        memory = torch.arange(n).repeat_interleave(6 * tokens)
        own = torch.arange(n).repeat_interleave(8 * tokens)
        mask = own[:, None] == torch.cat((memory, own))
        scores = torch.einsum("lhd,rhd->hlr", q[i].flatten(0, 1), every_k) * d**-0.5
        out = torch.einsum("hlr,rhd->lhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), every_v)
        assert torch.allclose(got[i].flatten(0, 1), out, atol=1e-5)


def test_gradients_reach_every_parameter_and_the_memory_taps():
    dit = initialise(small.dit(sizes(separate_v_taps=True))).requires_grad_(True)
    torch.nn.init.normal_(dit.head.head.weight)
    dit.dtype = torch.bfloat16
    z, x = clips(dit)
    for forcing in FORCINGS:
        dit.zero_grad()
        t, noise = levels(dit, z, 833.3), torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        velocity_loss(dit, z, x, t, noise, True, forcing, TINY_TIMESTEPS).backward()
        dead = [n for n, p in dit.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert dead == [], forcing


def test_gradients_are_those_of_the_blocks_one_after_the_other():
    """Through `Window` with a graph, which is what the pass replaces."""
    dit = small.dit(sizes(separate_v_taps=True)).requires_grad_(True)
    z, x = clips(dit)
    torch.manual_seed(0)
    weight = torch.randn(CLIPS, z.shape[2] * 4, 4 * small.Z)
    (AtOnce(dit, x).run(z, levels(dit, z, 850.0), True).tokens * weight).sum().backward()
    got = {n: p.grad.clone() for n, p in dit.named_parameters()}
    dit.zero_grad()
    c = dit.config
    for i in range(CLIPS):
        window, image, out = dit.window(2, 2), dit.image_kv(x.image[i]), []
        for b, f in enumerate(blocks_of(z.shape[2], c)):
            y = x.y[i][:, : c.memory_slots] if b == 0 else x.y[i][:, c.memory_slots :]
            heard = dit.hear(x.audio[i][max(1, f.start) : f.stop])
            prompt = dit.prompt(x.text[i, b], image)
            out.append(dit(z[i][:, f].contiguous(), y, dit.at(850.0), prompt, heard, window, b == 0))
        (torch.cat(out) * weight[i]).sum().backward()
    for name, p in dit.named_parameters():
        assert torch.allclose(got[name], p.grad, rtol=1e-3, atol=1e-3 * p.grad.abs().max()), name


def test_a_forcing_decides_what_a_block_sees():
    """Which latents change the last block's velocities: those of earlier blocks at their noise, without it, or none."""
    dit = small.dit(sizes())
    z, x = clips(dit, later=2)
    noise, blocks = torch.randn(z.shape, generator=torch.Generator().manual_seed(5)), blocks_of(z.shape[2], dit.config)
    last = slice(-8 * 4, None)

    def tokens(forcing, t, noise):
        """Velocities of the last block, read off the loss's gradient by the target: loss = mean (tokens - target)^2."""
        torch.manual_seed(9)
        seen = {}

        def keep(self, *args, **options):
            seen["pass"] = plain(self, *args, **options)
            return seen["pass"]

        plain = AtOnce.run
        AtOnce.run = keep
        try:
            velocity_loss(dit, z, x, t, noise, True, forcing, (1000.0, 850.0))
        finally:
            AtOnce.run = plain
        return seen["pass"].tokens[:, last]

    other = noise.clone()
    other[:, :, blocks[1]] += 1.0  # the noise of the block before
    t = levels(dit, z, 500.0)
    lower = t.clone()
    lower[:, 1] = 100.0
    base = {forcing: tokens(forcing, t, noise) for forcing in FORCINGS}
    for forcing in ("neighbor", "diffusion"):
        assert (tokens(forcing, t, other) - base[forcing]).abs().max() > 1e-3, forcing
        assert (tokens(forcing, lower, noise) - base[forcing]).abs().max() > 1e-3, forcing
    for forcing in ("teacher", "self"):
        assert torch.equal(tokens(forcing, t, other), base[forcing]), forcing
        assert torch.equal(tokens(forcing, lower, noise), base[forcing]), forcing
    assert (base["teacher"] - base["self"]).abs().max() > 1e-3
    clean = AtOnce(dit, x).run(z, levels(dit, z, 0.0), True, remember=True).seen
    noisy = 0.5 * z + 0.5 * noise
    assert torch.allclose(base["teacher"], AtOnce(dit, x).run(noisy, t, True, clean).tokens[:, last], atol=1e-6)


@pytest.mark.parametrize("context", ["step", "last", "clean"])
def test_a_rollout_is_the_samplers(context):
    every_step = context == "step"
    dit, steps = small.dit(sizes()), (1000.0, 937.5, 833.3)
    z, x = clips(dit, later=2)
    noise = torch.randn(CLIPS, 3, *z.shape[1:], generator=torch.Generator().manual_seed(2))
    made = AtOnce(dit, x).rollout(noise, steps, every_step, context == "clean")
    c, level = dit.config, sigmas(steps)
    for i in range(CLIPS):
        windows = [dit.window(2, 2) for _ in steps]
        image = dit.image_kv(x.image[i])
        for b, f in enumerate(blocks_of(z.shape[2], c)):
            y = x.y[i][:, : c.memory_slots] if b == 0 else x.y[i][:, c.memory_slots :]
            prompt, heard = dit.prompt(x.text[i, b], image), dit.hear(x.audio[i][max(1, f.start) : f.stop])
            latent = noise[i, 0][:, f].contiguous()
            for s, t in enumerate(steps):
                if s == 2:
                    assert torch.allclose(made.entered[i][:, f], latent, atol=1e-4)
                window = windows[s if every_step else -1]
                before = {n: (m.k.clone(), m.v.clone()) for n, m in window.layers.items()}
                with torch.no_grad():
                    v = dit(latent, y, dit.at(t), prompt, heard if s else None, window, b == 0)
                if context == "clean" or (context == "last" and s < 2):  # only the last step's or pass's stay
                    window.layers = {n: type(window.layers[n])(*kv) for n, kv in before.items()}
                a = coefficients("renoise", level[s], level[s + 1])
                v = v.reshape(-1, 2, 2, 2, 2, small.Z).permute(5, 0, 1, 3, 2, 4).reshape(latent.shape)
                latent = a.c_latent * latent + a.c_velocity * v
                latent = latent + a.c_noise * noise[i, s + 1][:, f] if s < 2 else latent
            assert torch.allclose(made.latents[i][:, f], latent, atol=1e-4), b
            if context == "clean":
                with torch.no_grad():
                    dit(latent, y, dit.at(torch.zeros(1)), prompt, heard, windows[-1], b == 0)


def test_a_hidden_slot_is_seen_by_no_block_and_folded_on():
    dit = small.dit(sizes())
    z, x = clips(dit)
    t = levels(dit, z, 500.0)
    seen = AtOnce(dit, x).run(z, t, True, remember=True).seen
    other = [tuple(m.clone() for m in memory) for memory in seen]
    for memory in other:
        for m in memory:
            m[:, :, 2 * 4 : 4 * 4] += 1.0  # slots 2 and 3 of 4 tokens each
    hidden = AtOnce(dit, x, hidden=(2, 3))
    assert torch.equal(hidden.run(z, t, True, seen).tokens, hidden.run(z, t, True, other).tokens)
    open_ = AtOnce(dit, x)
    assert (open_.run(z, t, True, seen).tokens - open_.run(z, t, True, other).tokens).abs().max() > 1e-3
    given = hidden.run(z, t, True, seen, True).seen
    assert all(torch.equal(a, b) for one, two in zip(given, seen) for a, b in zip(one, two))
    short = AtOnce(dit, x, hidden=(4,)).run(z, t, True, remember=True)
    assert (short.tokens - open_.run(z, t, True).tokens).abs().max() > 1e-3 and short.seen[0][0].shape == seen[0][
        0
    ].shape


def test_timesteps_are_shared_by_a_clips_blocks_and_the_first_step_is_silent():
    torch.manual_seed(0)
    for forcing in FORCINGS:
        drawn = [draw_timesteps(4, 3, forcing) for _ in range(300)]
        assert all((t == 1000).all() != audible for t, audible in drawn)
        assert 0.05 < sum(not audible for _, audible in drawn) / 300 < 0.15
        shared = all((t == t[:, :1]).all() for t, _ in drawn)
        assert shared == (forcing != "diffusion")
        heard = torch.cat([t.flatten() for t, audible in drawn if audible])
        assert heard.min() < 50 and heard.max() < 1000 and 700 < heard.median() < 800  # 3 u / (1 + 2 u) of a half: 0.75
    only = [draw_timesteps(4, 3, "neighbor", TINY_TIMESTEPS) for _ in range(100)]
    assert {v.item() for t, _ in only for v in t.flatten()} == set(TINY_TIMESTEPS)


def test_blocks_fill_the_memory_first_and_leave_a_rest_out():
    for first, later, frames, stops in (
        (6, 8, 30, [6, 14, 22, 30]),
        (6, 6, 30, [6, 12, 18, 24, 30]),
        (8, 8, 30, [8, 16, 24]),
    ):
        blocks = blocks_of(frames, tiny(8, memory_slots=first, block_latent_frames=later))
        assert [b.stop for b in blocks] == stops and all(a.stop == b.start for a, b in pairwise(blocks))


def test_a_block_alone_is_refused():
    dit = small.dit()
    window = ClipWindow(dit.window(2, 2), 1, (torch.zeros(1), torch.zeros(1)), None)
    with pytest.raises(RuntimeError, match=r"under torch\.vmap"):
        window.attend(0, 8, *(torch.zeros(32, 2, 16) for _ in range(3)), torch.zeros(5, 2, 16), None)


def test_tokens_of_is_the_heads_order():
    x = torch.arange(3 * 2 * 4 * 6.0).reshape(3, 2, 4, 6)
    f, y, w, c, py, px = 1, 1, 2, 2, 0, 1
    assert tokens_of(x)[(f * 2 + y) * 3 + w, (py * 2 + px) * 3 + c] == x[c, f, 2 * y + py, 2 * w + px]


def test_linear_layers_run_in_the_models_dtype_and_keep_float32_masters():
    dit = small.dit(sizes()).requires_grad_(True)
    dit.dtype = torch.bfloat16
    z, x = clips(dit, later=1)
    clips_ = AtOnce(dit, x)
    found = {n: w.dtype for weights in clips_.weights for n, w in weights.items()}
    assert {d for n, d in found.items() if n.endswith("qkv.weight")} == {torch.bfloat16}
    assert {d for n, d in found.items() if "norm" in n or "taps" in n or "modulation" in n} == {torch.float32}
    assert clips_.run(z, levels(dit, z, 500.0), True).tokens.dtype == torch.bfloat16
    assert {m.weight.dtype for m in dit.modules() if isinstance(m, Linear)} == {torch.float32}


def test_recomputing_activations_changes_no_gradient_and_keeps_less():
    kept, gradients = {}, {}
    for again in (False, True):
        dit = small.dit(sizes(separate_v_taps=True).with_(num_layers=4)).requires_grad_(True)
        dit.dtype = torch.bfloat16
        parts_of(dit).recompute = again
        z, x = clips(dit)
        for forcing in ("neighbor", "self"):
            torch.manual_seed(0)
            with Alive() as memory:
                t, noise = levels(dit, z, 850.0), torch.ones_like(z)
                loss = velocity_loss(dit, z, x, t, noise, True, forcing, (1000.0, 850.0))
                kept[forcing, again] = memory.now
                loss.backward()
        gradients[again] = {n: p.grad for n, p in dit.named_parameters()}
    assert all(torch.equal(g, gradients[True][n]) for n, g in gradients[False].items())
    for forcing in ("neighbor", "self"):
        assert kept[forcing, True] < 0.5 * kept[forcing, False], kept


def test_a_large_attention_with_gradients_never_holds_its_scores(monkeypatch):
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 2, 16, generator=g) for n in (1024, 1040, 1040)]
    found = {}
    for fused, limit in ((True, softmax.FUSED), (False, 1 << 40)):
        monkeypatch.setattr(softmax, "FUSED", limit)
        leaves = [x.clone().requires_grad_() for x in rows]
        with Alive() as memory:
            softmax.attend(*leaves).square().sum().backward()
        found[fused] = [x.grad for x in leaves]
        assert (memory.most < 1024 * 1040 * 4) == fused  # of two heads' scores one would be more
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[True], found[False]))


def test_alive_counts_memory_until_the_last_view_lets_go():
    with Alive() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]
        assert memory.now == 4000
        del a
        assert memory.now == 4000 and b.shape == (8, 100)
        b = torch.zeros(10).double()
        assert memory.now == 80 and memory.most >= 4040
        c = torch.zeros(10, device="meta")
        b.untyped_storage().resize_(0)
        assert memory.now == 0 and c.is_meta
    with FakeTensorMode(), Alive() as memory:
        d = torch.zeros(1 << 40)
        assert memory.now == d.numel() * 4


@pytest.mark.parametrize("first,later,said", [(6, 8, [0, 1, 2, 3]), (6, 6, [0, 1, 2, 2, 3]), (8, 8, [0, 1, 2])])
def test_a_block_hears_the_prompt_that_is_in_force_in_its_middle(first, later, said):
    blocks = blocks_of(30, tiny(8, memory_slots=first, block_latent_frames=later))
    assert [_in_force(block) for block in blocks] == said
