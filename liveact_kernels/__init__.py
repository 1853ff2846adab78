"""Ops of a streaming video-diffusion avatar: contracts, references, backends, budget."""
