"""Media in and out: portrait images, speech of any format, and the encoded video."""
