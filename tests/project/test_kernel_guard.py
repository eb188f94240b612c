"""The time of a kernel, on a clock that is set by hand: plans, pieces, the end, and what a rehearsal
measures."""

from __future__ import annotations

import numpy as np
import pytest

from src.kernel.pace import NOISE, PIECES, growth, measure
from src.kernel.time_guard import PLANS, SAFE, Guard, InferencePlan, Load, OutOfTime

FIVE = [Load(0, fold, 0, 1, 4) for fold in range(5)]  # one member of five folds, four views, one device


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def guard_of(
    seconds: float, loads=FIVE, reading: float = 0.0, look: float = 0.005, images: int = 100
) -> Guard:
    """One that saw some images: so long to read each, and so long for each look at it."""
    guard = Guard(seconds, loads, Clock())
    guard.saw(images, images * reading)
    for load in loads:
        guard.looked(load.member, load.fold, images, images * look * load.networks * load.views)
    return guard


# --- the plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "plan"), [(8000, PLANS[0]), (30_000, PLANS[1]), (50_000, PLANS[2]), (10**6, PLANS[-1])]
)
def test_views_go_first_and_then_folds_so_that_every_image_is_seen(left, plan):
    guard = guard_of(1000)
    assert guard.next(left) == plan
    looks = {PLANS[0]: 20, PLANS[1]: 5, PLANS[2]: 3, PLANS[3]: 2, PLANS[4]: 1}
    for other in PLANS:
        assert guard.cost(other) == pytest.approx(0.005 * looks[other])
    if plan != PLANS[-1]:
        assert left * 0.005 * looks[plan] <= 1000 * SAFE
        assert all(left * 0.005 * looks[other] > 1000 * SAFE for other in PLANS[: PLANS.index(plan)])


def test_what_was_left_out_does_not_come_back():
    guard = guard_of(1000)
    guard.next(30_000)
    for fold in range(5):
        guard.looked(0, fold, 10**6, 0.01)
    assert guard.next(10) == PLANS[1]


def test_a_plan_saves_no_reading_of_images():
    """Where reading alone takes the time, leaving out folds gains nothing that the guard would promise."""
    guard = guard_of(1000, reading=0.1, look=0.001)
    assert guard.cost(PLANS[0]) == pytest.approx(0.1 + 20 * 0.001)
    assert guard.cost(PLANS[-1]) == pytest.approx(0.1 + 0.001)


def test_every_member_keeps_a_fold_and_the_busiest_device_counts():
    """Two members on two devices: three folds of a slow one, a fold of a fast one with two networks."""
    loads = [Load(0, 0, 0, 1, 2), Load(0, 1, 1, 1, 2), Load(0, 2, 0, 1, 2), Load(1, 0, 1, 2, 1)]
    guard = Guard(1000, loads, Clock())
    for load in loads:
        guard.looked(
            load.member, load.fold, 10, 10 * load.networks * load.views * (3 if load.member == 0 else 1)
        )
    assert guard.cost(InferencePlan()) == 2 * 2 * 3  # of the first device; the second has 2 * 3 + 2
    assert guard.cost(PLANS[-1]) == 3  # one look of the slow member; the fast one's two take 2


# --- pieces and the end -------------------------------------------------------------------------------------


def test_pieces_are_whole_batches_and_take_a_small_share_of_the_time():
    fast, slow = guard_of(32_400), guard_of(1000, look=1.0)
    assert fast.size(10_000, 512, 64) == 512
    assert fast.size(300, 512, 64) == 300
    assert fast.size(10_000, 500, 64) == 448
    assert slow.size(10_000, 512, 64) == 2  # of 20 s each, in a twentieth of 1,000 s


def test_the_clock_ends_the_work_before_the_end_by_twice_what_a_step_takes_and_the_writing():
    guard = Guard(100, FIVE, Clock())
    guard.writing = 20.0

    def work() -> None:
        while True:
            guard.tick()
            guard.clock.now += 3.0

    with pytest.raises(OutOfTime):
        work()
    assert 100 - 20 - 2 * 3 < guard.clock.now <= 100 - 20 - 2 * 3 + 3


# --- what a rehearsal measures ------------------------------------------------------------------------------


class Process:
    """Predicts images at a pace of its own, the first ones slowly, and holds some memory."""

    def __init__(self, reading: float, look: float, leak: float = 0.0):
        self.reading, self.look, self.leak = reading, look, leak
        self.clock, self.images, self.calls = Clock(), 0, []
        self.random = np.random.default_rng(0)

    def predict(self, guard: Guard, rows: np.ndarray) -> None:
        slow = 50 if len(self.calls) == 0 else 1
        guard.saw(len(rows), slow * self.reading * len(rows))
        for load in guard.loads:
            seconds = slow * self.look * len(rows) * load.networks * load.views
            guard.looked(load.member, load.fold, len(rows), seconds)
            self.clock.now += seconds
        self.clock.now += slow * self.reading * len(rows)
        self.images += len(rows)
        self.calls.append(rows)

    def memory(self) -> float:
        settling = 300 * (1 - 0.5 ** len(self.calls))  # what libraries take at first
        return 900 + settling + self.random.normal(0, 4) + self.leak * self.images

    def measured(self, end: float = float("inf")) -> dict:
        """Of seven images, for ten seconds."""
        guard = Guard(float("inf"), FIVE, self.clock, decay=1.0)
        return measure(self.predict, guard, 7, 512, 64, 10.0, end, self.memory)


@pytest.mark.parametrize(("reading", "look"), [(0.002, 0.0001), (0.0001, 0.01), (0.5, 2.0)])
def test_the_pace_is_that_of_many_images_without_the_first(reading, look):
    process = Process(reading, look)
    pace = process.measured()
    assert pace["reading"] == pytest.approx(reading)
    assert pace["networks"][str(PLANS[0])] == pytest.approx(20 * look)
    assert pace["networks"][str(PLANS[-1])] == pytest.approx(look)
    assert pace["images"] == sum(map(len, process.calls[2:]))
    assert len(process.calls) >= PIECES
    assert set(np.concatenate(process.calls)) <= set(range(7))  # the images there are, again and again
    assert pace["growth"] == 0


@pytest.mark.parametrize(("end", "pieces"), [(10_000.0, 0), (11_400.0, 6)])
def test_what_is_slow_is_measured_until_the_kernels_end_and_no_longer(end, pieces):
    process = Process(0.5, 10.0)  # 10,000 seconds for the first image, 200 for every other one
    pace = process.measured(end)
    assert pace["images"] == pieces
    assert pace["networks"][str(PLANS[-1])] >= 10


@pytest.mark.parametrize("leak", [0.2, 8.0])
def test_memory_that_grows_with_every_image_is_found(leak):
    assert Process(0.005, 0.0002, leak).measured()["growth"] == pytest.approx(leak, rel=0.2)


def test_memory_that_rises_and_falls_does_not_grow():
    images = np.arange(0.0, 3000, 50)
    held = 1000 + 10 * np.sin(images) + NOISE / 4 * (images > 2000)
    assert growth(images, held) == 0
    assert growth(images, held + images / 10) == pytest.approx(0.1, abs=0.02)
