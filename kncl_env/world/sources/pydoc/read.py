"""The running Python's own documentation, as `help()` tells it: real text on every machine.

Topics are the public modules of the standard library, their larger classes, and the chapters on
the language itself (`help("for")`). It knows the documentation only as text and references; what a
world makes of them is not its business.

Left out are, by name (`modules.LEFT_OUT`), modules that are private, tests, deprecated, bound
to one platform, optional where Python is built, or that do something when imported; and, by rule:

- values (`DATA`) and files (`FILE`), which belong to the machine and not to the documentation;
- addresses in default values (`<function f at 0x...>`);
- what a class inherits, and what every class says alike (`Return repr(self).`);
- a block of text that was told already, word for word.

It is collected in a fresh interpreter, since libraries change the standard library they find (one
adds methods to `logging.Logger`). So the same build of Python gives the same bytes everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kncl_env.world.corpus import Article, Corpus

LICENCE = "Python Software Foundation License Version 2"
CITATION = "Python Software Foundation: the Python standard library's documentation strings"
TIMEOUT = 300.0  # [s] a hundred times what it takes

# The package around the collector imports numpy and more; the collector itself must not.
_CHILD = """
import sys, types
package = types.ModuleType("pydoc_text")
package.__path__ = [sys.argv[1]]
sys.modules["pydoc_text"] = package
from pydoc_text.collect import main
main()
"""


def read_pydoc() -> Corpus:
    """Read the documentation of the running Python's standard library.

    Links: `base` between classes, `member` between package, module and class, `import` for import
    statements of the source, `link` for names that the text mentions and for related help topics.
    Labels: `chapter.<chapter of the library reference>` and, for packages of at least eight
    topics, `package.<name>`.

    Raises:
        ValueError: The Python interpreter cannot be started or its documentation cannot be read.
    """
    # -I -S: neither the user's settings and packages nor the environment's.
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-X", "utf8", "-c", _CHILD]
    try:
        child = subprocess.run(
            [*command, str(Path(__file__).parent)],
            capture_output=True,
            check=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise ValueError(f"expected documentation from {sys.executable}, got {reason}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"expected a Python interpreter at {sys.executable!r}, got {error}: "
            "run this with one that can be started again"
        ) from None
    collected = json.loads(child.stdout)
    articles = tuple(
        Article(
            title=article["title"],
            paragraphs=tuple(article["paragraphs"]),
            links=tuple((target, kind) for target, kind in article["links"]),
            labels=tuple(article["labels"]),
        )
        for article in collected["articles"]
    )
    return Corpus(
        articles, "pydoc", LICENCE, CITATION, collected["counts"], collected["first_dropped"]
    )
