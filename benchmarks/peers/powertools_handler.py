"""The usual Lambda handler: Powertools' resolver with validation, parameters, Tracer, pydantic.

It does the vendor's main job: a grant's token from Parameter Store, remembered for a minute.
"""

import os
from datetime import UTC, datetime
from typing import Annotated, Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

PREFIX = os.environ["TOKEN_PARAMETER_PREFIX"]

app = APIGatewayRestResolver(enable_validation=True)
logger = Logger(service="peer")
metrics = Metrics(service="peer")
tracer = Tracer(service="peer")


class StoredToken(BaseModel):
    """What the parameter contains."""

    access_token: str
    token_type: str
    scope: str
    expires_at: datetime


class VendedToken(BaseModel):
    """What the caller gets."""

    access_token: str
    token_type: str
    expires_in: int
    expires_at: datetime
    scope: str


@app.get("/tokens/<grant>")
@tracer.capture_method(capture_response=False)
def get_token(grant: str, min_ttl: Annotated[int, Query(ge=0)] = 0) -> VendedToken:
    """A live token that lives at least so many seconds longer."""
    text = parameters.get_parameter(f"{PREFIX}/{grant}", decrypt=True, max_age=60)
    token = StoredToken.model_validate_json(text)
    left = int((token.expires_at - datetime.now(UTC)).total_seconds())
    if left <= min_ttl:
        raise ValueError("no live token")
    logger.info("token vended", extra={"grant": grant, "expires_at": token.expires_at.isoformat()})
    metrics.add_dimension("grant", grant)
    metrics.add_metric("Vended", MetricUnit.Count, 1)
    return VendedToken(**token.model_dump(), expires_in=left)


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_REST)
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Respond to a request."""
    return app.resolve(event, context)
