"""The settings that a plan tries, from the released numbers' own to the smallest, and which of them fit."""

from __future__ import annotations

import argparse
import functools
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from liveact_app.plan.fit import SWITCHES, Setting, described, lacking, needs_of, of_card
from liveact_app.precision import eight_bit
from liveact_app.say import told
from liveact_model.config import BLOCK_VIDEO_FRAMES
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_model.avatar import Avatar
    from liveact_model.dit import Precision
    from liveact_model.loading import Blueprint
    from liveact_model.needs import Needs

QUICKEST = {"dtype": "fp8", "eight_bit_attention": True}
"""The lowest floors of all (liveact budget)."""
RUNGS: tuple[dict, ...] = (
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "eight_bit_memory": True},
    {"dtype": "bfloat16", "eight_bit_memory": True, "block_offload": True},
    QUICKEST,
    QUICKEST | {"offload_cache": True},
    QUICKEST | {"block_offload": True},
    QUICKEST | {"block_offload": True, "offload_cache": True},
    QUICKEST | {"block_offload": True, "offload_cache": True, "text_on_cpu": True},
    QUICKEST | {"block_offload": True, "offload_cache": True, "text_on_cpu": True, "decode_latent_frames": 1},
)
"""What a GPU may run with: by distance from the released precision, then by the bytes that travel."""
SMALLEST = 128
"""Pixels of a side below which no smaller picture is proposed."""


@dataclass
class Rung:
    """One setting, what it takes, and why it does not fit (None: it does)."""

    setting: Setting
    needs: Needs
    why: str | None


@dataclass
class Plan:
    """Every setting that was tried; `times` are ms per video frame by the flags of a setting.

    `link` is the rate of copies to the device, bytes per second, or 0 on the host.
    """

    model: str
    name: str
    size: tuple[int, int]
    device: str
    left: int | None
    host: int | None
    ranks: int
    rungs: list[Rung]
    link: float = 0.0
    times: dict[str, float] = field(default_factory=dict)
    untimed: str = ""
    smaller: tuple[int, int] | None = None

    @property
    def chosen(self) -> Rung | None:
        """The quickest setting that fits, with as little on the host as fits; None where nothing does."""
        fits = [r for r in self.rungs if r.why is None]
        quick = [r for r in fits if all(getattr(r.setting, k) == v for k, v in QUICKEST.items())]
        return next(iter(quick or fits), None)

    @property
    def nearest(self) -> Rung | None:
        """The setting nearest to the released precision that fits."""
        return next((r for r in self.rungs if r.why is None), None)

    @property
    def least(self) -> Rung:
        """The setting that takes least where the denoiser lives; of equals the last, which has more on the host."""
        return min(reversed(self.rungs), key=lambda r: r.needs.model_bytes)

    @property
    def sentence(self) -> str:
        """Why nothing fits, told of the setting that takes least, and what would."""
        if self.smaller is not None:
            return f"{self.least.why}; --size {self.smaller[0]}*{self.smaller[1]} fits"
        return str(self.least.why)

    def travel_ms(self, rung: Rung) -> float:
        """Milliseconds of copies per video frame: both directions at once, the longer one counts."""
        most = max(rung.needs.moved)
        return 1e3 * most / self.link / BLOCK_VIDEO_FRAMES if most else 0.0

    def command(self, rung: Rung) -> str:
        """The command that runs so."""
        start = f"torchrun --nproc_per_node {self.ranks} -m liveact_app" if self.ranks > 1 else "liveact"
        where = " --device cpu" if self.device == "cpu" else ""
        flags = f"--size {self.size[0]}*{self.size[1]} {rung.setting.flags()}".strip()
        return f"{start} generate --model {self.model}{where} {flags}"


class Models:
    """The models that a plan's arguments allow, on the meta device, one for each precision; and what they need."""

    def __init__(self, args: argparse.Namespace, here: bool):
        self.args, self.here = args, here
        self._made: dict[tuple[str | Precision, bool], tuple[Blueprint, Avatar] | None] = {}
        self._needs: dict[tuple[Setting, tuple[int, int]], Needs] = {}

    def of(self, dtype: str | Precision, block_offload: bool = False) -> tuple[Blueprint, Avatar] | None:
        """The sizes of a precision, and the model; None for a directory that does not hold it."""
        key = (dtype, block_offload and not self.here)
        if key not in self._made:
            blueprint = _blueprint(self.args, dtype)
            self._made[key] = None if blueprint is None else (blueprint, blueprint.avatar(key[1]))
        return self._made[key]

    def needs(self, setting: Setting, size: tuple[int, int]) -> Needs:
        """What a setting takes at a size."""
        import torch

        if (setting, size) not in self._needs:
            found = self.of(setting.dtype, setting.block_offload)
            assert found is not None, "only settings of models that are there are asked for"
            place = torch.device("cpu") if self.here else None
            device = "cpu" if self.here else "gpu"
            self._needs[setting, size] = needs_of(found[0], setting, size, device, self.args.ranks, place, found[1])
        return self._needs[setting, size]


def climb(models: Models, device: str, whole: int | None) -> Plan:
    """Judge every setting that the arguments allow by `whole` bytes of memory of a device (None: as much as it takes).

    Raises InputError for a model or options that nothing has.
    """
    from liveact_kernels.cost.hw import CHIPS, PCIE_4_X16, PINNED
    from liveact_model.config import NAMED

    args = models.args
    left = whole if models.here or whole is None else of_card(whole)
    settings = [s for s in _settings(args, models.here) if models.of(s.dtype)]
    if not settings:
        raise InputError(f"--precision: expected one that {args.model!r} has, got {args.precision}")
    blueprint, _ = models.of(settings[0].dtype) or (None, None)
    assert blueprint is not None, "its settings are there"
    size, rungs = args.size or tuple(blueprint.size), []
    for setting in settings:
        needs, what = models.needs(setting, size), described(blueprint.name, size, setting)
        rungs.append(Rung(setting, needs, lacking(needs, what, device, left, args.host_memory, args.ranks)))
    model = "DIR" if args.model in NAMED else args.model
    link = 0.0 if models.here else CHIPS[args.chip].pinned_link if args.chip else PCIE_4_X16 * PINNED
    plan = Plan(model, blueprint.name, size, device, left, args.host_memory, args.ranks, rungs, link)
    if plan.chosen is None:
        plan.smaller = _smaller(models, plan)
    return plan


def _smaller(models: Models, plan: Plan) -> tuple[int, int] | None:
    """The largest size of about the same shape at which the least setting fits; None where that is below SMALLEST.

    What a run takes grows with the pixels by a rate that is constant on a GPU, found from this size and half of it; the
    answer is then predicted itself.
    """
    (w, h), least, left = plan.size, plan.least, plan.left
    tried = [(round(w * part / 256) * 16, round(h * part / 256) * 16) for part in range(15, 0, -1)]
    tried = [size for size in dict.fromkeys(tried) if min(size) >= SMALLEST and size != plan.size]
    if left is None or not tried:
        return None
    half = tried[len(tried) // 2]
    low, high = models.needs(least.setting, half).model_bytes, least.needs.model_bytes
    rate = (high - low) / (w * h - half[0] * half[1])
    for size in tried:
        if low + rate * (size[0] * size[1] - half[0] * half[1]) > left:
            continue
        needs = models.needs(least.setting, size)
        if lacking(needs, "", plan.device, left, plan.host, plan.ranks) is None:
            return size
    return None


def _settings(args: argparse.Namespace, here: bool) -> list[Setting]:
    """In order: nearest to the released numbers first."""
    fixed = {n: True for n in SWITCHES if getattr(args, n)}
    fixed |= {"dtype": args.precision} if args.precision != "auto" else {}
    if not isinstance(args.precision, str):  # a plan has switches of its own
        fixed = eight_bit(args.precision) | fixed
    fixed |= {"audio_cfg": args.audio_cfg}
    fixed |= {} if args.decode_latent_frames is None else {"decode_latent_frames": args.decode_latent_frames}
    if here:
        return [Setting(**({"dtype": dtype} | fixed)) for dtype in ("auto", "fp8")[: 1 if "dtype" in fixed else 2]]
    made = [Setting(**(rung | fixed)) for rung in RUNGS]
    made = [replace(s, eight_bit_memory=s.eight_bit_memory and not s.eight_bit_attention) for s in made]  # implied
    return list(dict.fromkeys(made))


def _blueprint(args: argparse.Namespace, dtype: str | Precision) -> Blueprint | None:
    """The model in a precision; None for a directory that does not hold it. Raises InputError for no model."""
    from liveact_model.config import NAMED
    from liveact_model.loading import AVATARS, named, open_avatar

    if args.model in NAMED:
        return named(args.model, "bfloat16" if dtype == "auto" else dtype)
    if args.model not in AVATARS and not os.path.isdir(args.model):
        known = ", ".join((*NAMED, *AVATARS))
        raise InputError(f"--model: expected one of {known}, or a checkpoint directory, got {args.model!r:.200}")
    try:
        with told():
            return open_avatar(args.model, dtype, args.wav2vec_dir).blueprint
    except InputError as error:
        if args.precision == "auto" and str(error).startswith("dtype: "):
            return None
        raise


def milliseconds(chip: str, plan: Plan) -> tuple[dict[str, float], str]:
    """(ms per video frame of the settings that fit, by flags; why there is none): from machine code, one GPU.

    What is offloaded travels beside the computing: the longer of the two counts.
    """
    from liveact_app.predict.command import frame_of
    from liveact_kernels.compiled.predict import Unpredictable
    from liveact_model.config import NAMED

    if plan.name not in NAMED or plan.ranks > 1:
        return {}, "the time of a video frame is predicted for liveact-18b on one GPU alone"
    found: dict[str, float] = {}
    once = functools.cache(lambda dtype: frame_of(plan.name, plan.size, dtype, chip).total_ms())
    try:
        for rung in (r for r in plan.rungs if r.why is None):
            s = rung.setting
            on = {"eight_bit_memory": s.eight_bit_memory, "eight_bit_attention": s.eight_bit_attention}
            plain = (s.dtype == "bfloat16" and not s.eight_bit_memory) or s.eight_bit_attention
            told = plain if isinstance(s.dtype, str) else on == eight_bit(s.dtype)
            if told and s.audio_cfg == 1 and not s.eager:
                found[s.flags()] = max(once(s.dtype), plan.travel_ms(rung))
    except (Unpredictable, ModuleNotFoundError) as error:
        return found, f"the time of a video frame cannot be predicted here: {error}"
    return found, ""
