"""The simulation of routing against what can be computed by hand, and against queueing theory."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from benchmarks.routing import experiments, head
from benchmarks.routing.__main__ import main
from benchmarks.routing.caches import ImageCache, KvCache
from benchmarks.routing.capacity import capacity
from benchmarks.routing.conversations import Conversation, People, Turn
from benchmarks.routing.experiments import LOAD, Effort, Laboratory
from benchmarks.routing.model import Assumptions, ImageKind
from benchmarks.routing.outcome import Outcome
from benchmarks.routing.policies import (
    CONSISTENT_HASH,
    LEAST_LOADED,
    POLICIES,
    ROUND_ROBIN,
    STICKY,
    STICKY_BY_REQUESTS,
    PolicyKind,
    Sticky,
)
from benchmarks.routing.ranking import best, reversals
from benchmarks.routing.report import report
from benchmarks.routing.simulation import Outage, Simulation
from benchmarks.routing.tally import Tally

GIVEN = Assumptions()
ENDLESS = replace(GIVEN, kv_tokens=10**12, image_cache_bytes=math.inf)
PHOTO = ImageKind(1280, 720)
STICKY_ONES = (STICKY, STICKY_BY_REQUESTS, CONSISTENT_HASH)
DAY_S = 600.0

each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


def people(per_s: float, seed: int = 1, day_s: float = DAY_S) -> Iterator[Conversation]:
    return People(GIVEN, seed).arrivals(per_s, 0.0, day_s)


def day(policy: PolicyKind, replicas: int, per_s: float, seed: int = 1, **more: Outage) -> Outcome:
    return Simulation(GIVEN, policy, replicas, people(per_s, seed), DAY_S, **more).run()


def figures(outcome: Outcome) -> tuple[float, ...]:
    return (
        outcome.measured,
        outcome.mean_ttft_s,
        outcome.ttft(0.99),
        outcome.prefix_hit_rate(),
        outcome.image_hit_rate,
        outcome.prompt_s_per_request,
    )


def single(arrivals: list[float], tokens: list[int], prompt_tokens: int) -> list[Conversation]:
    """Conversations of one turn."""
    pairs = zip(arrivals, tokens, strict=True)
    return [
        Conversation(n, at, (Turn(prompt_tokens, (), t, 0),)) for n, (at, t) in enumerate(pairs)
    ]


def poisson(per_s: float, count: int, seed: int) -> list[float]:
    chance, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += chance.expovariate(per_s)
        found.append(now)
    return found


@each_policy
def test_a_seed_decides_everything(policy: PolicyKind) -> None:
    """Two runs of a seed are alike, one of another is not."""
    assert figures(day(policy, 4, 1.0)) == figures(day(policy, 4, 1.0))
    assert figures(day(policy, 4, 1.0)) != figures(day(policy, 4, 1.0, seed=2))


def test_one_replica_leaves_no_choice() -> None:
    """All policies are the same there."""
    assert len({figures(day(policy, 1, 0.25)) for policy in POLICIES}) == 1


def three_turns() -> Conversation:
    """With a photo in the first; the pauses are long enough for any answer."""
    turns = (
        Turn(100, (PHOTO,), 40, 60),
        Turn(30, (), 40, 60, think_s=100.0),
        Turn(50, (), 40, 60, think_s=100.0),
    )
    return Conversation(5, 1.0, turns)


@pytest.mark.parametrize("policy", STICKY_ONES, ids=lambda policy: policy.name)
def test_a_sticky_conversation_finds_its_last_prompt(policy: PolicyKind) -> None:
    """Neither thoughts nor answers, and never less, where nothing is forgotten."""
    first = 100 + PHOTO.tokens
    second = first + 60 + 30
    third = second + 60 + 50
    outcome = Simulation(ENDLESS, policy, 3, [three_turns()], 1000.0).run()
    expected = (first + second) / (first + second + third)
    assert outcome.prefix_hit_rate() == pytest.approx(expected)
    assert outcome.prefix_ceiling == pytest.approx(expected)
    assert outcome.image_hit_rate == pytest.approx(2 / 3)
    step_s = ENDLESS.base_step_s + ENDLESS.step_s_per_token * (first + 50)
    loading_s = ENDLESS.image_retry_s + ENDLESS.image_load_s(PHOTO)
    computing_s = ENDLESS.prompt_s(first, PHOTO.patches)
    assert outcome.ttft(1.0) == pytest.approx(loading_s + computing_s + step_s)
    assert outcome.ttft(0.01) == pytest.approx(
        ENDLESS.prompt_s(90, 0) + ENDLESS.base_step_s + ENDLESS.step_s_per_token * (second + 50)
    )


def test_a_conversation_that_moves_finds_nothing() -> None:
    """Round robin over three replicas; over two, the third turn finds the first one's prompt."""
    three = Simulation(ENDLESS, ROUND_ROBIN, 3, [three_turns()], 1000.0).run()
    assert (three.prefix_hit_rate(), three.image_hit_rate) == (0, 0)
    two = Simulation(ENDLESS, ROUND_ROBIN, 2, [three_turns()], 1000.0).run()
    assert two.image_hit_rate == pytest.approx(1 / 3)
    first, second = 100 + PHOTO.tokens, 100 + PHOTO.tokens + 90
    assert two.prefix_hit_rate() == pytest.approx(first / (first + second + second + 110))


def test_waits_for_prompts_are_those_of_a_queue_with_constant_service() -> None:
    """M/D/1: answers cost nothing, prompts always the same. Within 5 %."""
    given = replace(ENDLESS, card_bytes_per_s=math.inf, step_overhead_s=1e-9, max_num_seqs=10**9)
    service_s, busy = given.prompt_s(1000, 0), 0.6
    count = 40_000
    coming = single(poisson(busy / service_s, count, 3), [1] * count, 1000)
    outcome = Simulation(given, ROUND_ROBIN, 1, coming, 1e6).run()
    waited_s = outcome.mean_ttft_s - service_s
    assert outcome.measured == count
    assert waited_s == pytest.approx(busy * service_s / (2 * (1 - busy)), rel=0.05)


def test_waits_for_a_place_are_those_of_erlang() -> None:
    """M/M/4: prompts cost nothing, a step always the same, and four answers run. Within 5 %."""
    given = replace(
        ENDLESS,
        card_flops=math.inf,
        card_bytes_per_s=math.inf,
        step_overhead_s=0.01,
        max_num_seqs=4,
    )
    places, mean_tokens, busy, count = 4, 2000, 0.7, 60_000
    chance = random.Random(5)
    tokens = [max(1, round(chance.expovariate(1 / mean_tokens))) for _ in range(count)]
    service_s = mean_tokens * 0.01
    coming = single(poisson(places * busy / service_s, count, 7), tokens, 1)
    outcome = Simulation(given, ROUND_ROBIN, 1, coming, 1e6).run()
    offered = places * busy
    full = offered**places / math.factorial(places) / (1 - busy)
    must_wait = full / (sum(offered**n / math.factorial(n) for n in range(places)) + full)
    expected_s = must_wait * service_s / (places * (1 - busy))
    assert outcome.mean_ttft_s - 0.01 == pytest.approx(expected_s, rel=0.05)


@each_policy
@pytest.mark.parametrize("until", [137.0, 432.1, math.inf])
def test_every_request_is_answered_or_still_there(policy: PolicyKind, until: float) -> None:
    """At any moment, also while a replica is away."""
    outage = Outage(100.0, 200.0, replica=1)
    coming = people(0.8)
    outcome = Simulation(GIVEN, policy, 3, coming, DAY_S, outage).run(until)
    assert outcome.asked == outcome.ended + outcome.in_flight
    assert (outcome.in_flight > 0) == (until < math.inf)


@each_policy
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_killed_replica_loses_no_request(policy: PolicyKind, replicas: int) -> None:
    """They begin again elsewhere, or wait until it is back if it was the only one."""
    outcome = day(policy, replicas, 0.3 * replicas, outage=Outage(200.0, 260.0))
    assert outcome.restarts > 0
    assert outcome.ended == outcome.asked == outcome.measured


@each_policy
def test_more_replicas_do_not_wait_longer(policy: PolicyKind) -> None:
    """Where nothing is to be found in caches anyway; 2 % are noise."""
    count = 8000
    coming = single(poisson(2.0, count, 11), [1000] * count, 2000)
    means = [Simulation(GIVEN, policy, n, coming, 1e6).run().mean_ttft_s for n in (2, 4, 8)]
    assert all(more < 1.02 * fewer for fewer, more in pairwise(means))


@pytest.mark.parametrize("policy", STICKY_ONES, ids=lambda policy: policy.name)
def test_more_replicas_do_not_wait_longer_with_sticky_people(policy: PolicyKind) -> None:
    """Their caches grow with the replicas; 5 % are noise."""
    means = [day(policy, n, 0.6).mean_ttft_s for n in (2, 4, 8)]
    assert all(more < 1.05 * fewer for fewer, more in pairwise(means))


def test_the_kv_cache_forgets_the_oldest_from_its_end() -> None:
    """A conversation that is taken is no longer only kept."""
    cache = KvCache(100)
    for conversation in (1, 2):
        cache.hold(40)
        cache.keep(conversation, 40, 30)
    cache.hold(50)
    assert not cache.fits(60)
    assert cache.take(1) == 10
    assert cache.take(2) == 30
    assert cache.take(2) == 0


def test_a_request_that_is_too_long_runs_alone() -> None:
    """Else it would wait for ever."""
    cache = KvCache(100)
    assert cache.fits(500)
    cache.hold(500)
    assert not cache.fits(1)


def test_the_image_cache_forgets_what_was_used_longest_ago() -> None:
    """A hit is a use; an image that is larger than all is never kept."""
    cache = ImageCache(100)
    assert [cache.has((1, n), 40) for n in (0, 1, 0, 2)] == [False, False, True, False]
    assert cache.has((1, 0), 40)
    assert not cache.has((1, 1), 40)
    assert not cache.has((2, 0), 101)
    assert not cache.has((2, 0), 101)


def test_the_tally_knows_the_least() -> None:
    """After any changes, as a search through all would."""
    chance, numbers, absent = random.Random(1), [0] * 7, set[int]()
    tally = Tally(7)
    for _ in range(3000):
        replica = chance.randrange(7)
        if chance.random() < 0.1 and replica in absent:
            absent.remove(replica)
            tally.restore(replica)
        elif chance.random() < 0.05 and replica not in absent and len(absent) < 6:
            absent.add(replica)
            tally.remove(replica)
        change = 1 if numbers[replica] == 0 else chance.choice((1, -1))
        numbers[replica] += change
        tally.add(replica, change)
        least = min(numbers[n] for n in range(7) if n not in absent)
        assert tally.least() not in absent
        assert numbers[tally.least()] == least


def test_a_replica_that_joins_gets_all_new_sessions() -> None:
    """Until it has as many as the others; with a short memory that is soon."""
    for ttl_s, expected in ((1000.0, 60), (10.0, 5)):
        policy = Sticky(3, ttl_s)
        policy.gone(2)
        for session in range(120):
            policy.choose(session, float(session))
        policy.back(2)
        later = [policy.choose(1000 + n, 120.0) for n in range(100)]
        first_other = next(n for n, replica in enumerate(later) if replica != 2)
        assert first_other == pytest.approx(expected, abs=1)


def test_sessions_of_a_replica_that_is_gone_move_and_stay() -> None:
    """Those of others do not move."""
    for kind in STICKY_ONES:
        policy = kind.make(5, GIVEN)
        before = [policy.choose(session, 0.0) for session in range(200)]
        policy.gone(2)
        after = [policy.choose(session, 1.0) for session in range(200)]
        assert 2 not in after
        assert all(a == b for a, b in zip(after, before, strict=True) if b != 2)
        policy.back(2)
        returned = [policy.choose(session, 2.0) for session in range(200)]
        assert returned == (before if kind is CONSISTENT_HASH else after)


def test_sessions_and_requests_are_spread() -> None:
    """Evenly where they are counted, about evenly on the ring."""
    for kind, most in (
        (ROUND_ROBIN, 100),
        (LEAST_LOADED, 100),
        (STICKY, 100),
        (CONSISTENT_HASH, 150),
    ):
        policy = kind.make(10, GIVEN)
        counts = Counter[int]()
        for session in range(1000):
            replica = policy.choose(session, 0.0)
            policy.sent(replica)
            counts[replica] += 1
        assert max(counts.values()) <= most, kind.name


def test_a_day_has_its_people() -> None:
    """As many as its mean says, more about noon than about midnight."""
    found = [each.starts_at for each in people(2.0, day_s=10_000.0)]
    assert len(found) == pytest.approx(20_000, rel=0.03)
    quarters = Counter(int(at // 2500) for at in found)
    # 1 - 0.3 * (2 / pi) of the mean in the outer quarters, 1 + 0.3 * (2 / pi) in the inner ones.
    assert quarters[0] / quarters[1] == pytest.approx(0.809 / 1.191, rel=0.05)


def test_a_replica_with_caches_can_do_more() -> None:
    """And one whose prompts are computed twice as fast."""
    can = capacity(GIVEN)
    assert can.warm_requests_per_s > can.requests_per_s
    assert capacity(replace(GIVEN, prompt_efficiency=1.0)).requests_per_s > can.requests_per_s


def test_the_head_is_full_where_the_formula_says() -> None:
    """Cores x share x tokens a chunk / (seconds a chunk x tokens a second)."""
    gateway = head.parts(GIVEN)[0]
    tokens = head.traffic(GIVEN, LOAD).tokens_per_s
    expected = 1 * 0.7 * 4 / (55e-6 * tokens)
    assert head.replicas_streaming(gateway, GIVEN, LOAD, 4) == pytest.approx(expected)
    assert head.chunks_per_s(gateway, GIVEN) == pytest.approx(0.7 / 55e-6)


def test_only_clear_differences_count() -> None:
    """A few percent reverse nothing."""
    base = {"a": 1.0, "b": 2.0, "c": 1.05}
    assert best(base) == ["a", "c"]
    assert reversals(base, {"a": 1.1, "b": 1.0, "c": 0.5}) == []
    assert reversals(base, {"a": 3.0, "b": 2.0, "c": 1.0}) == [("a", "b")]


def test_the_page_has_no_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is there, and every assumption with its source."""
    monkeypatch.setattr(experiments, "VARIED", experiments.VARIED[:1])
    effort = Effort(
        days=((32, 20.0),),
        loads=(0.5, 0.7),
        loads_at=(2, 30.0),
        varied_at=(1, 20.0),
        outages_at=(2,),
        warm_s=20.0,
        outage_day_s=60.0,
    )
    laboratory = Laboratory(effort, 1)
    text = report(laboratory, laboratory.findings(), "the command")
    assert "$" not in text
    assert {field.name for field in fields(GIVEN)} <= {
        *re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    }
    assert {policy.name for policy in POLICIES} <= {
        *re.findall(r"^\| 32 \| ([\w ]+) \|", text, re.M)
    }


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Without running."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out
