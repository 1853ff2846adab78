"""Synthetic speech from the espeak-ng program: random words, voices, speeds and pauses, at 16 kHz."""

import random
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr

from liveact_model.errors import InputError

SAMPLE_RATE = 16000
VOICES = ("en", "en-us", "en+f3", "en+m3", "en-us+f2", "en-us+m7", "en+f5", "en+m5", "de", "fr", "es", "it")
WORD_FILES = ("/usr/share/dict/words",)
FALLBACK_WORDS = (
    "about after again animal answer apple autumn baby balloon because before better bicycle bottle bread bridge "
    "butter camera candle castle chair children city cloud coffee colour cousin dance desk dinner doctor dream earth "
    "engine evening family father finger flower forest friend garden glass hammer happy harbour hello history honey "
    "house island jacket journey kitchen ladder language letter light lion listen little machine market memory mirror "
    "money moon morning mother mountain music never night number ocean office orange paper people picture planet "
    "pocket question quiet rain river school season shadow silver simple sister smile station story street summer "
    "table teacher thunder today together tomorrow travel umbrella valley village voice water weather window winter "
    "wonder yellow yesterday zebra"
)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Words to speak: the system's word list where there is one, else a short list kept here."""
    for name in WORD_FILES:
        if Path(name).is_file():
            text = Path(name).read_text(errors="ignore")
            return tuple(sorted(set(re.findall(r"^[a-z]{2,10}$", text, re.MULTILINE))))
    return tuple(FALLBACK_WORDS.split())


def speak(text: str, voice: str = "en", words_per_minute: int = 160, pitch: int = 50) -> tuple[np.ndarray, int]:
    """Speak `text`: mono float32 samples in [-1, 1] and their rate in Hz. Raises InputError without espeak-ng."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError("the program espeak-ng was expected on PATH to synthesise training speech, and is missing")
    command = [program, "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    rate = int.from_bytes(wav[24:28], "little")
    body = wav[44 : len(wav) - (len(wav) - 44) % 2]  # the size fields of a piped WAV are not filled in
    return np.frombuffer(body, dtype="<i2").astype(np.float32) / 32768.0, rate


def random_speech(seconds: float, rng: random.Random) -> np.ndarray:
    """Random words by one random voice with pauses and a little noise: float32 [seconds * 16000]."""
    length = int(seconds * SAMPLE_RATE)
    voice, speed, pitch = rng.choice(VOICES), rng.randint(120, 210), rng.randint(20, 80)
    gain = rng.uniform(0.5, 1.2)
    parts = [np.zeros(int(SAMPLE_RATE * rng.uniform(0.0, 0.5)), np.float32)]
    while sum(map(len, parts)) < length:
        text = " ".join(rng.choice(vocabulary()) for _ in range(rng.randint(4, 10)))
        samples, rate = speak(text, voice, speed, pitch)
        parts.append(soxr.resample(samples, rate, SAMPLE_RATE) * np.float32(gain * rng.uniform(0.8, 1.2)))
        parts.append(np.zeros(int(SAMPLE_RATE * rng.choice([0.05, 0.2, 0.4, 0.9])), np.float32))
    noise = np.random.RandomState(rng.getrandbits(31)).standard_normal(length).astype(np.float32)
    return np.concatenate(parts)[:length] + noise * np.float32(10 ** rng.uniform(-4.5, -3.0))
