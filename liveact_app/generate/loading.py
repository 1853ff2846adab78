"""A job's model on its device: the device tried out, the kernels tested, the weights loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from liveact_app.backend import must_run_on
from liveact_app.generate.job import Job
from liveact_app.launch import place
from liveact_app.say import note, show_loading, told
from liveact_model.checkpoint import footprint
from liveact_model.config import BLOCK_LATENT_FRAMES, DiTConfig
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_model.avatar import Avatar
    from liveact_model.loading import Blueprint

STAYS = {"--offload_cache": "the memory window stays", "--block_offload": "all blocks stay"}
FOUR_BITS = ("nvfp4", "mxfp4")
SMALL_FLOP = 1e8  # a few milliseconds of one core


class Shelf:
    """The model of a run: loaded for its first video, there for the others."""

    def __init__(self) -> None:
        self._model: tuple[Avatar, tuple[int, int]] | None = None
        self.seconds: dict[str, float] = {}
        """What the loading of each component took."""

    def load(self, job: Job, device: str) -> tuple[Avatar, tuple[int, int]]:
        """The avatar and the picture's size (W, H); all jobs of a run agree on both."""
        self._model = self._model or load(job, device, self.seconds)
        return self._model


def load(job: Job, device: str, seconds: dict[str, float] | None = None) -> tuple[Avatar, tuple[int, int]]:
    """The job's avatar on a device whose kernels have been tested, and the picture's size (W, H).

    `seconds` is told what each component took.
    """
    from liveact_model.loading import load_avatar

    _check_offload(job, device)
    must_run_on(device)
    self_test(device, dtypes_of(job) if device == "cpu" else None)
    note(f"loading {job.model!r} on {device}")
    with told(), show_loading() as loading:
        avatar = load_avatar(
            job.model, dtype=job.dtype, wav2vec_dir=job.wav2vec_dir, device=device, mean_memory=job.mean_memory,
            text_on_host=job.text_on_cpu, before=lambda blueprint: possible(blueprint, job, device),
            watch=loading.watch,
        )  # fmt: skip
    if seconds is not None:
        seconds |= loading.seconds
    size = job.size or tuple(avatar.default_size)
    if device == "cpu" and _is_small(avatar.dit.config, size):
        torch.set_num_threads(1)
    return avatar, size


def possible(blueprint: Blueprint, job: Job, device: str) -> None:
    """Raise InputError for a run that this device cannot do: kernels first, then memory."""
    must_multiply(blueprint, device)
    must_fit(blueprint, job, device)


def must_multiply(blueprint: Blueprint, device: str) -> None:
    """Raise InputError for weights of a precision that this device's kernels cannot multiply."""
    from liveact_kernels.contract import REGISTRY, backend_of

    op = REGISTRY["fp4_linear"]
    if blueprint.precision in FOUR_BITS and (why := op.absent(backend_of(op, device))):
        raise InputError(
            f"--dtype: expected 8 bits or more on this GPU, got {blueprint.precision}: {why}; "
            "--backend torch multiplies its values in float32, slowly"
        )


def must_fit(blueprint: Blueprint, job: Job, device: str) -> None:
    """Raise InputError, with the sentence of `liveact plan`, for a run that takes more memory than can be had."""
    from liveact_app.plan.fit import ROUNDING, Setting, described, lacking, needs_of

    size, here, at = job.size or tuple(blueprint.size), device == "cpu", place()
    if here and _is_small(blueprint.dit, size):  # some MiB: less than the prediction itself takes
        return
    setting = Setting(**{name: getattr(job, name) for name in Setting.__dataclass_fields__})
    needs = needs_of(blueprint, setting, size, device, at.size, torch.device(device))
    host = footprint.available_bytes()
    left = host if here else int(torch.cuda.mem_get_info(device)[0] * (1 - ROUNDING))
    ranks = at.size if at.near else 1
    if sentence := lacking(needs, described(blueprint.name, size, setting), device, left, host, ranks):
        raise InputError(sentence)


def _check_offload(job: Job, device: str) -> None:
    """Say what becomes of the flags that ask for memory to be moved off the device, which nothing here does yet."""
    for flag in job.offload:
        if device != "cpu":
            what = f"{STAYS[flag]} on {device} in this version"
            raise InputError(f"{flag}: expected a run without it, since {what}; leave it out")
        note(f"{flag}: the whole model is in host memory here, so there is nothing to move")


def _is_small(config: DiTConfig, size: tuple[int, int]) -> bool:
    """Whether a block's largest product is too small to share: threads would wait longer than they save."""
    rows = BLOCK_LATENT_FRAMES * size[0] * size[1] // 256
    return 2 * rows * config.dim * config.ffn_dim < SMALL_FLOP


def device_of(name: str, number: int | None = None) -> str:
    """The device to load on, tried out: a name torch knows may still not exist on this machine.

    number  of this process on its machine, where several share the work: each takes a GPU of its own
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and number is not None:
        name = f"cuda:{number}"
    if re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        try:
            torch.zeros(1, device=name)
            return name
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(f"--device: {name!r} cannot be used here ({reason})") from error
    raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}")


def dtypes_of(job: Job) -> frozenset[torch.dtype]:
    """Dtypes that the job may compute in, as far as can be told before its model is read."""
    from liveact_model.loading import AVATARS

    small = job.dtype == "float32" or (job.dtype == "auto" and job.model in AVATARS)
    eight_bit = job.dtype in ("fp8", *FOUR_BITS) or job.eight_bit_memory or job.eight_bit_attention
    more = [torch.bfloat16] * (not small) + [torch.int8, torch.float8_e4m3fn] * eight_bit
    more += [torch.uint8] * (job.dtype in FOUR_BITS)
    return frozenset([torch.float32, *more])


def self_test(device: str, dtypes: frozenset[torch.dtype] | None = None) -> None:
    """Refuse to start on what computes the wrong thing here, in any of `dtypes`: a version number proves nothing."""
    from liveact_kernels.contract import REGISTRY
    from liveact_kernels.proof import selftest

    if device != "cpu":  # where it may have to compile them
        note(f"testing every op on {device}")
    wrong = [o for o in selftest.run(device)[0] if o.matters(dtypes)]
    if not wrong:
        return
    first = wrong[0]
    if first.op not in REGISTRY:
        raise InputError(
            f"--device: expected a {device} on which torch {torch.__version__} computes the right thing, but "
            f"{first.op}, {first.why}, is wrong ({first.said}); another --dtype or another torch may do"
        )
    instead = "torch" if first.backend != "torch" else f"{first.op}=reference"
    raise InputError(
        f"--backend: expected kernels that match their reference on {device}, but {len(wrong)} ops do not, first "
        f"{first.op} on {first.backend} ({first.said}); --backend {instead} runs without them"
    )
