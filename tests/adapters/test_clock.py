"""The steady clock: follows slewing, doubts jumps, believes what lasts."""

from tests.core.world import HandClock, Noted
from tokenvault_sidecar.adapters.clock import BELIEVED_AFTER, SteadyClock, boot_time


def clocks() -> tuple[SteadyClock, HandClock, HandClock, Noted]:
    wall, steady, noted = HandClock(), HandClock(50.0), Noted()
    return SteadyClock(noted, wall=wall, steady=steady), wall, steady, noted


def test_it_says_what_the_wall_clock_says() -> None:
    clock, wall, steady, _ = clocks()
    for _ in range(10):
        wall.advance(10.1)  # slewed: a hundredth faster
        steady.advance(10.0)
        assert clock() == wall()


def test_a_jump_is_doubted_until_it_has_lasted() -> None:
    for jump in (3600.0, -3600.0):
        clock, wall, steady, noted = clocks()
        before = clock()
        wall.advance(jump)
        assert clock() == before
        wall.advance(BELIEVED_AFTER - 1)
        steady.advance(BELIEVED_AFTER - 1)
        assert clock() == before + BELIEVED_AFTER - 1
        wall.advance(1)
        steady.advance(1)
        assert clock() == wall()
        assert clock() == wall()
        assert [name for name, _ in noted.events] == ["clock_jumped", "clock_followed"]


def test_a_jump_taken_back_never_happened() -> None:
    clock, wall, steady, _ = clocks()
    before = clock()
    wall.advance(3600)
    assert clock() == before
    wall.advance(-3600)
    steady.advance(BELIEVED_AFTER * 2)
    wall.advance(BELIEVED_AFTER * 2)
    assert clock() == wall()


def test_the_real_ones_go_forward() -> None:
    clock = SteadyClock(Noted())
    assert boot_time() <= boot_time()
    assert abs(clock() - clock()) < 60
