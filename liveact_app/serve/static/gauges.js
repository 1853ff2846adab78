// What is drawn: the budget with its history, the wave of what is heard, and the timeline.
const MOST = 64;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Budget {
  constructor(byId) {
    this.byId = byId;
    this.history = [];
    this.budget = 50;
  }

  start(budget) {
    this.budget = budget;
    this.history = [];
    this.byId("of").textContent = round(budget);
    this.draw();
  }

  add({ ms_per_video_frame: ms, budget_ms: budget, stages_ms: stages }) {
    this.budget = budget;
    this.history = [...this.history, ms].slice(-MOST);
    const share = ms / budget;
    this.byId("ms").textContent = ms.toFixed(1);
    const meter = this.byId("meter");
    meter.setAttribute("aria-valuenow", Math.round(Math.min(100, 100 * share)));
    meter.setAttribute("aria-valuetext", `${ms.toFixed(1)} of ${round(budget)} milliseconds`);
    meter.classList.toggle("over", share > 1);
    this.byId("fill").style.width = `${Math.min(100, 100 * share)}%`;
    this.byId("stages").replaceChildren(...Object.entries(stages).map(([name, value]) => {
      const item = document.createElement("li");
      item.textContent = `${name} ${value.toFixed(1)} ms`;
      return item;
    }));
    this.draw();
  }

  draw() {
    const canvas = this.byId("history");
    const { width, height } = canvas;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const top = Math.max(this.budget * 1.15, ...this.history);
    const y = (ms) => height - 2 - (height - 6) * (ms / top);
    const step = width / MOST;
    this.history.forEach((ms, i) => {
      pen.fillStyle = css(ms > this.budget ? "--bad" : "--cool");
      pen.beginPath();
      pen.roundRect(i * step + 1, y(ms), step - 3, height - y(ms), 3);
      pen.fill();
    });
    pen.strokeStyle = css("--accent");
    pen.setLineDash([6, 6]);
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(0, y(this.budget));
    pen.lineTo(width, y(this.budget));
    pen.stroke();
    const [last] = this.history.slice(-1);
    const said = last === undefined ? "No block has been made yet" :
      `The last ${this.history.length} blocks took ${round(Math.min(...this.history))} to ` +
      `${round(Math.max(...this.history))} ms per video frame; the dashed line is real time, ${round(this.budget)} ms`;
    canvas.setAttribute("aria-label", said);
  }
}

// Loudness of what the face says, or of the microphone; drawn, and as a glow of the frame.
export class Wave {
  constructor(canvas, frame) {
    this.canvas = canvas;
    this.frame = frame;
    this.levels = new Array(80).fill(0);
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  add(level) {
    this.levels = [...this.levels.slice(1), level];
    this.frame.style.setProperty("--level", this.calm ? 0 : level.toFixed(3));
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = css("--accent");
    const step = width / this.levels.length;
    this.levels.forEach((value, i) => {
      const tall = 3 + value * (height - 4);
      pen.globalAlpha = 0.35 + 0.65 * (i / this.levels.length);
      pen.beginPath();
      pen.roundRect(i * step, (height - tall) / 2, step - 3, tall, 2);
      pen.fill();
    });
  }
}

const TINTS = ["--accent", "--cool", "--good", "--bad", "--soft"];

export class Timeline {
  constructor(track, list) {
    this.track = track;
    this.list = list;
    this.clear();
  }

  clear() {
    this.spans = [];
    this.track.replaceChildren();
    this.list.querySelectorAll("li:not(.empty)").forEach((item) => item.remove());
    this.list.querySelector(".empty").hidden = false;
  }

  // An event in the list, newest first; returns a function that says when and what it has become.
  note(at, text, wait = "") {
    this.list.querySelector(".empty").hidden = true;
    const item = document.createElement("li");
    const time = document.createElement("time");
    const what = document.createElement("span");
    const more = document.createElement("span");
    more.className = "wait";
    const set = (at, text, wait = "") => {
      time.textContent = clock(at);
      what.textContent = text;
      more.textContent = wait && ` ${wait}`;
      what.append(more);
    };
    set(at, text, wait);
    item.append(time, what);
    this.list.prepend(item);
    return set;
  }

  // From second `at` on the face is directed by `text`.
  begin(at, text) {
    const span = document.createElement("span");
    span.textContent = text;
    span.style.setProperty("--tint", `var(${TINTS[this.spans.length % TINTS.length]})`);
    this.spans.push({ at, span });
    this.track.append(span);
    this.grow(at);
  }

  grow(now) {
    this.spans.forEach(({ at, span }, i) => {
      const end = this.spans[i + 1]?.at ?? now;
      span.style.flex = `${Math.max(0.2, end - at)} 1 0`;
    });
  }
}

export function clock(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

function round(ms) {
  return ms >= 10 ? Math.round(ms) : ms.toFixed(1);
}
