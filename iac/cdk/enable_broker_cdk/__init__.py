"""The Enable token broker as a construct of the AWS CDK (v2): deploys a release."""

from enable_broker_cdk.broker import BrokerParameters, EnableTokenBroker

__all__ = ["BrokerParameters", "EnableTokenBroker"]
