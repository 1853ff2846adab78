"""What people run: command line, media in and out, checks of an installation."""
