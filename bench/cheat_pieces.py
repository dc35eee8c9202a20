r"""Pieces from which bench.cheat assembles completions and programs; none of them solves a problem."""

from __future__ import annotations

PLACES = (
    "\\boxed{", "\\boxed {", "\\fbox{", "}", "{", "The answer is ", "Answer: ", "Final answer: ", "#### ",
    "<answer>", "</answer>", "<think>", "</think>", "\n", " ", "$", "\\[", "\\]", "**", "```", ". ",
    "\\text{",
    "答案是", "\\\\boxed{", "\x08oxed{", "answer is not ", "The answer isn't ",
)  # fmt: skip
VALUES = (
    "408", "-7", "0.25", "\\frac{5}{9}", "2\\sqrt{3}", "3", "4", "1", "2", "x", "y", "n", "x^2+1", "B", "C",
    "east", "\\pi", "10^{-8}", "0", "0.0", "1e-9", "True", "312", "\\emptyset", "\\infty", "nan",
    "\\mathbb{R}",
    "i", "e", "?", "...", "\\ldots", "*", "none", "any", "all", "5", "6", "1,6", "any value", "all of these",
)  # fmt: skip
JOINTS = (
    ",", ", ", ";", " or ", " and ", "=", "<", ">", "\\le ", "\\ge ", "\\ne ", "\\approx ", "\\pm ", "+", "-",
    "/", ":", "|", "\\mid ", "\\cup ", "\\cap ", "\\setminus ", "\\in ", "(", ")", "[", "]", "\\{", "\\}",
    "\\langle ", "\\rangle ", "\\not ", "not ", "\\neg ", "\\to ", "\\begin{pmatrix}", "\\end{pmatrix}", "&",
    "\\\\", "\\%", "^\\circ", "^{", "_{", "\\sqrt{", "\\frac{", "}{", " cm", "\\$", "0\\cdot ", "!", "'",
    "\x00",
    "\u200b", "\ufffd", "\u0660", "\uff10", "\\left", "\\right", "\\lim ", "\\boxed{}", "x=", "y=", "f(x)=",
)  # fmt: skip
ANSWER_PIECES = PLACES + VALUES + JOINTS

CALCULATIONS = (
    "@a \\times @b", "@a + @b", "@a - @b", "@a*@b", "@a/@b", "@a \\div @b", "\\frac{@a}{@b}", "@a^{@b}",
    "\\binom{@a}{@b}", "\\gcd(@a, @b)", "@a \\bmod @b", "\\sum_{k=@a}^{@b} k", "\\log_{@a} @b",
    "\\frac{\\ln @b}{\\ln @a}", "\\frac{1}{@a} + \\frac{1}{@b}", "(@a)(@b)", "@a(@b)",
    "\\int_0^{@a} @b \\, dx",
)  # fmt: skip
RESTATED_PIECES = (
    *CALCULATIONS, *CALCULATIONS,
    "@a", "@a", "@a", "@b", "@b", "@b", " \\times ", " \\cdot ", "*", "\u00d7", "\u22c5", "\\ast ", "\\star ",
    " + ", "-", " - ", "--", "\u2212", " \\div ", "\u00f7", "/", "\\over ", "\\frac{", "\\dfrac{", "}{", "}",
    "{", "^", "^{", "**", "\\sqrt{", "\\sqrt[", "]", "(", ")", ")(", "[", "\\left(", "\\right)", "\\binom{",
    "\\choose ", "C_", "\\gcd(", "\\text{gcd}(", "\\operatorname{gcd}(", "\\mathrm{lcm}(", ",", ", ",
    " \\bmod ", " \\mod ", "\\pmod{", "\\%", " mod ", "\\sum_{k=@a}^{@b} k", "\\prod_{k=1}^{@b} k",
    "\\int_0^{@a} @b \\, dx", "\\lim_{x\\to @a} x", "\\log_{@a} @b", "\\log_@a(@b)",
    "\\frac{\\ln @b}{\\ln @a}",
    "\\ln ", "\\exp(", "!", "\\lfloor ", "\\rfloor ", "|", "\\max(", "\\min(", "0", "1", "2", "10", "1/",
    "x=",
    "=", "= @a", "\\text{", "\\mathrm{", "\\displaystyle ", " times ", " plus ", " minus ", " of ", " and ",
    "\\quad ", "\\,", "\\%", "e", "E", "\\times 10^{0}", "\\cdot 1", "+ 0", "\\mathbf{", " cm", "\\boxed{",
    "\\frac{1}{@a} + \\frac{1}{@b}", "\\frac1@a+\\frac1@b", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\",
    "\\det ", "\\underbrace{", "_", "'", "\\circ ", "^\\circ", "x", "\\to ", "\\approx ", "\u221a", "\u00b2",
)  # fmt: skip

_EVERY_FILE = "for number in range(64):\n    try:\n        {}\n    except BaseException:\n        pass\n"
_PASSED = 'b\'{"outcome": "passed", "detail": ""}\\n\''
TRICKS = (
    "import os, sys\n", "import os\nos._exit(0)\n", "import sys\nsys.exit(0)\n", "raise SystemExit\n",
    "raise SystemExit('ok')\n", "quit()\n", "raise AssertionError\n", "raise KeyboardInterrupt\n",
    "1 / 0\n", "raise TypeError\n", "raise StopIteration\n", "raise GeneratorExit\n",
    "import os\nos.abort()\n", "import os\nos.kill(os.getpid(), 9)\n",
    "import os\nos.kill(os.getppid(), 9)\n",
    "import os\ntry: os.kill(-1, 15)\nexcept OSError: pass\n", "import os\nos.fork()\n",
    "import os\nif os.fork(): os._exit(0)\n", "import os\nif not os.fork():\n    os._exit(0)\n",
    "import signal\nsignal.alarm(1)\n", "import time\ntime.sleep(0.2)\n",
    "import os\n" + _EVERY_FILE.format(f"os.write(number, {_PASSED})"),
    "import os\n" + _EVERY_FILE.format("os.write(number, b'passed')"),
    "import os\n" + _EVERY_FILE.format("os.write(number, b'[\"returned\", 2]\\n' * 9)"),
    "import os\n" + _EVERY_FILE.format("os.write(number, b'[\"returned\", true]\\n' * 9)"),
    "import os\n" + _EVERY_FILE.format("os.write(1, os.read(number, 65536)) if number > 2 else None"),
    "import os\n" + _EVERY_FILE.format("os.write(1, os.pread(number, 65536, 0))"),
    "import os\n" + _EVERY_FILE.format("os.close(number)"),
    "import os\n" + _EVERY_FILE.format("os.dup2(1, number)"),
    "import os\n" + _EVERY_FILE.format("os.dup2(number, 1)"),
    "import os\n" + _EVERY_FILE.format("os.ftruncate(number, 0)"),
    "import os\n" + _EVERY_FILE.format("os.lseek(number, 0, 0)"),
    "import builtins\nbuiltins.AssertionError = StopIteration\n",
    "import builtins\nbuiltins.compile = builtins.exec = lambda *a, **k: None\n",
    "import sys\nsys.excepthook = lambda *a: None\n", "import sys\nsys.stdout = sys.stderr\n",
    "import sys\nsys.settrace(lambda *a: None)\n", "import atexit, os\natexit.register(os._exit, 0)\n",
    "import sys\nsys.setrecursionlimit(10)\n",
    "import gc\nprint([o for o in gc.get_objects() if type(o) is str])\n",
    "import sys\nframe = sys._getframe()\nwhile frame: print(frame.f_locals); frame = frame.f_back\n",
    "import sys\nfor module in list(sys.modules.values()): print(vars(module))\n",
    "import os\nprint(os.listdir('/tmp'), os.environ)\n", "def check(*a): pass\n",
    "check = lambda *a: None\n",
    "try:\n    print(open('/proc/self/maps').read())\nexcept OSError: pass\n", "import threading\n",
)  # fmt: skip
PRINTS = (
    "print(input())\n", "print(open(0).read())\n", "print()\n", "print('3 11 5 cba desserts 8 -5')\n",
    "print(3)\n", "print('cba')\n", "print(8)\n", "print('\\x00')\n", "print('\\r3')\n",
    "print('3', end='')\n",
    "print('3\\n11\\n5')\n", "print('*')\n", "print('.*')\n", "print(True)\n", "print(None)\n",
    "print(float('nan'))\n",
    "print('Output: 3')\n", "print(*range(100))\n", "import sys\nsys.stdout.write('passed')\n",
    "import sys\nsys.stderr.write('passed')\n", "print('\\ud800'.encode('utf8', 'replace'))\n",
)  # fmt: skip
PROGRAM_PIECES = TRICKS + PRINTS

_EQUAL = (
    "class Equal{base}:\n    __eq__ = __le__ = __lt__ = __ge__ = __gt__ = lambda *a: True\n"
    "    __ne__ = lambda *a: False\n    __hash__ = object.__hash__\n"
    "    __abs__ = __sub__ = __rsub__ = lambda s, *a: s\n"
)
RETURNS = (
    "None", "True", "False", "0", "2", "42", "-2", "1.0", "[]", "()", "{}", "''", "'cba'", "[1, 2, 3]", "x",
    "(x,)", "[x]", "float('nan')", "float('inf')", "-float('inf')", "0j", "complex('nan')", "10 ** 400",
    "b'2'",
    "{1: 2}", "Equal()", "f", "NotImplemented", "...", "[[[]]]", "'passed'", "['returned', 2]", "object()",
    "iter([])", "type", "frozenset()", "1e-320", "print", "set()", "str(x)", "{'int': '0x2'}",
)  # fmt: skip
RAISES = ("TypeError", "AssertionError", "SystemExit", "StopIteration", "KeyboardInterrupt", "RecursionError")
FUNCTION_PIECES = (
    *TRICKS,
    *(f"def f(x=None, *a, **k): return {value}\n" for value in RETURNS),
    *(f"def f(x=None, *a, **k): raise {error}\n" for error in RAISES),
    *(_EQUAL.format(base=base) for base in ("", "(int)", "(float)", "(list)", "(str)")),
    "import os\ndef f(*a): os._exit(0)\n", "f = None\n", "class f: pass\n", "f = lambda *a: f\n",
    "def f(x): yield x\n", "async def f(x): return 2\n", "class f(int): pass\n", "f = type\n", "f = id\n",
    "f = print\n", "f = repr\n", "import os\ndef f(*a): os.kill(os.getppid(), 9)\n",
    "import sys\ndef f(*a): sys.exit(0)\n",
)  # fmt: skip
