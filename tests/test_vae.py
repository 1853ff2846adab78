"""The Wan VAE: recorded runs, streaming, bad input, checkpoints, tiles."""

from pathlib import Path

import pytest
import torch

from liveact_app.verify.golden import load, rel_l2
from liveact_app.verify.vae import REPLAYS, build
from liveact_model.errors import InputError
from liveact_model.vae.wan import WanVAE, WanVAEConfig
from liveact_model.vae.wan_blocks import Conv
from liveact_model.vae.wan_tiles import decode_tiled, encode_tiled, spans, tile_grid

GOLDEN = Path(__file__).parent / "golden"
SMALL = WanVAEConfig(dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True))


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return WanVAE(SMALL)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(4, 14, 3, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def state(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


@pytest.mark.parametrize("name,rows", [("vae_tiny", 17), ("vae_tiny_sp2", 4)])
def test_recorded_runs_replay(name, rows):
    golden = load(GOLDEN / f"{name}.json")
    got = list(REPLAYS[golden.kind](golden))
    assert len(got) == rows
    assert [row for row in got if row.verdict != "pass"] == []


def test_a_replay_without_recordings_is_refused(tmp_path):
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"empty{suffix}").write_bytes((GOLDEN / f"vae_tiny{suffix}").read_bytes())
    golden = load(tmp_path / "empty.json")
    golden.tensors._names = tuple(n for n in golden.tensors if not n.startswith("out."))
    with pytest.raises(InputError, match="expected recorded"):
        list(REPLAYS["vae"](golden))


@pytest.mark.parametrize("seed", range(6))
def test_any_chunking_of_a_stream_gives_the_same_frames(vae, latents, seed):
    whole = vae.stream(chunk=14).decode(latents)
    assert whole.shape == (3, 53, 12, 8)
    sizes, g = [], torch.Generator().manual_seed(seed)
    while sum(sizes) < 14:
        sizes.append(min(14 - sum(sizes), [1, 3, 6, 8, 2][int(torch.randint(5, (), generator=g))]))
    decoder = vae.stream(chunk=1 + seed)
    parts = [decoder.decode(part) for part in latents.split(sizes, 1)]
    assert [p.shape[1] for p in parts] == [4 * n - (3 if i == 0 else 0) for i, n in enumerate(sizes)]
    assert rel_l2(torch.cat(parts, 1), whole) < 1e-5


def test_frames_never_depend_on_later_latents(vae, latents):
    changed = latents.clone()
    changed[:, 5:] += 1.0
    a, b = vae.stream().decode(latents), vae.stream().decode(changed)
    assert torch.equal(a[:, :17], b[:, :17]) and not torch.equal(a[:, 17:21], b[:, 17:21])


def test_streams_are_independent_and_keep_their_buffers(vae, latents):
    one, two = vae.stream(), vae.stream()
    first = one.decode(latents[:, :6])
    kept = [t.data_ptr() for t in one._history._frames.values()]
    assert torch.equal(two.decode(latents[:, :6]), first)
    one.decode(latents[:, 6:])
    assert [t.data_ptr() for t in one._history._frames.values()] == kept


def test_released_block_decode_starts_afresh_after_three_latents(vae, latents):
    block = vae.decode_released(latents[:, 3:6], latents[:, 6:])
    assert torch.equal(block, vae.stream().decode(latents[:, 3:])[:, 9:]) and block.shape[1] == 32
    assert torch.equal(vae.decode_released(None, latents[:, :6]), vae.stream().decode(latents[:, :6]))
    with pytest.raises(InputError, match=r"must be \[z_dim, 3, h, w\], got \[4, 2, 3, 2\]"):
        vae.decode_released(latents[:, 4:6], latents[:, 6:])


@pytest.mark.parametrize("chunk", [2, 5])
def test_encode_is_the_same_in_any_chunks_and_causal(vae, chunk):
    video = torch.rand(3, 17, 8, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1
    z = vae.encode(video)
    assert z.shape == (4, 5, 2, 3) and rel_l2(vae.encode(video, chunk), z) < 1e-5
    assert torch.equal(vae.encode(video[:, :1]), z[:, :1]) and rel_l2(vae.encode(video[:, :9]), z[:, :3]) < 1e-5


def test_statistics_normalise_latents(vae):
    other, video = WanVAE(SMALL), torch.rand(3, 5, 8, 8)
    other.load_state_dict(vae.state_dict())
    other.mean, other.inv_std = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 2.0, 1.0, 4.0])
    raw, z = vae.encode(video), other.encode(video)
    assert torch.allclose(z, (raw - other.mean.view(4, 1, 1, 1)) * other.inv_std.view(4, 1, 1, 1), atol=1e-6)
    assert rel_l2(other.stream().decode(z), vae.stream().decode(raw)) < 1e-5


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 5, 9, 8), (1, 5, 8, 8), (3, 5, 0, 8), (3, 5, 8)])
def test_bad_video_is_refused(vae, shape):
    with pytest.raises(InputError, match=r"video must be \[3, 1 \+ 4k frames, H, W\].*got \["):
        vae.encode(torch.zeros(shape))


def test_bad_latents_are_refused(vae, latents):
    decoder = vae.stream()
    for bad in (latents[:3], latents[0], latents[:, :0]):
        with pytest.raises(InputError, match=r"latents must be \[4, n, h, w\]"):
            decoder.decode(bad)
    decoder.decode(latents[:, :1])
    with pytest.raises(InputError, match=r"stay \[3, 2\] high and wide.*got \[3, 1\]"):
        decoder.decode(latents[..., :1])
    with pytest.raises(InputError, match="chunk must be at least 1"):
        vae.stream(0)


def test_a_released_file_loads_and_decodes_the_same(vae, latents, state, tmp_path):
    torch.save(state, tmp_path / "vae.pth")
    loaded = WanVAE.from_released(tmp_path / "vae.pth")
    assert loaded.config == SMALL and not any(p.requires_grad for p in loaded.parameters())
    assert rel_l2(loaded.stream().decode(latents), vae.stream().decode(latents)) < 1e-6
    for conv in (m for m in loaded.modules() if isinstance(m, Conv)):
        assert conv.taps().data_ptr() == conv.weight.data_ptr()  # no copy per call
    half = WanVAE.from_released(tmp_path / "vae.pth", dtype=torch.bfloat16)
    assert {t.dtype for t in (*half.parameters(), *half.buffers())} == {torch.bfloat16}
    assert 1e-4 < rel_l2(half.stream().decode(latents), loaded.stream().decode(latents)) < 3e-2


KEY = "decoder.upsamples.0.residual.2.weight"


@pytest.mark.parametrize(
    "spoil,said",
    [
        (lambda s: s.pop(KEY), rf"expected key {KEY} \[.*\], found none"),
        (lambda s: s.update({KEY: s[KEY][:, :3]}), rf"expected {KEY} of shape \[8, 8, 3, 3, 3\], found \[8, 3,"),
        (lambda s: s.update(ema=torch.zeros(2)), r"unexpected key ema \[2\]"),
        (lambda s: s.pop("conv2.bias"), "expected key conv2.bias with 1 dimensions, found none"),
        (
            lambda s: [s.pop(k) for k in list(s) if "resample" in k],
            r"expected keys encoder.downsamples\.\*\.resample.1.bias, found none",
        ),
    ],
)
def test_wrong_keys_are_named(state, spoil, said):
    spoil(state)
    with pytest.raises(InputError, match=said):
        WanVAE.from_state_dict(state)


def test_truncated_and_missing_files_are_refused(state, tmp_path):
    path = tmp_path / "vae.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"expected .*vae\.pth to be a torch weight file"):
        WanVAE.from_released(path)
    with pytest.raises(InputError, match=r"expected a weight file .*other\.pth"):
        WanVAE.from_released(tmp_path / "other.pth")


def test_the_released_size_has_the_released_tensors():
    with torch.device("meta"):
        full = WanVAE(WanVAEConfig())
    assert (len(full.state_dict()), sum(p.numel() for p in full.parameters())) == (194, 126_892_531)
    assert (full.z_dim, full.spatial, full.temporal) == (16, 8, 4)
    recorded = build(load(GOLDEN / "vae_tiny.json"))
    assert list(full.state_dict()) == list(recorded.state_dict()) and recorded.config.dim == 4


def test_tiles_cover_the_picture():
    assert tile_grid(64, 64, 2) == (1, 2) and tile_grid(90, 52, 2) == (2, 1) and tile_grid(60, 104, 2) == (1, 2)
    assert tile_grid(104, 60, 2) == (2, 1) and tile_grid(64, 64, 4) == (2, 2)
    for span in (spans(12, 3, 1), spans(12, 1, 2), spans(12, 2, 2)):
        kept = [i for s in span for i in range(s.start + s.low, s.start + s.high)]
        assert kept == list(range(12))
    assert [(s.start, s.stop) for s in spans(18, 3, 1)] == [(0, 8), (5, 13), (10, 18)]
    with pytest.raises(InputError, match="equal parts, got 2"):
        tile_grid(9, 7, 2)


def test_one_tile_is_the_whole(vae, latents):
    assert torch.equal(decode_tiled(vae, latents, 1), vae.stream().decode(latents))
    video = torch.rand(3, 5, 8, 8)
    assert torch.equal(encode_tiled(vae, video, 1), vae.encode(video))
    with pytest.raises(InputError, match="multiples of 4"):
        encode_tiled(vae, video[..., :-1], 1)
