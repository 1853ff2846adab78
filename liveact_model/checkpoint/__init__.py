"""Files of a checkpoint, read and checked before anything is built: JSON, safetensors, pickles without code."""
