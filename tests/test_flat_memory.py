"""Resident memory after 2,000 blocks is that after 20: one hour of video costs what the first minute does."""

import gc

import small

from liveact_model.session import Session


def resident_bytes():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def test_two_thousand_blocks_hold_what_twenty_do():
    config = small.CONFIG.with_(num_layers=1)
    session = Session(small.avatar(config), small.picture(), "happy")
    second = small.speech(1.6)

    def run(blocks):
        for _ in range(blocks):
            while not session.ready():
                session.push_audio(second)
            session.next_block()
        gc.collect()
        return resident_bytes(), session.memory_bytes()

    run(1)
    after_20, memory_20 = run(19)
    after_2000, memory_2000 = run(1980)
    assert session.blocks_made == 2000
    assert memory_2000 == memory_20
    # Kept frames would be 187 MiB and kept audio 98 MiB; a few MiB is the allocator's breathing.
    assert after_2000 - after_20 < 16 * 2**20
