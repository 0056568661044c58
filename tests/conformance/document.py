"""Reads the API document: its endpoints, their example answers, its error codes, limits, events and code examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT = Path(__file__).with_name("document.txt").read_text()
LINES = TEXT.splitlines()
REFERENCE = LINES[: LINES.index("Error Handling")]
"""The part that lists endpoints."""


@dataclass
class Endpoint:
    """One "• Endpoint:" of the document.

    Attributes:
        token: "required", "optional" or "none".
        query: names of its query parameters.
        answers: its example answers.
    """

    method: str
    path: str
    token: str = "none"
    query: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def endpoints() -> list[Endpoint]:
    """All that are listed, in the document's order, and the two that only its examples show."""
    found: list[Endpoint] = []
    table = False
    for number, line in enumerate(REFERENCE):
        if match := re.match(r"  • Endpoint: ([A-Z]+) (/\S+)$", line):
            found.append(Endpoint(match[1], match[2]))
        elif not found:
            continue
        elif match := re.match(r"    • Authorization: Bearer <token> \((required|optional)\)", line):
            found[-1].token = match[1]
        elif match := re.match(r"    • (\w+) \([\w\[\]]+, (?:required|optional|default: [^)]*)\): ", line):
            found[-1].query += [match[1]] if "{" + match[1] + "}" not in found[-1].path else []
        elif line.startswith("Name Type Required"):
            table = True
        elif table and (match := re.match(r"(\w+) (?:integer|string) no ", line)):
            found[-1].query.append(match[1])
        else:
            table = False
            if line == "{":
                found[-1].answers.append(_json_from(number))
    return [*found, *SHOWN_ONLY]


SHOWN_ONLY = (
    Endpoint("POST", "/files/{file_id}/signed-url", token="required", answers=[{"data": {"url": "https://…"}}]),
    Endpoint("POST", "/webhooks", token="required"),
)


def error_codes() -> dict[str, int]:
    """Every error code with its HTTP status."""
    return {match[1]: int(match[2]) for match in re.finditer(r"^([A-Z]+_[A-Z_]+) (\d{3}) \w", TEXT, re.MULTILINE)}


def error_answers() -> list[dict[str, Any]]:
    """The examples of errors."""
    begin, end = LINES.index("Error Response Examples"), LINES.index("Rate Limits")
    return [_json_from(number) for number in range(begin, end) if LINES[number] == "{"]


def limits() -> dict[str, int]:
    """Requests per hour and user, by what they limit."""
    found = re.finditer(r"^  • ([\w ]+): (\d+) (?:requests|uploads|jobs) per hour per user", TEXT, re.MULTILINE)
    return {match[1]: int(match[2]) for match in found}


def webhook_events() -> list[str]:
    """What a webhook can be subscribed to."""
    return re.findall(r"^(job\.\w+) Job ", TEXT, re.MULTILINE)


def webhook_payload() -> dict[str, Any]:
    """The example of what a receiver gets."""
    return _json_from(LINES.index("{", LINES.index("Webhook Payload Example")))


def curl_examples() -> list[str]:
    """Every curl command."""
    return list(_commands())


def programs(language: str) -> dict[str, str]:
    """The examples of section "Python Examples" or "JavaScript Examples", by heading."""
    end = {"Python": "JavaScript Examples", "JavaScript": "Support"}[language]
    found: dict[str, list[str]] = {}
    heading = ""
    for line in LINES[LINES.index(f"{language} Examples") + 1 : LINES.index(end)]:
        if line in ("File Management", "Job Management", "Video Processing", "System Monitoring"):
            heading = line
        elif heading:
            found.setdefault(heading, []).append(line)
    return {heading: "\n".join(lines).strip() + "\n" for heading, lines in found.items()}


def _commands() -> Iterator[str]:
    command: list[str] = []
    for line in LINES:
        if command or line.startswith("curl "):
            command.append(line)
            whole = "\n".join(command)
            if not line.endswith("\\") and whole.count("'") % 2 == 0:
                yield whole
                command = []


def _json_from(number: int) -> dict[str, Any]:
    """The JSON object that begins on a line of its own."""
    return dict(json.JSONDecoder().raw_decode("\n".join(LINES[number:]))[0])
