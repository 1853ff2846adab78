"""Any number of channels, with and without names: what the model hears, what the video keeps, what is refused."""

import struct

import av
import numpy as np
import pytest
from test_sound_faults import encode, heard, voice

from liveact_app.media.audio import AudioReader, scan
from liveact_app.media.decode import Decoder
from liveact_app.media.video import VideoWriter
from liveact_model.errors import InputError

RATE = 16000


def plain_wav(path, samples, channels, size=None):
    """A WAV of 16 bits whose header has no channel mask; with `size` a sparse one of that many bytes of zeros."""
    data = (samples * 32767).astype("<i2").tobytes()
    size = size or len(data)
    head = struct.pack("<HHIIHH", 1, channels, RATE, RATE * channels * 2, channels * 2, 16)
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + head)
        file.write(b"data" + struct.pack("<I", size) + data)
        file.truncate(44 + size)


def through_a_video(info, path):
    """The sound of a written video, as its channels' peaks away from the ends, and what it is scanned as."""
    with AudioReader(info) as audio:
        writer = VideoWriter(str(path), "mp4", (64, 48), 20.0, audio)
        writer.write(np.zeros((20, 48, 64, 3), np.uint8))
        writer.close()
    with AudioReader(found := scan(path)) as reader:
        return np.abs(np.concatenate(list(reader))[2000:-2000]).max(axis=0), found


@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8, 12, 64])
def test_channels_without_a_mask(tmp_path, channels):
    gains = np.linspace(1, 0.5, channels)
    plain_wav(tmp_path / "a.wav", voice(RATE) * gains, channels)
    with AudioReader(tmp_path / "a.wav") as reader:
        samples = np.concatenate(list(reader))
    assert np.abs(samples - voice(RATE) * gains).max() < 1e-4  # every channel whole
    mean = voice(RATE)[:, 0] * gains.mean()
    assert np.abs(heard(scan(tmp_path / "a.wav")) - mean).max() < 1e-3
    peaks, found = through_a_video(tmp_path / "a.wav", tmp_path / "v.mp4")
    kept = channels in (3, 5, 6, 8)
    assert found.channels == (channels if kept else 2)
    expected = np.abs(voice(RATE)).max() * (gains if kept else gains.mean().repeat(2))
    if channels > 5 and kept:
        peaks, expected = np.delete(peaks, 3), np.delete(expected, 3)  # the low-frequency channel
    assert np.abs(peaks - expected).max() < 0.05


def test_named_surround_sound_stays_as_it_is(tmp_path):
    sound = voice(48000) * (0.4, 0.3, 1, 0, 0.2, 0.1)
    encode(tmp_path / "a.m4a", "aac", [sound], 48000, None, ("5.1",))
    peaks, found = through_a_video(scan(tmp_path / "a.m4a"), tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as file:
        assert file.streams.audio[0].layout.name == "5.1"
    assert found.layout == ("FL", "FR", "FC", "LFE", "BL", "BR")
    assert np.abs(peaks - np.abs(voice(48000)).max() * np.array((0.4, 0.3, 1, 0, 0.2, 0.1))).max() < 0.05
    level = heard(scan(tmp_path / "a.m4a")).std() / voice(16000).std()
    assert abs(level - (1 + 0.7 * 0.5**0.5 + 0.3 / 2)) < 0.03  # BS.775 with the centre in full


@pytest.mark.parametrize(("channels", "words"), [(65, "has 65"), (1024, "has far more")])
def test_too_many_channels_are_refused_before_anything_is_decoded(tmp_path, monkeypatch, channels, words):
    def decoded(*args):
        raise AssertionError("a packet was decoded")

    monkeypatch.setattr(Decoder, "_packet", decoded)
    plain_wav(tmp_path / "a.wav", np.zeros(0), channels, size=2_000_000_000)
    with pytest.raises(InputError, match=f"^--audio: expected at most 64 channels, '[^']*' {words}$"):
        scan(tmp_path / "a.wav")


def test_a_file_of_which_nothing_can_be_decoded_is_given_up_early(tmp_path, monkeypatch):
    encode(tmp_path / "a.m4a", "aac", [voice(48000, 3)], 48000)
    data = (tmp_path / "a.m4a").read_bytes()
    start = data.index(b"mdat") + 4
    (tmp_path / "a.m4a").write_bytes(data[:start] + b"\xff" * (len(data) // 2) + data[start + len(data) // 2 :])
    monkeypatch.setattr("liveact_app.media.decode.MAX_USELESS_BYTES", 5000)
    with pytest.raises(InputError, match="nothing in its first 0 MiB can be decoded"):
        scan(tmp_path / "a.m4a")
