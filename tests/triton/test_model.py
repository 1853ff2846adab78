"""Three blocks of a whole denoiser with every op on its triton backend, the memory updated in place."""

import pytest
import small
import torch

from liveact_kernels.contract import record, use

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")


def three_blocks(eight_bit, device):
    """Velocities of a first, a second and a third block of a small denoiser, and the backends that made them."""
    dit = small.dit(small.CONFIG.with_(num_layers=1)).to(device)
    c, g = dit.config, torch.Generator().manual_seed(3)

    def r(*shape):
        return torch.randn(*shape, generator=g).to(device)

    text, image, out = r(c.text_len, c.text_dim), dit.image_kv(r(c.clip_tokens, c.clip_dim)), []
    window = dit.window(2, 2)
    window.eight_bit = eight_bit
    with torch.no_grad(), record() as calls:
        for i, frames in enumerate((6, 8, 8)):
            heard = dit.hear(r(frames - (i == 0), 8, c.audio_blocks, c.audio_channels))
            prompt = dit.prompt(text, image)
            z, y = r(c.out_dim, frames, 4, 4), r(4 + c.out_dim, frames, 4, 4)
            out.append(dit(z, y, dit.at(torch.tensor([937.5], device=device)), prompt, heard, window, i == 0))
    return torch.stack([x.flatten()[: out[0].numel()] for x in out]), calls


@pytest.mark.parametrize("eight_bit", [False, True])
def test_denoiser_through_triton_matches_torch(eight_bit, device):
    with use(all="torch"):
        want, _ = three_blocks(eight_bit, device)
    with use(all="triton"):
        got, calls = three_blocks(eight_bit, device)
    used = {call.op.name for call in calls if call.backend == "triton"}
    assert {"modulate", "qkv_norm_rope", "kv_compress", "rms_norm"} <= used
    left = {call.op.name for call in calls if "triton" in call.op.backends} - used
    assert not left, f"{left} did not run on triton"
    error = ((got - want).norm(dim=1) / want.norm(dim=1)).max()
    assert error < (1e-3 if eight_bit else 2e-5), f"relative error {error:.1e}"
