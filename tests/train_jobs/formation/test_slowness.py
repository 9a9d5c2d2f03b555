"""Who is named as slow, step after step."""

from train_jobs.formation.crew import Member
from train_jobs.formation.messages import Beat, Joined, Phase
from train_jobs.formation.slowness import slow_member


class Crew:
    """Members whose compute times are told step by step."""

    def __init__(self, size):
        self.members = [
            Member(Joined(f"{rank}.a", rank, 100 + rank, "192.0.2.1", "node", None), 0.0, 0.0)
            for rank in range(size)
        ]

    def named(self, step, *seconds):
        """After a step in which the members computed for so long: the rank that is named, and its factor."""
        for member, spent in zip(self.members, seconds, strict=True):
            member.beat = Beat(member.joined.worker, 1, Phase.COMPUTING, step, step, spent)
        found = slow_member(self.members)
        return (found[0].joined.rank, round(found[1], 1)) if found else None


def test_who_is_slow_five_steps_in_a_row_is_named_once_with_its_factor():
    crew = Crew(3)
    named = [crew.named(step, 1.0, 2.5, 1.0) for step in range(1, 12)]
    assert [n for n in named if n] == [(1, 2.5)]
    assert named[4] == (1, 2.5)


def test_the_same_step_told_again_counts_once():
    crew = Crew(2)
    assert [crew.named(7, 1.0, 3.0) for _ in range(20)] == [None] * 20


def test_a_quick_step_between_begins_the_count_anew():
    crew = Crew(2)
    seconds = [3.0, 3.0, 3.0, 3.0, 1.0, 3.0, 3.0, 3.0, 3.0]
    assert [crew.named(step, 1.0, own) for step, own in enumerate(seconds, 1)] == [None] * 9


def test_neither_a_short_nor_an_even_delay_is_told():
    crew = Crew(2)
    assert [crew.named(step, 0.01, 0.05) for step in range(1, 9)] == [None] * 8
    crew = Crew(2)
    assert [crew.named(step, 3.0, 3.2) for step in range(1, 9)] == [None] * 8


def test_one_alone_has_nobody_to_be_slower_than():
    crew = Crew(1)
    assert [crew.named(step, 9.0) for step in range(1, 9)] == [None] * 8
