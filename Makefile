# Targets for people and for CI; CI runs these same ones. Everything happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRITON := $(VENV)/.triton
CSRC := setup.py CMakeLists.txt $(shell find csrc -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu*')
# with nvcc here, a failed build is an error
export LIVEACT_FORCE_CUDA ?= $(if $(shell command -v nvcc),1,0)

.PHONY: demo test aot gpu verify budget profile campaign compare bench clean

$(STAMP): pyproject.toml constraints.txt $(CSRC)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

$(TRITON): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[triton]"
	touch $(TRITON)

demo: $(STAMP)  ## a talking video from the picture and the recording in examples/
	mkdir -p out
	$(BIN)/liveact generate --image examples/face.png --audio examples/speech.wav \
	  --prompt "a happy person talking" --scale 6 --out out/demo.mp4

test: $(TRITON)  ## lint and the whole CPU test suite; Triton's interpreter has a process of its own
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --junitxml=out/test.xml
	$(BIN)/python -m pytest tests/triton --junitxml=out/triton.xml

aot: $(TRITON)  ## every Triton kernel compiled for an H200 (and three more chips) without one: profiles/resources.json
	$(BIN)/python -m liveact_kernels.aot
	$(BIN)/python -m liveact_kernels.aot_cuda
	$(BIN)/python -m liveact_kernels.compiled.predict

gpu: $(TRITON)  ## on a GPU: every op on every backend against float64 at real size, races, determinism, a session
	mkdir -p out
	$(BIN)/python -m pytest tests/gpu -m gpu --junitxml=out/gpu.xml

verify: $(STAMP)  ## recorded runs of the released model through this installation
	mkdir -p out
	$(BIN)/liveact verify --golden tests/golden --junit out/verify.xml

budget: $(STAMP)  ## what a video frame must cost on an H200
	$(BIN)/liveact budget --model liveact-18b --size 512*512

profile: $(TRITON)  ## on a GPU with nsys: one steady block, every op's time beside its floor; SIZE=416*720
	profiles/nsys.sh $(if $(SIZE),--size "$(SIZE)") --svg out/profile.svg

campaign: $(TRITON)  ## on a GPU: parity, ceilings, ops and whole frames within 8 minutes, into out/campaign
	$(BIN)/python bench/campaign.py --out out/campaign

compare: $(STAMP)  ## a report, op by op: OLD=file.jsonl NEW=file.jsonl
	$(BIN)/python bench/run.py --compare $(OLD) $(NEW)

bench: $(STAMP)  ## every op here, against its peers and its floor; OP=attention,kv_compress picks some
	$(BIN)/python bench/run.py $(if $(OP),--op $(OP))

clean:
	rm -rf $(VENV) out build *.egg-info liveact_kernels/*.so
