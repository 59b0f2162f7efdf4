"""The service that calls a series silent after two seconds already, and asks again every second."""

from data_manager.cli import main
from data_manager.domain.dataset import Dataset
from data_manager.services import watched

PATIENCE_S = 2.0


def _patience_s(_: watched.Subjects, __: Dataset) -> float:
    return PATIENCE_S


if __name__ == "__main__":
    watched._AGAIN_S = 1.0  # type: ignore[misc]
    watched.Subjects._patience_s = _patience_s  # type: ignore[method-assign]
    main()
