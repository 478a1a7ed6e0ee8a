#!/usr/bin/env python
"""Django's command line; see README.md for the commands this project adds."""

import os
import sys


def main() -> None:
    """Run the command named in ``sys.argv``."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "streaming_site.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here. Run scripts/serve, or activate .venv first.")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
