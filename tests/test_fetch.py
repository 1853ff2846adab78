"""`liveact fetch`: huggingface_hub itself against a hub on loopback; nothing starts before somebody has agreed."""

import json
import os
import subprocess
import sys

import fake_hub
import pytest
import released

from liveact_app import fetch
from liveact_app.cli import main
from liveact_model.errors import InputError
from liveact_model.loading import SOURCES, Source, lacks, load_avatar

MODEL, SPEECH = (source.repo for source in SOURCES["liveact-18b"])
BIG = 24 << 20  # the library writes pieces of 10 MiB
NAMES = (
    "config.json", "diffusion_pytorch_model-00001-of-00001.safetensors", "Wan2.1_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "google/umt5-xxl/tokenizer.json",
)  # fmt: skip


def filled(folder, names, size=9):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name[:1].encode() * size)
    return folder


@pytest.fixture
def hub(tmp_path):
    model = filled(tmp_path / "hub", (*NAMES, "README.md", "assets/demo.mp4"))
    speech = filled(tmp_path / "speech", ("config.json", "model.safetensors", "pytorch_model.bin", "fairseq-ckpt.pt"))
    return fake_hub.Hub({MODEL: model, SPEECH: speech})


def run(url, tmp_path, *arguments, name="liveact-18b", **variables):
    """The command in a process of its own: the library reads its variables when it is imported."""
    env = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), **variables}
    command = [sys.executable, "-m", "liveact_app", "fetch", name, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


def there(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts}


def test_a_model_comes_from_a_mirror_to_where_it_loads_from_and_only_once(tmp_path):
    whole = released.write_released(tmp_path / "hub")
    (whole / released.AUDIO).rename(tmp_path / "speech")
    hub = fake_hub.Hub({MODEL: whole, SPEECH: tmp_path / "speech"}, licence="apache-2.0")
    out = tmp_path / "out"
    with fake_hub.serving(hub) as url:
        refused = run(url, tmp_path, "--to", str(out))
        assert refused.returncode == 2 and "--yes: expected where nobody can be asked" in refused.stderr
        assert refused.stderr.count("\n") == 1 and not out.exists()
        assert f"{MODEL} at {url}: 9 files, " in refused.stdout and "licence: apache-2.0" in refused.stdout
        assert not [path for _, path, _ in hub.asked if "/resolve/" in path]
        done = run(url, tmp_path, "--to", str(out), "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"everything is there, ready for --model {out}\n")
        assert done.stderr.count("liveact: [") == 12  # a line a file where there is no terminal
        hub.asked.clear()
        again = run(url, tmp_path, "--to", str(out), "--yes")
        assert again.returncode == 0 and not [path for _, path, _ in hub.asked if "/resolve/" in path]
    assert lacks("liveact-18b", out) == []
    assert load_avatar(str(out)).dit.config == released.CONFIG
    offline = run(url, tmp_path, "--to", str(out), HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and "everything is there" in offline.stdout
    (out / "Wan2.1_VAE.pth").unlink()
    offline = run(url, tmp_path, "--to", str(out), HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and offline.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE: expected everything in" in offline.stderr
    assert "Wan2.1_VAE.pth is not there" in offline.stderr


def test_a_broken_download_goes_on_where_it_was(hub, tmp_path):
    out = tmp_path / "out"
    big = hub.repos[MODEL] / "Wan2.1_VAE.pth"
    big.write_bytes(os.urandom(BIG))

    def asked(name):
        return [span for method, path, span in hub.asked if method == "GET" and path.endswith(name)]

    with fake_hub.serving(hub) as url:
        hub.cut, hub.dies = BIG // 2, True
        broken = run(url, tmp_path, "--to", str(out), "--yes")
        assert broken.returncode == 2 and broken.stderr.splitlines()[-1].startswith("liveact: error: fetch: expected")
        assert "Traceback" not in broken.stderr and not (out / big.name).exists()
        hub.cut, hub.dies, hub.silent = BIG // 2, False, False  # breaks off once more, within a run
        hub.asked.clear()
        done = run(url, tmp_path, "--to", str(out), "--yes")
        assert done.returncode == 0, done.stderr
    assert (out / big.name).read_bytes() == big.read_bytes()
    first, second = asked(big.name)
    assert first is None and int(second.removeprefix("bytes=").split("-")[0]) >= 10 << 20
    assert not asked(NAMES[1])  # whole files of the first run are not asked for again
    expected = {f"{released.AUDIO}/config.json", f"{released.AUDIO}/model.safetensors"}
    assert there(out) == {*NAMES, *expected}  # one of two formats, and no film


class Library:
    """What the command takes of huggingface_hub, with the real info type."""

    def __init__(self, hub):
        self.hub, self.fetched = hub, []
        self.constants = type("constants", (), {"HF_HUB_OFFLINE": False, "ENDPOINT": "https://hub"})

    def HfApi(self):
        from huggingface_hub.hf_api import ModelInfo

        def model_info(repo, *, files_metadata):
            assert files_metadata
            return ModelInfo(**json.loads(json.dumps(self.hub.info(repo))))

        return type("HfApi", (), {"model_info": staticmethod(model_info)})

    def hf_hub_download(self, repo, name, *, revision, local_dir):
        assert revision == fake_hub.COMMIT
        self.fetched.append(name)
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes((self.hub.repos[repo] / name).read_bytes())


@pytest.fixture
def library(hub, monkeypatch):
    made = Library(hub)
    monkeypatch.setattr(fetch, "_library", lambda: made)
    return made


class Terminal:
    def __init__(self, answer):
        self.answer = answer

    def isatty(self):
        return True

    def readline(self):
        return self.answer


@pytest.mark.parametrize("answer,code", [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("no\n", 2), ("", 2)])
def test_a_terminal_is_asked(library, tmp_path, monkeypatch, capsys, answer, code):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["fetch", "liveact-18b", "--to", str(tmp_path / "out")]) == code
    said = capsys.readouterr()
    assert "Download? [y/N]" in said.out and bool(library.fetched) == (code == 0)
    if code:
        assert "not agreed to, nothing was downloaded" in said.err and not (tmp_path / "out").exists()


def test_what_is_lacking_is_one_sentence(library, hub, tmp_path, monkeypatch, capsys):
    out = ["--to", str(tmp_path / "out"), "--yes"]
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("usage", (), {"free": 40}))
    (tmp_path / "file").touch()

    def said(*arguments):
        assert main(["fetch", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "NAME: expected one of liveact-18b, got 'tiny'" in said("tiny")
    assert "--to: expected room for 72 bytes, " in said("liveact-18b", *out) and not library.fetched
    assert "is a file" in said("liveact-18b", "--to", str(tmp_path / "file"))
    assert "does not exist" in said("liveact-18b", "--to", str(tmp_path / "a" / "b"))
    (hub.repos[MODEL] / "Wan2.1_VAE.pth").unlink()
    assert f"expected Wan2.1_VAE.pth in {MODEL}, found none among its 7 files" in said("liveact-18b", *out)
    monkeypatch.setattr(hub, "info", lambda repo: (_ for _ in ()).throw(ValueError("no\nsuch thing")))
    assert f"expected {MODEL} from https://hub, got: no such thing" in said("liveact-18b", *out)


def test_a_file_that_comes_short_is_told(library, tmp_path, monkeypatch, capsys):
    def short(repo, name, *, revision, local_dir):
        local_dir.mkdir(exist_ok=True)
        (local_dir / name).write_bytes(b"x")

    library.hf_hub_download = short
    assert main(["fetch", "liveact-18b", "--to", str(tmp_path / "out"), "--yes"]) == 2
    assert "expected 9 bytes in" in capsys.readouterr().err


def test_without_the_library_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"expected the library huggingface_hub: pip install 'liveact\[hub\]'"):
        fetch._library()


def test_files_are_chosen_by_patterns():
    source = Source("a/b", "x", (("m.safetensors", "m.bin"), ("w*.st",)), ("i.json",))
    assert source.chosen(["m.bin", "w1.st", "w2.st", "z"]) == (["m.bin", "w1.st", "w2.st"], [])
    assert source.chosen(["m.bin", "m.safetensors", "i.json"]) == (["m.safetensors", "i.json"], ["w*.st"])
    assert source.chosen([]) == ([], ["m.safetensors or m.bin", "w*.st"])


def test_names_that_leave_the_directory_are_not_taken(library, hub, monkeypatch, tmp_path):
    info = hub.info
    names = ("../config.json", "/config.json", "diffusion_pytorch_model/../../x.safetensors")
    bad = [{"rfilename": name, "size": 9} for name in names]
    monkeypatch.setattr(hub, "info", lambda repo: info(repo) | {"siblings": [*info(repo)["siblings"], *bad]})
    assert main(["fetch", "liveact-18b", "--to", str(tmp_path / "out"), "--yes"]) == 0
    assert library.fetched and not [name for name in library.fetched if ".." in name or name.startswith("/")]
