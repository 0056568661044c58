"""The `t2m` command. Each subcommand imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cli import console

app = typer.Typer(
    name="t2m",
    help="Text to video: one prompt in, renditions in object storage out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(no_args_is_help=True, help="Weights of the models.")
config_app = typer.Typer(no_args_is_help=True, help="Settings: a TOML file (T2M_CONFIG) and T2M_ variables on top.")
user_app = typer.Typer(no_args_is_help=True, help="What single users may do.")
dlq_app = typer.Typer(no_args_is_help=True, help="Messages that the broker gave up.")
app.add_typer(models_app, name="models")
app.add_typer(user_app, name="user")
app.add_typer(config_app, name="config")
app.add_typer(dlq_app, name="dlq")

DEBUG = "--debug"
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data folder (setting data_dir).")]
Quota = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Per hour.", show_default=False)]
Letter = Annotated[str, typer.Argument(metavar="LETTER", help="Id, as `t2m dlq list` shows it.", show_default=False)]
Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]…", help="Names of models.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Log to the terminal and show tracebacks.")] = False,
) -> None:
    """Text to video: one prompt in, renditions in object storage out."""


@app.command()
def render(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to show.", show_default=False)],
    duration: Annotated[float | None, typer.Option(help="Seconds, 1 to 60.", show_default="4")] = None,
    quality: Annotated[str, typer.Option(help="Highest rung: 720p or 1080p.")] = "1080p",
    seed: Annotated[int | None, typer.Option(help="0 to 2³²−1.", show_default="random")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    model: Annotated[str | None, typer.Option(help="See `t2m models list`.", show_default="models.default")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second.", show_default="the model's")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="Such as 16:9.", show_default="the model's")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default="the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", show_default="the model's")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to show.", show_default=False)] = None,
    data: Data = None,
) -> None:
    """Render a clip in this process and leave its files in a folder."""
    from cli.render import render_to

    body = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "duration": duration,
        "quality": quality,
        "seed": seed,
        "model": model,
        "fps": fps,
        "aspect_ratio": aspect_ratio,
        "steps": steps,
        "guidance": guidance,
    }
    raise typer.Exit(render_to(body, out, data, debug=context.obj))


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="gateway.host")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="gateway.port")] = None,
) -> None:
    """Everything in one process: HTTP API, rendering, encoding; no other server is needed."""
    from cli.servers import serve_all

    serve_all(data, host, port)


@app.command()
def gateway() -> None:
    """The HTTP API alone, on the configured broker, store and database."""
    from cli.servers import serve_gateway

    serve_gateway()


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="Comma-separated: render.MODEL, encode, thumbnails, metadata, publish.")],
    data: Data = None,
) -> None:
    """Run stages from the configured broker."""
    from cli.servers import work

    raise typer.Exit(work(_names(queues), data))


@app.command()
def doctor(
    data: Data = None,
    queues: Annotated[str, typer.Option(help="Check what a worker with these queues needs.", show_default="all")] = "",
) -> None:
    """Check everything T2M depends on, and say what to do where it does not work."""
    from cli.doctor import diagnose

    raise typer.Exit(diagnose(data, _names(queues)))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="User id the token speaks for.")],
    data: Data = None,
    role: Annotated[str, typer.Option(help="user or admin.")] = "user",
    expires: Annotated[str, typer.Option(help="Lifetime: 90s, 30m, 1h or 7d.")] = "1h",
    email: Annotated[str | None, typer.Option(help="E-mail address of the user; counts as verified.")] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="All the token may do; repeat for several. Default: what the role may.")
    ] = None,
) -> None:
    """Print a bearer token, alone on the last line."""
    from cli.token import issue

    console.say(issue(data, user, role, expires, email=email, permissions=permission))


@app.command()
def rebuild(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be restored.")] = False,
) -> None:
    """Restore jobs, logs and files in a database that has lost them, from what is in the object store."""
    from cli.rebuild import rebuild as restore

    raise typer.Exit(restore(data, dry_run=dry_run))


@app.command()
def sweep(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what nothing refers to any more from the object store; gateways do it every hour by themselves."""
    from cli.sweep import sweep_now

    sweep_now(data, dry_run=dry_run)


@user_app.command("limit")
def limit_user(
    user: Annotated[str, typer.Argument(help="User id, as tokens name it.", show_default=False)],
    jobs: Quota = None,
    uploads: Quota = None,
    general: Quota = None,
    system: Quota = None,
    reset: Annotated[bool, typer.Option("--reset", help="Let the deployment's limits hold again.")] = False,
    data: Data = None,
) -> None:
    """Show what a user may ask for in an hour, or set it."""
    from cli.user import limit

    wanted = {"jobs": jobs, "uploads": uploads, "general": general, "system": system}
    for name, quota in limit(data, user, wanted, reset=reset).items():
        console.say(f"{name}: {quota} per hour")


@models_app.command("list")
def list_models() -> None:
    """Show the catalogue and whose weights are here."""
    from cli.models import show

    show()


@models_app.command("pull")
def pull_models(names: Names = None) -> None:
    """Download weights at their pinned revision, check them, and copy them to the weights store if one is set."""
    from cli.models import pull

    pull(names or [])


@models_app.command("verify")
def verify_models(names: Names = None) -> None:
    """Compare weights with their sha256; without names, all that are here."""
    from cli.models import verify

    verify(names or [])


@dlq_app.command("list")
def list_letters() -> None:
    """Show all letters: id, when they died, queue, reason, job."""
    from cli import dlq

    dlq.show_all()


@dlq_app.command("show")
def show_letter(letter: Letter) -> None:
    """Print a letter."""
    from cli import dlq

    dlq.show(letter)


@dlq_app.command("requeue")
def requeue_letter(letter: Letter) -> None:
    """Send a letter's message once more; if its job has failed, ask for the job again under a new id."""
    from cli import dlq

    dlq.requeue(letter)


@dlq_app.command("drop")
def drop_letter(letter: Letter) -> None:
    """Remove a letter."""
    from cli import dlq

    dlq.drop(letter)


@config_app.command("check")
def check_config() -> None:
    """Read the settings and the catalogue; wrong ones are named."""
    from cli.configuration import check

    check()


@config_app.command("show")
def show_config() -> None:
    """Print every setting in force with its environment variable; secrets are masked."""
    from cli.configuration import show

    show()


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def main() -> None:
    """Entry point. An error is one line on stderr and an exit code other than 0; `--debug` shows its traceback."""
    words = sys.argv[1:]
    before_end = words[: words.index("--")] if "--" in words else words
    debug = DEBUG in before_end
    if debug:
        words.remove(DEBUG)
    try:
        app(args=words, prog_name="t2m", obj=debug)
    except SystemExit as ended:
        _leave(ended.code)
        raise
    except Exception as error:
        if debug:
            raise
        text, code = console.explain(error)
        console.note(f"Error: {text}")
        _leave(code)
        sys.exit(code)


def _leave(code: str | int | None) -> None:
    """End the process at once where threads were left behind, such as a render whose time to stop was up.

    The interpreter ends such threads where they ask for its lock; inside torch that unwinds C++ frames that may not be
    unwound, and the process aborts (`terminate called without an active exception`).
    """
    if isinstance(code, int) and any(thread.daemon for thread in threading.enumerate()):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
