"""Embedding dimensions for the fields of click and rating data; each public name is imported when it is first used."""
__version__ = "0.1.0"

PLACES = {
    "AutoDim": "app.estimator", "AutoDimRanker": "app.ranker", "load": "app.ranker", "prepare": "data.table",
    "search": "method.search", "SearchConfig": "method.search",
    "retrain": "method.retrain", "TrainConfig": "method.retrain", "compress": "memory.compress",
}  # fmt: skip
__all__ = [*PLACES]


def __getattr__(name: str) -> object:
    """A public name from the module that defines it (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module 'autodim' has no attribute {name!r}; public are {', '.join(PLACES)}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Public names and what a module has."""
    return sorted([*globals(), *PLACES])
