"""Audio in: every common format, any rate, chunks without seams, flat memory."""

import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr

from liveact_app.media.audio import AudioReader, model_audio, resample, scan
from liveact_model.errors import InputError

TONE_HZ = 440.0


def tone(rate, seconds=1.3, channels=1):
    t = np.arange(int(rate * seconds)) / rate
    gains = np.linspace(0.5, 0.25, channels)
    return (np.sin(2 * np.pi * TONE_HZ * t)[:, None] * gains).astype(np.float32)


def write_av(path, codec, samples, rate, sample_format="fltp", with_video=False):
    with av.open(str(path), "w") as file:
        if with_video:
            video = file.add_stream("libx264", rate=20)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        layout = "stereo" if samples.shape[1] == 2 else "mono"
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if with_video:
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        planes = np.ascontiguousarray(samples.T)
        if sample_format == "flt":
            planes = np.ascontiguousarray(samples.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(planes, format=sample_format, layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        stream.bit_rate = 96000 * samples.shape[1]
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def heard(path):
    with AudioReader(path) as reader:
        return np.concatenate(list(model_audio(reader)))


def tone_match(signal, gain):
    """(amplitude of TONE_HZ relative to `gain`, share of the energy it explains), away from the edges."""
    x = signal[1600:-1600].astype(np.float64)
    angle = 2 * np.pi * TONE_HZ * np.arange(len(x)) / 16000
    basis = np.stack((np.sin(angle), np.cos(angle)))
    part = basis @ x * 2 / len(x)
    return np.hypot(*part) / gain, (part**2).sum() / 2 / np.mean(x**2)


SOUNDFILE = [
    ("wav", "PCM_U8"), ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"), ("wav", "DOUBLE"),
    ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "subtype"), SOUNDFILE)
def test_reads_what_libsndfile_reads(tmp_path, suffix, subtype, channels):
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, tone(44100, channels=channels), 44100, subtype=subtype)
    info, signal = scan(path), heard(path)
    assert (info.rate, info.channels) == (44100, channels)
    assert abs(info.seconds - 1.3) < 0.06  # mp3 pads up to two of its frames
    assert abs(len(signal) - info.seconds * 16000) <= 1
    amplitude, share = tone_match(signal, 0.5 if channels == 1 else 0.375)
    assert abs(amplitude - 1) < 0.03 and share > 0.995


AV_FILES = [("m4a", "aac", "fltp", False), ("mp4", "aac", "fltp", True), ("mkv", "aac", "fltp", True),
            ("webm", "libopus", "flt", False)]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "codec", "sample_format", "with_video"), AV_FILES)
def test_reads_what_ffmpeg_reads(tmp_path, suffix, codec, sample_format, with_video, channels):
    path = tmp_path / f"talk.{suffix}"
    write_av(path, codec, tone(48000, channels=channels), 48000, sample_format, with_video)
    info, signal = scan(path), heard(path)
    assert (info.rate, info.channels) == (48000, channels)
    assert abs(info.seconds - 1.3) < 0.05
    amplitude, share = tone_match(signal, 0.5 if channels == 1 else 0.375)
    assert abs(amplitude - 1) < 0.03 and share > 0.99


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    path = tmp_path / "talk.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    signal = heard(path)
    assert signal.dtype == np.float32
    assert abs(len(signal) - scan(path).seconds * 16000) <= 1
    amplitude, share = tone_match(signal, 0.5)
    assert abs(amplitude - 1) < 0.01 and share > 0.999


@pytest.mark.parametrize(("suffix", "subtype"), [s for s in SOUNDFILE if s[0] != "mp3"] + [("ogg", "OPUS")])
def test_chunks_join_without_a_seam(tmp_path, suffix, subtype):
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, tone(48000, seconds=3), 48000, subtype=subtype)
    with AudioReader(path) as reader:
        signal = np.concatenate(list(reader))
    once = soundfile.read(path, dtype="float32", always_2d=True)[0]  # another decoder, in one piece
    exact = suffix != "ogg"  # a lossy format leaves the last bits to the decoder
    assert signal.shape == once.shape and np.abs(signal - once).max() <= (0 if exact else 1e-4)


def test_mp3_chunks_join_without_a_seam(tmp_path):
    soundfile.write(tmp_path / "talk.mp3", tone(44100, seconds=3), 44100, subtype="MPEG_LAYER_III")
    with AudioReader(tmp_path / "talk.mp3") as reader:
        signal = np.concatenate(list(reader))
    once = soundfile.read(tmp_path / "talk.mp3", dtype="float32", always_2d=True)[0]  # another decoder, in one piece
    assert signal.shape == once.shape and np.abs(signal - once).max() < 1e-4


def test_16_khz_passes_through_untouched(tmp_path):
    samples = tone(16000, channels=2)
    soundfile.write(tmp_path / "talk.wav", samples, 16000, subtype="FLOAT")
    assert np.array_equal(heard(tmp_path / "talk.wav"), samples.mean(axis=1))


@pytest.mark.parametrize("chunk", [1, 777, 22050, 10**6])
@pytest.mark.parametrize(("rate_in", "rate_out"), [(44100, 16000), (8000, 16000), (48000, 16000), (11000, 48000)])
def test_resampling_in_chunks_equals_one_shot(rate_in, rate_out, chunk):
    samples = np.random.default_rng(0).standard_normal((rate_in // (20 if chunk == 1 else 1), 2)).astype(np.float32)
    chunks = (samples[i : i + chunk] for i in range(0, len(samples), chunk))
    streamed = np.concatenate(list(resample(chunks, rate_in, rate_out, 2)))
    once = soxr.resample(samples, rate_in, rate_out, quality="HQ")
    assert streamed.shape == once.shape and np.abs(streamed - once).max() < 1e-5


def test_memory_is_flat_over_half_an_hour(tmp_path):
    rate, minutes = 8000, 30
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 1, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(tone(rate, 60))
    tracemalloc.start()
    try:
        info, total = scan(tmp_path / "long.wav"), 0
        with AudioReader(tmp_path / "long.wav") as reader:
            for chunk in model_audio(reader):
                total += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert info.seconds == minutes * 60 and total == minutes * 60 * 16000
    # The whole recording would be 115 MB; Python's table of interned names alone may grow by 5 MB meanwhile.
    assert peak < 8 * 2**20


def test_a_playlist_cannot_make_the_decoder_open_other_files(tmp_path):
    write_av(tmp_path / "secret.ts", "aac", tone(48000), 48000)
    assert scan(tmp_path / "secret.ts").channels == 1  # it is readable by itself
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.3,\nsecret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    (tmp_path / "list.m4a").write_text(text)
    for name in ("list.m3u8", "list.m4a"):
        with pytest.raises(InputError, match="no decoder reads"):
            scan(tmp_path / name)
