"""The settings: each declared once, with its environment variable, its default and its help."""

import getpass
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.errors import Invalid
from models.inputs import Name
from models.text import check_text

PREFIX = "MCP_CHAT_"


def default_database_url() -> str:
    """Return the URL of the database in the platform's data folder."""
    from platformdirs import user_data_path

    return url_of(user_data_path("mcp-chat-server") / "chat.db")


def url_of(path: Path) -> str:
    """Return the database URL of a file."""
    return f"sqlite+aiosqlite:///{quote(path.as_posix())}"


def default_user() -> str:
    """Return the system's name of the one who runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "local"


def _from_json(value: Any) -> Any:
    # Done here, since what the library raises where it is none names no setting.
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError('is not JSON: write it like ["text"] or {"name": "text"}') from None


_Texts = Annotated[list[str], NoDecode, BeforeValidator(_from_json)]
_TextsByName = Annotated[dict[str, str], NoDecode, BeforeValidator(_from_json)]


class Settings(BaseSettings):
    """What can be set, by environment variables that begin with MCP_CHAT_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    database_url: str = Field(
        default_factory=default_database_url,
        description="Where the record is kept: `sqlite+aiosqlite:////absolute/path/chat.db`.",
    )
    user: Annotated[Name, BeforeValidator(str.strip)] = Field(
        default_factory=default_user, description="Whose record this is, over stdio and on the command line."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="WARNING", description="How much is written to stderr: DEBUG, INFO, WARNING or ERROR."
    )
    max_content_bytes: int = Field(
        default=1_048_576,
        ge=1_024,
        le=4_194_304,
        description="The largest content of a message, and the largest arguments or result of a tool call.",
    )
    max_frame_bytes: int = Field(
        default=8_388_608, ge=65_536, le=67_108_864, description="The largest single call over stdio."
    )
    deadline_seconds: float = Field(
        default=20.0, gt=0, le=600, description="How long the database may take before a call is refused, unstored."
    )
    record_max_bytes: int = Field(
        default=262_144,
        ge=1_024,
        le=4_194_304,
        description="How much `record` keeps of the arguments, and of the result, of a tool call.",
    )
    record_redact_fields: _Texts = Field(
        default=[], description="Names of fields whose values `record` removes, besides its own: a JSON array."
    )
    record_redact_patterns: _TextsByName = Field(
        default={}, description="What else `record` removes: a JSON object of regular expressions by name."
    )
    record_headers: _TextsByName = Field(
        default={}, description="Headers that `record --url` sends to the server: a JSON object."
    )
    upstream_file: Path | None = Field(
        default=None, description="Other MCP servers whose tools may be called: a JSON file with `mcpServers`."
    )
    model: str | None = Field(
        default=None, description="The model that `chat` asks: `provider:name`, of openai, anthropic or google."
    )
    model_url: str | None = Field(
        default=None, description="Another address of the model's provider, for anything OpenAI-compatible."
    )
    other_models: _Texts = Field(default=[], description="Models that a call of `chat` may name: a JSON array.")
    system_prompt: Annotated[str, AfterValidator(check_text)] | None = Field(
        default=None, description="What `chat` tells a model first, where a session has no system message of its own."
    )
    system_prompt_file: Path | None = Field(default=None, description="The same from a file, read at each question.")
    token_budget: int = Field(
        default=32_000, ge=1_000, le=10_000_000, description="How many tokens of history and tools a model is given."
    )
    output_tokens: int = Field(
        default=4_096, ge=16, le=1_000_000, description="How many tokens a model may write at once."
    )
    answer_tokens: int = Field(
        default=500_000,
        ge=1_000,
        le=100_000_000,
        description="How many tokens one answer may cost, all rounds.",
    )
    answer_seconds: float = Field(default=600.0, gt=0, le=86_400, description="How long one answer may take.")
    tool_rounds: int = Field(default=16, ge=0, le=1_000, description="In how many rounds one answer may call tools.")
    lease_seconds: float = Field(
        default=30.0,
        ge=0.5,
        le=3_600,
        description="How long after a crash a repeated `chat` takes over.",
    )


def read_settings() -> Settings:
    """Read the settings from the environment; raises Invalid, naming the variable, also where one is misspelt."""
    _refuse_misspelt()
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        variable = PREFIX + str(problem["loc"][0] if problem["loc"] else "").upper()
        raise Invalid(f"{variable}: {problem['msg'].removeprefix('Value error, ')}.") from None


def _refuse_misspelt() -> None:
    # Else the record would go where nobody looks for it. A name that is like none of ours is somebody else's.
    known = [name.upper() for name in Settings.model_fields]
    for variable in os.environ:
        prefix, name = variable[: len(PREFIX)].upper(), variable[len(PREFIX) :].upper()
        if prefix != PREFIX or name in known:
            continue
        from difflib import get_close_matches

        if meant := get_close_matches(name, known, n=1, cutoff=0.8):
            raise Invalid(f"{variable}: there is no such setting: {PREFIX}{meant[0]} is one, if that was meant.")
