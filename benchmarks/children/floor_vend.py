"""The floor of a vend's cold start: boto3, one client, one parameter. ARGV is the folders."""

import time

_BEGAN, _BEGAN_CPU = time.perf_counter(), time.process_time()

import sys  # noqa: E402

sys.path[:0] = sys.argv[1:]
import os  # noqa: E402

import boto3  # noqa: E402

boto3.client("ssm").get_parameter(
    Name=os.environ["TOKEN_PARAMETER_PREFIX"] + "/deals", WithDecryption=True
)
seconds, cpu_seconds = time.perf_counter() - _BEGAN, time.process_time() - _BEGAN_CPU
import json  # noqa: E402

print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "modules": len(sys.modules)}))
