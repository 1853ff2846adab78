# Targets for people and for CI; CI runs these same ones. Everything happens in .venv.
PYTHON ?= python3
# Which torch: empty takes what the package index serves, "cpu" PyTorch's build without CUDA, anything else is a wheel.
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRITON := $(VENV)/.triton
AGENTS := $(VENV)/.agents
UV := out/uv/bin/uv
PIP := python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CSRC := setup.py CMakeLists.txt $(shell find csrc -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu*')
# BARE=1: gpu and campaign with the machine's own Python, torch and Triton; nothing is installed or downloaded.
BARE ?=
READY := $(if $(BARE),extension,$(TRITON))
RUN := $(if $(BARE),$(PYTHON),$(BIN)/python)
# with nvcc here, a failed build is an error
export LIVEACT_FORCE_CUDA ?= $(if $(shell command -v nvcc),1,0)

.PHONY: extension docs lock lockcheck floors demo serve test chromium fleet fuzz aot gpu verify budget profile campaign compare bench clean

$(STAMP): pyproject.toml constraints.txt $(CSRC)
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python .ci/say_torch.py "$(TORCH)"
ifeq ($(TORCH),cpu)
	$(BIN)/$(PIP) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu -c constraints.txt torch
else
	$(BIN)/$(PIP) $(or $(TORCH),torch)
endif
	$(BIN)/$(PIP) -e ".[test,serve]"
	touch $(STAMP)

$(TRITON): $(STAMP)
	$(BIN)/$(PIP) -e ".[triton]"
	touch $(TRITON)

$(AGENTS): $(TRITON)  # what has no version for this Python is left out, and its tests say so
	$(BIN)/$(PIP) -e ".[pipecat,livekit,webrtc,train]"
	touch $(AGENTS)

demo: $(STAMP)  ## a talking video from the picture and the recording in examples/
	mkdir -p out
	$(BIN)/liveact generate --image examples/face.png --audio examples/speech.wav \
	  --prompt "a happy person talking" --scale 6 --out out/demo.mp4

serve: $(STAMP)  ## the live page on http://127.0.0.1:8000/: speak, and see it speak; PORT=8001
	$(BIN)/liveact serve --port $(or $(PORT),8000)

test: $(AGENTS)  ## lint and the whole CPU test suite in JOBS=2 processes; Triton's interpreter has one of its own
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile --junitxml=out/test.xml
	$(BIN)/python -m pytest tests/triton --junitxml=out/triton.xml

chromium: $(STAMP)  ## the browser of tests/test_serve_browser.py, which `make test` passes over without one; Debian's where apt may install
	@for name in chromium chromium-browser google-chrome; do ! command -v $$name || exit 0; done; \
	if [ "$$(id -u)" = 0 ]; then as=env; else as="sudo -n"; fi; \
	if command -v apt-get && $$as true 2>/dev/null && $$as apt-get update -qq && $$as apt-get install -y -qq chromium; then exit 0; fi; \
	$(BIN)/playwright install --no-shell chromium

fleet: $(STAMP)  ## the server as a fleet on a local Ray, two replicas on the CPU; `make test` passes this over without Ray
	$(BIN)/$(PIP) -e ".[ray]"
	$(BIN)/python -m pytest tests/test_serve_fleet.py

fuzz: $(STAMP)  ## the command under odd and hostile input: N=2000 cases, seeds from FIRST on; a quick part is in `make test`
	$(BIN)/python -m tests.fuzz -n $(or $(N),2000) --first $(or $(FIRST),0) --out bench/results/cpu/fuzz.json

aot: $(TRITON)  ## every Triton kernel compiled for an H200 (and three more chips) without one: profiles/resources.json
	$(BIN)/python -m liveact_kernels.compiled.aot
	$(BIN)/python -m liveact_kernels.compiled.aot_cuda
	$(BIN)/python -m liveact_kernels.compiled.predict

extension:  ## the CUDA kernels built in place, for BARE=1; without nvcc, CMake or pybind11 it says why, and the tests go on without it
	-$(PYTHON) csrc/cmake_build.py

gpu: $(READY)  ## on a GPU: every op on every backend against float64 at real size, races, determinism, a session
	rm -rf out/gpu
	$(RUN) tests/gpu/resume.py --out out/gpu --minutes $(or $(MINUTES),45)

verify: $(STAMP)  ## recorded runs of the released model through this installation
	mkdir -p out
	$(BIN)/liveact verify --golden tests/golden --junit out/verify.xml

docs: $(TRITON)  ## pages of the public API from the docstrings, into out/docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/rooms_svg.py docs/rooms.svg
	$(BIN)/python docs/api.py out/docs

budget: $(STAMP)  ## what a video frame must cost on an H200
	$(BIN)/liveact budget --model liveact-18b --size 512*512

profile: $(TRITON)  ## on a GPU with nsys: one steady block, every op's time beside its floor; SIZE=416*720
	profiles/nsys.sh $(if $(SIZE),--size "$(SIZE)") --svg out/profile.svg

campaign: $(READY)  ## on a GPU: parity, ceilings, ops and whole frames within 8 minutes, into out/campaign
	$(RUN) bench/campaign.py --out out/campaign

compare: $(STAMP)  ## a report, op by op: OLD=file.jsonl NEW=file.jsonl
	$(BIN)/python bench/run.py --compare $(OLD) $(NEW)

bench: $(STAMP)  ## every op here, against its peers and its floor; OP=attention,kv_compress picks some
	$(BIN)/python bench/run.py $(if $(OP),--op $(OP))

lock: $(UV)  ## constraints.txt again, for what pyproject.toml now asks; PACKAGE=name takes its newest version
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --no-config --universal --python-version 3.10 \
	  --all-extras --no-annotate $(if $(PACKAGE),--upgrade-package $(PACKAGE)) pyproject.toml \
	  --output-file constraints.txt

lockcheck: $(UV)  ## constraints.txt against the package index: Python 3.10 to 3.13 on Linux and macOS
	out/uv/bin/python .ci/lock_check.py

$(UV):  # apart from .venv, which needs a lock that can be installed
	$(PYTHON) -m venv out/uv
	out/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

floors: $(UV)  ## the lowest versions that pyproject.toml allows make a video and pass the quick tests; PYTHON=python3.10
	$(PYTHON) -m venv out/floors
	LIVEACT_NO_CUDA=1 $(UV) pip install --quiet --no-config --python out/floors/bin/python \
	  --resolution lowest-direct --only-binary :all: --no-binary liveact \
	  $(if $(filter cpu,$(TORCH)),--torch-backend cpu) ".[triton,test,serve]"
	out/floors/bin/python -m liveact_app generate --image examples/face.png --audio examples/speech.wav \
	  --out out/floors/lowest.mp4
	out/floors/bin/python -m pytest tests/test_ops.py tests/test_media.py tests/test_weights.py tests/test_released.py \
	  tests/test_serve.py

clean:
	rm -rf $(VENV) out build *.egg-info liveact_kernels/*.so
