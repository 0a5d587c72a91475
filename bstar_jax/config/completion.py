"""Completion of command lines: a script for bash, which zsh reads too, written from the schema.

The script holds all names and choices itself, so that pressing Tab starts no Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from bstar_jax.config import settings
from bstar_jax.config.door import Door
from bstar_jax.config.errors import UserError

SHELLS = ("bash", "zsh")

# bash cuts words at "=", and zsh does not: the words are joined again before they are read.
_SCRIPT = """\
# Completion of {program}. For this shell: eval "$({program} completion {shell})"
{zsh}_{function}_files() {{
  local each
  while IFS= read -r each; do
    [[ -d "$each" ]] && each="$each/"
    COMPREPLY+=("$each")
  done < <(compgen -G "$1*")
}}
_{function}() {{
  local line="${{COMP_LINE:0:$COMP_POINT}}"
  local word="${{line##*[[:space:]]}}" door="${{COMP_WORDS[1]}}" names="" values=""
  COMPREPLY=()
  if [[ "$COMP_CWORD" -le 1 ]]; then
    COMPREPLY=($(compgen -W "{doors} completion --help --version" -- "$word"))
    [[ "${{#COMPREPLY[@]}}" == 1 ]] && COMPREPLY=("${{COMPREPLY[0]}} ")
    return
  fi
  case "$word" in
{choices}
    --*=*) _{function}_files "${{word#*=}}"; {prefix}return ;;
    [!-]*) _{function}_files "$word"; return ;;
  esac
  if [[ "$word" == *=* ]]; then
    COMPREPLY=($(compgen -W "$values" -- "${{word#*=}}"))
    {prefix}return
  fi
  case "$door" in
{flags}
  esac
  COMPREPLY=($(compgen -W "$names {settings}" -- "$word"))
}}
complete -o nospace -o default -F _{function} {program}
"""


def script(shell: str, program: str, doors: Sequence[Door]) -> str:
    """Writes the script that completes a program's command lines.

    Args:
      shell: One of `SHELLS`.
      program: The name of the program.
      doors: Its doors.

    Raises:
      UserError: If there is no script for the shell.
    """
    if shell not in SHELLS:
        raise UserError(f"there is no completion for {shell!r}; there is for {', '.join(SHELLS)}")
    is_zsh = shell == "zsh"
    return _SCRIPT.format(
        program=program,
        shell=shell,
        function=program.replace("-", "_"),
        zsh="autoload -U +X bashcompinit && bashcompinit\n" if is_zsh else "",
        prefix='COMPREPLY=("${COMPREPLY[@]/#/${word%%=*}=}"); ' if is_zsh else "",
        doors=" ".join(door.name for door in doors),
        choices="\n".join(_case(f"{name}=*", "values", values) for name, values in _choices(doors)),
        flags="\n".join(_case(door.name, "names", _flags(door)) for door in doors),
        settings=" ".join(f"--config.{name}=" for name in settings.all_settings()),
    )


def _case(pattern: str, variable: str, words: Sequence[str]) -> str:
    return f'    {pattern}) {variable}="{" ".join(words)}" ;;'


def _flags(door: Door) -> list[str]:
    names = [f"--{flag.name}" + ("" if flag.boolean else "=") for flag in door.own_flags()]
    return [*(["--config="] if door.takes_config else []), *names, "--help", "--helpfull"]


def _choices(doors: Sequence[Door]) -> list[tuple[str, list[str]]]:
    """Lists flags and settings that take few values, with these."""
    found: dict[str, list[str]] = {}
    for name, setting in settings.all_settings().items():
        if setting.kind is bool:
            found[f"--config.{name}"] = ["True", "False"]
        elif setting.choices:
            found[f"--config.{name}"] = list(filter(None, setting.choices))
    for door in doors:
        for flag in door.own_flags():
            values: Sequence[str] = getattr(flag.parser, "enum_values", None) or ()
            if values:
                found[f"--{flag.name}"] = list(values)
    return [(name, values) for name, values in found.items() if values]
