"""Tokens are checked once, and honoured no longer than they say."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.auth import tokens
from gateway.auth.base import Principal, TokenInvalidError
from gateway.auth.local import LocalAuthenticator
from gateway.auth.tokens import Tokens


class Counting(LocalAuthenticator):
    checked = 0

    async def authenticate(self, token: str) -> Principal:
        self.checked += 1
        return await super().authenticate(token)


@pytest.fixture
def authenticator(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "key.pem")


async def test_a_good_token_is_checked_once_and_a_bad_one_each_time(authenticator: Counting) -> None:
    known, good = Tokens(authenticator), authenticator.issue("ada")
    assert [(await known.principal(good)).user_id for _ in range(3)] == ["ada"] * 3
    assert authenticator.checked == 1
    for bad in (good[:-2], good[:-2], "\udcff"):
        with pytest.raises(TokenInvalidError):
            await known.principal(bad)
    assert authenticator.checked == 4


async def test_a_token_is_forgotten_when_it_ends_and_after_a_moment(
    authenticator: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [time.time()]
    monkeypatch.setattr(tokens.time, "time", lambda: at[0])
    known = Tokens(authenticator)
    short, long = (authenticator.issue("ada", expires=timedelta(seconds=life)) for life in (10, 3600))
    checked = []
    for seconds, token in ((0, short), (0, long), (11, short), (0, long), (tokens.SECONDS, long)):
        at[0] += seconds
        await known.principal(token)
        checked.append(authenticator.checked)
    assert checked == [1, 2, 3, 3, 4]
