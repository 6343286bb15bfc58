"""``python -m launcher`` and the console script ``step3vl``."""

from launcher.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
