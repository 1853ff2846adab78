"""Text encoders: `encode(prompt) -> [L, text_dim]`."""
