// Hands the microphone's samples to the page, 20 ms or so at a time.
class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(1024);
    this.size = 0;
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    for (const sample of channel) {
      this.held[this.size++] = sample;
      if (this.size === this.held.length) {
        this.port.postMessage(this.held.slice());
        this.size = 0;
      }
    }
    return true;
  }
}
registerProcessor("tap", Tap);
