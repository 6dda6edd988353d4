"""Where a print job ends: at a cut, and not at what looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_agent.hooks.print_jobs import FORGET_S, JobCopy
from tillstream_protocol.adapters.printer_bytes import last_cut

CUT = b"\x1dV\x00"
FEED_AND_CUT = b"\x1dVA\x10"
IMAGE_WITH_A_CUT_IN_IT = b"\x1dv0\x00\x02\x00\x03\x00\x1dV\x00\x1bi\x00"


async def jobs(*parts: bytes, limit: int = 1000) -> tuple[list[bytes], bytes]:
    """The jobs that were cut off, and what is left."""
    copy = JobCopy(limit)
    found = []
    for part in parts:
        copy.feed(part, 0.0)
        found.append(await copy.cut())
    return [job for job in found if job], copy.end()


async def test_a_cut_ends_a_job_and_what_follows_begins_the_next() -> None:
    assert await jobs(b"one" + FEED_AND_CUT + b"two") == ([b"one" + FEED_AND_CUT], b"two")


@pytest.mark.parametrize("at", range(1, len(b"one" + FEED_AND_CUT)))
async def test_a_cut_may_come_in_pieces(at: int) -> None:
    whole = b"one" + FEED_AND_CUT
    assert await jobs(whole[:at], whole[at:]) == ([whole], b"")


async def test_an_image_is_not_cut() -> None:
    job = b"logo" + IMAGE_WITH_A_CUT_IN_IT + b"text"
    assert await jobs(job) == ([], job)
    assert await jobs(job[:14], job[14:]) == ([], job)


async def test_feeding_lines_is_a_cut_for_star_alone() -> None:
    assert await jobs(b"text\x1bd\x03more") == ([], b"text\x1bd\x03more")
    assert last_cut(b"text\x1bd\x03more", dialect="star") == 7


async def test_what_is_too_long_for_a_job_is_forgotten_up_to_the_next_cut() -> None:
    cut_off, rest = await jobs(*[b"x" * 300] * 10, b"end" + CUT + b"next", limit=1000)
    assert (cut_off, rest) == ([], b"next")
    assert await jobs(b"x" * 1001 + CUT + b"next") == ([], b"next")
    assert await jobs(b"\x1dv0\x00\xff\xff\xff\xff" + b"\x1dV\x00" * 400) == ([], b"")


async def test_each_job_that_is_too_long_is_told_of_once() -> None:
    lost: list[bool] = []
    copy = JobCopy(1000, lost=lambda: lost.append(True))
    for part in (b"x" * 2000, b"x" * 2000, b"end" + CUT, b"x" * 1001 + CUT, b"short" + CUT):
        copy.feed(part, 0.0)
        await copy.cut()
    assert (len(lost), copy.end()) == (2, b"")
    copy.feed(b"x" * 2000, 0.0)
    assert (copy.end(), len(lost)) == (b"", 3)


def test_what_was_too_long_is_lost_and_what_comes_after_a_long_silence_is_not() -> None:
    lost: list[bool] = []
    copy = JobCopy(1000, lost=lambda: lost.append(True))
    copy.feed(b"x" * 2000, 0.0)
    copy.feed(b"new", FORGET_S + 1)
    assert (copy.end(), len(lost)) == (b"new", 1)


def test_what_was_no_receipt_is_forgotten_after_a_long_silence() -> None:
    copy = JobCopy()
    copy.feed(b"drawer", 0.0)
    copy.feed(b" and more", FORGET_S)
    assert copy.so_far() == b"drawer and more"
    copy.feed(b"new", 2 * FORGET_S + 1)
    assert copy.end() == b"new"


@given(
    st.lists(st.sampled_from([b"text\n", CUT, FEED_AND_CUT, IMAGE_WITH_A_CUT_IN_IT, b"\x1bp\x00\x19\xfa"])), st.data()
)
async def test_jobs_are_the_same_however_the_bytes_arrive(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    ends = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *ends], [*ends, len(whole)], strict=True)]
    found, rest = await jobs(*pieces)
    assert b"".join([*found, rest]) == whole
    assert len(rest) == len(whole) - last_cut(whole)
