"""That the document is read whole: a test that reads nothing finds nothing wrong."""

from __future__ import annotations

from gateway.errors import STATUS
from gateway.webhooks.messages import EVENTS
from tests.conformance import document


def test_all_endpoints_are_found() -> None:
    found = document.endpoints()
    assert len(found) == document.TEXT.count("• Endpoint: ") + 2 == 46
    assert len({str(endpoint) for endpoint in found}) == 46
    assert sum(len(endpoint.answers) for endpoint in found) == 15
    assert {endpoint.token for endpoint in found} == {"required", "optional", "none"}
    assert [str(endpoint) for endpoint in found if endpoint.token == "none"] == [
        "GET /auth/health",
        "GET /files/secure/{file_id}",
    ]


def test_all_parameters_are_found() -> None:
    by_name = {str(endpoint): endpoint.query for endpoint in document.endpoints()}
    assert by_name["GET /files"] == ["file_type", "page", "items_per_page"]
    assert by_name["GET /jobs/{job_id}/logs"] == ["limit", "offset", "level"]
    assert by_name["GET /videos/{job_id}/download"] == ["inline"]
    assert by_name["GET /system/performance"] == ["hours"]


def test_codes_limits_and_events_are_those_of_the_gateway() -> None:
    assert document.error_codes() == {code.value: status for code, status in STATUS.items()}
    assert document.limits() == {
        "General API": 1000,
        "File Upload": 100,
        "Video Generation": 10,
        "System Endpoints": 500,
    }
    assert document.webhook_events() == list(EVENTS)
    assert len(document.error_answers()) == 4


def test_all_examples_are_found() -> None:
    assert len(document.curl_examples()) == document.TEXT.count("\ncurl ") == 13
    assert list(document.programs("Python")) == list(document.programs("JavaScript"))
    assert all(document.programs(language)["File Management"] for language in ("Python", "JavaScript"))
