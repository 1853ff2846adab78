"""How good a video is: our own measures need no download, the published ones the user's weight files."""
