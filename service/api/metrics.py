"""What the service counts about itself, in Prometheus' words; no label ever holds a text or an id of an item.

Counters are kept here; the state of index and jobs is asked for at each scrape. One registry for each
application, so that two in one process (tests) do not mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.application.app import Application
from service.application.types import FINAL_PHASES, Job, JobKind, SearchAnswer, Side

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Bucket bounds of OpenTelemetry's semantic conventions for http.server.request.duration, in seconds.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one application; every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "hashguard_http_server_request_duration_seconds",
            "Time from the first byte of a request's head to the end of its answer.",
            ("method", "route", "status"),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "hashguard_http_server_active_requests", "Requests being served.", registry=self.registry
        )
        self._rejected = Counter(
            "hashguard_rejected",
            "Requests refused before a route saw them.",
            ("reason",),
            registry=self.registry,
        )
        self._access = Counter(
            "hashguard_access_refused",
            "Requests refused for want of a good API key or of its scope.",
            ("reason",),
            registry=self.registry,
        )
        self._stages = Histogram(
            "hashguard_stage_duration_seconds",
            "Where the time of searches goes.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._scored = Counter(
            "hashguard_scored_queries",
            "Queries that got an attack score.",
            ("modality",),
            registry=self.registry,
        )
        self._suspicious = Counter(
            "hashguard_suspicious_queries",
            "Queries whose attack score is above the threshold that benign ones exceed with this rate.",
            ("modality", "rate"),
            registry=self.registry,
        )
        self._batches = Histogram(
            "hashguard_batch_size",
            "Queries or items in one batch call.",
            ("call",),
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )

    def request_started(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request out; `route` is the template (`/v1/items/{id}`), never the path."""
        self._in_flight.dec()
        self._requests.labels(method, route, str(status)).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a request that was refused at the door; `reason` is one of a fixed set of words."""
        self._rejected.labels(reason).inc()

    def access_refused(self, reason: str) -> None:
        """Count a request without a good key or scope; `reason` is one of a fixed set of words."""
        self._access.labels(reason).inc()

    def searched(self, answer: SearchAnswer) -> None:
        """Count the stages of one answered search, and what its attack score says."""
        timing = answer.timing
        stages = {"decode": timing.decode_ms, "encode": timing.encode_ms, "search": timing.search_ms}
        for stage, milliseconds in stages.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        suspicion = answer.suspicion
        if suspicion is None:
            return
        self._scored.labels(suspicion.side).inc()
        for rate in suspicion.thresholds:  # every rate, so that a series at 0 says that scores are on
            self._suspicious.labels(suspicion.side, f"{rate:g}").inc(rate in suspicion.exceeded())

    def batch(self, call: str, size: int) -> None:
        """Count the size of one batch call (`search` or `items`)."""
        self._batches.labels(call).observe(size)

    def watch(self, application: Application) -> None:
        """Add the state of an application to what a scrape shows."""
        self.registry.register(_StateCollector(application))

    def render(self) -> bytes:
        """The exposition of everything, as `CONTENT_TYPE`."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """Asks the application for its state at each scrape."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def describe(self) -> Iterable[Metric]:
        """Nothing at registration: the application may not have started yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        readiness = self._application.health.ready()
        yield GaugeMetricFamily("hashguard_ready", "1 when the service can answer.", float(readiness.ok))
        yield GaugeMetricFamily("hashguard_index_items", "Items in the served corpus.", readiness.item_count)
        depth = self._application.thread.depth
        yield GaugeMetricFamily("hashguard_queue_depth", "Inputs that wait for the model.", depth)
        generation = {
            "model": readiness.model_version or "none",
            "generation": readiness.generation_id or "none",
        }
        yield InfoMetricFamily("hashguard_index_generation", "What is served.", generation)
        jobs = [job for job in self._application.reindexing.jobs(1) if job.kind is JobKind.REINDEX]
        running = [job for job in jobs if job.phase not in FINAL_PHASES]
        yield GaugeMetricFamily("hashguard_reindex_running", "Reindex jobs under way.", len(running))
        yield GaugeMetricFamily(
            "hashguard_reindex_progress_ratio", "Share of the newest reindex that is done.", _progress(jobs)
        )
        serving = self._application.retrieval.state.current
        yield _thresholds({} if serving is None else serving.encoder.score_thresholds or {})


def _thresholds(sides: Mapping[Side, Mapping[float, float]]) -> Metric:
    family = GaugeMetricFamily(
        "hashguard_attack_score_threshold",
        "Attack score of the served model that benign queries exceed with this rate.",
        labels=("modality", "rate"),
    )
    for side, thresholds in sides.items():
        for rate, threshold in thresholds.items():
            family.add_metric((side, f"{rate:g}"), threshold)
    return family


def _progress(jobs: list[Job]) -> float:
    if not jobs or jobs[0].total == 0:
        return 0.0
    return jobs[0].done / jobs[0].total
