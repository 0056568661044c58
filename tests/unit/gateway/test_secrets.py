"""No secret a client or a deployment has is ever logged, however odd the request that brings it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from gateway.auth.base import Role
from tests.unit.gateway.no_op import NoOp, serving
from tests.unit.gateway.support import API

CHOSEN = "a-secret-of-the-users-own-choice"
BROKEN = ("GET / HTTP/1.1\r\nAuthorization: Bearer {}\x00\r\n\r\n", "GET /{} HTTP/9\r\n\r\n", "{}\r\n\r\n")
"""Requests that cannot be read at all; of those the server may want to say why."""


def test_none_is_in_the_log_of_a_gateway(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(tmp_path / "data", log, log={"level": "DEBUG"}) as gateway:
        secrets = [gateway.token(), gateway.token(role=Role.ADMIN), *used(gateway)]
        for secret in secrets:
            scatter(gateway, secret)
    key = (tmp_path / "data" / "auth-key.pem").read_text().splitlines()[1]
    text = log.read_text()
    assert "status=401" in text and "unreadable request" in text, "the log is the one that is meant"
    assert [secret for secret in (*secrets, key) if secret in text] == []


def used(gateway: NoOp) -> list[str]:
    """Secrets that are made by using the API."""
    hook = {"url": "https://receiver.example/hook"}
    own = post(gateway, "/webhooks", hook)
    post(gateway, "/webhooks", hook | {"secret": CHOSEN})
    rotated = post(gateway, f"/webhooks/{own['id']}/rotate-secret", {})
    job = post(gateway, "/webhooks/job-secret/rotate", {})
    post(gateway, f"/webhooks/{own['id']}/test", {})
    file = upload(gateway)
    signed = urlsplit(post(gateway, f"/files/{file}/signed-url", {})["url"])
    answer = requests.get(f"{gateway.url}{signed.path}?{signed.query}", timeout=20)
    assert answer.status_code == 200
    signature = dict(part.split("=") for part in signed.query.split("&"))["signature"]
    return [own["secret"], rotated["secret"], job["secret"], CHOSEN, signature]


def post(gateway: NoOp, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    answer = requests.post(f"{gateway.url}{API}{path}", json=body, headers=headers, timeout=20)
    assert answer.status_code < 300, answer.text
    return dict(answer.json()["data"])


def upload(gateway: NoOp) -> str:
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    files = {"file": ("example.txt", b"An example.")}
    answer = requests.post(f"{gateway.url}{API}/files/upload", files=files, headers=headers, timeout=20)
    return str(answer.json()["data"]["id"])


def scatter(gateway: NoOp, secret: str) -> None:
    """Send a secret in every place it does not belong."""
    bearer = {"Authorization": f"Bearer {secret}"}
    asked = [
        requests.get(f"{gateway.url}{API}/jobs", headers=bearer, timeout=20),
        requests.get(f"{gateway.url}{API}/jobs/{secret}", headers=bearer, timeout=20),
        requests.get(f"{gateway.url}{API}/jobs", params={"token": secret, "status": secret}, timeout=20),
        requests.get(f"{gateway.url}{API}/files/secure/x", params={"signature": secret}, timeout=20),
        requests.post(f"{gateway.url}{API}/videos/generate", json={"prompt": secret, secret: 1}, timeout=20),
        requests.post(f"{gateway.url}{API}/videos/generate", data=secret, headers=bearer, timeout=20),
        requests.get(f"{gateway.url}/{secret}", headers={"Cookie": secret}, timeout=20),
    ]
    assert all(answer.status_code < 500 for answer in asked), json.dumps([answer.text for answer in asked])
    place = urlsplit(gateway.url)
    for text in BROKEN:
        with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
            connection.sendall(text.format(secret).encode())
            connection.recv(1 << 16)
