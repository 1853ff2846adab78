"""`liveact evaluate` as it is called: table, notes, files, and one sentence for what cannot be measured."""

import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from talking import envelope, face, talking, voice, written
from test_evaluate_networks import random_state

from liveact_app.cli import main
from liveact_app.evaluate import i3d, inception
from liveact_app.evaluate.arcface import DEPTHS, IResNet
from liveact_app.evaluate.judge import Networks, compare, judge, together
from liveact_app.evaluate.plot import draw
from liveact_app.evaluate.references import Reference
from liveact_app.evaluate.syncnet import SyncNet
from liveact_app.media.watch import is_video, look, watch
from liveact_model.errors import InputError

ROOT = Path(__file__).parent.parent
SECONDS = 11.0
LOUD = envelope(SECONDS)


def silent(path, pictures, fps=20):
    """The same without a sound track."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "yuv420p"
        for pixels in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Videos made once: on time, 200 ms late, silent, very short; a picture; weights of two networks."""
    path = tmp_path_factory.mktemp("videos")
    pictures = talking(SECONDS, LOUD)
    written(path / "good.mp4", pictures, voice(SECONDS, LOUD))
    written(path / "late.mp4", pictures, voice(SECONDS, LOUD, 0.2))
    written(path / "brief.mp4", pictures[:18], voice(0.9, LOUD))
    silent(path / "silent.mp4", pictures[:40])
    silent(path / "short.mp4", pictures[:5])
    Image.fromarray(face()).resize((256, 256), Image.Resampling.BICUBIC).save(path / "face.png")
    (path / "text.mp4").write_text("no video at all\n" * 20)
    torch.save(random_state(lambda: IResNet(DEPTHS[18])), path / "r18.pth")
    save_file(random_state(SyncNet), str(path / "sync.safetensors"))
    save_file({"netcnnaud.0.weight": torch.zeros(64, 1, 3, 3)}, str(path / "wrong.safetensors"))
    return path


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def table(text):
    head, *rows = text.rstrip().split("\n")
    return {row.split("  ")[0]: row for row in rows} | {"head": head}


def test_side_by_side_with_a_picture_for_all(there, capsys):
    """The lag of 200 ms is in the table, in the JSON, and the drawing has a line a video and panel."""
    files = ["--json", "a.json", "--svg", "a.svg"]
    assert main(["evaluate", "good.mp4", "late.mp4", "--reference", "face.png", *files]) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert list(rows) == ["good.mp4", "late.mp4", "all", "head"] and "FID" not in rows["head"] and err == ""
    found = json.loads((there / "a.json").read_text())
    good, late = found["videos"]
    assert (good["file"], good["video_frames"], good["size"], good["fps"]) == ("good.mp4", 220, [64, 64], 20)
    assert abs(good["lip_sync_lag_ms"]) < 10 and abs(late["lip_sync_lag_ms"] - 200) < 10
    assert good["lip_sync"] > 0.9 < late["lip_sync"] and good["identity"] > 0.9
    assert found["all"]["lip_sync"] == pytest.approx((good["lip_sync"] + late["lip_sync"]) / 2, abs=1e-3)
    assert 0 < found["took"]["cpu_seconds"] and found["took"]["peak_rss_bytes"] > 1 << 26
    drawn = ElementTree.fromstring((there / "a.svg").read_text())
    lines = [e for e in drawn.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 2 * 3 and all(len(line.get("points").split()) == 10 for line in lines)


def test_a_video_without_sound_has_a_dash_and_a_note(there, capsys):
    assert main(["evaluate", "silent.mp4"]) == 0
    out, err = capsys.readouterr()
    assert err == "liveact: 'silent.mp4': no sound: no lip sync\n"
    assert table(out)["silent.mp4"].split()[1:3] == ["-", "-"]


def test_a_reference_video_has_a_row_and_networks_have_columns(there, capsys):
    argv = "evaluate silent.mp4 --reference brief.mp4 --syncnet sync.safetensors --arcface r18.pth --device cpu"
    assert main([*argv.split(), "--json", "b.json", "--every", "7", "--face", "0.1,0.1,0.8,0.8"]) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert list(rows)[:2] == ["reference: brief.mp4", "silent.mp4"] and "Sync-C" in rows["head"]
    assert "ArcFace" in rows["head"] and "is not the public syncnet_v2.model" in err
    found = json.loads((there / "b.json").read_text())
    reference, ours = found["references"][0], found["videos"][0]
    assert ours["sync_c"] is None and reference["sync_d"] > 0 and 0.9 < ours["arcface"] <= 1
    assert found["weights"]["arcface"]["bytes"] == (there / "r18.pth").stat().st_size
    assert "centre square" not in err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("none.mp4", "VIDEO: no such file: 'none.mp4'"),
        ("text.mp4", "VIDEO: expected a video, no decoder reads"),
        ("face.png", "VIDEO: expected a video, no decoder reads"),
        ("short.mp4", "VIDEO: expected at least 10 video frames, "),
        ("good.mp4 late.mp4 silent.mp4 --reference face.png face.png",
         "--reference: expected one for all videos or one for each of 3, got 2"),
        ("good.mp4 --reference text.mp4", "--reference: expected a readable image, cannot decode"),
        ("good.mp4 --syncnet wrong.safetensors", "--syncnet: expected key netcnnaud.0.bias [64], found none"),
        ("good.mp4 --arcface sync.safetensors", "--arcface: expected layer1 to layer4 of an IResNet"),
        ("good.mp4 --i3d none.pt", "--i3d: no such file: 'none.pt'"),
        ("good.mp4 --i3d text.mp4", "--i3d: expected "),
        ("good.mp4 --json a.txt", "--json: expected a name ending in .json, got 'a.txt'"),
        ("good.mp4 --svg nowhere/a.svg", "--svg: the directory "),
        ("good.mp4 --face 0.5,0,0.6,1", "--face: expected a box of 0.01 each way or more in the picture"),
        ("good.mp4 --face 1,2", "--face: expected X,Y,W,H as shares"),
        ("good.mp4 --every 0", "--every: expected a whole number from 1 to 1000, got '0'"),
        ("good.mp4 --syncnet sync.safetensors --device tpu", "--device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(there, capsys, argv, sentence):
    before = sorted(p.name for p in there.iterdir())
    assert main(["evaluate", *argv.split(), *([] if "--json" in argv else ["--json", "c.json"])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("liveact: error: ") and err.count("\n") == 1
    assert sentence in err
    assert sorted(p.name for p in there.iterdir()) == before


def test_damage_is_told_with_its_second(there, capsys):
    whole = (there / "good.mp4").read_bytes()
    at = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[at - 8 : at - 4], "big") - 8
    spoiled = bytearray(whole)
    spoiled[at + size // 2 : at + size] = bytes(size - size // 2)
    (there / "spoiled.mp4").write_bytes(spoiled)
    code = main(["evaluate", "spoiled.mp4"])
    out, err = capsys.readouterr()
    (there / "spoiled.mp4").unlink()
    assert code == 2 and out == "" and err.count("\n") == 1 and "spoiled.mp4" in err


def test_a_watched_video_is_what_was_written(there):
    video = look("good.mp4")
    shots = list(watch(video))
    assert (video.frames, video.size, round(video.fps, 3), video.sound_after) == (220, (64, 64), 20.0, 0.0)
    assert [round(s.at * 20, 3) for s in shots] == list(range(220))
    wrong = np.abs(np.stack([s.pixels for s in shots]).astype(int) - talking(SECONDS, LOUD)).mean((1, 2, 3))
    assert wrong.max() < 4
    assert is_video("good.mp4", "--reference") and not is_video("face.png", "--reference")
    assert look("silent.mp4").sound_after is None
    with pytest.raises(InputError, match="--reference: no such file"):
        is_video("none.mp4", "--reference")


def test_sound_that_starts_late_in_the_file_is_late(there, capsys):
    """A track whose time stamps begin 0.5 s after the picture's."""
    with av.open("good.mp4") as source, av.open("shifted.mkv", "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                if packet.stream.type == "audio":
                    shift = round(0.5 / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    assert main(["evaluate", "shifted.mkv", "--json", "d.json"]) == 0
    (there / "shifted.mkv").unlink()
    found = json.loads((there / "d.json").read_text())["videos"][0]
    assert abs(found["lip_sync_lag_ms"] - 500) < 10 and capsys.readouterr().err == ""


def test_the_drawing_puts_values_where_they_belong():
    """0 at the bottom of the lip sync panel and 1 at its top, tenths in even steps, gaps left out, names escaped."""
    rows = {"lip_sync_tenths": [0.0, 1.0, None, 0.5, *[0.25] * 6], "identity_tenths": [None] * 10}
    drawn = ElementTree.fromstring(draw([("a<b", rows)], "title & all"))
    (line,) = (e for e in drawn.iter() if e.tag.endswith("polyline"))
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    x, y = np.array(points).T
    assert len(points) == 9 and np.allclose(np.diff(np.delete(x, 2)[2:]), x[1] - x[0])
    numbers = {e.text: (float(e.get("x")), float(e.get("y"))) for e in drawn.iter() if e.text and e.get("x")}
    assert abs(x[1] - numbers["2"][0]) < 0.1 and abs(x[-1] - numbers["10"][0]) < 0.1
    assert (y[0] - y[1], y[0] - y[2]) == (150, 75) and "a<b" in numbers and "title & all" in numbers


def test_the_page_and_its_picture_are_those_of_the_rows():
    spec = importlib.util.spec_from_file_location("evaluate_page", ROOT / "docs" / "evaluate.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    committed = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    text, picture = page.made(committed)
    assert text == committed and "6726825d0af5" in text, "python docs/evaluate.py"
    assert picture == (ROOT / "docs" / "evaluate.svg").read_text(encoding="utf-8"), "python docs/evaluate.py"


def test_a_reference_of_another_shape_is_fitted_as_generate_does():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = face()
    assert np.abs(Reference(wide).fitted((64, 64)).astype(int) - face()).max() <= 1
    assert Reference(face()).fitted((32, 32)).shape == (32, 32, 3)


class Looks(torch.nn.Module):
    """Stands in for ArcFace: one direction for all faces, and a list of the sizes that it saw."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, faces):
        self.seen.add(tuple(faces.shape[2:]))
        return torch.ones(len(faces), 1)


@pytest.mark.parametrize(("box", "size"), [(None, (64, 64)), ((0.25, 0.5, 0.5, 0.25), (16, 48))])
def test_networks_of_faces_look_at_the_box_or_the_centre_square(there, box, size):
    pictures = np.concatenate([talking(1, LOUD)] * 2, 2)[:, :, :96]
    networks = Networks(arcface=Looks())
    found = judge(look(silent(there / "wide.mp4", pictures)), networks, box, reference=pictures[0])
    (there / "wide.mp4").unlink()
    assert networks.arcface.seen == {size} and found.row["arcface"] == 1


class Means(torch.nn.Module):
    """Stands in for Inception and I3D: mean colours of a picture's three thirds, or of a clip's three parts."""

    def forward(self, x):
        return torch.cat([p.float().mean((2, 3) if x.dim() == 4 else (2, 3, 4)) for p in x.tensor_split(3, 2)], 1)


def test_fid_and_fvd_of_each_video_and_of_all(there, monkeypatch):
    """A video against itself is 0, a brighter one is as far as its mean, two against one pool their features."""
    monkeypatch.setattr(inception, "FEATURES", 9)
    monkeypatch.setattr(i3d, "FEATURES", 9)
    monkeypatch.setattr(i3d, "SIDE_PX", 12)
    networks = Networks(Means(), Means())
    pictures = talking(4, LOUD) // 2
    for name, more in (("dark.mp4", 0), ("bright.mp4", 40)):
        silent(there / name, pictures + np.uint8(more))
    dark, bright = (judge(look(name), networks) for name in ("dark.mp4", "bright.mp4"))
    for found, real in ((dark, dark), (bright, dark)):
        compare(found, real)
        whole = found.row
        far = 9 * (0 if found is dark else 40) ** 2
        assert whole["fid"] == pytest.approx(far, rel=0.05, abs=1e-2)
        assert whole["fvd"] == pytest.approx(far, rel=0.05, abs=1e-2)
    both = together([dark, bright], [dark, dark])
    assert 0.2 * bright.row["fid"] < both["fid"] < 0.5 * bright.row["fid"] and both["fvd"] is not None
    assert together([dark, bright], [dark, None])["fid"] is None
    assert dark.notes == ["no sound: no lip sync"] and dark.clips.count == 5
    for name in ("dark.mp4", "bright.mp4"):
        (there / name).unlink()
