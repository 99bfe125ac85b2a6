"""`hashguard serve`: the HTTP service on a home folder."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Annotated

import typer

from service.api.authentication import asks_for_keys, is_loopback
from service.api.logs import configure_logs
from service.catalog_wiring import build_catalog, build_keys
from service.commands.console import fail, note
from service.commands.home import adopt_model, build_index, opened, resolved
from service.commands.options import DeviceOption, HomeOption, KeepOption, settings_with
from service.main import bind
from service.main import serve as run_server
from service.settings import Settings


def serve(
    home: HomeOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to serve: folder, NAME/VERSION or latest; rebuilds another model's index.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.", show_default=False)] = None,
    device: DeviceOption = None,
    keep: KeepOption = None,
    allow_unauthenticated: Annotated[
        bool | None,
        typer.Option("--allow-unauthenticated", help="Ask nobody for a key, also beyond this machine."),
    ] = None,
) -> None:
    """Serve a home folder over HTTP until SIGTERM or Ctrl-C."""
    settings = settings_with(
        home=home,
        host=host,
        port=port,
        device=device,
        keep_generations=keep,
        allow_unauthenticated=allow_unauthenticated,
    )
    bound = listen(settings)
    if model is not None:
        _make_live(settings, model)
    if settings.asks_nobody and not is_loopback(settings.host):
        note(f"warning: whoever can reach {settings.host} may do everything; nobody is asked for a key")
    run(settings, bound, lambda address: note(f"serving {settings.home} on {address}"))


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on; ends the command when the address is taken, or open to others without keys."""
    if asks_for_keys(settings) and not count_keys(settings):
        fail(
            f"the service would ask every caller of {settings.host} for a key and there is none: "
            f"make one with `hashguard keys create NAME --home {settings.home}`, or say "
            "--allow-unauthenticated (HASHGUARD_ALLOW_UNAUTHENTICATED=1) when whoever reaches it may do all"
        )
    try:
        return bind(settings.host, settings.port)
    except OSError as error:
        fail(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}")


def count_keys(settings: Settings) -> int:
    """Number of API keys that are good now; makes no catalog where there is none."""
    if not settings.catalog_is_there():
        return 0
    catalog = build_catalog(settings)
    try:
        return build_keys(catalog).count_valid()
    finally:
        catalog.close()


def run(settings: Settings, bound: socket.socket, started: Callable[[str], None]) -> None:
    """Serve; `started` hears the address once the server answers."""
    host, port = bound.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    configure_logs(settings.log_level, settings.log_json)
    run_server(settings, bound, lambda: started(address))


def _make_live(settings: Settings, model: str) -> None:
    label = adopt_model(settings, model)
    with opened(settings) as parts:
        label = resolved(parts, label)
        live = parts.catalog.generations.live()
        wanted = next(ref for ref in parts.shelf.refs() if ref.label == label)
        if live is None or live.model_digest != wanted.digest:
            build_index(parts, label)
