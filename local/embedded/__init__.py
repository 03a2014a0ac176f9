"""Where ministack differs from AWS, and this project would notice: one module for each service.

A correction replaces names of a pinned release from inside, because nothing public does it. Each
says which page of AWS it follows. tests/integration/test_embedded_aws.py shows what ministack alone
would do. docs/develop.md lists what is still not as in AWS.
"""

from local.embedded import (
    api_gateway,
    dashboards,
    environments,
    keys,
    log_queries,
    names,
    network,
    parameters,
    stack_events,
    transport,
)


def correct() -> None:
    """Correct ministack in this process, before it serves."""
    api_gateway.apply_resource_policies()
    dashboards.belong_to_the_account()
    environments.end_alone()
    environments.find_packages_in_python_folders()
    environments.survive_errors()
    keys.check_every_use()
    log_queries.accept_saved_queries()
    log_queries.count_by_fields()
    names.differ_by_region()
    names.refuse_what_is_taken()
    network.endpoints_belong_to_a_vpc()
    network.functions_have_subnets()
    parameters.authorize_each_name()
    stack_events.have_distinct_times()
    transport.counts_as_encrypted()
