"""Finds the system that a command talks to, and the account it uses.

The first of these that is given: `--data` or `--profile`, the ARTSTORE_… variables, the profile `default` that
`artstore login` has stored, and the system that runs on ./.artstore.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .data_folder import GATEWAY_OFFSET, DataFolder, find_record
from .errors import CommandError, ExitCode, UsageError, disk_error
from .repository import LOCAL_DATA, default_data

DEFAULT_PROFILE = "default"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LOGIN_HINT = "log in with: artstore login URL --client-id ID; or start a local system with: ./artstore up"


@dataclass(frozen=True, slots=True)
class Connection:
    url: str
    client_id: str
    client_secret: str = field(repr=False)
    source: str = ""
    """The origin of address and credentials, for messages."""
    folder: Path | None = None
    """The data folder of a local system."""

    @property
    def encrypted(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def on_loopback(self) -> bool:
        """Without TLS, to this machine."""
        return not self.encrypted and urlsplit(self.url).hostname in LOOPBACK


def find_connection(data: Path | None, profile: str | None, environment: Mapping[str, str] = os.environ) -> Connection:
    """Raises CommandError, with a hint what to do, when nothing is configured or the configuration is incomplete."""
    if data is not None and profile is not None:
        raise UsageError("--data and --profile exclude each other")
    if data is not None:
        return local_connection(DataFolder(data.absolute()))
    if profile is None:
        by_environment = _from_environment(environment)
        if by_environment is not None:
            return by_environment
        profile = environment.get("ARTSTORE_PROFILE") or None
    profiles = load_profiles(environment)
    if profile is not None or DEFAULT_PROFILE in profiles:
        return _from_profile(profiles, profile or DEFAULT_PROFILE)
    for folder in (DataFolder(LOCAL_DATA.absolute()), DataFolder(default_data())):
        if find_record(folder) is not None:
            return local_connection(folder)
    raise CommandError("no system is configured", code="not_logged_in", hint=LOGIN_HINT, exit_code=ExitCode.UNREACHABLE)


def local_connection(folder: DataFolder) -> Connection:
    """The system that `./artstore up` runs on `folder`, as its first administrator."""
    record = find_record(folder)
    if record is None:
        raise CommandError(
            f"no system runs on {folder.path}",
            code="not_running",
            hint=f"start it with: ./artstore up --data {folder.path}",
            exit_code=ExitCode.UNREACHABLE,
        )
    credentials = load_credentials(folder.keys / "admin-client.json")
    url = f"http://127.0.0.1:{record.port_base + GATEWAY_OFFSET}"
    return Connection(url, *credentials, source=f"the system on {folder.path}", folder=folder.path)


def load_credentials(path: Path) -> tuple[str, str]:
    """Client id and secret from a file {"client_id", "client_secret"}."""
    try:
        kept = json.loads(path.read_text())
        return str(kept["client_id"]), str(kept["client_secret"])
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read: {error.strerror}", code="not_logged_in", exit_code=ExitCode.DENIED
        ) from None
    except (ValueError, KeyError, TypeError):
        raise CommandError(
            f"{path} does not hold client_id and client_secret", code="not_logged_in", exit_code=ExitCode.DENIED
        ) from None


def _from_environment(environment: Mapping[str, str]) -> Connection | None:
    """None when no variable is set. The variables are used together: a profile's secret is never sent elsewhere."""
    secret_file = environment.get("ARTSTORE_CLIENT_SECRET_FILE", "")
    given = {name: environment.get(f"ARTSTORE_{name}", "") for name in ("URL", "CLIENT_ID", "CLIENT_SECRET")}
    if not given["CLIENT_SECRET"] and secret_file:
        try:
            given["CLIENT_SECRET"] = Path(secret_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CommandError(
                f"ARTSTORE_CLIENT_SECRET_FILE: {secret_file} cannot be read: {reason}", exit_code=ExitCode.DENIED
            ) from None
    if not any(given.values()):
        return None
    missing = [f"ARTSTORE_{name}" for name, value in given.items() if not value]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} must be set too",
            "set ARTSTORE_URL, ARTSTORE_CLIENT_ID and ARTSTORE_CLIENT_SECRET (or ARTSTORE_CLIENT_SECRET_FILE), or none",
        )
    return Connection(
        parse_url(given["URL"]), given["CLIENT_ID"], given["CLIENT_SECRET"], source="the environment (ARTSTORE_URL)"
    )


def parse_url(text: str) -> str:
    """The address without a slash at its end. Raises UsageError unless it is http:// or https:// and a host."""
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        _ = parts.port
    except ValueError:
        good = False
    if not good or parts.username is not None:
        raise UsageError(f"{text!r} is not the address of a system", "give it as https://files.example.org")
    return url


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    return user_folder("XDG_CONFIG_HOME", ".config", environment) / "profiles.json"


def user_folder(variable: str, default: str, environment: Mapping[str, str] = os.environ) -> Path:
    """A folder of the XDG Base Directory Specification, which says to ignore relative paths."""
    base = Path(environment.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / default) / "artstore"


def load_profiles(environment: Mapping[str, str] = os.environ) -> dict[str, Connection]:
    """Raises CommandError when others may read the file, as ssh does, or it is damaged."""
    path = config_file(environment)
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise CommandError(
                    f"other users can read {path}", hint=f"run: chmod 600 {path}", exit_code=ExitCode.DENIED
                )
            kept = json.load(file)
        return {name: Connection(**one, source=f"profile {name}") for name, one in kept["profiles"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise disk_error(error, path) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError(f"{path} is damaged", hint="log in again after removing it") from None


def store_profiles(profiles: Mapping[str, Connection], environment: Mapping[str, str] = os.environ) -> None:
    """Replaces the file, readable by its owner only."""
    path = config_file(environment)
    kept = {name: asdict(one) for name, one in sorted(profiles.items())}
    for one in kept.values():
        del one["source"]
    write_private(path, json.dumps({"profiles": kept}, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically; mode 0600 in a folder with mode 0700. Raises CommandError."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise disk_error(error, path) from None


def _from_profile(profiles: Mapping[str, Connection], name: str) -> Connection:
    if name not in profiles:
        raise CommandError(
            f"there is no profile {name!r}",
            code="not_logged_in",
            hint=f"log in with: artstore login URL --profile {name}",
            exit_code=ExitCode.DENIED,
        )
    return profiles[name]
