"""Features: one declaration, used by Spark, by Feast and by the scoring service.

Feast has its functions rewritten by typeguard, with checks of their types, each time that it is imported:
that is half of the import. What calls them here is checked by mypy, so they stay as they are.
"""

from typing import Any

import typeguard


def _as_it_is(target: Any = None, **_options: Any) -> Any:
    return target if target is not None else _as_it_is


typeguard.typechecked = _as_it_is
