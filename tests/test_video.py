"""Media out: what is written reads back with the same frames, colours, length and sound; files appear when complete."""

import os
import signal
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from liveact_app.media.audio import AudioReader, scan
from liveact_app.media.interrupt import Interrupted, Interrupts
from liveact_app.media.pending import PendingFile
from liveact_app.media.video import CONTAINERS, VideoWriter, frame_rate
from liveact_app.say import Meter
from liveact_model.errors import InputError


def ramps(n, w, h):
    """Frame k is grey level 4k mod 256 with a red left half."""
    frames = np.zeros((n, h, w, 3), np.uint8) + (np.arange(n) * 4 % 256).astype(np.uint8)[:, None, None, None]
    frames[:, :, : w // 2] = (200, 40, 10)
    return frames


def write(path, n, *, fps=20.0, rate=44100, channels=2, seconds=3.3, size=(64, 48), scale=1, blocks=32, sound=None,
          picture=None):  # fmt: skip
    if sound is None:
        sound = 0.2 * np.sin(np.arange(int(rate * seconds)) * 0.05)[:, None].repeat(channels, 1)
    soundfile.write(path.parent / "in.wav", sound, rate, subtype="FLOAT")
    with AudioReader(path.parent / "in.wav") as audio:
        writer = VideoWriter(str(path), CONTAINERS[path.suffix], size, fps, audio, scale)
        frames = ramps(n, *size) if picture is None else picture[None]
        for i in range(0, n, blocks):
            writer.write(frames[i : i + blocks])
        writer.close()
    assert writer.frames == n


CASES = [
    (".mp4", 20, 44100, 2, 1), (".mp4", 25, 48000, 1, 2), (".mp4", 24, 16000, 1, 1), (".mp4", 30, 11000, 2, 1),
    (".mkv", 20, 8000, 1, 1), (".mov", 29.97, 96000, 6, 3), (".mp4", 60, 192000, 2, 1), (".mkv", 1, 22050, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "fps", "rate", "channels", "scale"), CASES)
def test_round_trip(tmp_path, suffix, fps, rate, channels, scale):
    n = int(np.ceil(3.3 * fps - 1e-9))
    write(tmp_path / f"v{suffix}", n, fps=fps, rate=rate, channels=channels, scale=scale)
    with av.open(str(tmp_path / f"v{suffix}")) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec.name, video.pix_fmt, audio.codec.name) == ("h264", "yuv420p", "aac")
        assert video.average_rate == frame_rate(fps)
        assert audio.rate == (48000 if rate in (11000, 192000) else rate)
        assert audio.channels == channels
        frames = list(file.decode(video=0))
        assert len(frames) == n and (frames[0].width, frames[0].height) == (64 * scale, 48 * scale)
        assert [round(f.time * fps) for f in frames] == list(range(n))
        for k, frame in enumerate(frames):  # in order, and tagged with the matrix the colours were made with
            pixels = frame.reformat(format="rgb24", src_colorspace=frame.colorspace).to_ndarray().astype(int)
            assert abs(pixels[24 * scale, 56 * scale] - k * 4 % 256).max() <= 6
            assert abs(pixels[24 * scale, 8 * scale] - (200, 40, 10)).max() <= 8
    info = scan(tmp_path / f"v{suffix}")
    assert 3.3 <= info.seconds <= 3.3 + 2048 / info.rate  # AAC comes in pieces of 1024 samples


def test_enlarging_is_lanczos(tmp_path):
    """Far nearer to Pillow's Lanczos than its bicubic or bilinear is, encoding included."""
    grey = np.random.default_rng(0).integers(60, 200, (48, 64, 1), dtype=np.uint8)
    small = grey.repeat(3, 2)
    write(tmp_path / "v.mp4", 1, scale=4, picture=small)
    with av.open(str(tmp_path / "v.mp4")) as file:
        frame = next(file.decode(video=0))
    got = frame.to_ndarray()[:192].astype(float)

    def distance(kind):
        big = Image.fromarray(small).resize((256, 192), kind)
        planes = av.VideoFrame.from_image(big).reformat(format="yuv420p", dst_colorspace=1).to_ndarray()
        return np.sqrt(np.mean((planes[:192].astype(float) - got) ** 2))

    lanczos, bicubic, nearest = map(distance, (Image.LANCZOS, Image.BICUBIC, Image.NEAREST))
    assert lanczos < 5 and lanczos < 0.8 * bicubic < nearest


def test_sound_is_in_step(tmp_path):
    sound = np.zeros((44100 * 3, 1), np.float32)
    sound[44100 * 2 :] = 0.5 * np.sin(np.arange(44100) * 0.2)[:, None]
    write(tmp_path / "v.mp4", 60, channels=1, sound=sound)
    with AudioReader(tmp_path / "v.mp4") as reader:
        got = np.concatenate(list(reader))[:, 0]
    assert abs(int(np.argmax(np.abs(got) > 0.2)) - 88200) < 44100 / 20 / 4  # a quarter of a video frame


def test_sound_stops_with_a_video_cut_short(tmp_path):
    write(tmp_path / "v.mp4", 21, seconds=10)
    with av.open(str(tmp_path / "v.mp4")) as file:
        assert len(list(file.decode(video=0))) == 21
    assert abs(scan(tmp_path / "v.mp4").seconds - 21 / 20) <= 1024 / 44100


def test_block_size_does_not_matter(tmp_path):
    sounds, pictures = [], []
    for blocks in (32, 1, 66):
        write(tmp_path / "v.mp4", 66, blocks=blocks, size=(64, 64))
        with av.open(str(tmp_path / "v.mp4")) as file:
            sounds.append([(p.pts, bytes(p)) for p in file.demux(audio=0)])
        with av.open(str(tmp_path / "v.mp4")) as file:
            pictures.append(np.stack([f.to_ndarray() for f in file.decode(video=0)]).astype(int))
    assert sounds[0] == sounds[1] == sounds[2]
    for other in pictures[1:]:  # x264 differs by a bit now and then, even for the same calls
        assert np.abs(pictures[0] - other).max() <= 4


def test_sound_and_picture_are_interleaved(tmp_path):
    write(tmp_path / "v.mp4", 200, seconds=10)
    with av.open(str(tmp_path / "v.mp4")) as file:
        at = {"video": 0.0, "audio": 0.0}
        for packet in file.demux():
            if packet.dts is not None:
                at[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(at["video"] - at["audio"]) < 1.5
    assert min(at.values()) > 9


def test_samples_beyond_full_scale_do_not_break_the_encoder(tmp_path):
    write(tmp_path / "v.mp4", 20, sound=np.full((44100, 1), 50.0))
    assert scan(tmp_path / "v.mp4").seconds >= 1


def test_frame_rate_is_exact():
    assert frame_rate(20) == 20 and frame_rate(29.97) == Fraction(2997, 100) and frame_rate(12.5) == Fraction(25, 2)


# ---- files and signals ----------------------------------------------------------------------------------------------


def test_pending_file(tmp_path):
    target = str(tmp_path / "v.mp4")
    with PendingFile(target, "--out"):
        assert os.listdir(tmp_path) != ["v.mp4"]
    assert os.listdir(tmp_path) == []
    with PendingFile(target, "--out") as file:
        with open(file.temporary, "w") as out:
            out.write("done")
        file.commit()
    assert os.listdir(tmp_path) == ["v.mp4"] and (tmp_path / "v.mp4").read_text() == "done"
    umask = os.umask(0)
    os.umask(umask)
    assert os.stat(target).st_mode & 0o777 == 0o666 & ~umask  # not the private mode of a temporary file
    with pytest.raises(InputError, match="--out"), PendingFile("/proc/v.mp4", "--out"):
        pass


@pytest.fixture
def default_sigint():
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_signals_wait_for_the_end_of_a_block(default_sigint):
    steps = []
    with Interrupts() as stop:
        with pytest.raises(Interrupted, match="SIGINT"):
            with stop.deferred():
                signal.raise_signal(signal.SIGINT)
                steps.append("finished the block")
            steps.append("not reached")
        signal.raise_signal(signal.SIGINT)  # an impatient second one
        stop.finishing()
        with stop.deferred():
            signal.raise_signal(signal.SIGINT)
        steps.append("finished the file")
    assert steps == ["finished the block", "finished the file"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the old handler is back


def test_a_signal_between_blocks_is_raised_at_once_and_a_lost_one_again(default_sigint):
    with Interrupts() as stop:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted), stop.deferred():  # as if a finaliser had swallowed the first
            pass


def test_meter_forgets_a_slow_start():
    now = [0.0]
    meter = Meter(1000, 20, clock=lambda: now[0])
    assert meter.text() == "0:00 elapsed"
    now[0] = 100.0  # the first block compiles
    meter.update(21)
    for k in range(1, 11):
        now[0] += 0.8
        meter.update(21 + 32 * k)
    assert meter.rate == pytest.approx(40) and meter.elapsed == pytest.approx(108)
    assert meter.text() == "40.0 video frames/s, real-time factor 0.50, 1:48 elapsed, 0:16 left"
