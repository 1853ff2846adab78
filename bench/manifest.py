"""What a row of results needs so that it can be compared with another: code, machine, driver, clocks, versions."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import subprocess

import root
import torch

SCHEMA = 1
"""Version of the rows; a reader refuses another one."""

PACKAGES = ("triton", "numpy", "flash-attn", "flash-attn-3", "sageattention", "deep-gemm", "nvidia-cudnn-cu13")
SMI = {"driver": "driver_version", "sm_mhz": "clocks.sm", "mem_mhz": "clocks.mem", "max_sm_mhz": "clocks.max.sm",
       "power_limit_w": "power.limit", "celsius": "temperature.gpu"}  # fmt: skip


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def _fixed() -> dict:
    changed = _output("git", "-C", str(root.ROOT), "status", "--porcelain", "--untracked-files=no")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA, "commit": _output("git", "-C", str(root.ROOT), "rev-parse", "HEAD") or "unknown",
        "changed": bool(changed), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": versions.pop("triton", None), "python": platform.python_version(), "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def chip_name(device: torch.device) -> str:
    """The device as its driver, or the CPU as the kernel names it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "CPU")
    except OSError:
        return platform.processor() or "CPU"


def state(device: torch.device) -> dict:
    """Driver, clocks, power limit and heat at this moment; empty on a CPU or without nvidia-smi."""
    if device.type != "cuda":
        return {}
    index = str(torch.cuda.current_device() if device.index is None else device.index)
    query = _output("nvidia-smi", "-i", index, f"--query-gpu={','.join(SMI.values())}", "--format=csv,noheader,nounits")
    found = dict(zip(SMI, (part.strip() for part in query.split(","))))
    return {k: float(v) if k != "driver" and v.replace(".", "", 1).isdigit() else v for k, v in found.items()}


def manifest(device: torch.device | str = "cpu") -> dict:
    """The fields that every row starts with."""
    device = torch.device(device)
    now = state(device)
    return _fixed() | {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "chip": chip_name(device), "device": device.type, "driver": now.pop("driver", None), "clocks": now,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
