"""`migrate` and `check` beside an Alembic environment as the Pylons starter has it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, inspect

from data_flows.heartbeat import migrations
from data_flows.heartbeat.cli import main as heartbeat_command

from ..conftest import TOKEN
from ..functional import host

PROJECT = Path("testing.ini").absolute().parent
OURS = {"data_flows", "data_flow_runs", "data_flow_beats", "data_flow_version"}
# It connects by itself, with the driver's defaults.
ENVIRONMENT = f"""
from alembic import context
from pyramid.paster import get_appsettings
from sqlalchemy import NullPool, engine_from_config

from {host.__name__} import Base

config = context.config
settings = get_appsettings(config.config_file_name, "site")
engine = engine_from_config(settings, "sqlalchemy.", poolclass=NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
INCLUDE_NAME = "include_name=include_name,"
IMPORT = f"from {migrations.__name__} import include_name"
REVISION = '''
"""Add the pages."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.create_table("host_pages", sa.Column("id", sa.Integer, primary_key=True))
'''
TEMPLATE = """
revision, down_revision = ${repr(up_revision)}, ${repr(down_revision)}


def upgrade():
    ${upgrades}
"""
APPLICATION = f"""
[app:site]
use = call:{host.__name__}:main
sqlalchemy.url = URL
heartbeat.token = {TOKEN}

[server:main]
use = egg:waitress
threads = 8

[alembic]
script_location = %(here)s/chain
path_separator = os
"""
# How the application may be named: the rest of the .ini file, and what follows its name.
SHAPES = {
    "app": ("[app:main]\nuse = site\n", ""),
    "name": ("", "#site"),
    "pipeline": ("[pipeline:main]\npipeline = filter site\n", ""),
    "named pipeline": ("[pipeline:public]\npipeline = filter site\n", "#public"),
    "filter-with": ("[app:main]\nuse = site\nfilter-with = filter\n", ""),
    "composite": ("[composite:main]\nuse = call:{here}:make_composite\nrest = site\n", ""),
}


def make_filter(_global_config: dict[str, str]) -> Callable[[object], object]:
    """Return a WSGI filter that does nothing."""
    return lambda application: application


def make_composite(loader: object, _global_config: dict[str, str], rest: str) -> object:
    """Return a WSGI application that is made of others."""
    return loader.get_app(rest)  # type: ignore[attr-defined]


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, fresh_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the host's chain and its .ini file; return that."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def make(shape: str = "app", *, include_name: bool = True) -> Path:
        (tmp_path / "chain" / "versions").mkdir(parents=True)
        environment = ENVIRONMENT
        if include_name:
            environment = IMPORT + environment.replace(
                "Base.metadata,", f"Base.metadata,\n        {INCLUDE_NAME}"
            )
        (tmp_path / "chain" / "env.py").write_text(environment)
        (tmp_path / "chain" / "script.py.mako").write_text(TEMPLATE)
        (tmp_path / "chain" / "versions" / "0001_pages.py").write_text(REVISION)
        ini = tmp_path / "host.ini"
        url = fresh_database_url.replace("%", "%%")
        filters = "[filter:filter]\nuse = call:{here}:make_filter\n"
        text = APPLICATION.replace("URL", url) + filters + SHAPES[shape][0]
        ini.write_text(text.replace("{here}", __name__))
        return ini

    return make


def call(*words: str) -> Result:
    return CliRunner().invoke(heartbeat_command, words)


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_both_chains_migrate_wherever_the_application_stands(
    write: Write, fresh_database_url: str, shape: str
) -> None:
    config = f"{write(shape)}{SHAPES[shape][1]}"

    first, second = call("migrate", "-c", config), call("migrate", "-c", config)

    for result in (first, second):
        assert result.exit_code == 0, result.output
        assert "your tables are up to date" in result.output
    assert tables(fresh_database_url) == {*OURS, "host_pages", "alembic_version"}
    checked = call("check", "-c", config)
    assert checked.exit_code == 0, checked.output


def test_several_processes_migrate_at_once(write: Write, fresh_database_url: str) -> None:
    ini = write()
    code = f"from {heartbeat_command.callback.__module__} import main; main()"
    words = [sys.executable, "-c", code, "migrate", "-c", str(ini)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}

    processes = [
        subprocess.Popen(words, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command
        for _ in range(3)
    ]

    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert tables(fresh_database_url) == {*OURS, "host_pages", "alembic_version"}


def test_check_warns_while_a_revision_would_drop_our_tables(write: Write) -> None:
    ini = write(include_name=False)
    assert call("migrate", "-c", str(ini)).exit_code == 0

    result = call("check", "-c", str(ini))

    [wrong] = [line for line in result.output.splitlines() if line.startswith("wrong")]
    assert result.exit_code == 1
    assert "the next `alembic revision --autogenerate` would drop data_flow" in wrong
    assert f"add `{IMPORT}`" in wrong
    assert "`include_name=include_name` to context.configure() in" in wrong
    assert str(ini.parent / "chain" / "env.py") in wrong


def test_a_revision_leaves_our_tables_alone_with_include_name(write: Write) -> None:
    ini = write()
    assert call("migrate", "-c", str(ini)).exit_code == 0

    command.revision(Config(ini), "nothing", autogenerate=True)

    (made,) = (ini.parent / "chain" / "versions").glob("*nothing.py")
    assert "op." not in made.read_text()
