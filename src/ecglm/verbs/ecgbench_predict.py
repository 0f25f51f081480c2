"""Verbs: answers to ECGBench."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ecglm.errors import ConfigError
from ecglm.verbs.common import Stores, say


def ecgbench_predict(
    model: str,
    data: Path,
    out: Path,
    subsets: tuple[str, ...] = (),
    name: str | None = None,
    store: Stores = (),
    controls: tuple[str, ...] = (),
    seed: int = 0,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    devices: tuple[str, ...] = ("auto",),
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    arena_template: Literal["correct", "pulse_bug"] = "correct",
    base_url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
    key_file: Path | None = None,
    api_version: str | None = None,
    detail: Literal["low", "high", "auto"] = "low",
    concurrency: int = 8,
    retries: int = 5,
    timeout: float = 120.0,
    allow_http: bool = False,
    allow_seen: bool = False,
    dev: bool = False,
    overwrite: bool = False,
) -> int:
    """Let a model answer ECGBench's subsets, in ECGBench's own file format; the same command again goes on.

    Args:
        model: checkpoint folder, folder of an image-text model of transformers, hub id of either, baseline:majority,
            baseline:random, or with --base-url the name of an endpoint's model.
        data: folder that ecgbench prepare made.
        out: root of the predictions; they go to OUT/MODEL/SUBSET/step-final.jsonl.
        subsets: all that are there, or these.
        name: what to call the model, where the last part of its path says little.
        store: stores of the recordings, for models that read signals or shall draw the picture themselves.
        controls: blank, noise, swap, no-ecg: what to show in place of the ECG; answers go to OUT/MODEL@CONTROL.
        seed: of noise, swap and random answers.
        batch_size: items at a time; the answers do not depend on it.
        max_new_tokens: longest answer; 1024, of an endpoint 2000.
        limit: the first so many items of each subset.
        devices: auto, or cpu, cuda:0, cuda:1 …: one process each; the answers do not depend on their number.
        dtype: of the numbers of a transformers model.
        arena_template: how later rounds of the arena are written; pulse_bug: as PULSE's published code did.
        base_url: an OpenAI-compatible endpoint, up to and without /chat/completions.
        key_env: environment variable that holds its key; none for an endpoint without keys.
        key_file: file that holds its key instead; nobody else may be able to read it.
        api_version: of an Azure endpoint; --model is then its deployment.
        detail: how closely an endpoint's model looks at a picture.
        concurrency: questions to an endpoint at a time.
        retries: further tries after a 429, a 5xx, a timeout or a lost connection.
        timeout: seconds for an endpoint's whole answer.
        allow_http: send to another machine without encryption.
        allow_seen: answer also about patients the model was trained on.
        dev: at most 4 items of each subset, unless --limit says otherwise.
        overwrite: replace answers made with other settings.
    """
    from ecglm.evaluation.answerers.make import find_model, model_name
    from ecglm.evaluation.ecgbench.predict import predict_ecgbench
    from ecglm.evaluation.endpoint import Endpoint

    if base_url is None and (api_version is not None or key_file is not None):
        raise ConfigError("--api-version and --key-file are an endpoint's; name it with --base-url")
    endpoint = None
    if base_url is not None:
        endpoint = Endpoint(
            base_url,
            model,
            key_env=None if key_file is not None or key_env.lower() == "none" else key_env,
            key_file=key_file,
            api_version=api_version,
            timeout=timeout,
            max_retries=retries,
            concurrency=concurrency,
            allow_http=allow_http,
        )
    spec = find_model(
        model,
        endpoint=endpoint,
        detail=detail,
        stores=tuple(str(s) for s in store),
        dtype=dtype,
        max_new_tokens=max_new_tokens,
    )
    results = predict_ecgbench(
        spec,
        data,
        out,
        name=name or model_name(model, spec),
        subsets=subsets,
        controls=controls,
        seed=seed,
        batch_size=batch_size,
        limit=4 if dev and limit is None else limit,
        devices=devices,
        arena_template=arena_template,
        allow_seen=allow_seen,
        overwrite=overwrite,
        say=say,
    )
    for result in results:
        failed = f", {result.num_failed} failed" if result.num_failed else ""
        say(f"{result.subset} ({result.control}): {result.num_rows} answers{failed}: {result.path}")
    if num_failed := sum(result.num_failed for result in results):
        say(f"{num_failed} items have no answer (metadata.error says why); mend that and run the same command again")
        return 1
    return 0
