"""Compiled functions are built-in calls at once: tests call them a few times only.

The longest file is started first, so that all workers end at about the same time.
"""

from microtorch.kernels import entry

entry.AFTER = 0
LONGEST = "test_table.py"


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name != LONGEST)
