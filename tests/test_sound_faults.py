"""Sound as people have it: several links, holes, damage, opposite phase, several tracks."""

import av
import numpy as np
import pytest
import soundfile

from liveact_app.media.audio import AudioReader, model_audio, scan
from liveact_model.errors import InputError


def voice(rate, seconds=1.0, channels=1):
    t = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t) * (1 + np.sin(2 * np.pi * 4 * t)))[:, None].repeat(channels, 1)


def encode(path, codec, parts, rate, container=None, layouts=("mono",), marked=None):
    with av.open(str(path), "w", format=container) as file:
        streams = [file.add_stream(codec, rate=rate, layout=layout) for layout in layouts]
        for i, stream in enumerate(streams if marked is not None else []):  # before the first packet writes the header
            stream.disposition = av.stream.Disposition.default if i == marked else 0
        for i, (stream, samples) in enumerate(zip(streams, parts)):
            stream.bit_rate = 64000 * samples.shape[1]
            packed = np.ascontiguousarray(samples.astype(np.float32)).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layouts[i])
            frame.sample_rate, frame.pts = rate, 0
            form = av.AudioResampler(format=stream.codec_context.format.name, layout=layouts[i], rate=rate)
            for part in form.resample(frame):
                file.mux(stream.encode(part))
        for stream in streams:
            file.mux(stream.encode(None))


def heard(info):
    with AudioReader(info) as reader:
        return np.concatenate(list(model_audio(reader)))


LINKED = [("ogg", "VORBIS"), ("ogg", "OPUS"), ("flac", "PCM_16"), ("wav", "PCM_16")]


@pytest.mark.parametrize(("suffix", "subtype"), LINKED)
@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (24000, 2)])
def test_every_link_is_read(tmp_path, suffix, subtype, rate, channels):
    data = b""
    for r, c in ((48000, 1), (rate, channels)):
        soundfile.write(tmp_path / f"a.{suffix}", voice(r, channels=c), r, subtype=subtype)
        data += (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"all.{suffix}").write_bytes(data)
    info = scan(tmp_path / f"all.{suffix}")
    slack = 0.02 if subtype == "VORBIS" else 0.001  # FFmpeg's end of a Vorbis link
    assert abs(info.seconds - 2) < slack and info.channels == channels and info.notes == ()
    sound = heard(info)
    assert abs(len(sound) - 32000) <= slack * 16000 and np.std(sound[17000:31000]) > 0.2


@pytest.mark.parametrize(("codec", "container", "slack"), [("libmp3lame", "mp3", 0.01), ("aac", "adts", 0.15)])
def test_rate_and_channels_change_in_the_middle(tmp_path, codec, container, slack):
    data = b""
    for rate, layout in ((44100, "mono"), (48000, "stereo")):
        encode(tmp_path / "a", codec, [voice(rate, channels=1 + (layout == "stereo"))], rate, container, (layout,))
        data += (tmp_path / "a").read_bytes()
    (tmp_path / f"all.{container[:3]}").write_bytes(data)
    info = scan(tmp_path / f"all.{container[:3]}")
    assert (info.rate, info.channels) == (48000, 2) and abs(info.seconds - 2) < slack


def test_opposite_phase_does_not_cancel(tmp_path):
    sound = voice(16000, channels=2) * (1, -1)
    soundfile.write(tmp_path / "a.wav", sound, 16000, subtype="FLOAT")
    assert np.abs(np.abs(heard(tmp_path / "a.wav")) - np.abs(sound[:, 0])).max() < 1e-6


def test_the_marked_track_is_read_and_another_can_be_chosen(tmp_path):
    encode(tmp_path / "a.mp4", "aac", [voice(48000) * 0, voice(48000)], 48000, None, ("mono", "mono"), 1)
    info = scan(tmp_path / "a.mp4")
    assert (info.track, info.tracks) == (1, 2) and heard(info).std() > 0.1
    assert heard(scan(tmp_path / "a.mp4", track=0)).std() < 0.01
    with pytest.raises(InputError, match=r"--audio-track.*2, counted from 0"):
        scan(tmp_path / "a.mp4", track=2)


def test_damage_is_silent_and_a_cut_file_says_so(tmp_path):
    encode(tmp_path / "a.mp3", "libmp3lame", [voice(44100, 3)], 44100)
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = np.random.default_rng(0).bytes(300)
    (tmp_path / "a.mp3").write_bytes(data)
    info = scan(tmp_path / "a.mp3")
    assert abs(info.seconds - 3) < 0.05 and "damaged" in info.notes[0]
    soundfile.write(tmp_path / "a.flac", voice(44100, 3), 44100)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) * 7 // 10])
    assert "cut off" in scan(tmp_path / "a.flac").notes[0]
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) * 3 // 10])
    with pytest.raises(InputError, match="at least half"):
        scan(tmp_path / "a.flac")


@pytest.mark.parametrize("size", [1, 500, 5000, 60_000])
@pytest.mark.parametrize("kind", ["zeros", "noise", "tags"])
@pytest.mark.parametrize("rate", [44100, 22050])
def test_junk_in_front_of_an_mp3_is_skipped(tmp_path, size, kind, rate):
    encode(tmp_path / "a.mp3", "libmp3lame", [voice(rate)], rate)
    whole = heard(scan(tmp_path / "a.mp3"))
    tag = b"ID3\4\0\0" + bytes((0, 0, size >> 7 & 127, size & 127)) + bytes(size & 16383) if kind == "tags" else b""
    junk = tag + (np.random.default_rng(1).bytes(size) if kind == "noise" else bytes(size))
    (tmp_path / "b.mp3").write_bytes(junk + (tmp_path / "a.mp3").read_bytes())
    info = scan(tmp_path / "b.mp3")
    assert np.array_equal(heard(info), whole)
    assert all("bytes that are no sound" in note for note in info.notes) and (info.notes or size < 1000)


@pytest.mark.parametrize("container", ["webm", "mkv"])
def test_a_hole_in_the_time_stamps_is_silent(tmp_path, container):
    path = tmp_path / f"a.{container}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libopus", rate=48000, layout="mono")
        for i in range(100):
            sound = voice(48000)[i % 50 * 960 : (i % 50 + 1) * 960, 0]
            frame = av.AudioFrame.from_ndarray(sound.astype(np.float32)[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = 48000, i * 960
            for packet in stream.encode(frame):
                if i >= 50:
                    packet.pts, packet.dts = packet.pts + 96000, packet.dts + 96000
                file.mux(packet)
        for packet in stream.encode(None):
            packet.pts, packet.dts = packet.pts + 96000, packet.dts + 96000
            file.mux(packet)
    info = scan(path)
    sound = heard(info)
    assert abs(info.seconds - 4) < 0.05 and "leaves out 2.0" in info.notes[0] and len(info.notes) == 1
    assert np.abs(sound[16500:47500]).max() < 1e-6 and sound[48500:].std() > 0.15 and sound[:15500].std() > 0.15


def test_the_decoders_write_nothing(tmp_path, capfd):
    encode(tmp_path / "a.mp3", "libmp3lame", [voice(44100, 3)], 44100)
    encode(tmp_path / "a.m4a", "aac", [voice(44100, 3)], 44100)
    soundfile.write(tmp_path / "a.flac", voice(44100, 3), 44100)
    soundfile.write(tmp_path / "a.ogg", voice(44100, 3), 44100)
    for name in ("a.mp3", "a.m4a", "a.flac", "a.ogg"):
        data = bytearray((tmp_path / name).read_bytes())
        for at in (0.5, 0.6, 0.7):
            data[int(len(data) * at)] ^= 0x55
        (tmp_path / name).write_bytes(data)
        heard(scan(tmp_path / name))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_samples_over_full_scale_are_limited(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(16000) * 4, 16000, subtype="FLOAT")
    info = scan(tmp_path / "a.wav")
    assert "over full scale" in info.notes[0] and np.abs(heard(info)).max() == 1
    with AudioReader(info) as reader:  # what the video gets
        assert max(np.abs(chunk).max() for chunk in reader) == 1


def test_a_file_that_shrank_after_the_scan_ends_early(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(16000, 2), 16000)
    info = scan(tmp_path / "a.wav")
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    with AudioReader(info) as reader:
        list(reader)
    assert abs(reader.samples - 16000) < 160
