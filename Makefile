# Targets for people and for CI; CI runs these same ones. Everything happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint verify budget bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

demo: $(STAMP)  ## a talking video from the picture and the recording in examples/
	mkdir -p out
	$(BIN)/liveact generate --image examples/face.png --audio examples/speech.wav \
	  --prompt "a happy person talking" --scale 6 --out out/demo.mp4

test: $(STAMP)  ## lint and the whole CPU test suite
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

verify: $(STAMP)  ## recorded runs of the released model through this installation
	$(BIN)/liveact verify --golden tests/golden

budget: $(STAMP)  ## what a video frame must cost on an H200
	$(BIN)/liveact budget --model liveact-18b --size 512*512

bench: $(STAMP)  ## speed of the tiny model on this machine
	$(BIN)/python bench/tiny.py

clean:
	rm -rf $(VENV) out build *.egg-info
