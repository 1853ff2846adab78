"""What a run takes before it is started: bytes by component, milliseconds, and the flags of `generate` that fit."""
