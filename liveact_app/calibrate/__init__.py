"""A precision plan from measured errors: `measure` what formats do, `cost` what they save, `search` the plan."""
