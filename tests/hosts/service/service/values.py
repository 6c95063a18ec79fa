"""Values, by name."""

from cornice import Service

values = Service(name="values", path="/values/{name}", description="Values", cors_origins=("*",))
VALUES = {}


def is_number(request, **kwargs):
    """Refuse what is not a number."""
    if not str(request.json_body.get("value", "")).isdigit():
        request.errors.add("body", "value", "not a number")


@values.get()
def get_value(request):
    """Give a value."""
    return {"value": VALUES.get(request.matchdict["name"])}


@values.put(validators=(is_number,))
def set_value(request):
    """Set a value."""
    VALUES[request.matchdict["name"]] = request.json_body["value"]
    return {"set": True}
