"""Which names does a function of the user's read: ``model_init`` of its trial, ``make_trainer`` of its values?"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class WatchedValues(dict[str, Any]):
    """Values by name that note which of them are read; whoever goes through them, or passes them on, reads all.

    Args:
        values: These.
        names: The notes; shared, so that several calls add up.
    """

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self._names = names

    def __getitem__(self, name: str) -> Any:
        self._names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        self._names.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """As of a dict."""
        self._names.add(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        self._names.add(name)
        return super().setdefault(name, default)

    # ``{**values}`` and ``dict(values)`` ask for the keys of a dict that has an iterator of its own.
    def __iter__(self) -> Iterator[str]:
        self._names.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As of a dict."""
        self._names.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        """As of a dict."""
        self._names.update(super().keys())
        return super().values()

    def items(self) -> Any:
        """As of a dict."""
        self._names.update(super().keys())
        return super().items()

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self.items())


class WatchedModelInit:
    """Lets ``model_init`` be run dry and notes the names that it reads from its trial, suggested or in ``params``.

    Args:
        model_init: The user's; takes a trial.

    Attributes:
        names: The notes.
    """

    def __init__(self, model_init: Any) -> None:
        self._model_init = model_init
        self.names: set[str] = set()

    def call(self, trial: Any) -> Any:
        """What ``model_init`` makes of a trial."""
        return self._model_init(_WatchedTrial(trial, self.names))


class _WatchedTrial:
    def __init__(self, trial: Any, names: set[str]) -> None:
        self._trial, self._names = trial, names

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._trial, attribute)
        if attribute == "params":
            return WatchedValues(value, self._names)
        return self._watched(value) if attribute.startswith("suggest_") else value

    def _watched(self, suggest: Callable[..., Any]) -> Callable[..., Any]:
        def watched(name: str, *args: Any, **kwargs: Any) -> Any:
            self._names.add(name)
            return suggest(name, *args, **kwargs)

        return watched
