"""Refuse a chat template that never ends: render each in a process with limits before it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from typing import Any

from fastrl.config import refuse
from fastrl.runtime.redact import for_graders

CPU_S = 10
MEMORY_BYTES = 2 << 30
TOO_LARGE = 3
# renders as transformers does: in jinja2's sandbox, with these functions; refusing messages counts as ending
TRIAL = (
    f"TOO_LARGE = {TOO_LARGE}"
    + """
import json, resource, sys
sys.path[:] = [path for path in sys.path if path]
import jinja2.ext
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)
    def _said(self, caller): return caller()
def refuse(message): raise jinja2.TemplateError(message)
given = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_AS, (given["memory_bytes"],) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (given["cpu_s"],) * 2)
world = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
world.globals.update(raise_exception=refuse, strftime_now=lambda form: "1 January 2026")
for messages in given["conversations"]:
    for opened in (True, False):
        try:
            world.from_string(given["template"]).render(
                messages=messages, add_generation_prompt=opened, tools=None, documents=None, **given["tokens"]
            )
        except MemoryError: sys.exit(TOO_LARGE)
        except Exception: pass
"""
)
ROLES = (["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"])
CONVERSATIONS = [
    [{"role": role, "content": f"{role}: 1 + 2 = ?\nSay why."} for role in each] for each in ROLES
]


def check_template(section: str, tokenizer: Any) -> None:
    """Render a few short conversations with each chat template of a tokenizer.

    Raises: ValueError: a template needs more than CPU_S or MEMORY_BYTES.
    """
    given = tokenizer.chat_template
    templates = [] if given is None else given.values() if isinstance(given, dict) else [given]
    names = tokenizer.special_tokens_map.items()
    tokens = json.dumps({name: token for name, token in names if isinstance(token, str)})
    for template in templates:
        if not ends(template, tokens):
            expected = f"a chat template that ends within {CPU_S} s of CPU time and {MEMORY_BYTES >> 30} GiB"
            refuse(section, "path", expected, f"one that begins with {template[:60]!r}")


@lru_cache(maxsize=64)
def ends(template: str, tokens: str) -> bool:
    given = {"template": template, "tokens": json.loads(tokens), "conversations": CONVERSATIONS}
    given |= {"cpu_s": CPU_S, "memory_bytes": MEMORY_BYTES}
    trial, text = [sys.executable, "-c", TRIAL], json.dumps(given).encode()
    done = subprocess.run(trial, input=text, env=for_graders(os.environ), capture_output=True)
    if done.returncode > 0 and done.returncode != TOO_LARGE:
        raise RuntimeError(f"[check] chat template: its trial failed: {done.stderr.decode()[-500:]}")
    return done.returncode == 0
