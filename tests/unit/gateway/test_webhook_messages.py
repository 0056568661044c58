"""Which messages there are, and how they are signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Settings
from gateway.projection import Projection, advance, conclude
from gateway.webhooks import signing
from gateway.webhooks.messages import EVENTS, WebhookEvent, between, sample
from pipeline.vocabulary import Event, Final, Status, now
from tests.unit.gateway.receivers import SECRET, verify_webhook
from tests.unit.gateway.test_projection import JOB, told

AT = datetime.fromtimestamp(1614265330, tz=UTC)
MESSAGE_ID, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'


@given(
    log=st.lists(told(), max_size=12),
    cuts=st.sets(st.integers(0, 12)),
    verdict=st.sampled_from([Status.COMPLETED, Status.FAILED, Status.CANCELLED]),
    late=st.integers(0, 12),
)
def test_messages_are_in_order_and_end_with_one_verdict(
    log: list[Event], cuts: set[int], verdict: Status, late: int
) -> None:
    """However the events are cut into transactions, and however many of them come after the verdict."""
    at = max(len(log) - late, 0)
    states = [Projection()]
    for event in log[:at]:
        states.append(advance(states[-1], event))
    states.append(conclude(states[-1], Final(job_id=JOB, status=verdict, at=now())))
    for event in log[at:]:
        states.append(advance(states[-1], event))
    seen = [state for n, state in enumerate(states) if n in cuts | {0, len(states) - 1}]
    messages = [message for before, after in pairwise(seen) for message in between(before, after)]
    ranks = [message.rank for message in messages]
    assert ranks == sorted(set(ranks)), "each once, in order"
    assert messages[-1].event == f"job.{verdict}"
    assert all(one.event in (WebhookEvent.STARTED, WebhookEvent.PROGRESS) for one in messages[:-1])
    steps = [one.progress for one in messages if one.event is WebhookEvent.PROGRESS]
    assert all(step >= 10 for step in steps)
    assert len({step // 10 for step in steps}) == len(steps)


def test_a_completed_job_had_started_even_if_its_verdict_came_first() -> None:
    ended = conclude(Projection(), Final(job_id=JOB, status=Status.COMPLETED, at=AT))
    assert [message.event for message in between(Projection(), ended)] == [WebhookEvent.STARTED, WebhookEvent.COMPLETED]


def test_a_job_that_never_ran_is_not_said_to_have_started() -> None:
    ended = conclude(Projection(), Final(job_id=JOB, status=Status.CANCELLED, at=now()))
    assert [message.event for message in between(Projection(), ended)] == [WebhookEvent.CANCELLED]


@pytest.mark.parametrize("event", EVENTS)
def test_samples_say_that_they_are_tests(event: str) -> None:
    assert '"test": true' in sample(Settings(), WebhookEvent(event))


def test_signatures_are_those_of_the_document_and_of_standard_webhooks() -> None:
    """The `v1` values were made with the reference library of Standard Webhooks."""
    made = signing.headers(MESSAGE_ID, AT, BODY, ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (made["webhook-id"], made["webhook-timestamp"]) == (MESSAGE_ID, "1614265330")
    chosen = signing.headers(MESSAGE_ID, AT, BODY, [SECRET])
    assert chosen["webhook-signature"] == "v1,hCyyCA+1l1C0cvnYmJoOpm8XVWTX3inhhmC1rEwCykY="
    assert verify_webhook(BODY.decode(), chosen["X-T2M-Signature"], SECRET)
    assert not verify_webhook(BODY.decode() + " ", chosen["X-T2M-Signature"], SECRET)


def test_after_a_rotation_both_secrets_sign() -> None:
    old, new = SECRET, signing.new_secret()
    made = signing.headers(MESSAGE_ID, AT, BODY, [new, old])
    assert verify_webhook(BODY.decode(), made["X-T2M-Signature"], new)
    assert verify_webhook(BODY.decode(), made["X-T2M-Signature-Previous"], old)
    alone = signing.headers(MESSAGE_ID, AT, BODY, [new])["webhook-signature"]
    assert made["webhook-signature"] == f"{alone} v1,hCyyCA+1l1C0cvnYmJoOpm8XVWTX3inhhmC1rEwCykY="
    assert timedelta(hours=24) == signing.BOTH_SIGN
