"""Audio encoders: `stream(fps)` gives one embedding per video frame while the audio arrives."""
