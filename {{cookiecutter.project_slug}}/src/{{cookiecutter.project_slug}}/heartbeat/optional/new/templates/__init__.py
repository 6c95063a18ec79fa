"""The files of a new flow. A placeholder such as $name stands for the flow's name."""

from collections.abc import Mapping
from importlib.resources import files
from string import Template


def fill(template: str, names: Mapping[str, str]) -> str:
    """Return the text of a template with its placeholders replaced."""
    return Template(files(__package__).joinpath(f"{template}.txt").read_text()).substitute(names)
