"""Options that say who judges, shared by the verbs that ask a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecglm.errors import ConfigError

if TYPE_CHECKING:
    from ecglm.evaluation.judge.rubric import Rubric


@dataclass(frozen=True)
class JudgeModel:
    """Who judges.

    Args:
        provider: an OpenAI-compatible endpoint, a language model on this machine, or word overlap for trials.
        model: name at the endpoint (Azure: the deployment); for local a folder or hub id.
        base_url: of the endpoint, up to /chat/completions.
        api_version: of an Azure endpoint.
        key_env: environment variable that holds the key; none for an endpoint without keys.
        key_file: file that holds the key instead; nobody else may be able to read it.
        allow_http: send to another machine without encryption.
        concurrency: calls at a time; for local the batch size.
        timeout: seconds to wait for an answer.
        retries: further tries after a 429, a 5xx, a timeout or a lost connection.
        device: of a local model.
        dtype: of a local model.
        max_tokens: longest reply.
        own_temperature: send none, for models that take no other than their own; else it is 0.
        attempts: how often a reply that is no valid JSON is asked for.
        price: money per million prompt tokens and per million completion tokens.
        max_cost: stop before more would be spent by this command; needs --price.
        cache: folder of paid replies, shared by any number of runs; judge-cache beside the outputs.
        dry_run: count what would be asked and what it costs, and ask nothing.
    """

    provider: Literal["endpoint", "local", "dummy"] = "endpoint"
    model: str | None = None
    base_url: str | None = None
    api_version: str | None = None
    key_env: str = "OPENAI_API_KEY"
    key_file: Path | None = None
    allow_http: bool = False
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: int = 2048
    own_temperature: bool = False
    attempts: int = 3
    price: tuple[float, float] | None = None
    max_cost: float | None = None
    cache: Path | None = None
    dry_run: bool = False

    def make(self, rubric: Rubric) -> Any:
        """The judge; ConfigError for what is missing."""
        if self.provider == "dummy":
            from ecglm.evaluation.judge.dummy import DummyJudge

            return DummyJudge(rubric)
        if self.model is None:
            raise ConfigError("--model: say which model judges (or --provider dummy for a trial)")
        if self.provider == "local":
            from ecglm.evaluation.local_llm import LocalLlm

            return LocalLlm(self.model, device=self.device, dtype=self.dtype, batch_size=self.concurrency)
        if self.base_url is None:
            raise ConfigError("--base-url: say where the judge is asked, as https://api.openai.com/v1")
        from ecglm.evaluation.endpoint import Endpoint

        return Endpoint(
            self.base_url,
            self.model,
            key_env=None if self.key_env == "none" or self.dry_run else self.key_env,
            key_file=None if self.dry_run else self.key_file,
            api_version=self.api_version,
            timeout=self.timeout,
            max_retries=self.retries,
            concurrency=self.concurrency,
            allow_http=self.allow_http,
        )

    def asking(self) -> Any:
        from ecglm.evaluation.judge.ask import Asking

        temperature = None if self.own_temperature else 0.0
        return Asking(self.max_tokens, self.attempts, temperature, self.price, self.max_cost)
