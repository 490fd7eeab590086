"""Sources that stay without bytecode: those that no server imports, or few."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from builder.image.wheels.bytecode import CompiledFiles

if TYPE_CHECKING:
    from builder.image.wheels.bytecode import BytecodePool

POOL = cast("BytecodePool", object())
SITE = "opt/venv/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE}/torch/testing/__init__.py",
        f"{SITE}/vllm/model_executor/models/registry.py",
        f"{SITE}/vllm/model_executor/models/interfaces_base.py",
        f"{SITE}/vllm/model_executor/layers/linear.py",
        f"{SITE}/transformers/models/auto/modeling_auto.py",
        f"{SITE}/openai/types/responses/response.py",
        f"{SITE}/sympy/core/add.py",
        f"{SITE}/pip/_vendor/rich/text.py",
        f"{SITE}/transformers/modeling_utils.py",
        f"{SITE}/testing/a.py",
        "usr/lib/python3/dist-packages/six.py",
    ],
)
def test_what_servers_import_is_compiled(path: str) -> None:
    assert CompiledFiles(POOL).wants(path)
    assert not CompiledFiles(None).wants(path)


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE}/torch/testing/_internal/common_utils.py",
        f"{SITE}/transformers/models/llama/modeling_llama.py",
        f"{SITE}/transformers/models/llama/configuration_llama.py",
        f"{SITE}/vllm/model_executor/models/llama.py",
        f"{SITE}/vllm/model_executor/models/configs/a.py",
        f"{SITE}/anthropic/types/beta/message.py",
        f"{SITE}/openai/resources/chat.py",
        f"{SITE}/sympy/physics/units/prefixes.py",
        f"{SITE}/setuptools/_vendor/wheel/cli.py",
        f"{SITE}/transformers/models/aya_vision/modular_aya_vision.py",
        f"{SITE}/numpy/tests/test_a.py",
        f"{SITE}/test/support.py",
        f"{SITE}/torch/a.so",
        "opt/interpreter/lib/python3.12/test/test_os.py",
    ],
)
def test_other_files_are_not(path: str) -> None:
    assert not CompiledFiles(POOL).wants(path)
