"""What a video frame must cost: the real model run once on the meta device, op by op. `command` is light to import."""
