"""The home page against hostile requests."""

from webtest import TestApp


def test_no_host_of_a_header_is_in_the_command(app: TestApp) -> None:
    for host in ("evil.test", "evil.test; rm -rf ~", "localhost.evil.test", "localhost:80$(id)"):
        page = app.get("/", headers={"Host": host}, status=200).text

        assert host not in page
        assert "http://localhost" in page


def test_a_path_that_is_not_utf_8_is_refused(app: TestApp) -> None:
    app.get("/%ff", status=400)
    app.get("/%ff/heartbeat", status=400)
