// Fragments of MP4 into a <video>, close to the live edge; all of them are kept for saving.
const KEEP_S = 30;
const FAR_S = 1.2;
const NEAR_S = 0.45;
const AIM_S = 0.2;
const MOST_BYTES = 512 * 2 ** 20;

export class Player {
  constructor(video) {
    this.video = video;
    this.parts = [];
    this.bytes = 0;
    this.waiting = [];
  }

  static supports(mime) {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    return Boolean(Source?.isTypeSupported(mime));
  }

  open(mime) {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    this.source = new Source();
    this.mime = mime;
    this.video.disableRemotePlayback = true;
    this.url = URL.createObjectURL(this.source);
    this.video.src = this.url;
    this.source.addEventListener("sourceopen", () => {
      this.buffer = this.source.addSourceBuffer(mime);
      this.buffer.addEventListener("updateend", () => this.#next());
      this.#next();
    }, { once: true });
  }

  push(fragment) {
    if (this.bytes < MOST_BYTES) {
      this.parts.push(fragment);
      this.bytes += fragment.length;
    }
    this.waiting.push(fragment);
    this.#next();
  }

  // Seconds between what has come and what is shown.
  get delay() {
    const { buffered, currentTime } = this.video;
    return buffered.length ? Math.max(0, buffered.end(buffered.length - 1) - currentTime) : 0;
  }

  close() {
    this.closed = true;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    if (this.url) URL.revokeObjectURL(this.url);
  }

  file() {
    return new Blob(this.parts, { type: "video/mp4" });
  }

  #next() {
    const { buffer, video, waiting } = this;
    if (!buffer || buffer.updating || this.closed || this.source.readyState !== "open") return;
    if (waiting.length) {
      buffer.appendBuffer(waiting.length === 1 ? waiting[0] : joined(waiting));
      this.waiting = [];
      return;
    }
    this.#follow();
    const { buffered, currentTime } = video;
    if (buffered.length && currentTime - buffered.start(0) > 2 * KEEP_S) buffer.remove(0, currentTime - KEEP_S);
  }

  // Stay near the live edge: jump when far from it, run a little faster when not quite near.
  #follow() {
    const { video } = this;
    const { buffered } = video;
    if (!buffered.length) return;
    const last = buffered.length - 1;
    const end = buffered.end(last);
    const delay = end - video.currentTime;
    if (delay > FAR_S || video.currentTime < buffered.start(last)) {
      video.currentTime = Math.max(buffered.start(last), end - AIM_S);
    }
    video.playbackRate = delay > NEAR_S ? 1.05 : 1;
    if (video.paused && delay >= AIM_S / 2) video.play().catch(() => this.onrefused?.());
  }
}

function joined(parts) {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
