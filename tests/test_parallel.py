"""Several ranks make what one makes: attention by every form, the whole denoiser, the recorded two-rank runs."""

import group
import pytest
import small
import torch

from liveact_app.verify.dit import replay_two_ranks
from liveact_app.verify.golden import load
from liveact_model.parallel import ALONE
from liveact_model.parallel.forms import FORMS
from liveact_model.parallel.pieces import cut, join, pieces
from liveact_model.parallel.ranks import connect

BLOCKS, TOLERANCE = 6, 2e-5


def relative(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def denoised(parallel, blocks, size, eight_bit=False, heads=2):
    """Velocity tokens of a run whose memory is compacted after every block."""
    # three layers: a forward ends with the mailbox's box that the next one begins with
    config = small.CONFIG.with_(dim=16 * heads, num_heads=heads, num_layers=3)
    dit = small.dit(config)
    g = torch.Generator().manual_seed(7)

    def r(*shape):
        return torch.randn(*shape, generator=g)

    window = dit.window(size[0] // 2, size[1] // 2, eight_bit=eight_bit, parallel=parallel)
    time, prompt = dit.at(937.5), dit.prompt(r(5, config.text_dim), dit.image_kv(r(4, config.clip_dim)))
    out = []
    with torch.no_grad():
        for i in range(blocks):
            frames = 8 if i else 6
            latent, y = r(config.out_dim, frames, *size), r(4 + config.out_dim, frames, *size)
            heard = dit.hear(r(frames - (i == 0), 8, config.audio_blocks, config.audio_channels)) if i % 2 else None
            out.append(dit(latent, y, time, prompt, heard, window, i == 0))
    return torch.stack([o.norm() for o in out]), out[-1], window.nbytes()


def all_forms(ranks, blocks, size, heads):
    out = {}
    for form in FORMS:
        ranks.form = form
        out[form] = denoised(ranks, blocks, size, heads=heads)
    ranks.form = "overlap"
    return out | {"eight_bit": denoised(ranks, 3, size, eight_bit=True, heads=heads)}


@pytest.mark.parametrize("size,heads", [(2, 2), (3, 4)])
def test_any_number_of_ranks_and_every_form_equals_one(size, heads):
    """4x5 tokens are no multiple of 3, nor are 4 heads."""
    picture = (8, 10)
    norms, last, held = denoised(ALONE, BLOCKS, picture, heads=heads)
    eight = denoised(ALONE, 3, picture, eight_bit=True, heads=heads)[1]
    for got in group.run(all_forms, size, BLOCKS, picture, heads):
        assert relative(got.pop("eight_bit")[1], eight) < 1e-3  # codes may fall on the other side of a boundary
        for form, (n, out, bytes_) in got.items():
            assert relative(n, norms) < TOLERANCE and relative(out, last) < TOLERANCE, form
            assert bytes_ == held if form != "ulysses" else bytes_ <= held * -(-heads // size) / heads


def recorded(ranks, path, form):
    ranks.form = form
    return [(r.variant, r.error, r.verdict) for r in replay_two_ranks(load(path), ranks)]


def test_the_recorded_two_rank_run_on_two_ranks(golden):
    for rows in group.run(recorded, 2, golden / "dit_tiny_sp2.json", "gather"):
        assert len(rows) == 9 and all(verdict == "pass" for *_, verdict in rows), rows


def test_pieces_are_even_and_cover_everything():
    for count, parts in ((7, 3), (8, 8), (20, 3), (5, 8)):
        got = pieces(count, parts)
        assert [i for p in got for i in p] == list(range(count))
        assert max(map(len, got)) - min(map(len, got)) <= 1
    x = torch.arange(3 * 7 * 2).view(21, 2)
    parts = [cut(x, 3, p) for p in pieces(7, 3)]
    assert torch.equal(join(parts, 3), x) and parts[1].tolist()[0] == x[2].tolist()


DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn)


def travelled(ranks):
    """Rows of every dtype by every way of the wire; 1 where all of them arrived as they were."""
    good = []
    for dtype in DTYPES:
        whole = torch.randint(-100, 100, (3 * 5, 4, 6), generator=torch.Generator().manual_seed(1)).to(dtype)
        mine = ranks.shard(whole, 3)
        rows = [3 * len(t) for t in ranks.tokens]
        parts = [cut(whole, 3, t) for t in ranks.tokens]
        before = (ranks.rank - 1) % ranks.size
        shifted, scales = ranks.wire.shift((mine, mine[..., 0]), rows[before])()
        swapped = ranks.wire.swap(parts, [parts[ranks.rank].shape] * 3)
        found = (ranks.unshard(mine, 3), shifted, scales, torch.cat(swapped), ranks.share(lambda x=whole: x[::2]))
        want = (whole, parts[before], parts[before][..., 0], torch.cat([parts[ranks.rank]] * 3), whole[::2])
        good += [a.dtype == b.dtype and torch.equal(a.float(), b.float()) for a, b in zip(found, want)]
    return good


def test_every_dtype_travels_in_pieces_of_any_size():
    for good in group.run(travelled, 3):
        assert len(good) == 5 * len(DTYPES) and all(good), good


def test_a_rank_launches_on_the_device_of_its_own(monkeypatch):
    """Else the kernels of every process but the first would start on a GPU that has none of their tensors."""

    def current(index):
        raise InterruptedError(index)

    monkeypatch.setattr(torch.accelerator, "set_device_index", current)
    with pytest.raises(InterruptedError, match="3"):
        connect("cuda:3", store=None, rank=0, size=1)
