"""Media in: pictures of every common format, audio of every common format, resampling that streams."""

import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch
from PIL import Image

from liveact_app.media.audio import AudioReader, model_audio, resample, scan
from liveact_app.media.image import load_image
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


# ---- audio ----------------------------------------------------------------------------------------------------------

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
        assert np.array_equal(np.concatenate(list(reader)), soundfile.read(path, dtype="float32", always_2d=True)[0])


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
    assert peak < 2 * 2**20  # the whole recording would be 115 MB


def test_a_playlist_cannot_make_the_decoder_open_other_files(tmp_path):
    write_av(tmp_path / "secret.ts", "aac", tone(48000), 48000)
    assert scan(tmp_path / "secret.ts").channels == 1  # it is readable by itself
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.3,\nsecret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    (tmp_path / "list.m4a").write_text(text)
    for name in ("list.m3u8", "list.m4a"):
        with pytest.raises(InputError, match="no decoder reads"):
            scan(tmp_path / name)


# ---- images ---------------------------------------------------------------------------------------------------------


def quadrants(w=48, h=32):
    """Red, green / blue, white quarters."""
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[: h // 2, : w // 2] = (255, 0, 0)
    pixels[: h // 2, w // 2 :] = (0, 255, 0)
    pixels[h // 2 :, : w // 2] = (0, 0, 255)
    pixels[h // 2 :, w // 2 :] = 255
    return Image.fromarray(pixels)


def corners(tensor):
    """The colours near the four corners as 0/1 triples: top left, top right, bottom left, bottom right."""
    h, w = tensor.shape[1:]
    at = [(h // 6, w // 6), (h // 6, w - 1 - w // 6), (h - 1 - h // 6, w // 6), (h - 1 - h // 6, w - 1 - w // 6)]
    return [tuple(int(v > 0) for v in tensor[:, y, x]) for y, x in at]


RGBW = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
SAVES = [("png", "RGB"), ("jpg", "RGB"), ("jpg", "CMYK"), ("webp", "RGB"), ("bmp", "RGB"), ("gif", "P"), ("png", "P"),
         ("tiff", "RGB"), ("ppm", "RGB"), ("tga", "RGB")]  # fmt: skip


@pytest.mark.parametrize(("suffix", "mode"), SAVES)
def test_common_formats(tmp_path, suffix, mode):
    path = tmp_path / f"face.{suffix}"
    quadrants().convert(mode).save(path)
    image = load_image(path, (48, 32))
    assert image.shape == (3, 32, 48) and image.dtype == torch.float32 and image.is_contiguous()
    assert corners(image) == RGBW


def test_first_frame_of_an_animation(tmp_path):
    black = Image.new("RGB", (48, 32))
    quadrants().save(tmp_path / "face.gif", save_all=True, append_images=[black])
    assert corners(load_image(tmp_path / "face.gif", (48, 32))) == RGBW


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    transpose = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # fmt: skip
    stored = quadrants()
    if orientation > 1:  # what a camera held that way stores
        stored = stored.transpose(Image.Transpose[transpose[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "face.png", exif=exif)
    assert corners(load_image(tmp_path / "face.png", (48, 32))) == RGBW


def test_transparent_parts_are_white(tmp_path):
    rgba = quadrants().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 24, 16))
    rgba.save(tmp_path / "rgba.png")
    palette = quadrants().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    grey = Image.new("LA", (48, 32), (0, 255))
    grey.paste((0, 0), (0, 0, 24, 16))
    grey.save(tmp_path / "la.png")
    assert corners(load_image(tmp_path / "rgba.png", (48, 32))) == [(1, 1, 1), *RGBW[1:]]
    assert corners(load_image(tmp_path / "p.png", (48, 32))) == [(1, 1, 1), *RGBW[1:]]
    assert corners(load_image(tmp_path / "la.png", (48, 32))) == [(1, 1, 1), *[(0, 0, 0)] * 3]


def test_grey_levels(tmp_path):
    ramp = np.tile(np.arange(48) * 5, (32, 1))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((ramp * 257).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(ramp > 119).save(tmp_path / "1.png")
    expected = torch.tensor(ramp / 127.5 - 1, dtype=torch.float32).expand(3, -1, -1)
    torch.testing.assert_close(load_image(tmp_path / "8.png", (48, 32)), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(load_image(tmp_path / "16.png", (48, 32)), expected, atol=1e-6, rtol=0)
    assert load_image(tmp_path / "1.png", (48, 32)).unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(("w", "h"), [(301, 200), (200, 301), (33, 500), (640, 480), (64, 48), (17, 16), (5000, 16)])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (160, 16)])
def test_scales_to_cover_and_cuts_the_centre(tmp_path, w, h, size):
    pixels = np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    W, H = size
    scale = max(W / w, H / h)
    full = Image.fromarray(pixels).resize((round(w * scale), round(h * scale)), Image.Resampling.BICUBIC)
    left, top = (full.width - W) // 2, (full.height - H) // 2
    expected = np.asarray(full.crop((left, top, left + W, top + H))).transpose(2, 0, 1) / 127.5 - 1
    got = load_image(tmp_path / "face.png", size).numpy()
    assert got.shape == (3, H, W)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_thin_strip_is_scaled_without_building_all_of_it(tmp_path, monkeypatch):
    wave = 127 + 100 * np.sin(np.arange(3000) / 40)
    Image.fromarray(np.tile(wave, (16, 1)).astype(np.uint8)).save(tmp_path / "face.png")
    whole = load_image(tmp_path / "face.png", (160, 160))
    monkeypatch.setattr("liveact_app.media.image.MAX_PIXELS", 16 * 3000)  # it would be 30000x160
    torch.testing.assert_close(load_image(tmp_path / "face.png", (160, 160)), whole, atol=1.01 / 127.5, rtol=0)
