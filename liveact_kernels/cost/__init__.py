"""What a call must cost and what it took: `hw` peak rates, `budget` floors, `outside` work that is no op, `clock`."""
