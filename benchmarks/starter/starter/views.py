"""The home page, and the views that beats are compared with."""

from __future__ import annotations

from typing import Any

from pyramid.view import view_config
from sqlalchemy import select

from .models import MyModel


@view_config(route_name="home", renderer="templates/home.jinja2")
def home(request: Any) -> dict[str, Any]:
    """Read a row and show it."""
    one = request.dbsession.scalars(select(MyModel).where(MyModel.name == "one")).first()
    return {"one": one, "project": "starter"}


@view_config(route_name="bare", renderer="json")
def bare(_request: Any) -> dict[str, int]:
    """Return a reply without a database query."""
    return {"ok": 1}


@view_config(route_name="select", renderer="json")
def select_one(request: Any) -> dict[str, int]:
    """Execute the cheapest query."""
    return {"ok": request.dbsession.scalar(select(1))}


@view_config(route_name="insert", renderer="json")
def insert(request: Any) -> dict[str, int]:
    """Insert a row; pyramid_tm commits it."""
    row = MyModel(name="beat", value=1)
    request.dbsession.add(row)
    request.dbsession.flush()
    return {"ok": row.id}
