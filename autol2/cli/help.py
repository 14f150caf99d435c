"""The text of ``--help``: the groups with their choices, and the options with their values.

The explanation of an option is the docstring below its field in the dataclass that is its schema.
"""

from __future__ import annotations

import ast
import copy
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass

from omegaconf import DictConfig, OmegaConf, open_dict

from ..component import Component, locate

COLUMN = 34
"""The column in which explanations begin."""


def help_text(about: str, cfg: DictConfig, choices: dict[str, list[str]]) -> str:
    """Return the complete ``--help`` text of a command.

    Args:
        about: the description of the command.
        cfg: the composed configuration of the command, including the node ``hydra``.
        choices: the names of the options in each group.
    """
    own = copy.copy(cfg)
    with open_dict(own):
        del own["hydra"]
    parts = [about.replace("``", "")]
    if choices:
        heading = (
            "== Groups: GROUP=NAME, as in batchnorm=on; alpha and fixed_lambda take numbers too =="
        )
        parts += [heading, "\n".join(_groups(cfg, choices))]
    example = ", or GROUP.OPTION=VALUE as in method.measure_every=10" if choices else ""
    parts += [f"== Options: OPTION=VALUE{example} ==", explained(own)]
    if "hydra/launcher" in choices:
        parts += ["== Options of the sweep launcher: hydra.launcher.OPTION=VALUE, after -m =="]
        parts += [explained(cfg.hydra.launcher)]
    parts += ["--cfg job prints the configuration as YAML; --hydra-help lists Hydra's own flags."]
    return "\n\n".join(parts)


def explained(cfg: DictConfig) -> str:
    """Return the options of the structured config `cfg` as YAML, each explained in a comment."""
    return "\n".join(_options(cfg, ""))


def _groups(cfg: DictConfig, choices: dict[str, list[str]]) -> Iterator[str]:
    for group, names in choices.items():
        chosen = cfg.hydra.runtime.choices[group]
        yield from _beside(f"{group}={chosen or ''}", ", ".join(names), "")


def _options(cfg: DictConfig, indent: str) -> Iterator[str]:
    schema = schema_of(cfg)
    assert schema is not None
    meanings = docstrings(schema)
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    for key in map(str, cfg):
        known = not (OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key))
        node = cfg[key] if known else None
        if isinstance(node, DictConfig) and (kind := schema_of(node)) is not None:
            about = inspect.getdoc(kind) or ""
            options = list(_options(node, indent + "  "))
            none = "" if options else " {}"
            yield from _beside(f"{indent}{key}:{none}", about.partition("\n\n")[0])
            yield from options
        elif not key.startswith("_"):
            value = OmegaConf.to_yaml(OmegaConf.create({key: values[key]})).rstrip()
            yield from _beside(textwrap.indent(value, indent), meanings.get(key, ""))


def _beside(left: str, text: str, mark: str = "# ") -> Iterator[str]:
    """Yield lines with `left` and, to its right, `text` wrapped to the width of the terminal."""
    width = max(40, shutil.get_terminal_size().columns - COLUMN - len(mark))
    lines = textwrap.wrap(text.replace("``", ""), width, break_on_hyphens=False)
    right = [mark + line for line in lines]
    if right and len(left.splitlines()[-1]) < COLUMN:
        yield f"{left:{COLUMN}}{right.pop(0)}"
    else:
        yield left
    yield from (" " * COLUMN + line for line in right)


def schema_of(node: DictConfig) -> type | None:
    """Return the dataclass that documents the options of `node`; None if there is none."""
    kind = OmegaConf.get_type(node)
    if not is_dataclass(kind):
        if "_target_" not in node:
            return None
        return locate(str(node["_target_"]), "--help", Component)
    documented: type = getattr(kind, "documented", kind)
    return documented


def docstrings(schema: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and of its base classes."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in zip(definition.body, definition.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[field.target.id] = inspect.cleandoc(str(after.value.value))
    return found
