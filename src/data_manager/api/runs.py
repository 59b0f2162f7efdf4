"""Work that somebody asked for and that takes longer: 202 now, and where to ask again."""

from typing import Annotated, Any, Final, Literal

from msgspec import structs
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.routing import Reply, answered
from data_manager.domain.errors import BadQuery
from data_manager.services.runs import Outcome


class RunUnderWay(BaseModel):
    """Work that takes longer."""

    run: int
    status: Literal["running"]
    href: Annotated[str, Field(examples=["/audit/runs/7"])]
    done: int
    total: Annotated[int, Field(description="Of so many; 0: not counted yet.")]
    at: Annotated[str, Field(description="The last of them.")]


UNDER_WAY: Final[dict[str, Any]] = {"model": RunUnderWay, "description": "It takes longer: ask again at href."}
"""What OpenAPI says of 202."""

RUN: Final[dict[str, Any]] = {"name": "run", "in": "path", "required": True, "schema": {"type": "integer"}}
"""What OpenAPI says of the number in the path."""


def run_number(request: Request) -> int:
    """The number in the path. Raises BadQuery."""
    number = request.path_params["run"]
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise BadQuery("run", number[:64], "must be the number of a run that was asked for")
    return int(number)


def under_way(outcome: Outcome[Any], path: str) -> Reply:
    """202: ask again there."""
    href = f"{path}/{outcome.number}"
    body = {"run": outcome.number, "status": "running", "href": href, **structs.asdict(outcome.progress)}
    return answered(body, 202, (b"location", href.encode()))
