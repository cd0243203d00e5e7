"""All settings, typed, from ``tablecast.toml`` and ``TABLECAST_*`` variables (nested with two underscores).

``TABLECAST_KAFKA__BOOTSTRAP=broker:9092`` wins over ``[kafka] bootstrap = ...`` in the file.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from schemas.domains import pack_for
from schemas.errors import BadInputError

SETTINGS_FILE = "tablecast.toml"


class SettingsError(BadInputError):
    """A setting is missing, unknown or out of range; the message is one sentence for people."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """How every client reaches the cluster."""

    bootstrap: str | None = None  # None: `tablecast up` starts a broker on loopback
    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]*$", max_length=100)
    partitions: int = Field(default=4, ge=1, le=1024)  # of the topics keyed by user
    replication: int = Field(default=1, ge=1, le=15)
    keep_history: bool = False  # no retention: for replayed and imported records, whose event times are old
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    sasl_username: str | None = None  # with sasl_token_url the client id
    sasl_password: SecretStr | None = None  # with sasl_token_url the client's secret
    sasl_password_file: Path | None = None  # the same from a file
    sasl_token_file: Path | None = None  # of OAUTHBEARER: a token that somebody else keeps fresh
    sasl_token_url: str | None = Field(default=None, pattern="^https?://")  # or the endpoint that issues tokens
    sasl_token_scope: str | None = None
    ca_file: Path | None = None  # who signed the brokers' certificates; None: whom this machine trusts
    certificate_file: Path | None = None  # of this client, for brokers that ask for one
    key_file: Path | None = None


class StateSettings(_Section):
    """The state stage."""

    grace_ms: int = Field(default=1_000, ge=0, le=3_600_000)  # longest wait of a request for context posted before it
    future_ms: int = Field(default=300_000, ge=0)  # how far a record's clock may run ahead of ours
    attribution_minutes: int = Field(default=60, ge=1)  # how long after a list an action can belong to it
    idle_days: int = Field(default=90, ge=1)  # of event time, after which a user's row is dropped
    flush_ms: int = Field(default=300, ge=1, le=10_000)  # how often changed rows are written and offsets released


class ExplorationSettings(_Section):
    """How the lists of one domain are varied, to learn of more than the best: models/LEARNING.md."""

    method: Literal["epsilon", "softmax"]
    top: int = Field(default=20, ge=1, le=1_000)  # how many of the best items take part
    epsilon: float = Field(default=0.1, ge=0, le=1)  # probability that a place goes to any of them
    temperature: float = Field(default=0.5, gt=0, allow_inf_nan=False)  # of softmax, in units of the score


class InferenceSettings(_Section):
    """The inference stage."""

    threads: int = Field(default_factory=lambda: min(os.cpu_count() or 1, 8), ge=1)  # of the model on CPU
    max_batch_requests: int = Field(default=64, ge=1, le=4096)
    max_batch_tokens: int = Field(default=2048, ge=16)
    budget_ms: int | None = Field(default=None, ge=1)  # age at which a request gets the cheaper list; None: never
    model_name: str = "tablecast"
    model: str = "shipped"  # until one is announced: "shipped", "base" or the folder of a model
    max_slowdown: float = Field(default=2.0, gt=0)  # of an announced model; beyond, the one before goes on serving
    exploration: dict[str, ExplorationSettings] = {}  # by domain; none: lists are shown as they are ranked

    @field_validator("exploration")
    @classmethod
    def _of_known_domains(cls, exploration: dict[str, ExplorationSettings]) -> dict[str, ExplorationSettings]:
        for domain in exploration:
            pack_for(domain)
        return exploration


class ModelsSettings(_Section):
    """The model store."""

    store: str | None = None  # a folder or a URL such as s3://bucket/models; None: the folder models in data_dir
    keep: int = Field(default=10, ge=1)  # newest versions in the store; those in use stay beyond


class PrivacySettings(_Section):
    """What of users may lie in logs, dead letters and training data."""

    key: SecretStr | None = Field(default=None, min_length=16)  # of the pseudonyms; the same for every process
    key_file: Path | None = None  # the same from a file: one key a line, newest first; None: one made in data_dir
    training_text: bool = True  # whether training examples keep what users asked for in words, redacted
    keep_raw: bool = False  # no pseudonyms, no redaction, dead letters with their payload


class MetricsSettings(_Section):
    """Where a stage serves /metrics, /health and /ready."""

    host: str = "127.0.0.1"  # the pages tell no secrets, but need no readers beyond Prometheus either
    port: int | None = Field(default=None, ge=1, le=65535)  # None: nowhere


class TracingSettings(_Section):
    """OpenTelemetry traces."""

    export: str | None = None  # an OTLP/HTTP collector's URL, or a file of JSON lines; None: nothing is traced
    share: float = Field(default=1.0, ge=0, le=1)  # of the requests whose app has not begun a trace itself


class TrainerSettings(_Section):
    """The trainer stage."""

    enabled: bool = False  # whether `tablecast up` runs it
    examples: int = Field(default=5_000, ge=1)  # new ones that start a training
    hours: float = Field(default=24.0, gt=0)  # of event time, after which fewer will do
    replay: int = Field(default=10_000, ge=0)  # older lists that are learned from again, against forgetting
    canary_share: float = Field(default=0.1, gt=0, le=1)  # of users, for a candidate that passes the gate
    click_margin: float = Field(default=0.2, gt=0, lt=1)  # of the champion's clicks a promoted canary may lose at most


class Settings(BaseSettings):
    """The one settings object."""

    model_config = SettingsConfigDict(
        env_prefix="TABLECAST_", env_nested_delimiter="__", toml_file=SETTINGS_FILE, extra="forbid", frozen=True
    )

    data_dir: Path = Path.home() / ".local" / "share" / "tablecast"  # the embedded broker's log
    instance: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]+$")] = "0"  # tells processes of one stage apart
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kafka: KafkaSettings = KafkaSettings()
    state: StateSettings = StateSettings()
    inference: InferenceSettings = InferenceSettings()
    models: ModelsSettings = ModelsSettings()
    privacy: PrivacySettings = PrivacySettings()

    trainer: TrainerSettings = TrainerSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @property
    def model_store(self) -> str:
        """Where model versions are kept: a URL, or a folder."""
        return self.models.store or str(self.data_dir / "models")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets come from the environment or files
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the sources: arguments, environment, secret files, tablecast.toml."""
        return init_settings, env_settings, file_secret_settings, TomlConfigSettingsSource(settings_cls)


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsError: a value is wrong; names the setting, the problem and where it may be set.

    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        variable = f"TABLECAST_{name.upper().replace('.', '__')}"
        why = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise SettingsError(f"setting {name!r}: {why} (set in {SETTINGS_FILE} or as {variable})") from error
    except ValueError as error:  # TOML that does not parse, JSON in a variable that does not
        raise SettingsError(f"{SETTINGS_FILE}: {error}") from error
