"""When messages that met a passing fault come again."""

from __future__ import annotations

from typing import Any, NoReturn

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage

from pipeline.actors import declare
from pipeline.broker import InProcessBroker
from pipeline.dispatch import first_message
from pipeline.errors import Disconnected
from pipeline.runner import TryAgain
from pipeline.topology import queue_name
from pipeline.vocabulary import Stage
from tests.small_stages import job


class Away:
    """A runner whose store is away."""

    def run(self, *_: Any, **__: Any) -> NoReturn:
        raise TryAgain(Disconnected("The store is away."))


@pytest.mark.parametrize(("retries", "wait_s"), [(0, 2), (1, 8), (2, 30), (3, 30)])
def test_retries_come_after_2_8_and_30_seconds_and_up_to_half_as_much_more(retries: int, wait_s: int):
    broker = InProcessBroker()
    queue = queue_name(Stage.RENDER, "tiny")
    declare(broker, Away(), [queue])  # type: ignore[arg-type]  # as much of a runner as is called
    actor = broker.get_actor(str(Stage.RENDER))
    body = first_message(job()).model_dump(mode="json")
    delays_s = []
    for _ in range(50):
        envelope = actor.message(body).copy(options={"retries": retries})
        CurrentMessage().before_process_message(broker, envelope)
        with pytest.raises(dramatiq.Retry) as again:
            actor(body)
        assert again.value.delay is not None
        delays_s.append(again.value.delay / 1000)
    assert wait_s <= min(delays_s) < max(delays_s) <= 1.5 * wait_s
