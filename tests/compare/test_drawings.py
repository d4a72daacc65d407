"""Pure functions under the drawings of a comparison."""

import numpy as np

from nemo_bielik.compare.drawings import Point, label_places, share_domain
from nemo_bielik.report import svg


def test_labels_lie_on_no_mark_and_on_no_other_label() -> None:
    generator = np.random.default_rng(11)
    across, up = svg.Scale(0, 1, 50, 380), svg.Scale(0, 1, 270, 14)
    for _ in range(20):
        spots = generator.uniform(0, 1, (9, 2))
        points = [Point("contender", "structured", x, y, "") for x, y in spots]
        places = label_places(points, across, up, 466)
        boxes = [(x, y - 10, x + 6.7 * 9, y + 3) for x, y in places]
        assert all(left >= 50 and right <= 466 for left, _, right, _ in boxes)
        hits = sum(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for n, a in enumerate(boxes)
            for b in boxes[:n]
        )
        assert hits == 0


def test_the_domain_of_shares_holds_them_and_the_original() -> None:
    assert share_domain([61.8, 97.5]) == (60, 100)
    assert share_domain([-3.0, 104.0]) == (-10, 110)


def test_a_narrow_logarithmic_scale_has_ticks_all_the_same() -> None:
    """No multiple of a power of ten lies in 3.2–3.9, and only one in 0.9–1.3."""
    for low, high in ((3.2, 3.9), (0.9, 1.3)):
        ticks = svg.Scale(low, high, 0, 100, is_log=True).ticks(5)
        assert len(ticks) > 2
        assert all(low <= tick <= high for tick in ticks)
