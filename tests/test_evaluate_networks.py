"""FID, FVD, SyncNet and ArcFace: layouts against sizes that others state, random weights, closed forms, lags."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from talking import envelope, face, fed, talking, voice
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from liveact_app.evaluate import i3d, inception, syncnet
from liveact_app.evaluate.arcface import DEPTHS, IResNet
from liveact_app.evaluate.frechet import Gaussian, frechet_distance
from liveact_app.evaluate.i3d import I3D
from liveact_app.evaluate.inception import Inception
from liveact_app.evaluate.mfcc import Mfcc
from liveact_app.evaluate.networks import ClipFeatures, FaceIdentity, PictureFeatures, Sync
from liveact_app.evaluate.syncnet import SyncNet
from liveact_app.evaluate.weights import KNOWN, filled, state_of
from liveact_model.errors import InputError


def on_meta(make):
    with torch.device("meta"):
        return make().eval()


def random_state(make, seed=0):
    """Values of the layout that keep activations near 1: a file somebody might have."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for key, value in on_meta(make).state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
            continue
        x = torch.randn(value.shape, generator=draw)
        if value.dim() > 1:
            state[key] = x * math.sqrt(2 / value[0].numel())
        else:
            state[key] = 1 + 0.1 * x.abs() if key.endswith(("running_var", "weight")) else 0.1 * x
    return state


# Convolutions by hand from the papers' tables (with batch norm each), and the bytes of the public files.
LAYOUTS = {
    "inception": (Inception, 94, ["Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch5x5_2.bn.running_var", "fc.bias",
                                  "Mixed_6e.branch7x7dbl_5.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.bias"]),
    "i3d": (I3D, 58, ["Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b1b.bn.weight", "Mixed_5c.b3b.conv3d.weight",
                      "logits.conv3d.bias"]),
    "syncnet": (SyncNet, 12, ["netcnnaud.0.weight", "netcnnaud.19.running_mean", "netfcaud.3.bias", "netfclip.1.weight",
                              "netcnnlip.8.weight", "netcnnlip.19.bias"]),
    "arcface": (lambda: IResNet(DEPTHS[100]), 103, ["conv1.weight", "prelu.weight", "layer1.0.downsample.1.bias",
                                                    "layer3.29.bn3.weight", "fc.weight", "features.running_var"]),
}  # fmt: skip
SYNCNET_BYTES = 54_600_000  # as copies are listed, to three digits


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_is_that_of_the_public_file(name):
    make, convolutions, keys = LAYOUTS[name]
    state = on_meta(make).state_dict()
    assert set(keys) <= set(state)
    kinds = (nn.Conv2d, nn.Conv3d)
    assert sum(isinstance(m, kinds) for m in on_meta(make).modules()) == convolutions
    values = 4 * sum(v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked"))
    there = KNOWN[name].bytes or SYNCNET_BYTES
    # What a file has besides values: names, shapes, counters; under 400 bytes a key.
    rest = there - values
    assert (abs(rest) < 60_000) if name == "syncnet" else (0 < rest < 400 * len(state))


@pytest.mark.parametrize(
    ("make", "shape", "giga"),
    [(Inception, (1, 3, 299, 299), 5.71), (I3D, (1, 3, 64, 224, 224), 107.9),
     (lambda: IResNet(DEPTHS[50]), (1, 3, 112, 112), 6.3), (lambda: IResNet(DEPTHS[100]), (1, 3, 112, 112), 12.1)],
)  # fmt: skip
def test_the_work_is_what_others_state(make, shape, giga):
    """Multiply-adds: Inception v3 5.71 G, I3D 107.9 G for 64 video frames, IResNet-50 and -100 6.3 and 12.1 G."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(make)(torch.empty(shape, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.04)


def reference_average(x):
    """3x3 mean of what is inside the picture, place by place."""
    out = torch.zeros_like(x)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            out[:, :, i, j] = x[:, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean((2, 3))
    return out


def test_pools_of_inception_do_not_count_padding_and_the_last_is_a_maximum():
    net = on_meta(Inception)
    x = torch.rand(1, 2, 5, 6)
    torch.testing.assert_close(net.Mixed_5b._pooled(x), reference_average(x))
    torch.testing.assert_close(net.Mixed_7b._pooled(x), reference_average(x))
    assert (net.Mixed_7c._pooled(x)[0, 0, 2, 2] == x[0, 0, 1:4, 1:4].max()).all()


@pytest.mark.parametrize(("n", "k", "s"), [(16, 7, 2), (15, 7, 2), (112, 3, 2), (7, 3, 1), (8, 2, 2), (9, 2, 2)])
def test_i3d_pads_as_tensorflow_does(n, k, s):
    x = torch.ones(1, 1, n, n, n)
    found = i3d.padded(x, (k,) * 3, (s,) * 3)
    whole = max(0, (math.ceil(n / s) - 1) * s + k - n)
    assert found.shape[2:] == (n + whole,) * 3
    assert float(found[0, 0, :, n // 2, n // 2].argmax()) == whole // 2  # the odd one goes to the end


@pytest.mark.parametrize("name", ["inception", "i3d", "syncnet"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_random_weights_load_and_run(tmp_path, name, suffix):
    make = LAYOUTS[name][0]
    state = random_state(make)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)  # the public files are as old
    else:
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, str(path))
    network = filled(make, state_of(str(path), f"--{name}"), f"--{name}")
    assert not network.training and all(p.dtype == torch.float32 for p in network.parameters())
    if suffix == ".safetensors":  # the values arrived; that they run is seen below
        return
    with torch.inference_mode():
        if name == "syncnet":
            seen, heard = network.see(torch.rand(1, 3, 5, 224, 224) * 255), network.hear(torch.randn(2, 1, 13, 20))
            assert seen.shape == (1, 1024) and heard.shape == (2, 1024) and seen.isfinite().all()
        else:
            pixels = torch.randint(
                0, 256, (1, 3, 40, 50) if name == "inception" else (1, 3, 9, 40, 50), dtype=torch.uint8
            )
            found = network(pixels)
            assert (
                found.shape == (1, {"inception": 2048, "i3d": 400}[name]) and found.isfinite().all() and found.std() > 0
            )


def test_a_wrong_layout_names_the_first_wrong_key(tmp_path):
    state = random_state(SyncNet)
    wrongs = {
        "--syncnet: expected key netcnnaud.1.weight [64], found none": lambda s: s.pop("netcnnaud.1.weight"),
        "--syncnet: expected netfclip.0.weight of shape [512, 512], found [512, 4]":
            lambda s: s.update({"netfclip.0.weight": torch.zeros(512, 4), "zz": torch.zeros(3)}),
        "--syncnet: unexpected key extra.weight [3]": lambda s: s.update({"extra.weight": torch.zeros(3)}),
    }  # fmt: skip
    for sentence, spoil in wrongs.items():
        spoiled = dict(state)
        spoil(spoiled)
        with pytest.raises(InputError) as error:
            filled(SyncNet, spoiled, "--syncnet")
        assert str(error.value) == sentence
    with pytest.raises(InputError, match=r"--arcface: expected layer1 to layer4 of an IResNet .*found \(0, 0, 0, 0\)"):
        IResNet.like(state, "--arcface")
    torch.save({"net": nn.Linear(2, 2)}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"--i3d: expected .*code\.pth to be a torch weight file"):
        state_of(str(tmp_path / "code.pth"), "--i3d")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="--i3d: expected a complete safetensors file"):
        state_of(str(tmp_path / "x.safetensors"), "--i3d")


# --- Frechet distance


def sample(mean, covariance, count=60, seed=0):
    """Vectors whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def gaussian(vectors, batch=7):
    found = Gaussian(vectors.shape[1])
    for at in range(0, len(vectors), batch):
        found.add(vectors[at : at + batch])
    return found


def test_distance_of_gaussians_is_the_closed_form():
    """Diagonal: sum (sqrt a - sqrt b)^2. Two dimensions: tr M^(1/2) = sqrt(tr M + 2 sqrt(det M))."""
    a, b = np.array([4.0, 9.0, 0.25]), np.array([1.0, 16.0, 0.25])
    ga, gb = gaussian(sample(np.zeros(3), np.diag(a))), gaussian(sample(np.array([1.0, 0, -2]), np.diag(b), seed=1))
    assert frechet_distance(ga, gb) == pytest.approx(((a**0.5 - b**0.5) ** 2).sum() + 5)
    ca, cb = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    m = ca @ cb
    expected = np.trace(ca + cb) - 2 * np.sqrt(np.trace(m) + 2 * np.sqrt(np.linalg.det(m)))
    ga, gb = gaussian(sample(np.zeros(2), ca)), gaussian(sample(np.zeros(2), cb, seed=1))
    assert frechet_distance(ga, gb) == pytest.approx(expected) == pytest.approx(frechet_distance(gb, ga))
    assert frechet_distance(ga, ga) == pytest.approx(0, abs=1e-9)


def test_less_vectors_than_dims_is_no_trouble_and_one_is_too_few():
    x = np.random.default_rng(0).standard_normal((5, 40))
    found, moved = gaussian(x), gaussian(x + 2)
    assert frechet_distance(found, moved) == pytest.approx(160)
    assert frechet_distance(found, gaussian(x[:1])) is None


def test_sums_give_mean_and_covariance_and_merge():
    x = np.random.default_rng(0).standard_normal((50, 6)) * 1e-3 + 1e5  # far from 0: naive sums lose all digits
    whole, first, rest = gaussian(x), gaussian(x[:20]), gaussian(x[20:] + 0)
    first.merge(rest)
    for found in (whole, first):
        np.testing.assert_allclose(found.mean, x.mean(0))
        np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-4, atol=1e-12)
    assert first.count == 50


class Means(nn.Module):
    """Stands in for a network: the mean colour of a picture or clip, thrice."""

    def forward(self, x):
        return x.float().mean(tuple(range(2, x.dim())))


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_features_of_a_video_reach_the_distance(monkeypatch, kind):
    monkeypatch.setattr(inception, "FEATURES", 3)
    monkeypatch.setattr(i3d, "FEATURES", 3)
    monkeypatch.setattr(i3d, "SIDE_PX", 8)
    pictures = np.random.default_rng(0).integers(50, 150, (53, 12, 10, 3), dtype=np.uint8)

    def features(x):
        make = {"pictures": lambda: PictureFeatures(Means(), "cpu", 2), "clips": lambda: ClipFeatures(Means(), "cpu")}
        measure = fed(make[kind](), x)
        measure.finish()
        return measure.gaussian

    ours, brighter = features(pictures), features(pictures + 30)
    assert ours.count == {"pictures": 27, "clips": 3}[kind]
    assert frechet_distance(ours, brighter) == pytest.approx(3 * 30**2, rel=1e-3)


# --- SyncNet


@pytest.mark.parametrize("late", [0, 4, -7])
def test_distances_find_the_lag_and_are_what_brute_force_gives(late):
    rng = torch.Generator().manual_seed(0)
    n = 60
    both = torch.randn(n + 40, 8, generator=rng)
    seen, heard = both[20 : 20 + n], both[20 - late : 20 - late + n] + 0.1 * torch.randn(n, 8, generator=rng)
    found = syncnet.Distances()
    for pair in zip(seen, heard):
        found.add(*pair)
    c, d, lag = found.result()
    padded = torch.cat([torch.zeros(15, 8), heard, torch.zeros(15, 8)])
    table = torch.stack([(seen - padded[s : s + n] + 1e-6).norm(dim=1).mean() for s in range(31)])
    assert lag == late
    assert d == pytest.approx(float(table.min()), abs=1e-5)
    assert c == pytest.approx(float(table.median() - table.min()), abs=1e-5)


def test_distances_of_fewer_moments_than_shifts():
    found = syncnet.Distances()
    assert found.result() is None
    for _ in range(3):
        found.add(torch.ones(4), torch.ones(4))
    c, d, lag = found.result()
    assert lag == 0 and d < 1e-5 and c > 1


class Ear(nn.Module):
    """Stands in for SyncNet: darkness of the mouth's place, and loudness, once a video frame; scaled alike."""

    def see(self, clips):
        mouth = clips[..., 145:165, 90:130].mean((1, 3, 4))
        return 9.13 - mouth / 24.8

    def hear(self, mfcc):
        return mfcc[:, 0, 0].reshape(-1, 5, 4).mean(2) / 4.6 * 1.2


@pytest.mark.parametrize(
    ("late", "fps", "after"), [(0.2, 25.0, 0.0), (-0.12, 20.0, 0.0), (0.0, 30.0, 0.4), (0.0, 20.0, -0.4)]
)
def test_sync_of_pictures_and_sound_at_any_rate(late, fps, after):
    """`after` moves the sound within the file, `late` against the mouth: only the second is a lag."""
    loud = envelope(6)
    sound = voice(8, loud, late + 1)[int((1 + after) * 16000) :]  # begins `after` seconds after the pictures
    measure = fed(Sync(Ear(), "cpu", np.array_split(sound, 23), after), talking(6, loud, fps, noise=0), fps)
    measure.finish()
    found = measure.result()
    assert abs(found["sync_lag_ms"] - 1000 * late) <= 40 and found["sync_c"] > 0.3
    assert measure._distances._count == 6 * 25 - 5


def plain_mfcc(signal):
    """The same numbers as one reads them in the description: window by window, band by band."""
    x = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    count = 1 + max(0, math.ceil((len(x) - 400) / 160))
    x = np.append(x, np.zeros(count * 160 + 400 - len(x)))
    mel = [i * 2595 * math.log10(1 + 8000 / 700) / 27 for i in range(28)]
    edge = [math.floor(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    rows = []
    for i in range(count):
        spectrum = np.fft.fft(x[i * 160 : i * 160 + 400], 512)[:257]
        power = (spectrum.real**2 + spectrum.imag**2) / 512
        logs = []
        for j in range(26):
            a, b, c = edge[j : j + 3]
            up = sum(power[k] * (k - a) / (b - a) for k in range(a, b))
            logs.append(math.log(up + sum(power[k] * (c - k) / (c - b) for k in range(b, c))))
        row = []
        for k in range(13):
            value = sum(v * math.cos(math.pi * k * (2 * j + 1) / 52) for j, v in enumerate(logs))
            row.append(value * math.sqrt((1 if k == 0 else 2) / 26) * (1 + 11 * math.sin(math.pi * k / 22)))
        rows.append([math.log(power.sum()), *row[1:]])
    return np.array(rows)


@pytest.mark.parametrize("samples", [16000, 400, 401, 560, 250, 6123])
def test_mfcc_is_what_its_description_says_in_any_chunks(samples):
    sound = voice(1, envelope(1))[:samples] * 0.3
    expected = plain_mfcc(np.round(sound.astype(float) * 32768))
    found = np.stack(list(Mfcc([sound])))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    pieces = np.stack(list(Mfcc(np.array_split(sound, 9))))
    np.testing.assert_array_equal(pieces, found)


def test_mfcc_of_silence_is_finite_and_rows_come_when_asked():
    rows = Mfcc(np.zeros((1000, 1600), np.float32))
    assert np.isfinite(np.stack(list(islice(iter(rows), 20)))).all() and rows.samples == 3 * 1600


# --- ArcFace


def test_arcface_tells_who_is_seen_when(tmp_path):
    torch.save(random_state(lambda: IResNet(DEPTHS[18])), tmp_path / "r18.pth")
    state = state_of(str(tmp_path / "r18.pth"), "--arcface")
    network = filled(lambda: IResNet.like(state, "--arcface"), state, "--arcface")
    pictures = np.stack([face()] * 6 + [face(1)] * 4)
    with torch.inference_mode():
        measure = fed(FaceIdentity(network, "cpu", 10, face()), pictures)
        measure.finish()
    tenths = measure.result()["arcface_tenths"]
    assert tenths[:6] == [1.0] * 6 and max(tenths[6:]) < 0.99
    assert measure.result()["arcface"] == pytest.approx(np.mean(tenths), abs=1e-3)
