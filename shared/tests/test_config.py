from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from artstore.config import (
    REMOVED,
    AdminClientSettings,
    DatabaseSettings,
    RedisSettings,
    ServiceSettings,
    find_misspelt,
    find_removed,
    load_settings,
)
from artstore.setting_names import SETTING_NAMES


class Settings(ServiceSettings, DatabaseSettings, RedisSettings, AdminClientSettings):
    """A service like the real ones."""


SECRET, IN_FILE, PASSWORD = (secrets.token_urlsafe(32) for _ in range(3))
NEEDED = {
    "PORT": "8000",
    "DATABASE_URL": "postgresql+asyncpg://user:kT9vQ2mX7b@host/artstore",
    "REDIS_URL": "redis://host",
    "ADMIN_URL": "http://admin",
    "SERVICE_CLIENT_ID": "query",
    "SERVICE_CLIENT_SECRET": "iK2vR7mQ9tX4bW8nZ3cJ6hL1pS5dF0gY_aEuOoTrNvM",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a start that is refused."""
    with pytest.raises(SystemExit) as caught:
        load_settings(Settings)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("artstore: cannot start: ")
    return said


def test_a_complete_environment_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CORS_ALLOWED_ORIGINS", "https://a.example, https://b.example")
    environment.setenv("LOG_LEVEL", "")
    settings = load_settings(Settings)
    assert settings.port == 8000
    assert settings.cors_allowed_origins == ["https://a.example", "https://b.example"]
    assert settings.log_level == "INFO"
    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]


def test_settings_are_frozen_and_hide_their_secrets(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    assert SECRET not in repr(settings)
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_missing_setting_stops_the_start_by_name(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.delenv(name)
    assert name in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "no number"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("DATABASE_POOL_SIZE", "0"),
        ("REDIS_TIMEOUT_S", "-1"),
        ("SERVICE_CLIENT_SECRET", "short"),
    ],
)
def test_a_senseless_or_unsafe_value_stops_the_start_by_name(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)
    said = refusal(capsys)
    assert f" {name} must " in said
    assert "should" not in said


def test_a_refused_secret_is_not_shown(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("SERVICE_CLIENT_SECRET", "too-short-but-real")
    assert "too-short-but-real" not in refusal(capsys)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("REDIS_ULR", "REDIS_URL"),
        ("LOG_LEVL", "LOG_LEVEL"),
        ("SERVICE_CLIENT_SECRETS", "SERVICE_CLIENT_SECRET"),
        ("DATABASE_URL_FIEL", "DATABASE_URL_FILE"),
    ],
)
def test_a_misspelt_setting_stops_the_start_and_the_right_name_is_suggested(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str, meant: str
) -> None:
    environment.setenv(wrong, "x")
    said = refusal(capsys)
    assert wrong in said
    assert f"did you mean {meant}?" in said


def test_an_unknown_name_with_one_of_our_prefixes_is_refused_too() -> None:
    assert find_misspelt({"STORAGE_COLOUR": "red"}) == [("STORAGE_COLOUR", "")]


def test_a_setting_of_an_earlier_version_does_not_stop_the_start() -> None:
    """Also with one of our prefixes, and although it resembles a setting that exists."""
    given = {"STORAGE_RESERVE_PERCENT": "2", "SIGNING_KEY_BITS": "4096", "LOG_LEVEL": "info"}
    assert find_misspelt(given) == []
    assert find_removed(given) == ["SIGNING_KEY_BITS", "STORAGE_RESERVE_PERCENT"]


def test_no_setting_is_listed_as_removed() -> None:
    assert not REMOVED & SETTING_NAMES


def test_what_other_programs_have_in_the_environment_is_left_alone() -> None:
    usual = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "LANG",
        "LC_ALL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "HOSTNAME",
        "TZ",
        "EDITOR",
        "PAGER",
        "MAIL",
        "DISPLAY",
        "TMPDIR",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "SSH_AUTH_SOCK",
        "XDG_RUNTIME_DIR",
        "GPG_KEY",
        "PYTHON_VERSION",
        "HTTP_PROXY",
        "NO_PROXY",
        "DEBIAN_FRONTEND",
    ]
    assert find_misspelt(dict.fromkeys(usual, "x")) == []


def test_a_secret_may_lie_in_a_file(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    value = "Zq8Lw3Xn5Rt7Yk1Pm9Vb2Cd4Fg6Hj0Ks-aBcDeFgHiJ"
    secret.write_text(value + "\n")
    secret.chmod(0o600)
    environment.delenv("SERVICE_CLIENT_SECRET")
    environment.setenv("SERVICE_CLIENT_SECRET_FILE", str(secret))
    assert load_settings(Settings).service_client_secret.get_secret_value() == value
    environment.setenv("SERVICE_CLIENT_SECRET_FILE", str(tmp_path / "missing"))
    assert "SERVICE_CLIENT_SECRET_FILE cannot be read" in refusal(capsys)


def test_a_secret_that_everybody_may_read_stops_the_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(NEEDED["SERVICE_CLIENT_SECRET"])
    secret.chmod(0o644)
    environment.delenv("SERVICE_CLIENT_SECRET")
    environment.setenv("SERVICE_CLIENT_SECRET_FILE", str(secret))
    said = refusal(capsys)
    assert "SERVICE_CLIENT_SECRET_FILE is readable by every user" in said
    assert NEEDED["SERVICE_CLIENT_SECRET"] not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_CLIENT_SECRET", "x" * 43),
        ("SERVICE_CLIENT_SECRET", "changeme-changeme-changeme-changeme-changeme"),
        ("SERVICE_CLIENT_SECRET", "my-super-secret-password-for-the-ingester-1"),
        ("DATABASE_URL", "postgresql+asyncpg://artstore:postgres@db/artstore"),
        ("DATABASE_URL", "postgresql+asyncpg://artstore:short@db/artstore"),
        ("REDIS_URL", "redis://:changeme123@cache:6379/0"),
    ],
)
def test_a_secret_out_of_an_example_stops_the_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)
    said = refusal(capsys)
    assert name in said
    assert value not in said


INJECTED = {
    "REDIS_PORT": "tcp://10.96.0.12:6379",
    "REDIS_SERVICE_HOST": "10.96.0.12",
    "REDIS_SERVICE_PORT": "6379",
    "REDIS_SERVICE_PORT_METRICS": "9121",
    "REDIS_PORT_6379_TCP": "tcp://10.96.0.12:6379",
    "REDIS_PORT_6379_TCP_ADDR": "10.96.0.12",
    "REDIS_PORT_6379_TCP_PORT": "6379",
    "REDIS_PORT_6379_TCP_PROTO": "tcp",
    "REDIS_NAME": "/web/redis",
    "REDIS_ENV_REDIS_VERSION": "8",
    "DATABASE_PORT": "tcp://10.96.0.12:5432",
    "DATABASE_SERVICE_HOST": "10.96.0.13",
    "DATABASE_PORT_5432_TCP_PORT": "5432",
    "S3_PORT": "tcp://10.96.0.14:8333",
    "S3_SERVICE_PORT": "8333",
    "S3_PORT_8333_UDP": "udp://10.96.0.14:8333",
    "STORAGE_ELEMENT_PORT": "tcp://10.96.0.15:8010",
    "STORAGE_ELEMENT_2_SERVICE_HOST": "10.96.0.16",
    "STORAGE_ELEMENT_1_NAME": "/web/storage_element_1",
    "ADMIN_URL_SERVICE_HOST": "10.96.0.17",
    "LOG_LEVEL_SERVICE_PORT": "1",
    "PORTS": "1",
    "HOSTS": "a",
    "ADMIN_URI": "http://other",
    "REDIS_URI": "redis://other",
    "DATABASE_URI": "postgres://other",
    "REDIS_HOST": "redis",
    "DATABASE_HOST": "database",
}


@pytest.mark.parametrize("name", INJECTED)
def test_variables_of_orchestrators_and_other_programs_do_not_stop_a_start(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(name, INJECTED[name])
    assert load_settings(Settings).port == 8000


@pytest.mark.parametrize(
    "wrong",
    [
        "STORAGE_ROOOT",
        "STORAGE_ROOT_PATH",
        "S3_BUCKET_NAME",
        "S3_BUKET",
        "REDIS_TIMEOUT",
        "DATABASE_POOLSIZE",
        "LOG_FROMAT",
        "ADMIN_ULR",
    ],
)
def test_a_slip_in_a_setting_of_ours_stops_the_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    environment.setenv(wrong, "x")
    assert wrong in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("LOG_LEVEL", "info", "INFO"),
        ("LOG_LEVEL", "Debug", "DEBUG"),
        ("LOG_LEVEL", "warn", "WARNING"),
        ("LOG_LEVEL", "WARN", "WARNING"),
        ("LOG_LEVEL", " error ", "ERROR"),
        ("LOG_LEVEL", "critical", "CRITICAL"),
        ("LOG_LEVEL", "fatal", "CRITICAL"),
        ("LOG_FORMAT", "JSON", "json"),
        ("LOG_FORMAT", "Text", "text"),
    ],
)
def test_words_are_taken_in_any_case(environment: pytest.MonkeyPatch, name: str, value: str, taken: str) -> None:
    environment.setenv(name, value)
    assert getattr(load_settings(Settings), name.lower()) == taken


def test_a_refusal_is_one_line_whatever_the_value_holds(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("SERVICE_CLIENT_SECRET_FILE", "/nowhere/a\nb")
    environment.delenv("SERVICE_CLIENT_SECRET")
    assert "SERVICE_CLIENT_SECRET_FILE" in refusal(capsys)
