"""Settings: what is missing or out of range is refused, by the variable's name."""

from datetime import timedelta

import pytest

from token_broker.errors import ConfigurationError
from token_refresher import app as refresher
from token_vendor import app as vendor

REFRESHER = {
    "TOKEN_URL": "https://api.example/oauth2/token",
    "SECRET_PREFIX": "stack/connections/",
    "TOKEN_PARAMETER_PREFIX": "/enable-tokens/stack",
    "TOKEN_KEY_ARN": "arn:key",
    "REFRESH_AHEAD_SECONDS": "600",
    "RENEWAL_PARALLELISM": "8",
}
VENDOR = {
    "TOKEN_PARAMETER_PREFIX": "/enable-tokens/stack",
    "TOKEN_CACHE_SECONDS": "60",
    "REFRESH_AHEAD_SECONDS": "600",
    "REFRESH_FUNCTION_NAME": "refresher",
}
BOTH: list[tuple[type[refresher.Settings | vendor.Settings], dict[str, str]]] = [
    (refresher.Settings, REFRESHER),
    (vendor.Settings, VENDOR),
]


def test_settings_are_read_and_the_rest_of_the_environment_ignored() -> None:
    assert refresher.Settings.from_environ(REFRESHER | {"PATH": "/bin"}) == refresher.Settings(
        token_url="https://api.example/oauth2/token",
        secret_prefix="stack/connections/",
        token_parameter_prefix="/enable-tokens/stack",
        token_key_arn="arn:key",
        refresh_ahead=timedelta(minutes=10),
        parallelism=8,
        ca_bundle_parameter="",
    )
    assert vendor.Settings.from_environ(VENDOR) == vendor.Settings(
        token_parameter_prefix="/enable-tokens/stack",
        token_cache=timedelta(minutes=1),
        refresh_ahead=timedelta(minutes=10),
        refresh_function_name="refresher",
    )


@pytest.mark.parametrize(
    ("settings", "environ", "name"),
    [(kind, environ, name) for kind, environ in BOTH for name in environ],
)
def test_missing_or_empty_variable_is_named(
    settings: type[refresher.Settings | vendor.Settings], environ: dict[str, str], name: str
) -> None:
    without = {key: value for key, value in environ.items() if key != name}
    for faulty in (without, without | {name: ""}):
        with pytest.raises(ConfigurationError, match=name):
            settings.from_environ(faulty)


@pytest.mark.parametrize("value", ["29", "43201", "-600", "6e2", "600 ", "٦٠٠", "ten"])
def test_refresh_ahead_out_of_range_is_refused_with_the_range(value: str) -> None:
    complaint = "^REFRESH_AHEAD_SECONDS is not a whole number of seconds from 30 to 43200$"
    with pytest.raises(ConfigurationError, match=complaint):
        refresher.Settings.from_environ(REFRESHER | {"REFRESH_AHEAD_SECONDS": value})


@pytest.mark.parametrize("value", ["0", "33", "-1", "8.0", "eight", "9" * 5000])
def test_parallelism_out_of_range_is_refused_with_the_range(value: str) -> None:
    complaint = "^RENEWAL_PARALLELISM is not a whole number from 1 to 32$"
    with pytest.raises(ConfigurationError, match=complaint):
        refresher.Settings.from_environ(REFRESHER | {"RENEWAL_PARALLELISM": value})


@pytest.mark.parametrize("value", ["-1", "301", "1.5"])
def test_cache_window_out_of_range_is_refused_with_the_range(value: str) -> None:
    complaint = "^TOKEN_CACHE_SECONDS is not a whole number of seconds from 0 to 300$"
    with pytest.raises(ConfigurationError, match=complaint):
        vendor.Settings.from_environ(VENDOR | {"TOKEN_CACHE_SECONDS": value})


@pytest.mark.parametrize("value", ["0", "300"])
def test_ends_of_the_range_are_good(value: str) -> None:
    settings = vendor.Settings.from_environ(VENDOR | {"TOKEN_CACHE_SECONDS": value})
    assert settings.token_cache == timedelta(seconds=int(value))
