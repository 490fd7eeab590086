"""Rules about the model's files: its class, its own code, its tokenizer, templates and processors, its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.wording import suggest
from builder.models.config_json import CONFIG
from builder.models.preflight.server_context import model_finding, server_finding
from builder.models.preflight.server_facts import GENERATING, MULTIMODAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.audits import Finding, Severity
    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext

_CLASS, _CODE, _TASK = "model-class", "model-code", "model-task"
_TEMPLATE, _TOKENIZER, _PROCESSOR = "chat-template", "tokenizer-files", "processor-files"
_SLOW_FILES = {"tokenizer.model": ("sentencepiece", "tiktoken"), "spiece.model": ("sentencepiece",)}
_FAST_FILES = ("tokenizer.json", "tekken.json")
_VOCABULARIES = ("vocab.json", "vocab.txt")


def model_class(context: ServerContext) -> Iterator[Finding]:
    """Yield an architecture or a model type that neither the locked vLLM nor the locked transformers has."""
    model, release = context.model, context.sources.vllm
    if model is None or release is None or not release.facts.architectures:
        return
    names = model.architectures
    known = [name for name in names if name in release.facts.architectures]
    library = context.sources.transformers
    if not known and names and not context.option("--model-impl"):
        removed = next((name for name in names if name in release.facts.removed), None)
        by_transformers = library is None or any(name in library.architectures for name in names)
        own_code = model.code_for("AutoModel") or model.code_for("AutoModelForCausalLM")
        if removed:
            last = release.facts.removed[removed]
            detail = f"names {removed}, which {release} does not have: {last} was the last release with it"
            yield model_finding(model, _CLASS, "error", CONFIG, detail, f"use vLLM {last} for this model")
        elif not by_transformers and not own_code:
            detail = f"names {', '.join(names)}, which {release} and the locked transformers do not have"
            fix = suggest(names[0], release.facts.architectures, noun="architectures")
            yield model_finding(model, _CLASS, "error", CONFIG, detail, fix)
        else:
            detail = f"names {', '.join(names)}, which is not in the registry of {release}"
            fix = "vLLM tries to run it through transformers; the smoke run shows whether that works"
            yield model_finding(model, _CLASS, "warning", CONFIG, detail, fix)
    yield from _model_type(context, model)


def _model_type(context: ServerContext, model: ModelFacts) -> Iterator[Finding]:
    release, library = context.sources.vllm, context.sources.transformers
    if release is None or library is None or not library.model_types or not model.model_type:
        return
    if model.model_type in (*library.model_types, *release.facts.model_types) or model.code_for("AutoConfig"):
        return
    version = (context.versions or {}).get("transformers", "")
    detail = f"has the model type {model.model_type}, which transformers {version} and {release} do not know"
    fix = suggest(model.model_type, library.model_types, noun="model types")
    yield model_finding(model, _CLASS, "error", CONFIG, detail, f"{fix}; or require a newer transformers")


def model_code(context: ServerContext) -> Iterator[Finding]:
    """Yield a model that needs its own code, where the server does not trust it or the code is not baked in."""
    model, library, release = context.model, context.sources.transformers, context.sources.vllm
    if model is None or library is None or release is None or not model.config.get("auto_map"):
        return
    if not model.code_for("AutoConfig") or model.model_type in (*library.model_types, *release.facts.model_types):
        return
    if not context.trusts_code:
        detail = "names its own code (`auto_map`), which the server runs only with --trust-remote-code"
        fix = "read the code, then add `--trust-remote-code` to `arguments` under [server]"
        yield model_finding(model, _CODE, "error", CONFIG, detail, fix)
    elif not any(path.endswith(".py") for path in model.paths):
        detail = "names its own code (`auto_map`), and the image has no Python files of the model"
        fix = 'list `files` of the model with "*.py"'
        yield model_finding(model, _CODE, "error", CONFIG, detail, fix)


def model_task(context: ServerContext) -> Iterator[Finding]:
    """Yield questions to a model that does not answer with text: encoders, embedding and reward models."""
    model, release = context.model, context.sources.vllm
    if model is None or release is None:
        return
    if context.questions and _pools(context):
        detail = "makes the server one for embeddings or classes: it answers no question with text"
        yield server_finding(_TASK, "error", "arguments", detail, "leave the option out, or take the questions out")
        return
    kinds = {release.facts.architectures.get(name) for name in model.architectures} - {None}
    if not kinds or kinds & set(GENERATING) or not context.questions:
        return
    kind = " and ".join(sorted(str(kind).replace("_", " ") for kind in kinds))
    detail = f"names {', '.join(model.architectures)}, a model for {kind}: it answers no question with text"
    fix = "serve a model that generates text, or take the questions out of [smoke]"
    yield model_finding(model, _TASK, "error", CONFIG, detail, fix)


def _pools(context: ServerContext) -> bool:
    """Return whether an option turns the server into one that does not generate."""
    values = (context.option("--runner"), context.option("--convert"), context.option("--task"))
    return any(value not in (None, "auto", "generate", "none", "draft") for value in values)


def chat_template(context: ServerContext) -> Iterator[Finding]:
    """Yield questions through chat to a model without a chat template."""
    model, release = context.model, context.sources.vllm
    chats = any(question.messages for question in context.questions)
    if model is None or not chats or model.has_template or context.option("--chat-template"):
        return
    if release and model.model_type in release.facts.template_fallbacks:
        return
    detail = "has no chat template, and the recipe has questions through chat"
    fix = "use `prompt` in place of `ask` and `chat`, or add `--chat-template` to `arguments` under [server]"
    yield model_finding(model, _TEMPLATE, "error", "tokenizer_config.json", detail, fix)


def tokenizer_files(context: ServerContext) -> Iterator[Finding]:
    """Yield a tokenizer that cannot be built from the model's files with the locked wheels."""
    model = context.model
    if model is None or context.option("--skip-tokenizer-init") is not None or context.option("--tokenizer"):
        return
    if model.paths.intersection(_FAST_FILES):
        return
    slow = next((path for path in _SLOW_FILES if path in model.paths), None)
    if slow:
        packages = _SLOW_FILES[slow]
        if context.lacks(*packages):
            detail = f"is the only tokenizer, and {' and '.join(packages)} are not among the wheels"
            fix = f'add "{packages[0]}" to `requires`, or convert it to tokenizer.json with transformers'
            yield model_finding(model, _TOKENIZER, "error", slow, detail, fix)
    elif not model.paths.intersection(_VOCABULARIES) and not model.code_for("AutoTokenizer"):
        if any(path.endswith((".model", ".tiktoken")) for path in model.paths):
            return
        detail = "is missing, and no other file of a tokenizer is there"
        fix = "copy the tokenizer's files too, or extend `files` in the recipe if it excludes them"
        yield model_finding(model, _TOKENIZER, "error", "tokenizer.json", detail, fix)


def processor_files(context: ServerContext) -> Iterator[Finding]:
    """Yield a multimodal model without the settings of its processor."""
    model, release = context.model, context.sources.vllm
    if model is None or release is None or model.has_processor or model.is_mistral:
        return
    if context.option("--language-model-only") is not None or context.option("--limit-mm-per-prompt"):
        return
    multimodal = [name for name in model.architectures if release.facts.architectures.get(name) == MULTIMODAL]
    library = context.sources.transformers
    if multimodal:
        by_transformers = library is not None and model.model_type in library.image_types
        detail = f"is missing; {release} builds the processor of {multimodal[0]} from it at the start"
        fix = "copy the processor's files too, or extend `files` in the recipe if it excludes them"
        severity: Severity = "error" if by_transformers else "warning"
        yield model_finding(model, _PROCESSOR, severity, "preprocessor_config.json", detail, fix)


def unread(context: ServerContext) -> Iterator[Finding]:
    """Yield the reason why the rules could not look at the model or at the wheels' sources."""
    for reason in filter(None, (context.unread, context.sources.unread)):
        fix = "run `jbuild models fetch`, then `jbuild audit` again"
        yield server_finding("preflight", "info", "model", f"was not checked: {reason}", fix)
