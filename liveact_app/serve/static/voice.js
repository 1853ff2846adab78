// Where speech comes from: the microphone as it is spoken, or a recording as fast as the server has room.
const PIECE_S = 0.25;
const HIGHEST_RATE = 96000;
const LEVEL_EVERY_MS = 50;

export class Voice {
  constructor(onlevel) {
    this.turn = 0;
    this.heard = 0; // loudness of the microphone
    setInterval(() => onlevel(Math.max(this.heard, this.#shown())), LEVEL_EVERY_MS);
  }

  // Loudness of what a <video> says; it is still heard.
  watch(video) {
    const context = this.#context();
    context.resume();
    if (this.meter) return;
    this.meter = new AnalyserNode(context, { fftSize: 1024 });
    context.createMediaElementSource(video).connect(this.meter).connect(context.destination);
  }

  #shown() {
    if (!this.meter) return 0;
    this.samples ??= new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(this.samples);
    return loudness(this.samples);
  }

  #context() {
    this.context ??= new AudioContext();
    if (this.context.sampleRate > HIGHEST_RATE) this.context = new AudioContext({ sampleRate: 48000 });
    return this.context;
  }

  async listen(link) {
    const context = this.#context();
    const turn = ++this.turn;
    await context.resume();
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
    });
    await (this.ready ??= context.audioWorklet.addModule("worklet.js"));
    if (turn !== this.turn) return stream.getTracks().forEach((track) => track.stop());
    link.tell({ type: "audio", rate: context.sampleRate, coding: "s16le", source: "live" });
    this.stream = stream;
    this.input = context.createMediaStreamSource(stream);
    this.tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    this.tap.port.onmessage = ({ data }) => {
      link.speak(data);
      this.heard = loudness(data);
    };
    this.input.connect(this.tap);
  }

  // Plays a file's bytes; resolves when the last of it has been sent, or something else took its place.
  async play(link, bytes) {
    this.hush();
    const context = this.#context();
    const turn = ++this.turn;
    const sound = await context.decodeAudioData(bytes);
    const mono = mixed(sound);
    const rate = sound.sampleRate;
    link.tell({ type: "audio", rate, coding: "s16le", source: "stored" });
    const piece = Math.round(PIECE_S * rate);
    for (let at = 0; at < mono.length && link.open && turn === this.turn;) {
      if (link.room < 2 * PIECE_S) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        continue;
      }
      const part = mono.subarray(at, at + piece);
      link.speak(part);
      link.room -= part.length / rate;
      at += piece;
    }
    if (turn === this.turn) link.tell({ type: "end" });
    return sound.duration;
  }

  // No more of what is being said.
  hush() {
    this.turn++;
    this.input?.disconnect();
    this.tap?.port.close();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.input = this.tap = this.stream = undefined;
    this.heard = 0;
  }

  get listening() {
    return Boolean(this.stream);
  }
}

function mixed(sound) {
  if (sound.numberOfChannels === 1) return sound.getChannelData(0);
  const out = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) {
    const channel = sound.getChannelData(c);
    for (let i = 0; i < out.length; i++) out[i] += channel[i] / sound.numberOfChannels;
  }
  return out;
}

function loudness(samples) {
  let sum = 0;
  for (const x of samples) sum += x * x;
  return Math.min(1, 4 * Math.sqrt(sum / samples.length));
}
