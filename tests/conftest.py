"""What the configuration of pytest cannot say: how many examples hypothesis tries.

The default profile is for every day. `pytest --hypothesis-profile=long` tries ten times as many.
"""

from __future__ import annotations

import hypothesis

# A deadline per example measures the machine, not the code.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("default")
