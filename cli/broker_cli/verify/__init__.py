"""`broker verify`: does a deployed stack do here what the documents promise.

Each check is a function of the deployment that returns one value: passed, failed, or not checked
and why. A check that AWS does not perform is *not checked*. Where an
API might say yes to everything, the check asks it first what must be refused.
"""
