"""What the gateway measures of itself, for Prometheus. No user, job or request ids in labels."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from pipeline.vocabulary import Status

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class Metrics:
    """One registry per gateway, so that several may live in one process.

    Args:
        beside: what others in this process measure.
    """

    def __init__(self, beside: Iterable[Collector] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        for collector in beside:
            registry.register(collector)
        self.requests = Counter(
            "t2m_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.latency = Histogram(
            "t2m_http_request_duration_seconds",
            "Time until a request was answered, bodies included.",
            ["method", "route"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._times: dict[tuple[str, str], Histogram] = {}
        self.accepted = Counter("t2m_jobs_accepted_total", "Jobs accepted.", ["model"], registry=registry)
        self.reused = Counter(
            "t2m_jobs_reused_total",
            "Requests answered by an identical job: joined while it ran, or sharing its files.",
            ["how"],
            registry=registry,
        )
        self.concluded = Counter("t2m_jobs_concluded_total", "Verdicts projected.", ["status"], registry=registry)
        for status in filter(lambda status: status.final, Status):
            self.concluded.labels(status)  # from 0 on, or Prometheus would not see the first as an increase
        self.waiting = Gauge("t2m_jobs_waiting", "Accepted jobs that were not sent yet.", ["model"], registry=registry)
        self.in_flight = Gauge("t2m_jobs_in_flight", "Jobs sent and not yet rendered.", ["model"], registry=registry)
        self.renderers = Gauge("t2m_render_workers", "Live workers that render.", ["model"], registry=registry)
        self.sends = Counter(
            "t2m_dispatcher_sends_total", "Jobs sent to the broker.", ["model", "outcome"], registry=registry
        )
        self.events = Counter(
            "t2m_projector_events_total", "Events taken from the bus.", ["outcome"], registry=registry
        )
        self.lag = Histogram(
            "t2m_projector_lag_seconds",
            "From an event's making to its projection.",
            registry=registry,
            buckets=LAG_BUCKETS,
        )
        self.repaired = Counter(
            "t2m_projector_repairs_total",
            "Verdicts found in the store though no event told of them.",
            registry=registry,
        )
        self.rescued = Counter("t2m_jobs_sent_again_total", "Jobs of silent workers sent again.", registry=registry)
        self.dead_letters = Counter(
            "t2m_dead_letters_total", "Messages that the broker gave up.", ["queue"], registry=registry
        )
        self.webhook_attempts = Counter(
            "t2m_webhook_attempts_total", "Attempts to deliver a message.", ["outcome"], registry=registry
        )
        self.webhook_latency = Histogram(
            "t2m_webhook_attempt_duration_seconds",
            "Time until a receiver answered or the attempt failed.",
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self.webhook_pending = Gauge("t2m_webhook_deliveries_pending", "Messages on their way.", registry=registry)
        self.role_crashes = Counter(
            "t2m_role_crashes_total",
            "Background roles that failed and were started again.",
            ["role"],
            registry=registry,
        )
        self.pool_connections = Gauge(
            "t2m_database_connections", "Open database connections.", ["state"], registry=registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. What prometheus_client finds by its labels is kept: there are as many as routes."""
        if (counter := self._counters.get((method, route, status))) is None:
            counter = self._counters[method, route, status] = self.requests.labels(method, route, status)
        if (times := self._times.get((method, route))) is None:
            times = self._times[method, route] = self.latency.labels(method, route)
        counter.inc()
        times.observe(seconds)

    def page(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)
