"""Fill the database."""

import argparse
import sys

from pyramid.paster import bootstrap

from ..models import MyModel


def main(argv=sys.argv):
    """Add one row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config_uri")
    env = bootstrap(parser.parse_args(argv[1:]).config_uri)
    with env["request"].tm:
        env["request"].dbsession.add(MyModel(name="one"))
    env["closer"]()


if __name__ == "__main__":
    main()
