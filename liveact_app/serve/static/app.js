// The page: what is pressed, and what is shown for it.
import { Budget, Timeline, Wave } from "./gauges.js";
import { Link } from "./link.js";
import { make } from "./make.js";
import { Player } from "./player.js";
import { Voice } from "./voice.js";

const byId = (id) => document.getElementById(id);
const EMOTIONS = ["neutral", "happy", "sad", "angry", "surprised"];
const ACTIONS = ["still", "nodding", "waving", "shaking"];
const WRITTEN_PX = 384; // a small model's video is enlarged to about this

const budget = new Budget(byId);
const timeline = new Timeline(byId("track"), byId("events"));
const wave = new Wave(byId("wave"), byId("frame"));
const voice = new Voice((level) => wave.add(level));
const face = byId("face");

let about;
let link;
let player;
let own; // a picture of the user's
let held; // a recording that was dropped before the face was there: () => to play it
let number = 0; // of the newest prompt
const asked = new Map(); // number -> what to do when it is there

// ---- small things ---------------------------------------------------------------------------------------------------

const token = (() => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
})();
const headers = token ? { Authorization: `Bearer ${token}` } : {};

function say(state, text) {
  byId("state").dataset.state = state;
  byId("state-text").textContent = text;
}

function complain(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { toast.hidden = true; }, 8000);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  budget.draw();
}
theme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
byId("theme").onclick = () => {
  const name = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  localStorage.setItem("theme", name);
  theme(name);
};

const shown = (ms) => (ms == null ? "–" : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
const now = () => face.currentTime || 0;
const scale = () => Math.max(1, Math.min(8, Math.floor(WRITTEN_PX / Math.max(...about.size))));

// ---- faces ----------------------------------------------------------------------------------------------------------

function chosenFace() {
  return document.querySelector('input[name="face"]:checked')?.value;
}

function showStill() {
  const value = chosenFace();
  byId("still").src = value === "own" ? own.url : `faces/${value}.png`;
  byId("face-note").textContent = value === "own" && about.small ?
    "The small model knows only faces of the family above: expect garbage from a photograph." : "";
}

function addFace(value, content, label) {
  const item = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "face", value });
  input.setAttribute("aria-label", label);
  input.onchange = showStill;
  item.append(input, content);
  byId("faces").append(item);
  return input;
}

function drawFaces() {
  about.faces.forEach((name, i) => {
    const image = document.createElement("img");
    Object.assign(image, { src: `faces/${name}.png`, alt: "" });
    addFace(name, image, `The ${name} face`).checked = i === 0;
  });
  const tile = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: "image/*" });
  input.setAttribute("aria-label", "A picture of your own");
  input.onchange = () => input.files[0] && takePicture(input.files[0]);
  const text = document.createElement("span");
  text.className = "own";
  text.textContent = "Your picture";
  tile.append(input, text);
  byId("faces").append(tile);
  showStill();
}

function takePicture(file) {
  if (file.size > about.picture_bytes) return complain(`A picture may have ${about.picture_bytes >> 20} MiB at most.`);
  if (own) URL.revokeObjectURL(own.url);
  own = { file, url: URL.createObjectURL(file) };
  let input = document.querySelector('input[name="face"][value="own"]');
  if (!input) {
    input = addFace("own", Object.assign(document.createElement("img"), { alt: "" }), "Your picture");
    byId("faces").insertBefore(input.parentElement, byId("faces").lastElementChild);
  }
  input.nextElementSibling.src = own.url;
  input.checked = true;
  showStill();
  if (link) complain("The new picture speaks when you go live again.");
}

async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

// ---- direction ------------------------------------------------------------------------------------------------------

function chips(box, words, toggles) {
  words.forEach((word) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: word });
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => {
      const on = button.getAttribute("aria-pressed") === "true";
      box.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", "false"));
      button.setAttribute("aria-pressed", String(!(on && toggles)));
      compose();
    };
    box.append(button);
  });
}

const pressed = (box) => box.querySelector('[aria-pressed="true"]')?.textContent;

function compose() {
  const emotion = pressed(byId("emotions")) ?? "neutral";
  const action = pressed(byId("actions"));
  const article = /^[aeiou]/.test(emotion) ? "an" : "a";
  byId("prompt").value = `${article} ${emotion} person ${action ?? "talking"}`;
  direct();
}

function direct() {
  const prompt = byId("prompt").value;
  if (!link?.open) return;
  number += 1;
  const set = timeline.note(now(), prompt, "with the next block");
  asked.set(number, (event, here) => {
    set(event.at, prompt, here ? "" : "was replaced before its block");
    if (here) timeline.begin(event.at, prompt);
  });
  link.tell({ type: "prompt", prompt, number });
}

// ---- the session ----------------------------------------------------------------------------------------------------

function enable(live) {
  for (const id of ["mic", "sample", "interrupt", "stop"]) byId(id).disabled = !live;
  byId("recording").disabled = !live;
  byId("recording-label").classList.toggle("off", !live);
  byId("cover").hidden = live;
}

async function start() {
  byId("start").disabled = true;
  say("idle", "Connecting");
  const image = chosenFace() === "own" ? { base64: await base64(own.file) } : { face: chosenFace() };
  const prompt = byId("prompt").value;
  voice.watch(face);
  player?.close();
  player = new Player(face);
  player.onrefused = () => complain("The browser wants a click before it plays sound: press Go live again.");
  timeline.clear();
  link = new Link({ type: "open", image, prompt, scale: scale(), ...(token ? { token } : {}) });
  const on = (name, act) => link.addEventListener(name, ({ detail }) => act(detail));
  on("opened", (event) => {
    if (!Player.supports(event.mime)) {
      complain(`This browser cannot play ${event.mime}.`);
      return link.close();
    }
    player.open(event.mime);
    budget.start(event.budget_ms);
    timeline.note(0, prompt);
    timeline.begin(0, prompt);
  });
  on("fragment", (data) => player.push(data));
  on("first_frame", (event) => {
    byId("first").textContent = shown(event.latency_ms);
    face.hidden = false;
    enable(true);
    say("live", "Live");
    byId("save").disabled = false;
    byId("mic").focus();
    held?.();
    held = undefined;
  });
  on("block", block);
  on("prompt", (event) => {
    for (const [older, told] of asked) {
      if (older > event.number) continue;
      told(event, older === event.number);
      asked.delete(older);
    }
  });
  on("interrupted", (event) => timeline.note(event.at, `Interrupted, ${shown(event.dropped_ms)} of speech dropped`));
  on("draining", (event) => complain(event.reason));
  on("error", (event) => complain(event.error));
  on("closed", ended);
}

function block(event) {
  budget.add(event);
  timeline.grow(event.at);
  const delay = 1000 * player.delay;
  byId("voice").textContent = shown(event.latency_ms);
  byId("player").textContent = shown(delay);
  byId("total").textContent = shown(event.latency_ms == null ? null : event.latency_ms + delay);
  byId("late").textContent = event.late_video_frames;
  byId("dropped").textContent = shown(event.dropped_ms);
}

function ended({ code, reason }) {
  mic(false);
  voice.hush();
  link = held = undefined;
  asked.clear();
  const lost = byId("stage").contains(document.activeElement); // on a button that is about to be disabled
  enable(false);
  face.hidden = true;
  player.close();
  byId("start").disabled = false;
  if (lost) byId("start").focus();
  const fine = code === "closed";
  say(fine ? "idle" : "bad", fine ? "Ended" : reason);
  if (!fine) complain(reason[0].toUpperCase() + reason.slice(1) + ".");
}

// ---- speech ---------------------------------------------------------------------------------------------------------

function mic(on) {
  byId("mic").setAttribute("aria-pressed", String(on));
  byId("mic").querySelector("span").textContent = on ? "Listening" : "Speak";
}

byId("mic").onclick = async () => {
  if (voice.listening) {
    voice.hush();
    link?.tell({ type: "end" });
    timeline.note(now(), "Microphone off");
    return mic(false);
  }
  if (!navigator.mediaDevices) return complain("A browser gives a microphone only to localhost and to https pages.");
  try {
    mic(true);
    await voice.listen(link);
    timeline.note(now(), "Microphone on");
  } catch (error) {
    mic(false);
    complain(`No microphone: ${error.message}`);
  }
};

async function play(bytes, name) {
  mic(false);
  try {
    const set = timeline.note(now(), name, "entering");
    await voice.play(link, bytes);
    set(now(), name);
  } catch (error) {
    complain(`${name} cannot be played: ${error.message}`);
  }
}

byId("sample").onclick = async () => play(await (await fetch("speech.wav")).arrayBuffer(), "The sample");
byId("recording").onchange = async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file && link) play(await file.arrayBuffer(), file.name);
};
byId("interrupt").onclick = () => {
  if (!voice.listening) voice.hush();
  link?.tell({ type: "interrupt" });
};
byId("sound").onclick = ({ currentTarget }) => {
  face.muted = !face.muted;
  currentTarget.setAttribute("aria-pressed", String(!face.muted));
};
byId("start").onclick = () => start().catch((error) => {
  byId("start").disabled = false;
  complain(error.message);
});
byId("stop").onclick = () => link?.close();
byId("prompt").oninput = () => { // own words are none of the buttons'
  for (const button of document.querySelectorAll(".chips button")) button.setAttribute("aria-pressed", "false");
};
byId("words").onsubmit = (event) => {
  event.preventDefault();
  direct();
};

// ---- files ----------------------------------------------------------------------------------------------------------

function save(blob, name) {
  const anchor = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60000);
}

byId("save").onclick = () => save(player.file(), "liveact.mp4");

byId("make").onsubmit = async (event) => {
  event.preventDefault();
  const progress = byId("make-progress");
  const said = byId("make-said");
  byId("make-go").disabled = true;
  progress.hidden = false;
  try {
    const file = await make({
      audio: byId("make-audio").files[0], picture: chosenFace() === "own" ? own.file : null, face: chosenFace(),
      prompt: byId("prompt").value, scale: scale(), headers, onprogress: ({ state, video_frames: made, of }) => {
        said.textContent = state === "waiting" ? "Waiting" : `${made} of ${of ?? "…"} video frames`;
        progress.value = of ? made / of : 0;
      },
    });
    said.textContent = "Done; it has been saved.";
    save(file, "liveact.mp4");
  } catch (error) {
    said.textContent = error.message;
  }
  progress.hidden = true;
  byId("make-go").disabled = false;
};

// The whole page takes files: one that misses the frame would make the browser leave for it.
const frame = byId("frame");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    frame.classList.add("over");
  });
}
document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? frame.classList.remove("over"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  frame.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (!file || !about) return;
  if (file.type.startsWith("image/")) return takePicture(file);
  const bytes = await file.arrayBuffer();
  if (!byId("stop").disabled) return play(bytes, file.name);
  held = () => play(bytes, file.name);
  byId("start").click();
});

// ---- begin ----------------------------------------------------------------------------------------------------------

chips(byId("emotions"), EMOTIONS, false);
chips(byId("actions"), ACTIONS, true);
byId("emotions").children[1].setAttribute("aria-pressed", "true");
enable(false);
try {
  const response = await fetch("api/about", { headers });
  about = await response.json();
  if (!response.ok) throw new Error(about.error);
  byId("model").textContent = `${about.model}, ${about.size.join("×")}, ${about.fps} fps`;
  drawFaces();
  byId("start").disabled = false;
  say("idle", "Ready");
} catch (error) {
  say("bad", error.message);
}
