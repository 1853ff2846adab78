"""Image encoders: `encode(image, latent) -> [clip_tokens, clip_dim]`."""
