"""`t2m config`: whether the settings are right, and which are in force."""

from __future__ import annotations

from rich.table import Table

from cli import console
from config.catalogue import Catalogue
from config.settings import config_path, listing, load


def check() -> None:
    """Say that all is right.

    Raises:
        ConfigError: names what is not.
    """
    settings = load()
    catalogue = Catalogue.load(settings.models.catalogue)
    catalogue.get(settings.models.default)
    console.say(f"The settings are right: {config_path()}, {len(catalogue.names)} models.")


def show() -> None:
    """Every setting in force."""
    table = Table("setting", "value", "environment variable", box=None, pad_edge=False)
    for key, value, variable in listing(load()):
        table.add_row(key, value, variable)
    console.out.print(table, markup=False)
    console.note(f"Read from the environment and {config_path()}.")
