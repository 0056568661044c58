"""`t2m dlq`: messages that the broker gave up."""

from __future__ import annotations

import asyncio

from cli import console
from config.errors import ConfigError
from config.settings import Settings, load
from gateway.database import jobs
from gateway.database.jobs import NewJob
from gateway.database.migrate import opened
from gateway.retention import shortest_s
from pipeline import dead_letters
from pipeline.broker import open_broker
from pipeline.dead_letters import DeadLetter, DeadLetters
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.vocabulary import JobRequest, Status, new_id, now


def show_all() -> None:
    """One line per letter, the oldest first."""
    letters = sorted(_letters(load()).all(), key=lambda letter: letter.at)
    for letter in letters:
        message = letter.message
        job = message.job_id if message else "-"
        console.say(f"{letter.id}  {letter.at:%Y-%m-%d %H:%M:%SZ}  {letter.queue}  {letter.reason}  {job}")
    if not letters:
        console.say("There are no dead letters.")


def show(letter_id: str) -> None:
    """All of a letter, as JSON."""
    console.say(_letters(load()).get(letter_id).model_dump_json(indent=2))


def requeue(letter_id: str) -> None:
    """Give a letter another chance: its message if its job still waits for it, else the whole job.

    A verdict stands, so a job that failed is asked for again under a new id, for the same user.

    Raises:
        ConfigError: the letter holds no message, or its job was completed or cancelled.
        ObjectMissing: there is no such letter, or its job was deleted.
    """
    settings = load()
    letters, store = _letters(settings), Jobs(open_store(settings))
    letter = letters.get(letter_id)
    message = letter.message
    if message is None:
        raise ConfigError("The letter holds no message of this release.", remedy=f"`t2m dlq drop {letter_id}`")
    final = store.final(message.job_id)
    if final is None:
        _send(settings, letter)
        console.say(f"Sent again to {letter.queue}.")
    elif final.status is Status.FAILED:
        request = store.request(message.job_id)
        again = request.model_copy(update={"job_id": new_id("job"), "created_at": now()})
        store.accept(again)
        asyncio.run(_add(settings, again))
        console.say(f"{message.job_id} has failed for good; asked for again as {again.job_id}.")
    else:
        raise ConfigError(f"The job was {final.status}.", remedy=f"`t2m dlq drop {letter_id}`")
    letters.drop(letter_id)


def drop(letter_id: str) -> None:
    """Remove a letter. Raises `ObjectMissing`."""
    letters = _letters(load())
    letters.get(letter_id)
    letters.drop(letter_id)
    console.say(f"Dropped {letter_id}.")


def _letters(settings: Settings) -> DeadLetters:
    return DeadLetters(open_store(settings))


def _send(settings: Settings, letter: DeadLetter) -> None:
    broker = open_broker(settings)
    try:
        dead_letters.requeue(broker, letter)
    finally:
        broker.close()


async def _add(settings: Settings, request: JobRequest) -> None:
    kept = shortest_s(request.expires_in, settings.gateway.retention_days)
    async with opened(settings) as database, database.write() as connection:
        await jobs.add(connection, NewJob(request, retention_s=kept))
