"""How the background takes its time."""

import pytest

from tokenvault_sidecar.core.housekeeping import LEISURE, LOOK, leisure


@pytest.mark.parametrize(
    ("late", "pause"),
    [(0.0, LEISURE), (LOOK / 2, LEISURE / 2), (LOOK, 0.0), (1000 * LOOK, 0.0)],
)
def test_the_later_a_renewal_is_the_sooner_the_next_one_starts(late: float, pause: float) -> None:
    assert leisure(late) == pytest.approx(pause)
