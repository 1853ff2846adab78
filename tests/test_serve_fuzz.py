"""The HTTP interface driven from its own schema: every answer is one that the schema states, and the server goes on."""

import importlib.util
import io

import numpy as np
import pytest
import soundfile

if any(importlib.util.find_spec(name) is None for name in ("schemathesis", "fastapi", "prometheus_client")):
    pytest.skip("pip install liveact[serve,test]: this wants the server and schemathesis", allow_module_level=True)

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from liveact_app.cli import build_parser
from liveact_app.serve.start import opened

HOST = {"Host": "localhost"}
BEYOND = [positive_data_acceptance]  # what a picture is, and which sizes a model makes, is in no schema
EXAMPLES = 25  # of each operation
UPLOAD = "POST /api/videos"
FEW = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, print_blob=False,
               suppress_health_check=list(HealthCheck))  # fmt: skip


@pytest.fixture(scope="module")
def state():
    """The real application on the model that ships."""
    with opened(build_parser().parse_args(["serve", "--device", "cpu"])) as made:
        yield made
        made.state.live.hall.close()
        made.state.live.files.close()


@pytest.fixture(scope="module")
def operations(state):
    """{label: operation}; a client's leaving is not the server's end, so nothing of its life is passed on."""

    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            return await state(scope, receive, send)
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    interface = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)
    return {found.ok().label: found.ok() for found in interface.get_all_operations()}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_one_that_the_schema_states(operations, mode):
    driven = set()
    for label, operation in operations.items():

        @FEW
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case):
            case.call_and_validate(headers=HOST, excluded_checks=BEYOND)

        try:
            answers()
            driven.add(label)
        except Unsatisfiable:  # it takes nothing, or any text: no request of it can be wrong
            assert mode is GenerationMode.NEGATIVE
    assert len(operations) >= 8 and UPLOAD in driven
    assert mode is GenerationMode.NEGATIVE or driven == set(operations)


def test_a_recording_with_any_fields_that_the_schema_allows_becomes_a_video_or_a_sentence(operations, state):
    sound, seen = io.BytesIO(), set()
    soundfile.write(sound, np.zeros(1600, np.float32), 16_000, format="WAV")
    files = state.state.live.files

    @FEW
    @given(case=operations[UPLOAD].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def answers(case):
        case.body = {k: v for k, v in case.body.items() if k != "image"} | {"audio": sound.getvalue(), "face": "first"}
        response = case.call(headers=HOST)
        case.validate_response(response, excluded_checks=[*BEYOND, negative_data_rejection])  # of what was drawn
        seen.add(response.status_code)
        if response.status_code == 202:
            told = response.json()
            assert files.get(told["id"]) is not None and "/" not in told["id"]
            files.remove(files.get(told["id"]))

    answers()
    assert 202 in seen and seen <= {202, 422, 429}
