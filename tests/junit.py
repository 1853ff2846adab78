"""What a parity test leaves in a JUnit file, the same on every rung: op, backend, case, output, error, bound, said."""

PROPERTIES = ("op", "backend", "case", "output", "ok", "error", "bound", "said")


def keep(record_property, op, backend, case, results):
    """Record the worst output of a comparison (parity.Result rows), then demand that every one is accepted."""
    worst = max(results, key=lambda r: (not r.ok, r.error / (r.bound or 1)))
    for key, value in {"op": op.name, "backend": backend, "case": case.id, **worst._asdict()}.items():
        record_property(key, value)
    assert all(r.ok for r in results), [f"{r.output}: {r.said}" for r in results if not r.ok]
