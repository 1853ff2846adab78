"""Arguments nobody should write, and odd ones that are fine."""

from __future__ import annotations

import os

from .case import Case, Draw, Place
from .common import NESTED, damage, dump, generate, good_picture, good_sound, mutate, odd_path

NUMBERS = (
    "", " ", "x", "-", "--", "-1", "0", "1", "+2", "2.0", "1.5", "25", "60", "61", "1e3", "1e400", "nan", "inf",
    "-inf", "0x10",
    "١٢", "²", "1_0", "9" * 30, "9" * 5000, "10**18", str(2**63 - 1), str(2**63), "1,5", "\u2212 1", "3\n", "\udcff",
    "1\u00a0",
)  # fmt: skip
WORDS = ("", " ", "x", "--", "-x", "auto", "tiny", "torch", "reference", "cuda", "cpu:9", "triton", "meta", "\udcff",
    "a" * 20_000,
         "op=torch", "attention=x", "=", ",", "a\nb", "\x1b[2J", "../in", "/", ".", "~", "https://x/y", "cuda:99",
         "😀")  # fmt: skip
PROMPTS = (
    "",
    " ",
    "happy",
    "😀" * 3000,
    "\udcff",
    "happy " * 5000,
    "a\x07b",
    "&amp;#0;",
    "\u202e",
    "\\ud800",
    "-",
    "%s{0}",
    "\n" * 99,
)
EDITS = (
    "[0,1]=x", "[0,0]=", "[1,0]=x", "[-1,2]=x", "[0,9]", "=", "[]=x", "[0,1]=" + "y" * 9999, "[1e3,2]=x", "[[0],1]=x",
    "[0," + "9" * 5000 + "]=x", "[" * 5000 + "=x", "[null,1]=x", "x.json", ".json", "[0,1]=\udcff", "[NaN,1]=x",
)  # fmt: skip
SIZES = ("64*64", "64x64", "64X64", "80*64", "64", "64*", "*64", "64*64*64", "-64*64", "0*0", "15*15", "16*16",
    "64*65", "4112*16",
         "99999999999*16", "nan*64", "６４*６４", " 64*64 ", "64 * 64", "")  # fmt: skip
VALUES = {
    "--fps": NUMBERS, "--seed": NUMBERS, "--scale": NUMBERS, "--audio-cfg": NUMBERS, "--size": SIZES,
    "--prompt": PROMPTS,
    "--edit-prompt": EDITS, "--model": WORDS, "--backend": WORDS, "--device": WORDS,
    "--dtype": (*WORDS, "fp8", "bfloat16"),
    "--sampler": (*WORDS, "euler"), "--wav2vec-dir": WORDS, "--parallel": (*WORDS, "ring"),
}  # fmt: skip
FLAGS = ("--eight-bit-memory", "--eight-bit-attention", "--eager")
OTHERS = (
    [], ["--help"], ["--version"], ["-h"], ["--", "generate"], ["generate"], ["generate", "--help"], ["verify"],
    ["paint"],
    ["verify", "--golden", ""], ["verify", "--golden", "../in"], ["verify", "--golden", "../in", "--junit", "x"],
    ["budget", "--model", "x"], ["budget", "--size", "x"], ["budget", "--size", ""], ["budget", "--ranks", "0"],
    ["budget", "--chip", "abacus"], ["budget", "--op", "x" * 3000], ["budget", "--ceilings", "measured"], ["tune"],
    ["tune", "--op", "x"], ["doctor", "--backend", "x"], ["doctor", "x"], ["\udcff"], [""],
    ["generate", "--", "--image"],
    ["budget", "--format", "x"], ["doctor", "--help"], ["tune", "--help"], ["budget", "--help"], ["verify", "--help"],
)  # fmt: skip


def make(draw: Draw, place: Place) -> Case:
    return draw.choice((_values, _values, _values, _values, _outputs, _outputs, _edit_file, _shape, _other))(
        draw, place
    )


def _values(draw: Draw, place: Place) -> Case:
    """One to three options with odd values."""
    more = []
    for name in draw.sample(list(VALUES), draw.choice((1, 1, 2, 3))):
        value = draw.choice(VALUES[name])
        more += [f"{name}={value}"] if draw.random() < 0.7 else [name, value]
    more += [flag for flag in FLAGS if draw.random() < 0.15]
    return Case(generate(place, *more), f"{more}"[:200])


def _outputs(draw: Draw, place: Place) -> Case:
    """Where the video and the report go."""
    image, audio = good_picture(place), good_sound(place)
    (place.run / "d").mkdir()
    (place.run / "d.mp4").mkdir()
    (place.run / "loop.mp4").symlink_to("loop.mp4")
    (place.run / "dangling.mp4").symlink_to("nowhere/v.mp4")
    (place.run / "link.mp4").symlink_to("d/real.mp4")
    (place.run / "old.mp4").write_text("precious")
    (place.run / "old.json").write_text("precious")
    os.link(place.inputs / "talk.wav", place.run / "hard.mp4")
    os.mkfifo(place.run / "pipe.mp4")
    names = (
        "v.mp4", "v.mkv", "v.mov", "v.MP4", "old.mp4", "d/v.mp4", "./d/../v.mp4", ".mp4", "..mp4", " .mp4", "v.mp4 ",
        "%03d.mp4",
        "pipe:1.mp4", "file:v.mp4", "http:x.mp4", "a:b.mp4", "-.mp4", "--.mp4", "é😀.mp4", "a\nb.mp4", "\x1b[2J.mp4",
        "\udcff.mp4", "a" * 250 + ".mp4", "a" * 251 + ".mp4", "a" * 252 + ".mp4", "b" * 5000 + ".mp4",
        "é" * 125 + ".mp4",
        "d/" * 2500 + "v.mp4", "link.mp4", "dangling.mp4", "loop.mp4", "d.mp4", "d", "pipe.mp4", "old.mp4/v.mp4",
        "v.mp4/",
        "", "-", "--", "/dev/null", "/dev/full", "/proc/v.mp4", "/sys/v.mp4", "../in/talk.wav", "hard.mp4",
        "v.avi", "v",
        "nowhere/v.mp4", "~/v.mp4", "v.mp4.", "v.mp4\t", "v.tar.mp4",
    )  # fmt: skip
    out = draw.choice(names)
    more, outputs = [], [out, "d/real.mp4"] if out == "link.mp4" else [out]
    if draw.random() < 0.4:
        report = draw.choice(("r.json", "old.json", "v.json", "../in/face.png", "d", "", "--", "x.txt",
            "a" * 251 + ".json",
                              "a" * 250 + ".json", "nowhere/r.json", "/dev/full", "r.json/", out))  # fmt: skip
        more, outputs = [f"--report={report}"], [*outputs, report]
    if draw.random() < 0.1:
        more.append("--out=second.mp4")
        outputs = ["second.mp4", *outputs]
    return Case(
        generate(place, *more, image=image, audio=audio, out=out), f"--out={out!r:.80} {more}"[:200], outputs=outputs
    )


def _edit_file(draw: Draw, place: Place) -> Case:
    """--edit-prompt with a JSON file."""
    good = draw.choice(({"[0,1]": "happy", "[2,3]": "sad"}, [[0, 1, "happy"], [2, 3, "sad"]]))
    ways = {
        "mutated": lambda: dump(mutate(draw, good)[0]).encode(), "nested": lambda: b"[" * NESTED + b"]" * NESTED,
        "nested objects": lambda: b'{"a":' * NESTED, "damaged": lambda: damage(draw, dump(good).encode()),
        "nested key": lambda: dump({"[" * NESTED: "x"}).encode(),
        "long number": lambda: b'{"[0,' + b"9" * 5000 + b']": "x"}',
        "UTF-16": lambda: dump(good).encode("utf-16"), "not UTF-8": lambda: b'{"[0,1]": "\xff"}',
        "good": lambda: dump(good).encode(),
        "long number in a list": lambda: b"[[0, " + b"9" * 5000 + b', "x"]]', "list": lambda: b"[[0,1,2]]",
    }  # fmt: skip
    kind = draw.choice(list(ways))
    (place.inputs / "e.json").write_bytes(ways[kind]())
    path, about = odd_path(draw, place, "../in/e.json") if draw.random() < 0.15 else ("../in/e.json", kind)
    return Case(generate(place, f"--edit-prompt={path}"), f"edits: {about}")


def _shape(draw: Draw, place: Place) -> Case:
    """Good arguments, shuffled, repeated, shortened, cut."""
    argv = generate(place, "--fps", "21", "--seed=7", "--scale", "2")
    for _ in range(draw.choice((1, 2))):
        at = draw.randrange(len(argv))
        match draw.randrange(6):
            case 0:
                del argv[at]
            case 1:
                argv.insert(at, argv[draw.randrange(len(argv))])
            case 2:
                argv[at] = argv[at][: draw.randrange(len(argv[at]) + 1)]
            case 3:
                argv.insert(
                    at, draw.choice(("--", "-", "", "--help", "-x", "--no-eager", "@x", "\udcff", "--eager=1", "--out"))
                )
            case 4:
                argv[at] = argv[at].upper()
            case 5:
                argv = [part for a in argv for part in a.split("=", 1)]
    video = bool(argv) and not {"--help", "-h", "--version"} & set(argv)
    return Case(argv, f"{argv}"[:200], video=video, outputs=["v.mp4", "V.MP4"])


def _other(draw: Draw, place: Place) -> Case:
    """Other commands, which must not work for long here."""
    argv = draw.choice(OTHERS)
    return Case(list(argv), f"{argv}"[:200], video=False)
