"""The live page in Chromium, against `liveact serve` with the small model: what one sees, hears, presses and drops.

`make chromium` installs the browser; without it, or without Playwright, these tests are skipped. The browser can reach
this machine alone, obeys the page's Content-Security-Policy, and its microphone is Chromium's fake one, which beeps.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import soundfile
from serving import ROOT, until

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install liveact[test]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there: pip install liveact[test]")

PATIENCE_MS = 120_000
api.expect.set_options(timeout=PATIENCE_MS)
BLOCK_S = 32 / 20
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # fmt: skip
# What is heard is measured where it leaves for the loudspeakers, whatever the page does before.
LISTEN = """
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (to, ...more) {
    if (to instanceof AudioDestinationNode) {
      window.heard = new AnalyserNode(this.context, { fftSize: 2048 });
      connect.call(this, window.heard);
    }
    return connect.call(this, to, ...more);
  };
"""
# Every video frame that is presented: its time, its pixels (48x48, green), and how loud it is in that moment.
LOOK = """() => {
  const video = document.getElementById("face");
  const canvas = Object.assign(document.createElement("canvas"), { width: 48, height: 48 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const samples = new Float32Array(2048);
  window.seen = [];
  const look = (_, { mediaTime }) => {
    pen.drawImage(video, 0, 0, 48, 48);
    heard.getFloatTimeDomainData(samples);
    const loud = Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
    seen.push([mediaTime, loud, Array.from(pen.getImageData(0, 0, 48, 48).data.filter((_, i) => i % 4 === 1))]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of `liveact serve` on a free port, a process of its own."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "liveact_app", "serve", "--port", "0"]
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        found = until(lambda: re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()) or server.poll() is not None)
        assert found is not True, log.read_text()
        yield found[0]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip(f"no Chromium here, neither as {', '.join(NAMES)} nor Playwright's: make chromium")
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + root)
        page = browser.new_page()
        if not page.evaluate("""() => MediaSource.isTypeSupported('video/mp4; codecs="avc1.64000a, mp4a.40.2"')"""):
            pytest.skip(f"{path} was built without H.264 and AAC: install Debian's, or Chrome")
        page.close()
        yield browser
        browser.close()


class Visit:
    """A page, and what it sent, got and complained of."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.add_init_script(LISTEN)
        self.page, self.errors, self.requests, self.events = self.context.new_page(), [], [], []
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", self._listen)
        self.page.goto(address)
        self.expect("#state-text").to_have_text("Ready")

    def _listen(self, socket):
        self.requests.append(socket.url)
        socket.on("framereceived", lambda data: self.events.append(json.loads(data)) if isinstance(data, str) else None)

    def expect(self, selector):
        return api.expect(self.page.locator(selector))

    def until(self, what):
        """Wait, while the page goes on."""
        for _ in range(PATIENCE_MS // 50):
            if found := what():
                return found
            self.page.wait_for_timeout(50)
        raise AssertionError(f"it never happened; the page says: {self.page.inner_text('main')}, {self.errors}")

    def of(self, kind, count=1):
        """Wait for the count-th event of a kind from now on."""
        seen = len(self.events)
        return self.until(lambda: [e for e in self.events[seen:] if e["type"] == kind][count - 1 :])[0]

    def live(self):
        self.page.click("#start")
        self.expect("#state-text").to_have_text("Live")
        return self

    def look(self):
        self.page.evaluate(LOOK)

    def seen(self):
        """(times [n], loudness [n], pixels [n, 48, 48]) of the video frames since `look`."""
        at, loud, pixels = zip(*json.loads(self.page.evaluate("JSON.stringify(seen)")))
        return np.array(at), np.array(loud), np.array(pixels, np.float64).reshape(-1, 48, 48)

    def until_seen(self, at):
        """Wait until the face has been shown up to second `at`."""
        self.until(lambda: self.page.evaluate("seen.length && seen[seen.length - 1][0]") >= at)

    def drop(self, path, kind):
        self.page.evaluate(
            """([data, name, type]) => {
              const files = new DataTransfer();
              files.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
              for (const name of ["dragenter", "dragover", "drop"]) document.getElementById("wave").dispatchEvent(
                new DragEvent(name, { dataTransfer: files, bubbles: true, cancelable: true }));
            }""",
            [base64.b64encode(path.read_bytes()).decode(), path.name, kind],
        )

    def judge(self):
        """What axe finds serious or worse."""
        found = axe.Axe().run(self.page).response["violations"]
        return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]

    def width(self):
        return self.page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture
def visit(browser, address):
    """Makes visits; afterwards nobody may have complained, or asked another host for anything."""
    made = []

    def make(**options):
        made.append(Visit(browser, address, **options))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
        assert one.errors == []
        hosts = {urlsplit(url).netloc for url in one.requests if not url.startswith(("blob:", "data:"))}
        assert hosts == {urlsplit(address).netloc}


def decoded(path):
    """Video frames, and sound [n], of a file."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        return frames, np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def test_the_face_speaks_the_sample_and_is_saved(visit, tmp_path):
    one = visit().live()
    one.look()
    one.page.click("#sample")
    heard = one.until(lambda: [e for e in one.events if e["type"] == "block" and e["latency_ms"] is not None])[0]
    one.until_seen(heard["at"] + 3 * BLOCK_S)
    at, loud, pixels = one.seen()
    assert one.page.evaluate("document.getElementById('face').currentTime") > at[0] + 3 * BLOCK_S
    assert (np.diff(at) > 0).all()
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) > len(pixels) / 2
    lag, alike = offset(at, loud, mouth(pixels))
    assert abs(lag) < BLOCK_S / 4 and alike > 0.4, (lag, alike)
    one.expect("#first").to_have_text(re.compile(r"^[\d.]+ m?s$"))
    one.expect("#total").to_have_text(re.compile(r"^[\d.]+ m?s$"))
    one.expect("#history").to_have_attribute("aria-label", re.compile(r"^The last \d+ blocks took"))
    assert float(one.page.inner_text("#ms")) > 0
    with one.page.expect_download() as download:
        one.page.click("#save")
    download.value.save_as(tmp_path / "talk.mp4")
    frames, sound = decoded(tmp_path / "talk.mp4")
    assert len(frames) / 20 >= at[-1] and frames[0].width == 384
    assert abs(len(sound) / 16_000 - len(frames) / 20) < 0.2 and np.abs(sound).max() > 0.1


def mouth(pixels):
    """How far a mouth is open: the variety of pixels where it is [n]."""
    return pixels[:, 28:40, 14:34].std((1, 2))


def offset(at, loud, open_by):
    """(seconds by which the sound is ahead of the picture, their correlation there), within three seconds."""
    grid = np.arange(at[0], at[-1], 1 / 20)
    loud, open_by = np.interp(grid, at, loud), np.interp(grid, at, open_by)
    alike = {}
    for k in range(-60, 61):
        a, b = (open_by[k:], loud[: len(loud) - k]) if k >= 0 else (open_by[:k], loud[-k:])
        if a.std() and b.std():
            alike[k / 20] = np.corrcoef(a, b)[0, 1]
    assert alike, "nothing was heard, or nothing moved"
    return max(alike.items(), key=lambda item: item[1])


def test_a_prompt_arrives_in_the_picture(visit):
    one = visit().live()
    one.look()
    one.of("block", 2)
    one.page.get_by_role("button", name="angry").click()
    told = one.of("prompt")
    one.until_seen(told["at"] + 2 * BLOCK_S)
    at, _, pixels = one.seen()
    assert at[0] < told["at"] - BLOCK_S
    before, last, _, after = (
        pixels[(at >= told["at"] + k * BLOCK_S) & (at < told["at"] + (k + 1) * BLOCK_S)].mean(0) for k in range(-2, 2)
    )
    assert np.abs(after - last).mean() > 2.5 * np.abs(last - before).mean()  # without a change it is 1.6
    one.page.fill("#prompt", "a sad person nodding")
    assert one.page.locator(".chips [aria-pressed=true]").count() == 0
    one.page.click("#say")
    assert one.of("prompt")["number"] == 2
    one.expect("#events li:first-child").to_have_text(re.compile(r"^0:\d\da sad person nodding$"))
    one.expect("#track span").to_have_count(3)


def test_the_microphone_is_heard_and_what_waits_can_be_interrupted(visit):
    one = visit(permissions=["microphone"]).live()
    one.look()
    one.page.click("#mic")
    one.expect("#mic").to_have_attribute("aria-pressed", "true")
    one.until(lambda: one.page.evaluate("Math.max(0, ...seen.map((row) => row[1]))") > 0.02)  # a beep comes back
    one.expect("#voice").to_have_text(re.compile(r"^[\d.]+ m?s$"))
    one.page.click("#mic")
    one.expect("#mic").to_have_text("Speak")
    one.page.click("#sample")
    one.until(lambda: [e for e in one.events if e["type"] == "block" and e["queued_ms"] > 5000])
    one.page.click("#interrupt")
    cut = one.of("interrupted")
    assert cut["dropped_ms"] > 1000
    one.expect("#events li:first-child").to_contain_text("Interrupted, ")
    one.look()
    one.until_seen(cut["at"] + BLOCK_S)
    at, loud, _ = one.seen()
    assert one.events[-1]["queued_ms"] == 0 and loud[at > cut["at"] + BLOCK_S / 2].max() < 1e-3


def test_a_picture_and_a_recording_are_dropped_and_a_file_is_made(visit, tmp_path):
    short = tmp_path / "short.wav"
    sound, rate = soundfile.read(ROOT / "examples" / "speech.wav")
    soundfile.write(short, sound[: 2 * rate], rate)
    one = visit()
    one.drop(ROOT / "examples" / "face.png", "image/png")
    one.expect("[name=face][value=own]").to_be_checked()
    one.drop(short, "audio/wav")  # goes live by itself
    one.expect("#state-text").to_have_text("Live")
    one.until(lambda: [e for e in one.events if e["type"] == "block" and e["latency_ms"] is not None])
    one.expect("#events").to_contain_text("short.wav")
    one.page.click("#stop")
    one.expect("#state-text").to_have_text("Ended")
    one.page.click("#maker summary")
    one.page.set_input_files("#make-audio", short)
    with one.page.expect_download() as download:
        one.page.click("#make-go")
    download.value.save_as(tmp_path / "made.mp4")
    frames, heard = decoded(tmp_path / "made.mp4")
    assert len(frames) >= 39 and np.abs(heard).max() > 0.1


def test_a_keyboard_is_enough(visit):
    one = visit()

    def to(selector):
        for _ in range(40):
            one.page.keyboard.press("Tab")
            if one.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab never comes to {selector}")

    to("#start")
    one.page.keyboard.press("Enter")
    one.expect("#state-text").to_have_text("Live")
    one.expect("#mic").to_be_focused()
    to("#emotions button:nth-child(3)")
    one.page.keyboard.press("Space")
    assert one.of("prompt")["number"] == 1
    one.page.locator("#stage").focus()  # where "Skip to the stage" leads
    to("#stop")
    one.page.keyboard.press("Enter")
    one.expect("#state-text").to_have_text("Ended")
    one.expect("#start").to_be_focused()
    to("[name=face]")
    one.page.keyboard.press("ArrowRight")
    one.expect("[name=face][value=second]").to_be_checked()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_everybody_can_read_it_on_a_phone_too(visit, scheme):
    one = visit(color_scheme=scheme, reduced_motion="reduce")
    ground = one.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
    assert one.judge() == []
    one.live()
    for name in ("sad", "nodding", "angry", "waving", "happy", "still", "neutral", "shaking"):
        one.page.get_by_role("button", name=name).click()
    one.of("block")
    for width in (1280, 390):
        one.page.set_viewport_size({"width": width, "height": 844})
        one.page.click("#maker summary")
        assert one.width() <= width and one.judge() == []
    one.page.click("#theme")
    assert one.page.evaluate("document.documentElement.dataset.theme") != scheme
    assert one.judge() == []
