"""Figures drawn while a model trains, one file each.

A demo is a script, so its helper `_live` is a sibling; `python -m demos.NAME` finds it there too.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
