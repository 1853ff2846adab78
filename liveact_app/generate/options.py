"""The options of `liveact generate`, the released flags among them, and the jobs that they ask for."""

import argparse
import os

from liveact_app.arguments import picture_size, real_number, utf8_text, whole_number
from liveact_app.backend import HELP
from liveact_app.generate.edits import parse_edits, parse_spans
from liveact_app.generate.job import VIDEO_SUFFIXES, Job
from liveact_app.generate.ranks import FORMS
from liveact_model.config import PRECISIONS
from liveact_model.errors import InputError

DEFAULT_PROMPT = "A person is talking."
RELEASED_DTYPES = {"--fp8_gemm": "fp8", "--fp4_gemm": "nvfp4"}
OFFLOADS = ("--offload_cache", "--block_offload")


def add_files(group: "argparse._ArgumentGroup") -> None:
    """What goes in and out."""
    add = group.add_argument
    add("--image", metavar="FILE", help="portrait: png, jpg, webp, bmp, gif, tiff, ...")
    add("--audio", metavar="FILE", help="speech: wav, flac, mp3, ogg, m4a, mp4, ...")
    add("--audio-track", type=whole_number(0, 999), metavar="N",
        help="which audio track of a file with several, from 0 (default: the one marked as default)")  # fmt: skip
    add("--out", metavar="FILE", help=f"video to write: {', '.join(VIDEO_SUFFIXES)}")
    add("--report", metavar="FILE", help="also write a summary as .json")
    add("--input_json", "--input-json", metavar="FILE",
        help="the released input file: a list of {prompt, cond_image, cond_audio, edit_prompt}, one video each, in "
             "place of --image, --audio, --prompt and the edits; --out is then a folder (default: the working "
             "directory)")  # fmt: skip


def add_content(group: "argparse._ArgumentGroup") -> None:
    """What is to be seen."""

    def add(name: str, metavar: str, help: str, **options: object) -> None:
        group.add_argument(name, metavar=metavar, help=help, **options)

    say, edit = f"what the person does; may be empty (default: {DEFAULT_PROMPT!r})", (
        '"[first,last]=text": another prompt in these blocks (from 0, both included); repeatable, the first match '
        'wins; or a .json file {"[first,last]": "text", ...}'
    )  # fmt: skip
    timed = (
        '"4s-8s:text": another prompt in these seconds, rounded to whole blocks; or "3-5:text" in these blocks; '
        "repeatable, after --edit-prompt"
    )
    crop = "pixels, width first, multiples of 16; the image is cropped to it (default: the model's)"
    add("--prompt", "TEXT", say, type=utf8_text)
    add("--edit-prompt", "EDIT", edit, type=utf8_text, action="append", default=[])
    add("--edit", "EDIT", timed, type=utf8_text, action="append", default=[])
    add("--size", "W*H", crop, type=picture_size)
    add("--fps", "F", "video frames per second, 1 to 60 (default: the model's)", type=real_number(1, 60))
    add("--seed", "N", "seed of all noise (default: %(default)s)", type=whole_number(0, 2**63 - 1), default=42)
    add("--scale", "N", "enlarge the written video N times, 1 to 16 (default: %(default)s)",
        type=whole_number(1, 16), default=1)  # fmt: skip


def add_method(group: "argparse._ArgumentGroup") -> None:
    """With which model, and how."""

    def add(*names: str, help: str, **options: object) -> None:
        group.add_argument(*names, help=f"{help} (default: %(default)s)" if "default" in options else help, **options)

    def switch(*names: str, help: str) -> None:
        group.add_argument(*names, help=help, action="store_true")

    add("--model", "--ckpt_dir", help="a model that ships with LiveAct, or a checkpoint directory",
        metavar="NAME|DIR", default="tiny")  # fmt: skip
    add("--wav2vec-dir", "--wav2vec_dir", help="wav2vec2 checkpoint, for models that need one", metavar="DIR")
    add("--sampler", help="renoise draws fresh noise in every step, euler does not",
        choices=("renoise", "euler"), default="renoise")  # fmt: skip
    add("--audio-cfg", "--audio_cfg", help="audio guidance, 1 to 10; above 1 costs two more network passes a block",
        type=real_number(1, 10), metavar="S", default=1.0)  # fmt: skip
    switch("--eight-bit-memory", "--fp8_kv_cache",
           help="store memory slots as int8 keys and e4m3 values: half the bytes of bfloat16")  # fmt: skip
    switch("--eight-bit-attention",
           help="also multiply 8-bit codes from the second block on: half the work of bf16 on a GPU's tensor cores, a "
                "little less accurate; implies --eight-bit-memory")  # fmt: skip
    switch("--mean-memory", "--mean_memory",
           help="fold five old slots into one by their mean instead of the learned weights")  # fmt: skip
    switch("--live-audio", "--steam_audio",
           help="hear the recording as a live stream: its level is followed, not measured first")  # fmt: skip
    switch("--text-on-cpu", "--t5_cpu", help="keep the text encoder in host memory and run it there")
    switch("--block-times", "--dura_print", help="print what each block took")
    add("--backend", help=HELP, metavar="NAME")
    switch("--eager", help="launch kernel by kernel where a GPU would replay CUDA graphs: for profilers")
    add("--dtype", help="precision of the weights", choices=PRECISIONS, default="auto")
    switch("--fp8_gemm", help="the released name of --dtype fp8")
    switch("--fp4_gemm", help="the released name of --dtype nvfp4; needs a Blackwell GPU")
    add("--device", help="where to run: auto takes a GPU if there is one, else cpu, cuda or cuda:N",
        metavar="DEVICE", default="auto")  # fmt: skip
    add("--parallel", help="under torchrun, how keys and values travel between the processes",
        choices=FORMS, default="auto")  # fmt: skip
    for flag in OFFLOADS:
        switch(flag, help="released flag that does not exist here yet: says so")


def jobs_of(args: argparse.Namespace) -> tuple[Job, ...]:
    """The videos that a command line asks for. Raises InputError for options that do not go together."""
    known = {name: value for name, value in vars(args).items() if name in Job.__dataclass_fields__}
    for flag, dtype in RELEASED_DTYPES.items():
        if getattr(args, flag.removeprefix("--")):
            if known["dtype"] not in ("auto", dtype):
                raise InputError(f"{flag}: expected no other --dtype beside it, got --dtype {known['dtype']}")
            known["dtype"] = dtype
    known["offload"] = tuple(flag for flag in OFFLOADS if getattr(args, flag.removeprefix("--")))
    if args.input_json is not None:
        return _listed(args, known)
    missing = [f"--{name}" for name in ("image", "audio", "out") if getattr(args, name) is None]
    if missing:
        raise InputError(
            f"the following arguments are required: {', '.join(missing)} (see 'liveact generate --help')"
        )
    files = tuple(value for value in args.edit_prompt if value.lower().endswith(".json"))
    known["prompt"] = DEFAULT_PROMPT if args.prompt is None else args.prompt
    return (Job(**known, edits=parse_edits(args.edit_prompt) + parse_spans(args.edit), edit_files=files),)


def _listed(args: argparse.Namespace, known: dict) -> tuple[Job, ...]:
    """A job per entry of the input file; every output is checked before the first one is made."""
    from liveact_app.generate.entries import ARGUMENT, read_entries

    for name in ("image", "audio", "audio_track", "prompt", "edit_prompt", "edit"):
        if getattr(args, name) not in (None, []):
            raise InputError(f"{ARGUMENT}: expected no --{name.replace('_', '-')} beside it: the file says it")
    folder = os.curdir if args.out is None else args.out
    if not os.path.isdir(folder):
        raise InputError(f"--out: expected a folder that exists beside {ARGUMENT}, got {folder!r}")
    videos = read_entries(args.input_json)
    if args.report is not None and len(videos) > 1:
        raise InputError(f"--report: expected one video, {ARGUMENT} has {len(videos)} entries")
    jobs = []
    for video in videos:
        made = {"image": video.image, "audio": video.audio, "prompt": video.prompt, "edits": video.edits}
        jobs.append(Job(**known | made | {"out": os.path.join(folder, f"{video.name}.mp4")}))
    inputs = {os.path.realpath(name) for job in jobs for name in (job.image, job.audio, args.input_json)}
    if spoilt := next((job.out for job in jobs if job.out in inputs), None):
        raise InputError(f"--out: {spoilt!r} is also an input of {ARGUMENT}; choose another folder")
    return tuple(jobs)
