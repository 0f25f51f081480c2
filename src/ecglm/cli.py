"""The command line: one verb, one call each; no logic."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from ecglm import __version__
from ecglm.errors import EcglmError, nearest

#: Verb → (file.function in ecglm.verbs, what it does). Files are imported only when a verb of theirs is called.
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": ("start.quickstart", "train and compare small ELMs end to end, here, now"),
    "download": ("downloads.download_", "official files, resumable, checksums verified"),
    "prepare": ("stores.prepare", "raw recordings → segment store"),
    "store info": ("stores.store_info", "what a store holds"),
    "store verify": ("stores.store_verify", "check every byte of a store"),
    "store merge": ("stores.store_merge", "several stores, or the parts of one → one store"),
    "store export": ("stores.store_export", "a store → Hugging Face, .npy or WFDB files"),
    "store sample": ("stores.store_sample", "segments for a tokenizer to learn from"),
    "store percentiles": ("stores.store_percentiles", "p1 and p99 of the amplitudes"),
    "map": ("corpora.map_", "instruction data → conversations"),
    "mix": ("corpora.mix", "several conversations files → one"),
    "audit": ("corpora.audit_", "leakage and health report; exit 1 on leakage"),
    "hub export": ("hub.hub_export", "conversations → a Hugging Face dataset folder"),
    "hub push": ("hub.hub_push", "conversations → a dataset on the hub"),
    "hub pull": ("hub.hub_pull", "a dataset of the hub → conversations"),
    "tokenizer train": ("tokenizers.tokenizer_train", "train an ECG-Byte tokenizer on a store"),
    "tokenizer encode": ("tokenizers.tokenizer_encode", "one segment of a store as ECG-Byte tokens"),
    "tokenizer verify": ("tokenizers.tokenizer_verify", "ECGs through a tokenizer and back; exit 1 on a difference"),
    "tokenizer stats": ("tokenizers.tokenizer_stats", "how a tokenizer spends its tokens on a store"),
    "tokenizer convert": ("tokenizers.tokenizer_convert", "an original ECG-Byte pickle file → JSON"),
    "features": ("features.features", "measurements of a store's segments: one line, or a table"),
    "render": ("representations.render_", "one segment of a store as ECG paper"),
    "import": ("imports.import_", "released weights → an encoder folder, or PULSE → a checkpoint"),
    "validate": ("models.validate", "check a recipe before hours are spent"),
    "pretrain": ("pretraining.pretrain_", "pretrain an encoder from a recipe"),
    "probe": ("pretraining.probe_", "a frozen encoder's features on labelled ECGs, beside random weights"),
    "train": ("models.train_", "train an ELM from a recipe"),
    "pairs": ("pairs.pairs", "a model's answers to training questions, ranked → preference pairs"),
    "align": ("align.align_", "teach a trained ELM what is preferred (DPO, IPO) or rewarded (GRPO)"),
    "predict": ("evaluations.predict_", "a model's answers, with controls"),
    "score": ("evaluations.score_", "predictions → scores.json"),
    "report": ("evaluations.report_", "scored predictions → report.html"),
    "compare": ("evaluations.compare", "scored predictions side by side, one table"),
    "ecgbench judge": ("judging.ecgbench_judge", "a language model grades ECGBench's reports and conversations"),
    "judge": ("judging.judge_", "a language model grades answers, or says which of two is better"),
    "judge compare": ("judging.judge_compare", "judged models side by side, with paired differences"),
    "agree": ("judging.agree", "how far people and judges agree on the same answers"),
    "ecgbench prepare": ("ecgbench.ecgbench_prepare", "PULSE's nine test sets → questions and pictures"),
    "ecgbench predict": ("ecgbench_predict.ecgbench_predict", "a model's answers to PULSE's nine test sets"),
    "ecgbench score": ("ecgbench.ecgbench_score", "answers to them → scores, strict or as the original counts"),
    "ecgbench report": ("ecgbench.ecgbench_report", "all of it, all models → one HTML page"),
    "export": ("models_hub.export_", "a model → a folder for transformers alone, or in LLaVA's format"),
    "push": ("models_hub.push", "a model → the hub, with a card of its data, scores and limits"),
    "index build": ("index.index_build", "training ECGs → an index, to find those like another"),
    "index search": ("index.index_search", "the training ECGs most like a recording, with their pictures"),
    "ask": ("models.ask", "ask a model about one recording or picture"),
    "demo": ("demo.demo", "talk with a model about ECGs in the browser; compare two; collect ratings"),
    "chat": ("serving.chat", "talk with a model about ECGs in the terminal"),
    "serve": ("serving.serve", "answer other programs over HTTP, as OpenAI's API does"),
    "attention": ("analysis.attention", "where a model looks while it answers about one ECG"),
    "ls": ("start.ls", "list sources, corpora, encoders, …"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0 done, 1 a check that failed, 2 a user's mistake, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"ecglm {__version__}")
        return 0
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    verb, rest = _verb(args)
    try:
        if verb not in VERBS:
            raise EcglmError(f"no verb '{verb}'{nearest(verb, VERBS)}; ecglm --help lists them")
        return _call(function_of(verb), verb, rest) or 0
    except EcglmError as error:
        if debug:
            raise
        print(f"ecglm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("ecglm: interrupted; run the same command again, what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def function_of(verb: str) -> Callable[..., int | None]:
    """What runs when ``verb`` is called."""
    file, name = VERBS[verb][0].split(".")
    return getattr(importlib.import_module(f"ecglm.verbs.{file}"), name)


def _verb(args: list[str]) -> tuple[str, list[str]]:
    two = " ".join(args[:2])
    if two in VERBS:
        return two, args[2:]
    groups = sorted(v for v in VERBS if v.startswith(f"{args[0]} "))
    if groups and args[0] not in VERBS:
        if len(args) < 2 or args[1] in ("-h", "--help"):
            print("\n".join(f"  ecglm {v:18} {VERBS[v][1]}" for v in groups))
            raise SystemExit(0 if len(args) > 1 else 2)
        return two, args[2:]
    return args[0], args[1:]


def _call(function: Callable[..., int | None], verb: str, args: list[str]) -> int | None:
    """Let ``function`` read its own arguments, or have tyro read them from its signature."""
    if getattr(function, "reads_arguments", False):
        return function(args)
    import tyro

    return tyro.cli(function, args=args, prog=f"ecglm {verb}", description=f"{VERBS[verb][1]}.")


def _overview() -> str:
    lines = ["usage: ecglm VERB …        ecglm VERB --help shows its options", ""]
    lines += [f"  {verb:18} {what}" for verb, (_, what) in VERBS.items()]
    lines += [
        "",
        "Every verb: --debug shows the trace of an error. Long verbs take --limit N and go on where they were.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
