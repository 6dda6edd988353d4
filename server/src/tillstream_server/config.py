"""How the server runs: built-in values < DATA/server.toml < environment < flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import DEFAULT

from . import opening

PREFIX: Final = "TILLSTREAM_SERVER_"


class ConfigError(TillstreamError):
    """A setting that cannot be used; the message names it and where it came from."""

    code = "config"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run's settings. Sizes in bytes, times in seconds."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8700
    """0 takes any free port."""
    tls_certificate: str = ""
    """PEM files; without them the server speaks plain HTTP, which agents refuse beyond loopback."""
    tls_key: str = ""
    uvloop: bool = True
    """Use uvloop where it is installed."""
    batch_bytes: Annotated[int, Meta(ge=1024, le=DEFAULT.batch_body - 64 * 1024)] = DEFAULT.batch
    """What tills are told to send at once."""
    batches_waiting: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Batches held in memory before tills are told to come back later."""
    ping_seconds: Annotated[float, Meta(gt=0, le=3600)] = 20.0
    """How often an idle push channel is tried."""
    silent_seconds: Annotated[float, Meta(gt=0)] = 300.0
    """How long a till may go unheard before it is silent, wherever the state of tills is told."""
    opening_hours: str = ""
    """When some store is certain to sell, as `Mo-Fr 08:00-20:00, Sa 09:00-14:00`; alerts heed it. Empty: not said."""
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    """Head office's zone, by its IANA name: that of `opening_hours` and of the console's days."""
    proxies: str = ""
    """Addresses and networks of the proxies before the server, with commas between: they are believed who calls."""
    pack_refresh_seconds: Annotated[float, Meta(ge=1)] = 6 * 3600.0
    """How old a till's pack may get before it is issued anew."""


def load(file: Path, environment: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The settings of this run. Raises `ConfigError`."""
    settings: dict[str, object] = {}
    for origin, values, strict in (
        (str(file), _from_file(file), True),
        ("the environment", _from_environment(environment), False),
        ("the flags", {name: value for name, value in flags.items() if value is not None}, True),
    ):
        settings |= values
        try:
            config = msgspec.convert(settings, Config, strict=strict)
        except msgspec.ValidationError as error:
            raise ConfigError(_complaint(error, settings, origin)) from error
        settings = msgspec.structs.asdict(config)
    if bool(config.tls_certificate) != bool(config.tls_key):
        raise ConfigError("tls_certificate and tls_key go together", field="tls_key")
    opening_hours(config)
    proxies(config)
    return config


def opening_hours(config: Config) -> opening.OpeningHours:
    """When stores are open. Raises `ConfigError`."""
    try:
        return opening.parse(config.opening_hours, config.time_zone)
    except ValueError as error:
        raise ConfigError(f"opening_hours and time_zone: {error}", field="opening_hours") from error


def proxies(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of `proxies`. Raises `ConfigError`."""
    try:
        return tuple(ip_network(text.strip()) for text in config.proxies.split(",") if text.strip())
    except ValueError as error:
        raise ConfigError(f"proxies: {error}", field="proxies") from error


def _from_file(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", hint="check its owner and mode") from error
    except ValueError as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    names = Config.__struct_fields__
    return {name: environment[key] for name in names if (key := PREFIX + name.upper()) in environment}


def _complaint(error: msgspec.ValidationError, settings: Mapping[str, object], origin: str) -> str:
    text = str(error)
    name = next((name for name in settings if f"$.{name}`" in text), None)
    value = f" (it is {settings[name]!r})" if name is not None else ""
    return f"{origin}: {text}{value}"
