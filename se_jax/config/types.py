"""ConfigDict as type checkers should see it: options are attributes, of any type."""

from typing import TYPE_CHECKING, Any

import ml_collections

if TYPE_CHECKING:

    class ConfigDict(ml_collections.ConfigDict):
        def __getattr__(self, attribute: str) -> Any: ...
        def __setattr__(self, attribute: str, value: Any) -> None: ...
        def __getitem__(self, key: str) -> Any: ...

else:
    ConfigDict = ml_collections.ConfigDict
