"""`python -m liveact_train STAGE --option value`: the stages that make the tiny checkpoint, in order of use."""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from liveact_model.errors import InputError
from liveact_train.data.clips import DataConfig, build
from liveact_train.data.examples import ExampleConfig, write_examples
from liveact_train.data.folder import FolderConfig, build_folder
from liveact_train.decoder import DecoderConfig, tune_decoder
from liveact_train.distill import DistillConfig, distill
from liveact_train.dit import DiTConfigStage, train_dit
from liveact_train.evaluate import EvaluateConfig, evaluate
from liveact_train.latents import LatentConfig, encode_clips
from liveact_train.plan import PlanConfig, show_plan
from liveact_train.probe import ProbeConfig, train_probe
from liveact_train.publish import PublishConfig, publish
from liveact_train.runs import Diverged
from liveact_train.shards import alone
from liveact_train.ship import ShipConfig, ship
from liveact_train.vae import VaeConfig, train_vae

# One line per stage: the options are the fields of a frozen dataclass, whose docstring and comments are the help text.
STAGES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "data": (DataConfig, build),
    "folder": (FolderConfig, build_folder),
    "vae": (VaeConfig, train_vae),
    "latents": (LatentConfig, encode_clips),
    "dit": (DiTConfigStage, train_dit),
    "distill": (DistillConfig, distill),
    "decoder": (DecoderConfig, tune_decoder),
    "probe": (ProbeConfig, train_probe),
    "ship": (ShipConfig, ship),
    "publish": (PublishConfig, publish),
    "evaluate": (EvaluateConfig, evaluate),
    "examples": (ExampleConfig, write_examples),
    "plan": (PlanConfig, show_plan),
}


def parser() -> argparse.ArgumentParser:
    """One subcommand per stage, one option per field of its config."""
    top = argparse.ArgumentParser(prog="python -m liveact_train", description=__doc__)
    commands = top.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, (config, _) in STAGES.items():
        summary = config.__doc__.strip().splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        notes = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(config), re.MULTILINE))
        for field in dataclasses.fields(config):
            flag, kind = "--" + field.name.replace("_", "-"), type(field.default)
            text = notes.get(field.name, kind.__name__).replace("%", "%%")
            if kind is bool:
                command.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            else:
                command.add_argument(flag, type=kind, default=field.default, help=text)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; returns the exit code: 2 for bad input, 1 for a run that diverged, with one sentence about it."""
    options = vars(parser().parse_args(arguments))
    stage = options.pop("stage")
    config, run = STAGES[stage]
    try:
        if stage != "dit":
            alone(stage)
        run(config(**options))
    except (InputError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
