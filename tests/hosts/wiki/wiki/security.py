"""Users by a cookie; whoever is not signed in is sent to the login page."""

from pyramid.authentication import AuthTktCookieHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone
from pyramid.httpexceptions import HTTPSeeOther


class MySecurityPolicy:
    """The policy."""

    def __init__(self, secret):
        self.authtkt = AuthTktCookieHelper(secret)
        self.acl = ACLHelper()

    def identity(self, request):
        identity = self.authtkt.identify(request)
        return identity and identity["userid"]

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        user = self.identity(request)
        principals = [Everyone, Authenticated, f"u:{user}"] if user else [Everyone]
        return self.acl.permits(context, principals, permission)

    def remember(self, request, userid, **kw):
        return self.authtkt.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.authtkt.forget(request, **kw)


class Root:
    """What the views' permissions are about; nobody comes here without a cookie."""

    def __init__(self, request):
        if request.path != "/login" and not request.authenticated_userid:
            raise HTTPSeeOther(request.route_url("login"))

    __acl__ = [
        (Allow, Authenticated, "view"),
        (Allow, "u:editor", ("create", "heartbeat.operate")),
    ]


def includeme(config):
    """Set the policy."""
    config.set_security_policy(MySecurityPolicy("a secret of the wiki"))
    config.set_root_factory(Root)
    config.set_default_permission("view")
