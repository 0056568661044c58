"""Puts the gateway together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import dramatiq
from aiohttp import web

from config.catalogue import Catalogue
from config.settings import Settings
from gateway import cors, health, housekeeping, middleware, sweep
from gateway.archive import Archive
from gateway.auth.factory import open_authenticator
from gateway.auth.local import deployment_key
from gateway.auth.tokens import Tokens
from gateway.cache import Cache
from gateway.context import GATEWAY, Gateway
from gateway.database import blobs
from gateway.database.blobs import Shared
from gateway.database.engine import Database
from gateway.database.lookup import Lookup
from gateway.database.migrate import opened
from gateway.dispatcher import Dispatcher
from gateway.feeds import Feeds
from gateway.files.signed import SignedUrls
from gateway.hls import StreamTokens
from gateway.inspection.inspector import Inspector
from gateway.ledger import Ledger
from gateway.limits.counters import open_counter
from gateway.limits.limiter import Limiter
from gateway.links import BASE_PATH
from gateway.media import Media
from gateway.metrics import Metrics
from gateway.news import News
from gateway.outlook import Fresh, Outlook
from gateway.projector import Projector
from gateway.registration import Registrar
from gateway.rescue import Rescue
from gateway.roles import Role, Roles
from gateway.routes import auth, cache, documentation, files, jobs, models, system, videos, webhooks
from gateway.signing import Signer
from gateway.validation import MAX_BODY
from gateway.webhooks.announcer import Announcer
from gateway.webhooks.guard import Guard
from gateway.webhooks.sender import Sender
from pipeline import metrics as stage_metrics
from pipeline.bus.base import EventSubscriber
from pipeline.jobs import Jobs
from pipeline.safety import open_safety
from pipeline.store.base import ObjectStore


def create_app(
    settings: Settings,
    *,
    store: ObjectStore,
    broker: dramatiq.Broker,
    subscribe: Callable[[], EventSubscriber],
    catalogue: Catalogue,
) -> web.Application:
    """The gateway with the roles of `settings.gateway.roles`; its background work begins when the app starts.

    Args:
        subscribe: opens a durable subscription to the events. The projector opens a new one after a failure.
    """
    app = web.Application(middlewares=middleware.ALL, client_max_size=MAX_BODY)
    app.on_response_prepare.append(middleware.add_headers)
    if settings.gateway.cors_origins:
        app.middlewares.insert(-1, cors.preflight)  # browsers send no token with it
        app.on_response_prepare.append(cors.add_headers)
    _add_routes(app, api="api" in settings.gateway.roles)

    async def life(app: web.Application) -> AsyncIterator[None]:
        async with opened(settings) as database:
            gateway = _open(settings, database, store, catalogue, subscribe)
            app[GATEWAY] = gateway
            roles = Roles(_roles(gateway, broker, subscribe), gateway.metrics)
            roles.start()
            yield
            await gateway.registrar.close()
            await roles.stop()
            await gateway.control.close()
            await gateway.media.close()
            await gateway.authenticator.close()
            await gateway.limiter.close()
            await gateway.cache.close()

    async def dismiss(app: web.Application) -> None:
        app[GATEWAY].feeds.close()

    app.cleanup_ctx.append(life)
    app.on_shutdown.append(dismiss)
    return app


def _add_routes(app: web.Application, *, api: bool) -> None:
    """Health and metrics are there in every role; the rest only where this process answers clients."""
    app.router.add_get("/metrics", system.metrics)
    if api:
        app.router.add_get("/docs", documentation.page)
        app.router.add_get("/docs/{name}", documentation.part)
        for path in ("/openapi.json", f"{BASE_PATH}/openapi.json"):
            app.router.add_get(path, documentation.description)
    sections = (system, cache, auth, files, jobs, videos, models, webhooks) if api else (system,)
    for table in (section.routes for section in sections):
        for route in table:
            if isinstance(route, web.RouteDef):
                web.RouteDef(route.method, BASE_PATH + route.path, route.handler, route.kwargs).register(app.router)


def _open(
    settings: Settings,
    database: Database,
    store: ObjectStore,
    catalogue: Catalogue,
    subscribe: Callable[[], EventSubscriber],
) -> Gateway:
    metrics = Metrics(stage_metrics.ALL if settings.embedded else ())
    authenticator = open_authenticator(settings)
    redis = settings.redis.url.get_secret_value()
    news, feeds = News(database), Feeds(database)
    news.subscribe(feeds.tell)
    job_store, limiter = Jobs(store), Limiter(settings.limits, database, open_counter(redis))
    return Gateway(
        settings=settings,
        catalogue=catalogue,
        database=database,
        lookup=Lookup(database),
        store=job_store,
        authenticator=authenticator,
        tokens=Tokens(authenticator),
        metrics=metrics,
        media=Media(store),
        guard=Guard(settings.webhooks),
        health=health.Health(health.checks(database, store, settings.broker.url.get_secret_value())),
        provider_health=health.Health({authenticator.name: authenticator.ping}),
        limiter=limiter,
        registrar=Registrar(database, limiter, job_store),
        cache=Cache(redis),
        ledger=Ledger(database, news, metrics, Announcer(settings)),
        news=news,
        feeds=feeds,
        safety=open_safety(settings),
        outlook=Outlook(settings, catalogue, database),
        shared=Fresh(0.0, partial(_shared, database)),
        stream_tokens=StreamTokens(
            database, Signer(deployment_key(settings), "playlists"), settings.gateway.stream_token_s
        ),
        signed_urls=SignedUrls(Signer(deployment_key(settings), "files")),
        inspector=Inspector(settings.files, database, store),
        control=subscribe(),
    )


async def _shared(database: Database) -> Shared:
    async with database.survey() as connection:
        return await blobs.shared(connection)


def _roles(gateway: Gateway, broker: dramatiq.Broker, subscribe: Callable[[], EventSubscriber]) -> dict[str, Role]:
    settings, database, metrics = gateway.settings, gateway.database, gateway.metrics
    roles: dict[str, Role] = {}  # the projector first, so that no event of a job it dispatches goes past it
    if "api" in settings.gateway.roles:
        roles["feeds"] = gateway.feeds.run
        roles["pulse"] = gateway.machine.pulse
        roles["inspector"] = gateway.inspector.run
    if {"api", "webhooks"} & set(settings.gateway.roles):
        roles["news"] = gateway.news.listen
    if "projector" in settings.gateway.roles:
        projector = Projector(
            database,
            gateway.store,
            subscribe,
            gateway.ledger,
            metrics,
            gateway.wake,
            pictures=gateway.safety is None,  # which is asked once there is a video
        )
        roles |= {"projector": projector.run, "repair": projector.repair}
        roles["archive"] = Archive(database, gateway.store).run
    if "dispatcher" in settings.gateway.roles:
        dispatcher = Dispatcher(settings, gateway.catalogue, database, broker, metrics, gateway.wake)
        rescue = Rescue(
            settings, gateway.catalogue, database, broker, gateway.store, gateway.ledger, metrics, gateway.wake
        )
        roles |= {"dispatcher": dispatcher.run, "rescue": rescue.run}
        roles |= {"housekeeping": partial(housekeeping.run, gateway), "sweep": partial(sweep.run, gateway)}
    if "webhooks" in settings.gateway.roles:
        sender = Sender(settings.webhooks, database, gateway.guard, metrics, gateway.due)
        gateway.news.subscribe(lambda _: gateway.due.set())
        roles |= {"webhooks": sender.run, "delivery log": sender.forget}
    return roles
