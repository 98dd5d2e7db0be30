"""Renders the templates: values are escaped wherever they are inserted, and one that is missing is an error."""

import math

import jinja2


def percent(value, digits: int = 2) -> str:
    """A fraction in percent; a dash for None and what is not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


environment = jinja2.Environment(
    loader=jinja2.PackageLoader("se_jax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters["percent"] = percent


def render(template: str, **values) -> str:
    """The text of a template (a file in `templates/`) with these values inserted."""
    return environment.get_template(template).render(values)
