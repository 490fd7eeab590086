"""Runs a baked model on the CPU with this image's own torch and transformers.

Runs inside images on Python 3.8 and later, with only the standard library and those two. The only argument is JSON:
`model` is a folder, `questions` have `messages` or a `prompt`, and `max_tokens`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

_TOP = 5


def main() -> None:
    """Answer all questions and print the answers with their log-probabilities."""
    request = json.loads(sys.argv[1])
    began = time.monotonic()
    _say("importing torch and transformers")
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    _say(f"torch {torch.__version__}, transformers {transformers.__version__}: loading {request['model']}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(request["model"]).float().eval()
    report: dict[str, Any] = {"load_s": time.monotonic() - began, "torch": torch.__version__, "answers": []}
    with torch.inference_mode():
        for question in request["questions"]:
            _say("generating")
            report["answers"].append(answer(torch, tokenizer, model, question))
    sys.stdout.write(f"jbuild-probe: {json.dumps(report)}\n")


def answer(torch: Any, tokenizer: Any, model: Any, question: dict[str, Any]) -> dict[str, Any]:
    """Return the greedy answer to a question: its text, its tokens and how long they took, in seconds."""
    began = time.monotonic()
    ids = _input(tokenizer, question)
    ends, past = _ends(model), None
    chosen: list[int] = []
    tokens: list[dict[str, Any]] = []
    first_s = None
    while len(chosen) < question["max_tokens"]:
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        logprobs = torch.log_softmax(out.logits[0, -1].float(), dim=-1)
        best = torch.topk(logprobs, _TOP)
        top = [[tokenizer.decode([token]), value] for token, value in zip(best.indices.tolist(), best.values.tolist())]  # noqa: B905
        if int(best.indices[0]) in ends:
            break
        first_s = time.monotonic() - began if first_s is None else first_s
        chosen.append(int(best.indices[0]))
        tokens.append({"text": top[0][0], "logprob": top[0][1], "top": top})
        ids = best.indices[:1].reshape(1, 1)
    text = tokenizer.decode(chosen, skip_special_tokens=True)
    return {"text": text, "tokens": tokens, "seconds": time.monotonic() - began, "first_token_s": first_s}


def _input(tokenizer: Any, question: dict[str, Any]) -> Any:
    if not question["messages"]:
        return tokenizer(question["prompt"], return_tensors="pt")["input_ids"]
    messages = question["messages"]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return encoded["input_ids"]


def _ends(model: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer; a model has one, many or none."""
    token_ids = model.generation_config.eos_token_id
    return tuple(token_ids) if isinstance(token_ids, (list, tuple)) else () if token_ids is None else (token_ids,)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
