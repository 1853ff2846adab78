"""How good a video is: measures of our own without any download, and the published ones with the user's weight files."""
