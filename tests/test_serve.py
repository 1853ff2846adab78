"""Live sessions over loopback, from the first message to the last video frame, with the small model."""

import asyncio
import gc
import http.client
import io
import json
import os
import threading
import time

import av
import numpy as np
import pytest
from serving import OPEN, PATIENCE_S, ROOT, ConnectionClosed, Talk, form, serving, until

from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.serve.viewers import Broadcast

SPEECH = (ROOT / "examples" / "speech.wav").read_bytes()


@pytest.fixture(scope="module")
def served():
    with serving(sessions=3, viewers=1) as one:
        yield one


@pytest.fixture(scope="module")
def voice():
    chunks = np.concatenate(list(model_audio(AudioReader(str(ROOT / "examples" / "speech.wav")))))
    return (chunks * 32767).astype("<i2")


def free(served):
    until(lambda: not served.hall.live)


def test_a_session_from_end_to_end(served, voice):
    talk = Talk(served, OPEN | {"prompt": "a happy person", "scale": 2, "audio": {"rate": 16_000, "source": "stored"}})
    opened = talk.wait("opened")
    assert opened["size"] == [128, 128] and opened["fps"] == 20 and opened["room_ms"] == 60_000
    assert opened["mime"].startswith('video/mp4; codecs="avc1.')
    talk.ws.send(voice[:16_000].tobytes())
    talk.ws.send(voice[16_000:160_000].tobytes())
    talk.tell(type="prompt", prompt="a sad person", number=5)
    told = talk.wait("prompt")
    assert told["number"] == 5
    block = talk.wait("block")
    assert block["budget_ms"] == 50 and 0 < block["ms_per_video_frame"] and set(block["stages_ms"]) >= {"generate"}
    talk.tell(type="interrupt")
    cut = talk.wait("interrupted")
    assert cut["dropped_ms"] > 0
    while talk.events[-1]["type"] != "block" or talk.events[-1]["block"] < cut["block"] + 1:
        assert talk.next()
    assert talk.events[-1]["queued_ms"] == 0
    assert talk.leave() == (1000, "its client has closed it")
    frames, sound = talk.decoded()
    assert len(frames) == len(talk.parts) - 1 > 60
    assert [round(f.pts * f.time_base * 20) for f in frames] == list(range(len(frames)))
    heard = np.concatenate([f.to_ndarray()[0] for f in sound])
    assert abs(len(heard) / 16_000 - len(frames) / 20) < 3 * 1024 / 16_000
    assert np.abs(heard).max() > 0.1
    free(served)


def test_a_microphone_of_another_rate_is_heard(served):
    talk = Talk(served, OPEN | {"audio": {"rate": 48_000, "coding": "f32le"}})
    talk.wait("opened")
    tone = (0.3 * np.sin(np.arange(4800) * 0.05)).astype("<f4")
    for _ in range(20):
        talk.ws.send(tone.tobytes())
    while (talk.wait("block"), talk.events[-1].get("latency_ms"))[1] is None:
        assert talk.next()
    assert talk.events[-1]["latency_ms"] > 0
    talk.leave()
    free(served)


def test_busy_is_one_sentence_and_passes(served):
    talks = [Talk(served) for _ in range(3)]
    for talk in talks:
        talk.wait("first_frame")
    assert Talk(served).rest() == (4429, "all 3 sessions are taken, try again later")
    assert served.ask("GET", "/ready")[2] == {"status": "ready", "sessions": 3, "free": 0}
    talks.pop().leave()
    until(lambda: len(served.hall.live) == 2)
    again = Talk(served)
    again.wait("first_frame")
    for talk in [*talks, again]:
        talk.leave()
    free(served)


def test_others_may_watch(served):
    owner = Talk(served)
    path = f"/api/live/{owner.wait('opened')['id']}"
    owner.wait("block")
    viewer = Talk(served, {"type": "watch"}, path)
    viewer.wait("block")
    assert Talk(served, {"type": "watch"}, path).rest()[0] == 4429  # one viewer is allowed here
    viewer.ws.send("viewers have nothing to say")
    assert owner.leave()[0] == 1000
    assert viewer.rest() == (1000, "its client has left") or viewer.closed == (1000, "its client has closed it")
    frames, _ = viewer.decoded()
    assert frames and len(frames) == len(viewer.parts) - 1  # from a key frame on
    assert Talk(served, {"type": "watch"}, path).rest() == (4404, "session: expected one that runs, got an id of none")
    free(served)


def test_a_client_that_vanishes_frees_everything(served):
    talk = Talk(served)
    talk.wait("block")
    talk.ws.socket.shutdown(2)
    free(served)
    until(lambda: not served.app.state.live.shows)
    assert not served.hall.ended["idle"]  # at once, not when nobody has come for long


PICTURE = {"base64": "PGh0bWw+PGJvZHk+bm90IGEgcGljdHVyZTwvYm9keT48L2h0bWw+"}  # <html>...
BAD_OPENINGS = [
    ("no json", 4400, "message: expected JSON, got 'no json'"),
    ("[1, 2]", 4400, "message: expected a JSON object"),
    ("[" * 100_000, 4400, "message: expected JSON"),
    (b"\x00\x01", 4400, "expected an opening in JSON, got bytes"),
    ({"type": "hello"}, 4400, "type: input should be 'open', got 'hello'"),
    ({"type": "open"}, 4400, "image: field required"),
    (OPEN | {"fps": -3}, 4400, "fps: input should be greater than or equal to 1, got -3"),
    (OPEN | {"fps": "NaN"}, 4400, "fps: "),
    (OPEN | {"size": [65, 64]}, 4400, "size: expected multiples of 16 and at most 4096 pixels (64x64), got 65x64"),
    (OPEN | {"size": [4096, 4096]}, 4400, "size: expected multiples of 16"),
    (OPEN | {"size": [-64, -64]}, 4400, "size: expected multiples of 16"),
    (OPEN | {"scale": 99}, 4400, "scale: input should be less than or equal to 8"),
    (OPEN | {"seed": -1}, 4400, "seed: "),
    (OPEN | {"prompt": "x" * 1001}, 4400, "prompt: string should have at most 1000 characters"),
    (OPEN | {"prompt": "\ud800"}, 4400, "prompt: "),
    (OPEN | {"audio": {"rate": 384_000}}, 4400, "audio.rate: input should be less than or equal to 96000, got 384000"),
    (OPEN | {"audio": {"coding": "mp3"}}, 4400, "audio.coding: "),
    (OPEN | {"image": {"face": "../../etc/passwd"}}, 4400, "image.face: expected one of first, second, third"),
    (OPEN | {"image": PICTURE}, 4400, "image: expected a readable image, cannot decode the picture"),
    (OPEN | {"image": {"base64": "%%%"}}, 4400, "image.base64: expected base64, got '%%%'"),
    (OPEN | {"image": {"base64": ""}}, 4400, "image: expected a picture, got 0 bytes"),
    (OPEN | {"image": {"base64": "A" * (16 << 20) + "AAAA"}}, 4413, "image: expected at most 12 MiB, got more"),
    (OPEN | {"path": "/etc/passwd"}, 4400, "path: extra inputs are not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("opening", "code", "words"), BAD_OPENINGS, ids=range(len(BAD_OPENINGS)))
def test_a_bad_opening_is_one_sentence(served, opening, code, words):
    talk = Talk(served, opening)
    got, reason = talk.rest()
    told = [e["reason"] for e in talk.events if e["type"] == "closed"]
    assert got == code and words in (told[0] if told else reason), (got, reason, told)
    assert served.ask("GET", "/health")[0] == 200 and not served.hall.live


def test_a_message_beyond_any_bound_is_not_even_read(served):
    ws = served.connect()
    with pytest.raises(ConnectionClosed) as closed:
        ws.send("A" * (17 << 20))
        ws.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert served.ask("GET", "/health")[0] == 200


BAD_LATER = [
    ("{", 4400, "message: expected JSON"),
    (json.dumps({"type": "fly"}), 4400, "fly"),
    (json.dumps({"type": "prompt"}), 4400, "prompt.prompt: field required"),
    (json.dumps({"type": "audio", "rate": 384_000}), 4400, "audio.rate: input should be less than or equal to 96000"),
    (json.dumps({"type": "prompt", "prompt": "x" * 70_000}), 4413, "message: expected at most 65536 characters"),
    (b"\x01\x02\x03", 4400, "audio: expected whole samples of 2 bytes"),
    (bytes((1 << 20) + 2), 4413, "audio: expected at most 1048576 bytes a message"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "code", "words"), BAD_LATER, ids=range(len(BAD_LATER)))
def test_a_bad_message_ends_the_session_with_one_sentence(served, message, code, words):
    talk = Talk(served)
    talk.wait("opened")
    talk.ws.send(message)
    assert talk.rest()[0] == code and words in talk.events[-1]["reason"]
    free(served)
    assert served.ask("GET", "/health")[0] == 200


def test_a_hundred_at_once(served):
    ends = []

    def one():
        talk = Talk(served)
        while talk.next():
            if talk.events and talk.events[-1]["type"] == "first_frame":
                time.sleep(0.5)
                ends.append(talk.leave()[0])
                return
        ends.append(talk.closed[0])

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 100 and set(ends) <= {1000, 4429} and 3 <= ends.count(1000)
    free(served)
    assert served.ask("GET", "/health")[0] == 200


def test_fifty_sessions_leave_nothing():
    def visit(served):
        talk = Talk(served)
        talk.wait("first_frame")
        talk.leave()
        free(served)

    def held():
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd")), _rss()

    with serving(rate=1, sessions=1) as served:
        for _ in range(8):  # pools of threads fill
            visit(served)
        threads, files, memory = held()
        for _ in range(50):
            visit(served)
        threads_now, files_now, memory_now = held()
    assert threads_now <= threads + 1 and files_now <= files + 1
    assert memory_now - memory < 25 << 20  # half a MiB a session would be seen


def _rss():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_video_from_an_upload(served):
    fields = {"face": "second", "prompt": "a sad person", "scale": "2"}
    status, headers, told = served.ask("POST", "/api/videos", *form(fields, {"audio": ("../../x.wav", SPEECH)}))
    assert status == 202 and told["state"] in ("waiting", "making") and told["of"] == 248
    place = headers["location"]
    assert place == f"/api/videos/{told['id']}" and len(told["id"]) >= 20
    assert served.ask("GET", f"{place}/file")[0] in (409, 200)
    done = until(lambda: (t := served.ask("GET", place)[2])["state"] not in ("waiting", "making") and t)
    assert done["state"] == "done" and done["error"] is None and done["video_frames"] == done["of"] == 248
    status, headers, data = served.ask("GET", f"{place}/file")
    assert status == 200 and headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(data)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 248
    assert served.ask("DELETE", place)[0] == 204
    assert served.ask("GET", place)[0] == 404
    assert [p.name for p in served.workdir.path.iterdir()] == ["lock"]


AUDIO = {"audio": ("a.wav", SPEECH)}
BAD_UPLOADS = [
    (b"{}", {"Content-Type": "application/json"}, 415, "content-type: expected multipart/form-data"),
    (b"x", {}, 415, "content-type"),
    (b"x", {"Content-Type": "multipart/form-data"}, 400, ""),
    (*form({"face": "first"}, {}), 422, "audio: expected a recording, got none"),
    (*form({}, AUDIO), 422, "image: expected a picture, or face in its place, got none"),
    (*form({"face": "first", "audio": "text"}, {}), 422, "audio: "),
    (*form({"face": "/etc/passwd"}, AUDIO), 422, "face: expected one of first, second, third"),
    (*form({"face": "first", "fps": "-1"}, AUDIO), 422, "fps: input should be greater than or equal to 1, got '-1'"),
    (*form({"face": "first", "out": "/tmp/x.mp4"}, AUDIO), 422, "out: extra inputs are not permitted"),
    (*form({"face": "first", "width": "64"}, AUDIO), 422, "size: expected width and height together"),
    (*form({"face": "first", "width": "640", "height": "640"}, AUDIO), 422, "size: expected multiples of 16"),
    (*form({}, AUDIO | {"image": ("a.png", b"<html></html>")}), 422, "image: expected a readable image"),
    (*form({"face": "first"}, {"audio": ("a.wav", b"<html></html>")}), 422, "audio: expected an audio file"),
    (*form({"face": "first"}, {"audio": ("a.wav", b"")}), 422, "audio: expected a file, got 0 bytes"),
    (*form({"face": "first", "prompt": "x" * 70_000}, AUDIO), 400, ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "words"), BAD_UPLOADS, ids=range(len(BAD_UPLOADS)))
def test_a_bad_upload_is_one_sentence(served, body, headers, status, words):
    before = sorted(served.workdir.path.iterdir())
    got, _, told = served.ask("POST", "/api/videos", body, headers)
    assert got == status and words in told["error"], told
    assert str(served.workdir.path) not in told["error"] and sorted(served.workdir.path.iterdir()) == before


def test_bodies_are_bounded_before_they_are_read(served):
    most = served.hall.settings.upload_bytes
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, told = served.ask("POST", "/api/videos", b"", headers | {"Content-Length": str(10**12)})
    assert status == 413 and "body: expected at most" in told["error"]
    head, chunk = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n', bytes(8 << 20)
    chunks = iter([head, *[chunk] * (most // len(chunk) + 4)])  # without a length in front
    try:
        status, _, told = served.ask("POST", "/api/videos", chunks, headers)
        assert status == 413 and "body: expected at most" in told["error"]
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has hung up, which is an answer, too
    assert served.ask("GET", "/health", b"x" * 70_000)[0] == 413
    assert served.ask("GET", "/health")[0] == 200


def test_a_long_recording_is_refused_while_it_is_decoded():
    with serving(recording_s=5) as short:
        status, _, told = short.ask("POST", "/api/videos", *form({"face": "first"}, AUDIO))
        assert status == 422 and told["error"] == "audio: expected at most 5 s of audio, the recording has more"


def test_uploads_that_come_at_the_same_time_are_as_few_as_those_that_wait():
    """Their bytes would add up on the disk before the first one is counted."""
    with serving(files=1, upload_within_s=5) as one:
        body, headers = form({"face": "first"}, AUDIO)
        slow = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE_S)
        slow.request("POST", "/api/videos", body[:1000], headers | {"Content-Length": str(len(body))})
        until(lambda: one.files._arriving)
        status, _, told = one.ask("POST", "/api/videos", body, headers)
        assert (status, told["error"]) == (429, "1 videos wait to be made, try again later")
        answer = slow.getresponse()
        assert answer.status == 408 and b"body: expected all of it within 5 s" in answer.read()
        slow.close()
        assert one.ask("POST", "/api/videos", b"no form", headers)[0] in (400, 422)
        assert one.ask("POST", "/api/videos", body, headers)[0] == 202  # each has given its place back


def test_a_finished_video_goes_when_its_time_is_up_whoever_comes_by():
    with serving(keep_s=1) as one:
        place = one.ask("POST", "/api/videos", *form({"face": "first"}, AUDIO))[1]["location"]
        until(lambda: one.ask("GET", place)[0] == 404)
        until(lambda: [p.name for p in one.workdir.path.iterdir()] == ["lock"])


# ---- what machines ask ----------------------------------------------------------------------------------------------


def test_metrics_tell_what_was_made(served):
    talk = Talk(served)
    talk.wait("block")
    text = served.ask("GET", "/metrics")[2].decode()
    talk.leave()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["liveact_sessions"]) == 1 and float(values["liveact_sessions_most"]) == 3
    assert float(values["liveact_video_frames_total"]) >= 21
    assert float(values['liveact_ms_per_video_frame{stage="generate"}']) > 0
    assert float(values["liveact_first_frame_seconds_count"]) >= 1
    assert float(values["liveact_compilations_total"]) == 0
    assert float(values['liveact_files{state="making"}']) == 0
    free(served)
    assert 'liveact_sessions_ended_total{why="closed"}' in served.ask("GET", "/metrics")[2].decode()


def test_the_interface_describes_itself(served):
    told = served.ask("GET", "/openapi.json")[2]
    assert set(told["paths"]) >= {"/health", "/ready", "/metrics", "/api/about", "/api/videos", "/api/videos/{number}"}
    assert "multipart/form-data" in told["paths"]["/api/videos"]["post"]["requestBody"]["content"]
    assert served.ask("GET", "/docs")[0] == 404  # that page would come from another server


def test_idle_and_long_sessions_end():
    with serving(idle_s=3, sessions=1) as one:
        talk = Talk(one)
        assert talk.rest() == (4408, "nothing came for 3 s")
    with serving(longest_s=3, sessions=1) as one:
        talk = Talk(one)
        assert talk.rest() == (4408, "a session lasts 3 s at most")


def test_the_end_is_told_even_where_an_encoder_fails_to_close():
    class Broken:
        def close(self):
            raise RuntimeError("it broke")

    async def end():
        broadcast = Broadcast(Broken(), 20)
        with pytest.raises(RuntimeError):
            broadcast.ended("closed", "enough")
        return await asyncio.wait_for(broadcast.over, PATIENCE_S)

    assert asyncio.run(end()) == ("closed", "enough")


def test_who_says_nothing_is_sent_away():
    with serving(open_within_s=0.2) as one:
        ws = one.connect()
        assert "expected an opening message within 0.2 s" in json.loads(ws.recv(timeout=60))["reason"]
