"""Which modules of the standard library are documented, and which chapter each belongs to.

Tables by hand, and the two questions that they answer; it imports none of the modules it names.
"""

from __future__ import annotations

import re

LEFT_OUT = {
    "they do something when imported, or are programs": (
        "antigravity ensurepip idlelib this turtledemo sitecustomize usercustomize"
    ),
    "bound to one platform": (
        "asyncio.unix_events asyncio.windows_events asyncio.windows_utils crypt ctypes.macholib"
        " ctypes.wintypes ctypes.macos encodings.mbcs encodings.oem fcntl grp msilib msvcrt"
        " multiprocessing.popen_fork multiprocessing.popen_forkserver"
        " multiprocessing.popen_spawn_posix multiprocessing.popen_spawn_win32 nis nt ntpath"
        " nturl2path ossaudiodev posix pty pwd resource spwd syslog termios tty winreg winsound"
    ),
    "optional where Python is built": (
        "curses dbm.gnu dbm.ndbm dbm.sqlite3 readline tkinter turtle"
    ),
    "deprecated, gone from newer Pythons": (
        "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap"
        " nntplib pipes smtpd sndhdr sre_compile sre_constants sre_parse sunau telnetlib uu"
        " xdrlib xml.etree.cElementTree"
    ),
    "tables that a program wrote": "html.entities pydoc_data",
}
_LEFT_OUT = frozenset(" ".join(LEFT_OUT.values()).split())
_LEFT_OUT_PATTERN = re.compile(
    r"(^|\.)_"  # private, and every __main__
    r"|(^|\.)(test|tests|idle_test)(\.|$)"
    r"|^encodings\."  # one table per code page
)

# The chapters of "The Python Standard Library"; a module inherits its package's chapter.
CHAPTERS = {
    "text": "difflib re string stringprep textwrap unicodedata rlcompleter",
    "binary": "codecs encodings struct",
    "types": (
        "array bisect builtins calendar collections copy datetime enum graphlib heapq pprint"
        " reprlib types weakref zoneinfo"
    ),
    "numeric": "cmath decimal fractions math numbers random statistics",
    "functional": "functools itertools operator",
    "files": (
        "filecmp fileinput fnmatch genericpath glob linecache os.path pathlib posixpath shutil stat"
        " tempfile"
    ),
    "persistence": "copyreg dbm marshal pickle pickletools shelve sqlite3",
    "compression": "bz2 compression gzip lzma tarfile zipfile zlib",
    "formats": "configparser csv netrc plistlib tomllib",
    "crypto": "hashlib hmac secrets",
    "os": ("argparse ctypes errno getopt getpass io logging optparse os platform time"),
    "concurrency": ("concurrent contextvars multiprocessing queue sched subprocess threading"),
    "networking": "asyncio mmap select selectors signal socket ssl",
    "netdata": "base64 binascii email json mailbox mimetypes quopri",
    "markup": "html pyexpat xml",
    "internet": (
        "ftplib http imaplib ipaddress poplib smtplib socketserver urllib uuid webbrowser wsgiref"
        " xmlrpc"
    ),
    "multimedia": "colorsys wave",
    "i18n": "cmd gettext locale shlex",
    "development": "doctest pydoc typing unittest annotationlib",
    "debugging": "bdb cProfile faulthandler pdb profile pstats timeit trace tracemalloc",
    "packaging": "venv zipapp",
    "runtime": (
        "abc atexit code codeop contextlib dataclasses gc inspect site sys sysconfig traceback"
        " warnings"
    ),
    "importing": "importlib modulefinder pkgutil runpy zipimport",
    "language": (
        "ast compileall dis keyword opcode py_compile pyclbr symtable tabnanny token tokenize"
    ),
}
_CHAPTER_OF = {name: chapter for chapter, names in CHAPTERS.items() for name in names.split()}


def is_left_out(module: str) -> bool:
    """Whether a module, named with its packages, is not documented."""
    return module in _LEFT_OUT or _LEFT_OUT_PATTERN.search(module) is not None


def chapter_of(module: str) -> str:
    """The chapter of the library reference that a module is of; `other` if no table has it."""
    return _CHAPTER_OF.get(module) or _CHAPTER_OF.get(module.partition(".")[0], "other")
