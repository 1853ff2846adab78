"""Two processes that train one model, against one with the same batches."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import small
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_training_forward import clips, levels
from torch import nn

from liveact_model.dit import Linear
from liveact_train import batches, shards
from liveact_train.__main__ import main
from liveact_train.clips_at_once import AtOnce, Conditions
from liveact_train.forcing import FORCINGS, velocity_loss
from liveact_train.layers import parts_of
from liveact_train.runs import Run
from liveact_train.sizes import tiny

SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch.distributed as dist
from test_training_shards import apart, listen, shrink, watch_whole
from liveact_train.__main__ import main
far = apart()
heard, seen = listen(), watch_whole()
shrink()
codes = [main(arguments) for arguments in {runs!r}]
if dist.get_rank() == 0:
    print("result", __import__("json").dumps([codes, heard, seen, far]), flush=True)
"""


def listen(patch=setattr):
    """Loss (its mean over all processes), norm of the gradient and numbers held here, of every step from now on."""
    heard, clip, update = [], nn.utils.clip_grad_norm_, Run.update

    def told(run, loss):
        update(run, loss)
        held = [p.to_local() if hasattr(p, "to_local") else p for p in run.module.parameters()]
        heard[-1] = [run.shards.mean(loss.item()), heard[-1], sum(p.numel() for p in held)]

    def clipped(parameters, limit):
        norm = clip(parameters, limit)
        heard.append((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item())
        return norm

    patch(nn.utils, "clip_grad_norm_", clipped)
    patch(Run, "update", told)
    return heard


def watch_whole(patch=setattr):
    """(bytes of whole weights of layers, those of one layer) whenever a layer is at work, forward or backward."""
    seen, layer, whole = [], AtOnce._layer, {}

    def note():
        sizes = {i: sum(t.untyped_storage().nbytes() for t in tensors) for i, tensors in whole.items()}
        seen.append([sum(sizes.values()), max(sizes.values())])

    def called(self, i, *args):
        block = self.dit.blocks[i]
        whole[i] = [m.weight for m in block.modules() if isinstance(m, Linear)]
        note()
        (first, *rest), saw = layer(self, i, *args)
        if first.requires_grad:
            first.register_hook(lambda grad: note())
        return [first, *rest], saw

    patch(AtOnce, "_layer", called)
    return seen


def apart():
    """How far gradients of two processes and of one lie apart in float32, at most and relative, by forcing."""
    group, found = shards.join(), {}
    torch.manual_seed(0)
    whole = small.dit(small.CONFIG.with_(separate_v_taps=True)).requires_grad_(True)
    cut = copy.deepcopy(whole)
    group.cut(parts_of(cut), torch.float32)
    z, x = clips(whole)
    own = slice(group.index, group.index + 1)
    for forcing in FORCINGS:
        parts_of(cut).recompute = forcing != "teacher"
        for dit, parts in ((whole, [slice(0, 1), slice(1, 2)]), (cut, [own])):
            dit.zero_grad()
            for part in parts:
                torch.manual_seed(part.start)  # of a rollout's noise
                t, noise, its = levels(dit, z, 850.0)[part], torch.ones_like(z)[part], Conditions(*(p[part] for p in x))
                (velocity_loss(dit, z[part], its, t, noise, True, forcing, (1000.0, 850.0)) / len(parts)).backward()
        pairs = zip(cut.parameters(), whole.parameters())
        found[forcing] = max(((shards.whole(p.grad) - q.grad).norm() / q.grad.norm()).item() for p, q in pairs)
    return found


def shrink(patch=setattr):
    """A denoiser of five narrow layers in the place of the shipped size."""
    sizes = {"dim": 32, "num_heads": 2, "num_layers": 5, "ffn_dim": 48, "audio_hidden": 16, "audio_dim": 16}
    patch(batches, "tiny", lambda z_dim, **window: tiny(z_dim, **window).with_(**sizes))


@pytest.fixture
def latents(tmp_path):
    """Noise in the layout of the latents stage: two blocks a clip."""
    draw = np.random.RandomState(0)
    for name in ("train", "val"):
        folder = tmp_path / "latents" / name
        folder.mkdir(parents=True)
        for array, shape in (("z", (4, 14, 4, 8, 8)), ("y", (4, 3, 4, 8, 8)), ("mel", (4, 55, 128))):
            np.save(folder / f"{array}.npy", draw.standard_normal(shape).astype(np.float16))
        (folder / "prompts.json").write_text(json.dumps([["a happy person", "nodding", "", "waving"]] * 4))
    return str(tmp_path / "latents")


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_continue(latents, tmp_path, monkeypatch, capsys):
    def dit(out, steps, batch=4, *more):
        files = ["--latents", latents, "--out", str(tmp_path / out)]
        return ["dit", *files, "--batch", str(batch), "--steps", str(steps), *more]

    again = ("--checkpoint-activations",)
    runs = [dit("whole", 3), dit("parts", 1, 4, *again), dit("parts", 3, 4, *again), dit("odd", 3, 3)]
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"), runs=runs))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    codes, two, seen, far = json.loads(
        next(x for x in done.stdout.splitlines() if x.startswith("result")).partition(" ")[2]
    )
    assert codes == [0, 0, 0, 2] and done.stdout.count("dit continues after step 1") == 1
    assert "error: --batch: expected a multiple of the 2 processes, got 3" in done.stderr
    whole, parts = (load_file(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole) and two[:3] == two[3:]
    assert set(far) == set(FORCINGS) and max(far.values()) < 1e-5, far
    at_once = {held / layer for held, layer in seen}
    assert at_once == {1.0} and len(seen) >= 6 * 5 * 2  # of five layers, forward and backward

    one = listen(monkeypatch.setattr)
    shrink(monkeypatch.setattr)
    assert main(dit("one", 3)) == 0
    assert [loss for loss, *_ in two[:3]] == pytest.approx([loss for loss, *_ in one], rel=1e-3)
    assert [norm for _, norm, _ in two[:3]] == pytest.approx([norm for _, norm, _ in one], rel=1e-2)
    assert all(0.4 < a[2] / b[2] < 0.6 for a, b in zip(two, one))
    alone = load_file(tmp_path / "one" / "checkpoint.safetensors")
    for key, tensor in alone.items():
        assert tensor.shape == whole[key].shape and tensor.dtype == whole[key].dtype
        if key.endswith("exp_avg") and tensor.norm() > 0:
            assert (tensor - whole[key]).norm() / tensor.norm() < 0.05, key
    capsys.readouterr()
    assert main(dit("parts", 4)) == 0  # one process goes on with what two have left
    assert "dit continues after step 3" in capsys.readouterr().out


def test_other_stages_take_one_process(monkeypatch, capsys):
    monkeypatch.setattr(shards.dist, "is_torchelastic_launched", lambda: True)
    assert main(["vae"]) == 2
    said = "error: torchrun: expected the stage dit, got vae, which runs in one process\n"
    assert capsys.readouterr().err == said
