"""Reads what a vLLM release accepts out of its source files: options, architectures, quantisations, parsers.

vLLM builds its command line from dataclasses whose fields are named like the options, and keeps its models,
quantisations and parsers in tables of names (read in 0.8.5 to 0.33.0). A release that keeps them elsewhere leaves the
field empty, and the rules then say nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from builder.models.preflight import syntax
from builder.models.preflight.config_keys import ConfigKeys, class_of, fields
from builder.models.preflight.server_facts import GENERATING, MULTIMODAL, QuantizationFacts, ServerFacts, ServerOption
from builder.models.preflight.syntax import Module

ReadSource = Callable[[str], "bytes | None"]
"""Returns the bytes of a file of the wheel by its path, or None."""

_QUANTIZATION = "vllm/model_executor/layers/quantization"
# The table of models.
REGISTRY = "vllm/model_executor/models/registry.py"
# The tables of the registry: `_TEXT_GENERATION_MODELS`; the union of all is not one of them.
_TABLE_ENDING, _UNION = "_MODELS", "_VLLM_MODELS"
_CLI = ("vllm/entrypoints/openai/cli_args.py", "vllm/entrypoints/common/cli_args.py")
# `vllm serve` adds these to the options of the frontend and the engine.
_SERVE = ("vllm/entrypoints/cli/serve.py", *_CLI)
_CONFIGS = ("vllm/transformers_utils/config.py", "vllm/config.py")
_ENGINE = "vllm/engine/arg_utils.py"
_PARSERS = {
    "tool": ("vllm/tool_parsers", "vllm/entrypoints/openai/tool_parsers"),
    "reasoning": ("vllm/reasoning",),
}
_TEMPLATES = (
    "vllm/renderers/chat_templates/registry.py",
    "vllm/transformers_utils/chat_templates/registry.py",
)
# Where `MarlinLinearKernel` is, and the constants that its check of a layer's sizes compares with: inputs, outputs.
_MARLIN = (
    "vllm/model_executor/kernels/linear/mixed_precision/marlin.py",
    f"{_QUANTIZATION}/kernels/mixed_precision/marlin.py",
)
_MARLIN_CHECK, _MARLIN_CHECKS = "check_marlin_supports_shape", f"{_QUANTIZATION}/utils/marlin_utils.py"
_MARLIN_MULTIPLES = ("GPTQ_MARLIN_MIN_THREAD_K", "GPTQ_MARLIN_MIN_THREAD_N")
_TYPES = {"half": "float16", "float": "float32"}


def is_read(path: str) -> bool:
    """Return whether a file of the wheel is one that this module reads."""
    folder = str(PurePosixPath(path).parent)
    return path.endswith(".py") and (
        path in (*_SERVE, *_TEMPLATES, *_MARLIN, _ENGINE, REGISTRY, *_CONFIGS)
        or folder in ("vllm/config", *(folder for folders in _PARSERS.values() for folder in folders))
        or path.startswith(f"{_QUANTIZATION}/")
    )


def read_vllm(read: ReadSource, paths: Sequence[str]) -> ServerFacts:
    """Return the facts of the release whose wheel has these paths."""
    registry = Module(read(REGISTRY))
    return ServerFacts(
        options=tuple(sorted(_options(read, paths), key=lambda option: option.name)),
        architectures=_architectures(registry),
        removed=_constants(registry.assignments.get("_PREVIOUSLY_SUPPORTED_MODELS")),
        model_types=_model_types(Module(read("vllm/transformers_utils/config.py"))),
        quantizations=_quantizations(read),
        tool_parsers=_parsers("tool", read, paths),
        reasoning_parsers=_parsers("reasoning", read, paths),
        template_fallbacks=_template_fallbacks(read),
        marlin_multiples=_marlin_multiples(read),
    )


def _marlin_multiples(read: ReadSource) -> tuple[int, ...]:
    kernel = Module(next((source for path in _MARLIN if (source := read(path))), None))
    if not any(kernel.calls(_MARLIN_CHECK)):
        return ()
    constants = Module(read(_MARLIN_CHECKS)).assignments
    numbers = [syntax.number(constants.get(name)) for name in _MARLIN_MULTIPLES]
    return tuple(number for number in numbers if number) if all(numbers) else ()


def _architectures(registry: Module) -> dict[str, str]:
    """Return the table of each architecture; of several, the one of models that generate text.

    Qwen2ForCausalLM and Phi3ForCausalLM are in that of models for embeddings, too: a server can use them in both ways.
    """
    named = [name for name in registry.assignments if name.endswith(_TABLE_ENDING) and name != _UNION]
    tables = {name: name.removesuffix(_TABLE_ENDING).strip("_").lower() for name in named}
    return {
        architecture: table
        for name, table in sorted(tables.items(), key=lambda item: (item[1] in GENERATING, item[1] == MULTIMODAL))
        # Tables of last releases map to strings; those of models map to a module and a class.
        for architecture, value in syntax.pairs(registry.assignments[name]).items()
        if isinstance(value, ast.Tuple)
    }


def _constants(node: ast.expr | None) -> dict[str, str]:
    return {key: text for key, value in syntax.pairs(node).items() for text in syntax.strings(value)}


def _model_types(module: Module) -> tuple[str, ...]:
    return tuple(sorted({*module.keys("_CONFIG_REGISTRY"), *module.keys("_CONFIG_REGISTRY_OVERRIDE_HF")}))


def _quantizations(read: ReadSource) -> dict[str, QuantizationFacts]:
    module = Module(read(f"{_QUANTIZATION}/__init__.py"))
    names = module.strings("QuantizationMethods")
    deprecated = module.strings("DEPRECATED_QUANTIZATION_METHODS")
    chooser = module.function("get_quantization_config")
    tables = [node for node in ast.walk(chooser) if isinstance(node, ast.Dict)] if chooser else []
    classes = {
        key: value.id for table in tables for key, value in syntax.pairs(table).items() if isinstance(value, ast.Name)
    }
    homes = module.imports()
    modules = {path: Module(read(path)) for path in {_path(home) for home in homes.values()}}
    return {
        name: _quantization(classes.get(name, ""), homes, modules, deprecated=name in deprecated)
        for name in dict.fromkeys((*names, *classes))
    }


def _path(module: str) -> str:
    if module.startswith("."):
        return f"{_QUANTIZATION}/{module[1:].replace('.', '/')}.py"
    return f"{module.replace('.', '/')}.py"


def _quantization(
    name: str, homes: dict[str, str], modules: dict[str, Module], *, deprecated: bool
) -> QuantizationFacts:
    module = modules.get(_path(homes[name])) if name in homes else None
    owners = _with_bases(name, module) if module else []
    lowest = (syntax.number(syntax.returned(syntax.method(owner, "get_min_capability"))) for owner in owners)
    types = (syntax.returned(syntax.method(owner, "get_supported_act_dtypes")) for owner in owners)
    return QuantizationFacts(
        min_sm=next((number if number > 0 else None for number in lowest if number is not None), None),
        dtypes=next((_dtypes(node) for node in types if node is not None), ()),
        deprecated=deprecated,
    )


def _with_bases(name: str, module: Module) -> list[ast.ClassDef]:
    """Return a class and its bases in the same module, nearest first."""
    owners: list[ast.ClassDef] = []
    waiting = [name]
    while waiting:
        owner = module.classes.get(waiting.pop(0))
        if owner and owner not in owners:
            owners.append(owner)
            waiting += [base.id for base in owner.bases if isinstance(base, ast.Name)]
    return owners


def _dtypes(node: ast.expr) -> tuple[str, ...]:
    elements = node.elts if isinstance(node, ast.List) else []
    names = [element.attr for element in elements if isinstance(element, ast.Attribute)]
    return tuple(_TYPES.get(name, name) for name in names)


def _parsers(kind: str, read: ReadSource, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the parsers' names: of the table in the package's file, or of the decorators on their classes."""
    found: set[str] = set()
    for path in paths:
        if str(PurePosixPath(path).parent) not in _PARSERS[kind] or not path.endswith(".py"):
            continue
        module = Module(read(path))
        found |= {name for table in module.assignments if table.endswith("_TO_REGISTER") for name in module.keys(table)}
        found |= {
            name
            for owner in module.classes.values()
            for decorator in owner.decorator_list
            for call in syntax.calls(ast.walk(decorator), "register_module")
            for argument in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "name"))
            for name in syntax.strings(argument)
        }
    return tuple(sorted(found))


def _template_fallbacks(read: ReadSource) -> tuple[str, ...]:
    """Return the model types for which vLLM brings a chat template."""
    module = Module(next((source for path in _TEMPLATES if (source := read(path))), None))
    return module.keys("_MODEL_TYPE_TO_CHAT_TEMPLATE_FALLBACK")


def _options(read: ReadSource, paths: Sequence[str]) -> Iterator[ServerOption]:
    settings = _Settings(read, paths)
    for path in dict.fromkeys((*_SERVE, _ENGINE)):
        source = read(path)
        if source is None:
            continue
        module = Module(source)
        owners = dict(_owners(module))
        yield from (option for call in module.calls("add_argument") for option in settings.option(call, owners))
        yield from (
            settings.of_field(f"--{name.replace('_', '-')}", annotation)
            for owner in module.classes.values()
            if owner.name.endswith("FrontendArgs")
            for name, annotation in fields(owner)
        )


def _owners(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the configuration class of each variable: `model_kwargs = get_kwargs(ModelConfig)`."""
    for node in module.nodes():
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.args):
            continue
        target, source = node.targets[0], node.value.args[0]
        if isinstance(target, ast.Name) and isinstance(source, ast.Name):
            yield target.id, source.id


class _Settings:
    """The configuration classes of vLLM, whose fields give options their values."""

    def __init__(self, read: ReadSource, paths: Sequence[str]) -> None:
        folder = [path for path in paths if path.startswith("vllm/config/") and path.endswith(".py")]
        modules = [Module(read(path)) for path in (*folder, "vllm/config.py", *_CLI, _ENGINE)]
        self._annotations = {
            (name, field): annotation
            for module in modules
            for name, owner in module.classes.items()
            for field, annotation in fields(owner)
        }
        self._keys = ConfigKeys(modules)
        self._aliases = {name: value for module in modules for name, value in module.assignments.items()}

    def option(self, call: ast.Call, owners: dict[str, str]) -> Iterator[ServerOption]:
        """Yield the options of one `add_argument`: their values are those of the field that `**owner[field]` names."""
        names = [text for argument in call.args for text in syntax.strings(argument) if text.startswith("-")]
        explicit = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        spread = [keyword.value for keyword in call.keywords if keyword.arg is None]
        annotation = next(filter(None, (self._annotation(node, owners) for node in spread)), None)
        for name in names:
            if "action" in explicit:
                action = ast.unparse(explicit["action"])
                yield ServerOption(name=name, flag="store_" in action or "BooleanOptional" in action)
                continue
            option = self.of_field(name, annotation)
            count, choices = "".join(syntax.strings(explicit.get("nargs"))), syntax.strings(explicit.get("choices"))
            yield replace(
                option,
                many=option.many or count in ("+", "*"),
                optional=count in ("?", "*"),
                choices=choices or option.choices,
            )

    def _annotation(self, spread: ast.expr, owners: dict[str, str]) -> ast.expr | None:
        """Return the annotation of the field in `**owner["field"]`, or in `**{**owner["field"], "default": None}`."""
        if isinstance(spread, ast.Dict):
            inner = (value for key, value in zip(spread.keys, spread.values, strict=True) if key is None)
            return next(filter(None, (self._annotation(value, owners) for value in inner)), None)
        if not isinstance(spread, ast.Subscript) or not isinstance(spread.value, ast.Name):
            return None
        field = "".join(syntax.strings(spread.slice))
        return self._annotations.get((owners.get(spread.value.id, ""), field))

    def of_field(self, name: str, annotation: ast.expr | None) -> ServerOption:
        """Return the option of a configuration field."""
        types = {_type_name(node) for node in _alternatives(annotation)}
        choices = () if types & {"bool", "str"} else tuple(dict.fromkeys(self._choices(annotation)))
        kind = class_of(types, self._keys) or ""
        return ServerOption(
            name=name,
            flag="bool" in types,
            many=bool(types & {"list", "List", "tuple", "set"}),
            number=types <= {"int", "float", "None"} and bool(types - {"None"}),
            choices=choices,
            keys=self._keys.keys(kind),
            only_keys=self._keys.refuses_others(kind),
        )

    def _choices(self, annotation: ast.expr | None) -> Iterator[str]:
        """Yield the values of the `Literal` of an annotation; vLLM's parser ignores other types beside it."""
        for node in _alternatives(annotation):
            literal = self._aliases.get(node.id) if isinstance(node, ast.Name) else node
            if isinstance(literal, ast.Subscript) and ast.unparse(literal.value) == "Literal":
                yield from self._literal(literal)
                yield from ["None"] if "None" in map(_type_name, _alternatives(annotation)) else []
                return

    def _literal(self, literal: ast.Subscript) -> Iterator[str]:
        """Yield the strings of a `Literal`, which may contain others by their names."""
        inner = literal.slice
        for element in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
            alias = self._aliases.get(element.id) if isinstance(element, ast.Name) else None
            yield from self._literal(alias) if isinstance(alias, ast.Subscript) else syntax.strings(element)


def _type_name(node: ast.expr) -> str:
    return ast.unparse(node.value if isinstance(node, ast.Subscript) else node)


def _alternatives(annotation: ast.expr | None) -> Iterator[ast.expr]:
    """Yield the types of `A | B`, `Optional[A]` and `Union[A, B]`."""
    if isinstance(annotation, ast.BinOp):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    elif isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Optional", "Union"):
        inner = annotation.slice
        for node in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
            yield from _alternatives(node)
        if ast.unparse(annotation.value) == "Optional":
            yield ast.Constant(value=None)
    elif annotation is not None:
        yield annotation
