"""No network and no op may run a grouped convolution below float32 on a CPU: where there is AMX it is wrong."""

from pathlib import Path

import chains
import pytest
import small
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from liveact_app.verify.golden import load, rel_l2
from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY, bf16, f32, use
from liveact_model.audio.mel import MelEncoder
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.audio.wide import WideConv1d
from liveact_model.image.clip import CLIPImageEncoder
from liveact_model.text.umt5 import UMT5TextEncoder
from liveact_model.vae.tiny import TinyVAE
from liveact_model.vae.wan import WanVAE
from liveact_model.vae.wan_coder import WanVAEConfig

GOLDEN = Path(__file__).parent / "golden"
CONVOLUTIONS = {torch.ops.aten.convolution, torch.ops.aten._convolution, torch.ops.aten.mkldnn_convolution}


class NoNarrowGroups(TorchDispatchMode):
    """Such a convolution fails; `seen` counts the others."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in CONVOLUTIONS:
            self.seen += 1
            groups = args[[a.name for a in func._schema.arguments].index("groups")]
            narrow = [t.dtype for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t.element_size() < 4]
            assert groups == 1 or not narrow, f"{func} in {groups} groups of {narrow}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_guard_sees_one(dtype):
    x, w = torch.ones(1, 16, 20, dtype=dtype), torch.ones(16, 4, 16, dtype=dtype)
    with torch.no_grad(), NoNarrowGroups() as guard:
        F.conv1d(x.float(), w.float(), groups=4)
        F.conv1d(x, w.repeat(1, 4, 1))
        with pytest.raises(AssertionError, match="in 4 groups"):
            F.conv1d(x, w, groups=4)
    assert guard.seen == 3


def _wav2vec2():
    golden = load(GOLDEN / "wav2vec2_tiny.json")
    return Wav2Vec2AudioEncoder(golden.weights(), golden.config), golden


def test_encoders_run_none():
    text, image = load(GOLDEN / "t5_tiny.json"), load(GOLDEN / "clip_tiny.json")
    audio, speech = _wav2vec2()
    with torch.no_grad(), NoNarrowGroups() as guard:
        UMT5TextEncoder(text.weights()).to(bf16).encode_ids(text.get("in.ids")[text.get("in.mask").bool()])
        tower = CLIPImageEncoder(image.weights(), int(image.number("heads"))).to(bf16)
        tower.encode(image.get("in.image")[0, :, 0])
        audio.to(bf16).embed(speech.get("in.waveform"))
        MelEncoder().stream(20.0).push(small.speech(2.0))
    assert guard.seen >= 8


def test_vaes_run_none():
    config = WanVAEConfig(dim=8)
    torch.manual_seed(0)
    wide = (TinyVAE(z_dim=4, encoder_channels=(8, 8), decoder_channels=(8, 8)), WanVAE(config))
    with torch.no_grad(), NoNarrowGroups() as guard:
        for vae in wide:
            vae.to(bf16)
            vae.stream().decode(vae.encode(torch.rand(3, 5, 32, 32, dtype=bf16)))
    assert guard.seen >= 20


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_ops_run_none(backend):
    with torch.no_grad(), NoNarrowGroups(), use(all=backend):
        for op in REGISTRY.values():
            for case in (c for c in op.cases if c.rung == "cpu"):
                op(**op.make(case))


def test_a_session_in_bf16_runs_none():
    avatar = small.avatar()
    avatar.dit.to_precision("bfloat16")
    with NoNarrowGroups() as guard:
        assert small.latents(avatar, blocks=2, eight_bit_memory=True).isfinite().all()
    assert guard.seen


def test_the_benchs_released_memory_runs_none():
    op = ops.kv_compress
    with torch.no_grad(), NoNarrowGroups() as guard:
        for case in (c for c in op.cases if c.id in ("raster_straddle", "temporal")):
            chains.compress(**chains.compress_prepare(**op.make(case)))
    assert guard.seen >= 4


def _wide(weight_dtype=f32):
    torch.manual_seed(0)
    conv = WideConv1d(16, 16, 16, padding=8, groups=4)
    for p in conv.parameters():
        p.data = p.data.to(weight_dtype)
    conv.widen()
    return conv


def test_casts_leave_the_wide_convolution_wide():
    conv = _wide()
    kept = {name: p.clone() for name, p in conv.named_parameters()}
    whole = torch.nn.Sequential(conv, torch.nn.Linear(3, 3)).to(bf16).half().bfloat16()
    assert whole[1].weight.dtype == bf16
    assert all(p.dtype == f32 and torch.equal(p, kept[name]) for name, p in conv.named_parameters())
    assert whole.double()[0].weight.dtype == torch.float64
    assert whole.to("meta")[0].weight.is_meta


@pytest.mark.parametrize("stored", [f32, bf16])
def test_the_wide_convolution_rounds_once(stored):
    conv, x = _wide(stored).to(bf16), torch.randn(1, 16, 40).to(bf16)
    want = F.conv1d(x.double(), conv.weight.double(), conv.bias.double(), padding=8, groups=4)
    got = conv(x)
    assert conv.weight.dtype == f32 and got.dtype == bf16
    assert ((got.double() - want).abs() <= 1.01 * 2**-8 * want.abs() + 1e-6).all()


def test_weights_that_come_in_bf16_are_widened_once():
    encoder, golden = _wav2vec2()
    state = {name: value.to(bf16) for name, value in golden.weights().items()}
    narrow = Wav2Vec2AudioEncoder(state, golden.config)
    conv = narrow.encoder.pos_conv_embed.conv
    assert conv.weight.dtype == f32 and narrow.projection.projection.weight.dtype == bf16
    assert rel_l2(narrow.embed(golden.get("in.waveform")), encoder.embed(golden.get("in.waveform"))) < 0.03
