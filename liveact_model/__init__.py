"""The thin model layer: denoiser, memory window, sampler, Session, VAE and encoders."""
