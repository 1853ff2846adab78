"""A job's model on its device: the device tried out, the kernels tested, the weights loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    from liveact_model.dit import Precision
    from liveact_model.loading import Blueprint

MOST_PROMPTS = 128  # of 8 MiB at the most; with more, the text encoder stays
SMALL_FLOP = 1e8  # a few milliseconds of one core


class Shelf:
    """The model of a run: loaded for its first video, there for the others.

    jobs  all videos of the run: their prompts are encoded first, and the text encoder is freed before anything else
          is loaded, which saves its memory and the wait for it at every change of prompt
    """

    def __init__(self, jobs: Sequence[Job] = ()) -> None:
        texts = tuple(dict.fromkeys(text for job in jobs for text in job.prompts))
        self.prompts = texts if 0 < len(texts) <= MOST_PROMPTS else None
        self._model: tuple[Avatar, tuple[int, int]] | None = None
        self.seconds: dict[str, float] = {}
        """What the loading of each component took."""

    def load(self, job: Job, device: str, leads: bool = True) -> tuple[Avatar, tuple[int, int]]:
        """The avatar and the picture's size (W, H); all jobs of a run agree on both. Who leads encodes prompts."""
        prompts = self.prompts if leads else ()
        self._model = self._model or load(job, device, self.seconds, prompts)
        return self._model


def load(
    job: Job, device: str, seconds: dict[str, float] | None = None, prompts: Sequence[str] | None = None
) -> tuple[Avatar, tuple[int, int]]:
    """The job's avatar on a device whose kernels have been tested, and the picture's size (W, H).

    `seconds` is told what each component took; `prompts` as in `load_avatar`.
    """
    from liveact_model.loading import load_avatar

    must_run_on(device)
    self_test(device, dtypes_of(job) if device == "cpu" else None)
    note(f"loading {job.model!r} on {device}")
    _note_offload(job, device)
    with told(), show_loading() as loading:
        avatar = load_avatar(
            job.model, dtype=job.dtype, wav2vec_dir=job.wav2vec_dir, device=device, mean_memory=job.mean_memory,
            text_on_host=job.text_on_cpu, block_offload=job.block_offload and device != "cpu", prompts=prompts,
            before=lambda blueprint: possible(blueprint, job, device, prompts is not None), watch=loading.watch,
        )  # fmt: skip
    if seconds is not None:
        seconds |= loading.seconds
    size = job.size or tuple(avatar.default_size)
    if device == "cpu" and is_small(avatar.dit.config, size):
        torch.set_num_threads(1)
    return avatar, size


def possible(blueprint: Blueprint, job: Job, device: str, text_freed: bool) -> None:
    """Raise InputError for a run that this device cannot do: kernels first, then memory."""
    must_multiply(blueprint.precision, device)
    must_fit(blueprint, job, device, text_freed)


def must_multiply(precision: str | Precision, device: str, flag: str = "--dtype") -> None:
    """Raise InputError for weights of a precision, which `flag` has asked for, that this device cannot multiply."""
    from liveact_kernels.contract import REGISTRY, backend_of
    from liveact_model.dit import Precision

    op, plan = REGISTRY["fp4_linear"], Precision.made(precision)
    if plan.four_bits and (why := op.absent(backend_of(op, device))):
        raise InputError(
            f"{flag}: expected 8 bits or more on this GPU, got {plan}: {why}; "
            "--backend torch multiplies its values in float32, slowly"
        )


def must_fit(blueprint: Blueprint, job: Job, device: str, text_freed: bool = True) -> None:
    """Raise InputError, with the sentence of `liveact plan`, for a run that takes more memory than can be had."""
    from liveact_app.plan.fit import ROUNDING, Setting, described, lacking, needs_of

    size, here, at = job.size or tuple(blueprint.size), device == "cpu", place()
    if here and is_small(blueprint.dit, size):  # some MiB: less than the prediction itself takes
        return
    setting = Setting(**{name: getattr(job, name) for name in Setting.__dataclass_fields__})
    needs = needs_of(blueprint, setting, size, device, at.size, torch.device(device), text_freed=text_freed)
    host = footprint.available_bytes()
    left = host if here else int(torch.cuda.mem_get_info(device)[0] * (1 - ROUNDING))
    ranks = at.size if at.near else 1
    if sentence := lacking(needs, described(blueprint.name, size, setting), device, left, host, ranks):
        raise InputError(sentence)


def _note_offload(job: Job, device: str) -> None:
    """Say what becomes of the flags that ask for memory to be moved off the device."""
    flags = [flag for flag in ("--block-offload", "--offload-cache") if getattr(job, flag[2:].replace("-", "_"))]
    if flags and device == "cpu":
        note(f"{' and '.join(flags)}: the whole model is in host memory here, so there is nothing to move")
    elif flags and not job.eager:
        note(f"{' and '.join(flags)}: kernels are launched one by one, no CUDA graph has copies beside it")


def is_small(config: DiTConfig, size: tuple[int, int]) -> bool:
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
    from liveact_model.dit import Precision
    from liveact_model.loading import AVATARS

    auto = "float32" if job.model in AVATARS else "bfloat16"
    plan = Precision.made(auto if job.dtype == "auto" else job.dtype)
    small, eight_bit = plan.dtype == torch.float32, plan.codes or job.eight_bit_memory or job.eight_bit_attention
    more = [torch.bfloat16] * (not small) + [torch.int8, torch.float8_e4m3fn] * eight_bit
    more += [torch.uint8] * plan.four_bits
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
