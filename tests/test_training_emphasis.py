"""What an error of the denoiser counts: by the decoder, and by what a face does by itself."""

import json

import numpy as np
import pytest
import torch

from liveact_model.vae.tiny import TinyVAE
from liveact_train.__main__ import main
from liveact_train.data.faces import POSE
from liveact_train.emphasis import BY_ITSELF, LIDS, PLAIN, Emphasis, decoder_metric, emphasis, pose_directions
from liveact_train.vae import face_weight, save_vae

Z = 4


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    made = TinyVAE(Z, (8, 8), (8, 8), overlap=True)
    for p in made.parameters():  # the last layers begin at nothing
        torch.nn.init.normal_(p, std=0.2)
    return made


def test_the_metric_foretells_how_much_the_picture_changes(vae):
    """A change of one cell in any direction changes weighted pixels by so much as the metric says."""
    torch.manual_seed(1)
    latents = torch.randn(2, Z, 5, 8, 8)
    metric = decoder_metric(vae, latents)
    assert metric.shape == (8, 8, Z, Z) and torch.linalg.eigvalsh(metric).min() >= PLAIN - 1e-5
    assert metric.diagonal(dim1=-2, dim2=-1).mean() == pytest.approx(1, abs=1e-5)
    seen = (metric - PLAIN * torch.eye(Z)) / (1 - PLAIN)
    weight, ratios = face_weight(), []
    with torch.no_grad():
        plain = vae.generate(vae.denormalise(latents))[0]
        for y, x in ((0, 0), (3, 3), (5, 4), (7, 6)):
            step = 0.1 * torch.nn.functional.normalize(torch.randn(Z), dim=0)
            changed = latents.clone()
            changed[:, :, 2, y, x] += step
            pixels = (weight * (vae.generate(vae.denormalise(changed))[0] - plain).square()).sum().item()
            eyes = LIDS if 2 <= y < 5 and 1 <= x < 7 else 1.0
            ratios.append(eyes * pixels / (step @ seen[y, x] @ step).item())
    assert max(ratios) / min(ratios) < 1.1


def test_directions_are_those_along_which_latents_tell_the_pose():
    rng = np.random.RandomState(0)
    frames, true = 9, rng.randn(len(BY_ITSELF), Z * 4).astype(np.float32)
    pose = rng.randn(60, 4 * frames + 1, len(POSE) + 3).astype(np.float32)
    pose += 30 * rng.randn(60, 1, pose.shape[2]).astype(np.float32)  # what a reference picture shows is no news
    pose[:, 1:] = pose[:, 1::4].repeat(4, 1)  # held through a latent frame
    told = pose[:, ::4][..., [POSE.index(n) for n in BY_ITSELF]]
    latents = (told @ true + 0.01 * rng.randn(60, frames + 1, Z * 4)).reshape(60, frames + 1, Z, 2, 2)
    found = pose_directions(latents, pose)
    assert torch.allclose(found.norm(dim=0), torch.ones(len(BY_ITSELF)))
    others = torch.from_numpy(true) @ found  # of a direction and the pattern of each part of the pose
    assert torch.equal(others.abs().argmax(0), torch.arange(len(BY_ITSELF)))
    off = others - torch.diag(others.diagonal())
    assert off.abs().max() < 0.3 * others.diagonal().min()


def test_errors_are_counted_by_metric_and_directions():
    error = torch.randn(2, Z, 3, 2, 2)
    assert Emphasis()(error).item() == pytest.approx(error.square().mean().item())
    a = torch.randn(2, 2, Z, Z)
    metric = a @ a.mT + torch.eye(Z)
    cells = error.permute(0, 2, 3, 4, 1)
    wanted = torch.einsum("bfyxi,yxij,bfyxj->", cells, metric, cells).item() / error.numel()
    assert Emphasis(metric)(error).item() == pytest.approx(wanted, rel=1e-4)
    one = torch.zeros(Z * 4, 1)
    one[5] = 1.0  # channel 1, the second cell of the first row
    more = Emphasis(None, one, 10.0)(error) - error.square().mean()
    assert more.item() == pytest.approx(10 * error[:, 1, :, 0, 1].square().mean().item() / (Z * 4), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vae):
    root, draw = tmp_path_factory.mktemp("emphasis"), np.random.RandomState(0)
    for name in ("train", "val"):
        latents, data = root / "latents" / name, root / name
        latents.mkdir(parents=True)
        data.mkdir()
        np.save(latents / "z.npy", draw.randn(3, 14, Z, 8, 8).astype(np.float16))
        np.save(latents / "y.npy", draw.randn(3, 3, Z, 8, 8).astype(np.float16))
        np.save(latents / "mel.npy", draw.randn(3, 55, 128).astype(np.float16))
        np.save(data / "attributes.npy", draw.randn(3, 53, len(POSE)).astype(np.float32))
        (latents / "prompts.json").write_text(json.dumps([["a happy person", "nodding", "", "waving"]] * 3))
    save_vae(vae, str(root / "vae.safetensors"))
    return root


def test_the_stage_counts_errors_so(folder, tmp_path, capsys):
    """Each option alone changes the loss of the first step; nothing is counted where neither is given."""
    files = ["dit", "--latents", str(folder / "latents"), "--data", str(folder), "--steps", "1", "--batch", "2"]
    losses = []
    for i, more in enumerate(([], ["--vae", str(folder / "vae.safetensors")], ["--pose-weight", "80"])):
        assert main([*files, "--out", str(tmp_path / str(i)), *more]) == 0
        losses.append(capsys.readouterr().out.split("loss ")[1].split()[0])
    assert len(set(losses)) == 3
    assert emphasis(str(folder / "latents"), "", str(folder), 0.0) is None


def test_what_does_not_fit_is_told(folder, tmp_path, capsys):
    files = ["dit", "--latents", str(folder / "latents"), "--data", str(folder), "--out", str(tmp_path / "out")]
    save_vae(TinyVAE(8, (8, 8), (8, 8)), str(tmp_path / "other.safetensors"))
    (tmp_path / "few/train").mkdir(parents=True)
    np.save(tmp_path / "few/train/attributes.npy", np.zeros((2, 53, len(POSE)), np.float32))
    few = ["--data", str(tmp_path / "few"), "--pose-weight", "1"]
    for more, said in (
        (["--vae", str(tmp_path / "other.safetensors")], "--vae: expected the VAE of latents with 4 channels, got 8"),
        (few, f"--data: expected the 3 clips of {folder / 'latents'}, found 2 in {tmp_path / 'few'}"),
        (["--pose-weight", "-1"], "--pose-weight: expected a number from 0 on, got -1.0"),
        (["--pose-weight", "1", "--model", "liveact-18b"], "--vae and --pose-weight: expected --model tiny, "),
    ):
        assert main([*files, "--batch", "2", *more]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}")
        assert not (tmp_path / "out").exists()
