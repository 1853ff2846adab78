// One session's WebSocket: messages as docs/live.md has them.
export class Link extends EventTarget {
  constructor(opening) {
    super();
    const url = new URL("api/live", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.room = 0;
    this.socket.onopen = () => this.tell(opening);
    this.socket.onmessage = ({ data }) => this.#heard(data);
    this.socket.onclose = ({ code, reason }) => {
      const why = this.why ?? { code: "lost", reason: reason || `the connection was lost (${code})` };
      this.#emit("closed", why);
    };
  }

  get open() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  tell(message) {
    if (this.open) this.socket.send(JSON.stringify(message));
  }

  // Float samples in [-1, 1] leave as 16-bit ones.
  speak(samples) {
    if (!this.open) return;
    const out = new Int16Array(samples.length);
    for (let i = 0; i < samples.length; i++) out[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
    this.socket.send(out);
  }

  close() {
    this.tell({ type: "close" });
  }

  #heard(data) {
    if (typeof data !== "string") return this.#emit("fragment", new Uint8Array(data));
    const event = JSON.parse(data);
    if (event.room_ms !== undefined) this.room = event.room_ms / 1000;
    if (event.type === "closed") this.why = event;
    else this.#emit(event.type, event);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
