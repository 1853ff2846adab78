"""What happens outside the ops is counted too, and every call carries its scope; counts are by hand."""

import pytest
import torch
from small import avatar, picture, speech

from liveact_app.budget import dryrun
from liveact_kernels.contract import dispatch, record, scope
from liveact_kernels.cost.hw import CHIPS
from liveact_kernels.cost.outside import DOWNLOAD, REST, UPLOAD, Outside, Plain, download
from liveact_model import dry
from liveact_model.session import Session

H200 = CHIPS["h200"]


def seen(work):
    """[(row, call, bytes, flops)] of what a function does."""
    with record() as calls, Outside(calls):
        work()
    return [(c.op.name, c.dims.call, c.op.bytes(c.dims), c.op.flops(c.dims)) for c in calls]


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_bytes_and_products_by_hand():
    a, b, half = meta(4, 8), meta(8, 16), meta(4, 8, dtype=torch.bfloat16)
    product = seen(lambda: a @ b)
    assert product == [(REST, "aten.mm", 4 * (32 + 128 + 64), {"f32": 2 * 4 * 8 * 16})]
    assert seen(lambda: half @ half.T)[0][3] == {"bf16": 2 * 4 * 8 * 4}
    assert seen(lambda: a.copy_(half)) == [(REST, "aten.copy_", 4 * 32 + 2 * 32, {})]  # what it overwrites is not read
    assert seen(lambda: a.add_(1))[0][2] == 2 * 4 * 32
    index = meta(2, dtype=torch.int64)
    assert [n for _, _, n, _ in seen(lambda: b[index])] == [2 * 4 * 2 * 16 + 8 * 2]  # reads the rows it takes


def test_views_allocations_and_host_work_are_free():
    a, host = meta(4, 8), torch.ones(4)
    assert seen(lambda: (a.view(32), a.T[1:], torch.empty_like(a), a.detach(), host + host)) == []


def test_host_traffic_uses_the_link():
    up = seen(lambda: torch.ones(3, 5).to("meta"))
    assert [(r, n) for r, _, n, _ in up] == [(UPLOAD, 60)]
    call = download(meta(2, 3, dtype=torch.uint8))
    assert (call.op.name, call.op.bytes(call.dims)) == (DOWNLOAD, 6)
    assert call.op.floor_us(call.dims, H200) == pytest.approx(1e6 * 6 / H200.host_link)
    device = Plain("x", {"f32": 67e12}, 4.8e12)
    assert device.floor_us(call.dims, H200) == pytest.approx(1e6)


def test_rows_follow_the_innermost_known_scope():
    a = meta(2)
    with scope("session"), scope("vae"), scope("layer[3]"):
        assert seen(lambda: a + a)[0][0] == "vae_torch"
        with scope("uint8"):
            assert seen(lambda: a + a)[0][0] == "to_uint8"
    assert seen(lambda: a + a)[0][0] == REST


@pytest.fixture(scope="module")
def block():
    return dryrun.record_block("liveact-18b", (512, 512))


def total(calls, row):
    mine = [c for c in calls if c.op.name == row]
    return sum(c.op.bytes(c.dims) for c in mine), sum(sum(c.op.flops(c.dims).values()) for c in mine)


def test_the_audio_network_by_hand(block):
    n, c, width = 192, 768, 3072  # 6 s before the block, its 32 video frames, 0.4 s after, at 25 a second
    assert dry.window_video_frames() == n
    layers = 12 * (2 * n * (4 * c * c + 2 * c * width) + 4 * n * n * c)
    length, convolutions, inputs = n * 640, 0, 1
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)):
        length = (length - kernel) // stride + 1
        convolutions += 2 * length * kernel * inputs * 512
        inputs = 512
    position = 2 * (n + 1) * 128 * (c // 16) * c  # an even kernel gives one position too many
    assert total(block, "wav2vec2")[1] == pytest.approx(layers + convolutions + 2 * n * 512 * c + position, rel=1e-6)


def test_conversion_and_copy_out_by_hand(block):
    values = 32 * 512 * 512 * 3
    assert total(block, DOWNLOAD)[0] == values
    assert total(block, "to_uint8")[0] == values * (4 * 8 + 5)  # four passes over float32, and the cast


def test_without_transformers_the_audio_row_is_absent_and_the_command_says_so(monkeypatch, capsys):
    from liveact_app.cli import main

    monkeypatch.setattr(dryrun.importlib.util, "find_spec", lambda name: None)
    assert total(dryrun.record_block("liveact-18b", (64, 64)), "wav2vec2") == (0, 0)
    assert main(["budget", "--size", "64*64"]) == 0
    assert "transformers is not installed" in capsys.readouterr().out


class Ranges:
    """An NVTX domain that keeps the path of every range it is asked to open."""

    def __init__(self):
        self.open, self.paths = [], []

    def get_event_attributes(self, message):
        return message

    def push_range(self, label):
        self.open.append(label)
        self.paths.append(tuple(self.open))

    def pop_range(self):
        self.open.pop()


def test_nvtx_ranges_nest_session_block_step_layer_op(monkeypatch):
    ranges = Ranges()
    monkeypatch.setattr(dispatch.STATE, "nvtx_domain", ranges)
    session = Session(avatar(), picture(), "happy")
    session.push_audio(speech(4))
    for _ in range(2):
        session.next_block()
    assert ranges.open == []

    def path(*labels):
        return any(len(p) == len(labels) and all(a.startswith(b) for a, b in zip(p, labels)) for p in ranges.paths)

    assert path("session", "block[1]", "step[2]", "layer[1]", "attention[")
    assert path("session", "block[0]", "step[0]", "denoise_update[")
    assert path("session", "block[1]", "audio", "linear[")
    assert path("session", "block[1]", "vae") and path("session", "block[1]", "uint8")
    assert path("session.start", "prompt", "linear[")
    assert {p[0] for p in ranges.paths} == {"session", "session.start"}
