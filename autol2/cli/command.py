"""The decorator that turns a function into a command with Hydra's override grammar.

`command` is used like `hydra.main`. In addition, it accepts numbers for the groups `alpha` and
`fixed_lambda`, sets the exit status, and reports an error of the user in one line instead of a
traceback (``HYDRA_FULL_ERROR=1`` shows the traceback).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import UserError
from .composition import resolved
from .explain import explain, options_of
from .flags import only_shows
from .help import help_text
from .output import output_error, report, steady
from .overrides import CONF, TRAIN, numbers_to_options, prepared

__all__ = ["CONF", "command", "numbers_to_options"]

Task = Callable[[DictConfig], int | None]
MAY_BE_EMPTY = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "AUTOL2_DATA")
"""Environment variables that are treated as unset if they are empty."""


def command(config_name: str, *, works: bool = False) -> Callable[[Task], Callable[[], None]]:
    """Turn a task function into a command that reads ``conf/<config_name>.yaml`` and ``sys.argv``.

    The return value of the task is the exit status (None is 0).

    Args:
        config_name: the name of the configuration.
        works: whether the purpose of the command is its work rather than its output; if so, output
            that cannot be written is not an error.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            _begin_in_utf8()
            steady()
            # The garbage collections at exit take a second if torch was imported, and free nothing.
            atexit.register(gc.freeze)
            with _full_errors() as wanted:
                try:
                    status = _run(task, config_name)
                except KeyboardInterrupt:
                    report("interrupted")
                    status = 128 + signal.SIGINT
                except Exception as error:
                    message = _explained(error, config_name)
                    if wanted or message is None:
                        raise
                    report(message)
                    status = getattr(error, "status", UserError.status)
            unsaid = output_error()
            if unsaid is not None and status == 0 and (only_shows(sys.argv[1:]) or not works):
                if unsaid.errno != errno.EPIPE:
                    report(f"standard output cannot be written: {unsaid.strerror}")
                status = 128 + signal.SIGPIPE if unsaid.errno == errno.EPIPE else 1
            sys.exit(status)

        return main

    return decorate


def _begin_in_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale misreads the UTF-8 arguments of the command."""
    words = "".join(sys.argv)
    with contextlib.suppress(UnicodeError):  # Not UTF-8: `prepared` will report this.
        if os.fsencode(words).decode() != words:
            again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
            os.execve(sys.executable, again, {**os.environ, "PYTHONUTF8": "1"})


def _run(task: Task, config_name: str) -> int:
    """Run `task` on the configuration that Hydra composes, and return the exit status."""
    statuses: list[int] = [0]
    failed: list[Exception] = []

    @functools.wraps(task)
    def keep(cfg: DictConfig) -> None:
        try:
            overrides = HydraConfig.get().overrides.task
            cfg.merge_with(resolved(cfg, overrides))
            statuses.append(task(cfg) or 0)
        except Exception as error:  # Hydra would print its own message before ours.
            failed.append(error)

    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory no longer exists: cd to an existing one") from None
    for name in MAY_BE_EMPTY:
        if os.environ.get(name) == "":
            del os.environ[name]
    spec = task.__globals__.get("__spec__")  # Correct even if a profiler is __main__.
    module = spec.name.removesuffix(".__main__") if spec is not None else TRAIN
    if not module.startswith(f"{TRAIN.partition('.')[0]}."):
        module = TRAIN
    sys.argv[1:] = prepared(sys.argv[1:], module)
    _complete_numbers()
    _explain_options(inspect.getdoc(sys.modules[task.__module__]) or "")
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(keep)()
    except SystemExit as end:  # Hydra exits after --help.
        if end.code:
            raise
    for error in failed:
        raise error
    return max(statuses)


def _explained(error: Exception, config_name: str) -> str | None:
    if isinstance(
        error, UserError | HydraException | OmegaConfBaseException | ValueError | YAMLError
    ):
        return explain(error, config_name)
    return None


@contextlib.contextmanager
def _full_errors() -> Iterator[bool]:
    """Make Hydra raise its errors instead of printing them.

    Yields:
        Whether the user has asked for full errors with ``HYDRA_FULL_ERROR=1``.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield before == "1"
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _complete_numbers() -> None:
    """Make shell completion work for ``python -m autol2.…`` and for numbers given for groups."""
    line = os.environ.get("COMP_LINE")
    if line is None or "-sc" not in sys.argv:
        return
    program = r"^(\s*)\S*python[\d.]*\s+-m\s+autol2\.(\w+)"
    words = re.sub(program, r"\1autol2-\2", line).split(" ")
    os.environ["COMP_LINE"] = " ".join([*numbers_to_options(words[:-1]), words[-1]])


def _explain_options(about: str) -> None:
    """Register the resolver for the ``--help`` template in conf/hydra_settings.yaml.

    Args:
        about: the text that the help begins with.
    """

    def text(*, _root_: DictConfig) -> str:
        chosen = {str(group): name for group, name in _root_.hydra.runtime.choices.items()}
        options = {
            group: options_of(group)
            for group in reversed(chosen)
            if (CONF / group).is_dir() and not group.startswith("_")
        }
        sweepers, launchers = options.pop("hydra/sweeper"), options.pop("hydra/launcher")
        if chosen["hydra/launcher"] in launchers:  # The command supports sweeps.
            options |= {"hydra/sweeper": sweepers, "hydra/launcher": launchers}
        return help_text(about, _root_, options).replace("$", "$$")  # Escaped for string.Template.

    OmegaConf.register_new_resolver("autol2.help", text, replace=True)
