"""Live: a session that is heard and seen while it runs, for browsers and for anything else that has frames to show."""
