"""Training recipe: procedural talking faces, tiny VAE, Neighbor Forcing with memory, few-step distillation."""
